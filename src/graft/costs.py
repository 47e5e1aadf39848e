"""What a plan will take: time and memory of each phase, from a few measured steps of each.

A second or so a phase: real steps are taken on a copy of the network that is thrown away, and states of
frozen stages kept in a store that is, too. What is decoded, what frozen stages compute and what each step
computes are measured apart, for they are done differently often: a picture whose pixels stay in memory is
decoded once a run, a state that is kept is computed once for each view. The store is taken as empty, so
that a second run with the same frozen stages is quicker. Decoding in worker processes runs beside the
steps, so the slower of the two counts.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from graft.backbones.contract import Backbone, Preprocess
from graft.data.content import read_picture
from graft.data.dataset import Batch
from graft.data.image import Decoded
from graft.data.items import Splits, to_be_decoded
from graft.data.pixels import pixel_store
from graft.data.random_views import Augmentation, augment
from graft.data.texts import Texts
from graft.data.threads import read_in_threads
from graft.feeding import ALIKE, Feed, Source, feed_for, views_seen
from graft.inference import BATCH, count_views
from graft.numerics import to_device
from graft.plan import Phase, Plan
from graft.reuse.states import Lower, States
from graft.reuse.store import LIMIT, Store
from graft.selection import count_candidates
from graft.state import State
from graft.stepping import Stepper, set_modes, stepper_for
from graft.steps import Calibrate, Select, Solve

LONGEST = 1.0  # seconds of timed steps a phase
MOST_STEPS = 4
SAMPLE = 16  # pictures that are decoded to measure how long that takes
Result = TypeVar("Result")


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


def measure_costs(backbone: Backbone, splits: Splits, plan: Plan, *, limit: int = LIMIT) -> dict[int, Cost]:
    """The cost of each phase, by its number in the plan (from 1); ``limit``: of the store, in bytes."""
    with tempfile.TemporaryDirectory(prefix="graft-costs-") as folder:
        run = State(backbone, splits, plan, None, Store(Path(folder), limit))
        source = run.inputs(splits.train)
        reading = Tokenising.measured(source) if isinstance(source, Texts) else Reading.measured(run)
        course = _Course(run, reading)
        return {number: course.cost(number) for number in range(1, len(plan.phases) + 1)}


@dataclass
class Reading:
    """What it takes one process to make the network's inputs of pictures.

    ``decode``: seconds a picture. ``stays``: whether the pixels of all pictures stay in memory, so that
    each is decoded once a run. ``samples``: decoded pictures.
    """

    decode: float
    stays: bool
    samples: list[Decoded]
    how: Preprocess
    known: set[str] = field(default_factory=set)
    """The parts of the data that were decoded by now."""
    prepare: dict[Augmentation, float] = field(default_factory=dict)
    """Seconds to make an input of a decoded picture, where that was measured."""

    @classmethod
    def measured(cls, run: State) -> Reading:
        """With the store of pixels left out: what it holds by now would be measured as free."""
        items, how = run.splits.train, run.backbone.preprocess
        assert isinstance(how, Preprocess)

        def decode(place: int) -> Decoded:
            return read_picture(items, place, channels=how.channels, least_side=how.least_side)

        decode(0)  # the first of all is slow
        count = min(SAMPLE, len(items))
        many = map if run.plan.numerics.workers else read_in_threads  # as they will be read
        seconds, samples = _timed(lambda: list(many(decode, range(count))))
        in_files = to_be_decoded(items.sources[0])
        size = sum(each.pixels.nbytes for each in samples) / count
        held = size * (run.plan.data.train + run.plan.data.val) <= pixel_store.limit
        stays = in_files and held and not run.plan.numerics.workers  # workers keep nothing
        return cls(seconds / count, stays, samples, how)

    def seconds(self, part: str, items: int, passes: int, preset: Augmentation = "none") -> float:
        """Of reading a part's ``items`` so many times."""
        decoded = passes * items
        if self.stays and passes:
            decoded = 0 if part in self.known else items
            self.known.add(part)
        if preset not in self.prepare:
            self._views(preset)  # warms up
            seconds, _ = _timed(lambda: self._views(preset))
            self.prepare[preset] = seconds / len(self.samples)
        return decoded * self.decode + passes * items * self.prepare[preset]

    def inputs(self) -> Tensor:
        """[B, K, h, w] of the samples."""
        return self._views("none")

    def _views(self, preset: Augmentation) -> Tensor:
        return augment([each.pixels for each in self.samples], self.how, preset, range(len(self.samples)))


