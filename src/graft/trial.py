"""What a plan will take: time and memory of each phase, from a few measured steps of each.

A second or so a phase: real pictures are decoded, real steps taken on a copy of the network that is
thrown away. Decoding in worker processes runs beside the steps, so the slower of the two counts.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graft.backbones.contract import Backbone
from graft.data.dataset import loader
from graft.data.items import Splits
from graft.inference import BATCH, forward_batches, views_of
from graft.plan import Phase, Plan
from graft.state import State
from graft.stepping import Stepper, set_modes, stepper_for
from graft.steps import Select, Solve

LONGEST = 1.0  # seconds of timed steps a phase
MOST_STEPS = 4


@dataclass(frozen=True)
class Cost:
    """What a phase will take, estimated from ``steps`` measured ones (0: from forward passes alone).

    ``seconds``: of the whole phase, validation and decoding included, the solver of a head left out.
    ``bytes``: weights, gradients, optimiser state and what the backward pass keeps; on a GPU the peak
    that was allocated.
    """

    seconds: float
    bytes: int
    steps: int


def measure_costs(backbone: Backbone, splits: Splits, plan: Plan) -> dict[int, Cost]:
    """The cost of each phase, by its number in the plan (from 1)."""
    run = State(backbone, splits, plan, None)
    decode = _decoding_seconds(run)
    forward = _forward_seconds(run, decode)
    costs = {}
    for number, phase in enumerate(plan.phases, start=1):
        if isinstance(phase, Phase):
            run.position = replace(run.position, phase=number - 1)
            costs[number] = _phase_cost(run, phase, decode, forward)
        else:
            passes = _candidates(phase, plan) if isinstance(phase, Select) else 1
            if not isinstance(phase, Solve):
                passes *= len(views_of(torch.zeros(1, 1, 8, 8), plan.tta))
            passes += isinstance(phase, Solve) and bool(phase.adapt)
            items = plan.data.train if isinstance(phase, Solve) else plan.data.val
            costs[number] = Cost(passes * items * forward, _weights_size(run), 0)
    return costs


def _phase_cost(run: State, phase: Phase, decode: float, forward: float) -> Cost:
    train = phase.train
    run.begin_phase(phase)
    set_modes(run, train)
    batch = list(range(min(train.batch_size, len(run.splits.train))))
    mine = run.engine.share(batch)
    pictures = run.pictures(run.splits.train, train.augmentation, flip=train.flip)
    tensors, targets, _ = next(iter(loader(pictures, [[(item, 0) for item in mine]])))
    with stepper_for(run, phase) as stepper:
        started = time.perf_counter()
        with _counting(run) as kept:
            stepper.step(batch, tensors, targets)
        seconds, steps = time.perf_counter() - started, 1
        if seconds < LONGEST:  # the first is slow: where there is time, later ones are measured
            seconds, steps = _timed_steps(stepper, batch, tensors, targets)
        memory = _memory(run, phase, kept)
    run.average, run.optimizer_state = {}, {}
    step = _overlapped(seconds, len(mine) * decode, run.plan.numerics.workers)
    others = (train.epochs + 1) * run.plan.data.val + bool(train.adapt) * run.plan.data.train
    return Cost(phase.steps * step + others * forward, memory, steps)


def _timed_steps(stepper: Stepper, batch: list[int], tensors: Tensor, targets: Tensor) -> tuple[float, int]:
    """Seconds a step, and over how many steps they are the mean."""
    started, steps = time.perf_counter(), 0
    while steps < MOST_STEPS and time.perf_counter() - started < LONGEST:
        stepper.step(batch, tensors, targets)  # ends with the loss on the CPU: nothing is left running
        steps += 1
    return (time.perf_counter() - started) / steps, steps


def _decoding_seconds(run: State) -> float:
    """Seconds to decode and prepare one picture in one process."""
    items = range(min(16, len(run.splits.train)))
    pictures = run.pictures(run.splits.train, "light")
    pictures[(0, 0)]
    started = time.perf_counter()
    for item in items:
        pictures[(item, 0)]
    return (time.perf_counter() - started) / len(items)


def _forward_seconds(run: State, decode: float) -> float:
    """Seconds of evaluation a picture, decoding included."""
    items = list(range(min(BATCH, len(run.splits.train))))
    pictures, device = run.pictures(run.splits.train), run.engine.device
    seconds = 0.0
    for _ in range(2):  # the first time warms up
        started = time.perf_counter()
        for _ in forward_batches(run.model, pictures, device, indices=items):
            pass
        seconds = (time.perf_counter() - started) / len(items)
    return _overlapped(max(0.0, seconds - decode), decode, run.plan.numerics.workers)


def _overlapped(compute: float, decode: float, workers: int) -> float:
    return max(compute, decode / workers) if workers else compute + decode


def _candidates(step: Select, plan: Plan) -> int:
    averaged = any(isinstance(phase, Phase) and phase.train.ema for phase in plan.phases)
    return 3 + len(step.alphas) + int(averaged) + step.checkpoints - 1


@contextlib.contextmanager
def _counting(run: State) -> Iterator[list[int]]:
    """Bytes that the backward pass keeps, added up in a list of one number."""
    own = {value.untyped_storage().data_ptr() for value in run.model.state_dict().values()}
    seen: set[int] = set()
    kept = [0]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen | own:
            seen.add(storage.data_ptr())
            kept[0] += storage.nbytes()
        return tensor

    if run.engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.engine.device)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _memory(run: State, phase: Phase, kept: list[int]) -> int:
    if run.engine.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(run.engine.device))
    training = sum(4 * group.count for group in phase.groups)
    assert run.optimizer is not None
    states = sum(
        value.nbytes
        for state in run.optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )
    return _weights_size(run) + training + states + kept[0] + sum(v.nbytes for v in run.average.values())


def _weights_size(run: State) -> int:
    return sum(value.nbytes for value in run.model.state_dict().values())