@dataclass
class Tokenising:
    """What it takes to make the network's inputs of texts; takes the place of ``Reading``."""

    each: float
    """Seconds a text, once a phase."""
    texts: Texts

    @classmethod
    def measured(cls, texts: Texts) -> Tokenising:
        """On some typical texts, the first of which are slow."""
        sample = replace(texts, items=texts.items.select(texts.typical(SAMPLE)))
        seconds, _ = _timed(lambda: sample.lengths)
        return cls(seconds / len(sample), texts)

    def seconds(self, _part: str, items: int, passes: int, _preset: Augmentation = "none") -> float:
        """Of making inputs of a part's ``items``, however often they are taken."""
        return items * self.each if passes else 0.0

    def inputs(self) -> Tensor:
        """[B, 2, T] of typical texts."""
        ((inputs, _, _),) = self.texts.batches([self.texts.typical(SAMPLE)])
        return inputs


class _Course:
    """The phases of a plan, one after the other: what an earlier one has done costs a later one nothing."""

    def __init__(self, run: State, reading: Reading | Tokenising) -> None:
        self.run, self.reading = run, reading
        self.adapted: set[str] = set()
        self.known: dict[tuple[object, int], set[int]] = defaultdict(set)
        """Of which views the states are there, by what draws them and by place."""
        self.forward = _evaluation_seconds(run, reading.inputs())
        processes, data = run.engine.processes, run.plan.data
        self.train, self.val = -(-data.train // processes), -(-data.val // processes)  # of one process

    def cost(self, number: int) -> Cost:
        phase, before = self.run.plan.phases[number - 1], self.run.plan.phases[: number - 1]
        epochs_before = sum(each.train.epochs for each in before if isinstance(each, Phase))
        self.run.position = replace(self.run.position, phase=number - 1, epochs_before=epochs_before)
        if isinstance(phase, Phase):
            return self._cost_of_training(phase)
        seconds = self._adaptation(phase.adapt) + self._pass() if isinstance(phase, Solve) else 0.0
        if isinstance(phase, Select | Calibrate):
            tried = count_candidates(phase, self.run.plan) if isinstance(phase, Select) else 1
            network = self.forward * count_views(self.run.plan.tta)
            seconds = self._overlapped(
                tried * self.val * network, self.reading.seconds("val", self.val, tried)
            )
        return Cost(seconds, _weights_size(self.run), 0)

    def _pass(self) -> float:
        """The whole network, once over the training pictures as they are."""
        return self._overlapped(self.train * self.forward, self.reading.seconds("train", self.train, 1))

    def _adaptation(self, stages: Sequence[str]) -> float:
        new = set(stages) - self.adapted
        self.adapted |= new
        if new:
            self._forget(0)
        return self._pass() if new else 0.0

    def _cost_of_training(self, phase: Phase) -> Cost:
        run, train = self.run, phase.train
        seconds = self._adaptation(train.adapt)
        run.begin_phase(phase)
        with feed_for(run, phase) as feed:
            seconds += self._validation(phase, feed, train.epochs + 1)
            set_modes(run, train)
            lower, passes = self._lower(feed, phase)
            step, steps, memory = _measure_steps(run, phase, feed)
        reading = self.reading.seconds("train", self.train, passes, train.augmentation)
        seconds += self._overlapped(phase.steps * step + lower, reading)
        self._forget(phase.reuse.place if phase.reuse else 0)
        run.average, run.optimizer_state = {}, {}
        return Cost(seconds, memory, steps)

    def _lower(self, feed: Feed, phase: Phase) -> tuple[float, int]:
        """Seconds in the lower part, and how often each training picture is read."""
        train = phase.train
        if not isinstance(feed.train, States):
            return 0.0, train.epochs
        assert phase.reuse is not None
        drawn = "train", *(getattr(train, name) for name in ALIKE)
        views = views_seen(phase, self.run.position.epochs_before)
        new = self._new(drawn, phase.reuse.place, views, feed)
        share = -(-min(train.batch_size, len(feed.train)) // self.run.engine.processes)
        fills = new * phase.steps_per_epoch * math.ceil(share / feed.train.lower.batch)
        return fills * _lower_seconds(feed.train.lower, self.reading.inputs()), new

    def _new(self, drawn: object, place: int, views: frozenset[int], feed: Feed) -> int:
        """Of how many views states are computed now; with them those of what a pass comes by are known."""
        new = views - self.known[drawn, place]
        for each in (place, *feed.coming):
            self.known[drawn, each] |= new
        return len(new)

    def _forget(self, above: int) -> None:
        """States above this place: what lies below them moves now."""
        for key in [key for key in self.known if key[1] > above]:
            del self.known[key]

    def _validation(self, phase: Phase, feed: Feed, passes: int) -> float:
        """Seconds of meeting the validation data so many times; of states, inside the feed."""
        if feed.val is None:
            return 0.0
        if not isinstance(feed.val, States):
            reading = self.reading.seconds("val", self.val, passes)
            return self._overlapped(passes * self.val * self.forward, reading)
        states, seconds = _stored(feed.val, feed.val.typical(BATCH))
        upper = seconds / len(states[0]) + _evaluation_seconds(self.run, states[0])
        assert phase.reuse is not None
        once = self._new("val", phase.reuse.place, frozenset({0}), feed)
        fills = once * math.ceil(self.val / feed.val.lower.batch)
        lower = fills * _lower_seconds(feed.val.lower, self.reading.inputs())
        reading = self.reading.seconds("val", self.val, once)
        return passes * self.val * upper + self._overlapped(lower, reading)

    def _overlapped(self, compute: float, reading: float) -> float:
        workers = self.run.plan.numerics.workers
        return max(compute, reading / workers) if workers else compute + reading


def _measure_steps(run: State, phase: Phase, feed: Feed) -> tuple[float, int, int]:
    """Seconds a step on what the feed gives, over how many steps they are the mean, and bytes.

    Reading states is part of a step; reading pictures is not.
    """
    batch = feed.train.typical(phase.train.batch_size)
    (tensors, targets, _), reading = _stored(feed.train, [(item, 0) for item in run.engine.share(batch)])
    with stepper_for(run, phase) as stepper:
        with _counting(run) as kept:
            seconds, _ = _timed(lambda: stepper.step(batch, tensors, targets))
        steps = 1
        if seconds < LONGEST:  # the first is slow: where there is time, later ones are measured
            seconds, steps = _timed_steps(stepper, batch, tensors, targets)
        memory = _memory(run, phase, kept)
    return seconds + (reading if isinstance(feed.train, States) else 0.0), steps, memory


def _timed_steps(stepper: Stepper, batch: list[int], tensors: Tensor, targets: Tensor) -> tuple[float, int]:
    """Seconds a step, and over how many steps they are the mean."""
    started, steps = time.perf_counter(), 0
    while steps < MOST_STEPS and time.perf_counter() - started < LONGEST:
        stepper.step(batch, tensors, targets)  # ends with the loss on the CPU: nothing is left running
        steps += 1
    return (time.perf_counter() - started) / steps, steps


def _stored(source: Source, batch: list[Any]) -> tuple[Batch, float]:
    """A batch, and how long it takes once it was there before."""
    (found,) = source.batches([batch])
    seconds, _ = _timed(lambda: list(source.batches([batch])) if isinstance(source, States) else None)
    return found, seconds


def _lower_seconds(lower: Lower, inputs: Tensor) -> float:
    """Seconds of computing the states of at most a batch of pictures: as long as of a whole one."""
    inputs = inputs[: lower.together(inputs)]
    lower.compute(inputs)  # warms up
    return _timed(lambda: lower.compute(inputs))[0]


def _evaluation_seconds(run: State, inputs: Tensor) -> float:
    """Seconds a picture, or a state, in evaluation mode, in which the network is left."""
    run.model.eval()
    inputs = inputs.repeat(math.ceil(BATCH / len(inputs)), *[1] * (inputs.ndim - 1))

    def evaluate() -> Tensor:
        with torch.inference_mode():
            logits: Tensor = run.model(to_device(inputs, run.engine.device)).float().cpu()
        return logits

    evaluate()  # warms up
    return _timed(evaluate)[0] / len(inputs)


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


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
