"""What is kept: validation while training, and the choices in weight space after it.

Shapes: N validation items, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from graft import records
from graft.averaging import average, interpolate
from graft.calibration import ROUGH, calibrate, fit_temperature
from graft.data.inputs import Inputs
from graft.errors import TrainingError
from graft.inference import Rows, forward_batches
from graft.leaders import Weights
from graft.metrics import effective_rank
from graft.plan import Phase, Plan
from graft.records import LOOKED_AT, Record
from graft.reuse.states import States
from graft.state import State
from graft.steps import Calibrate, Select


@dataclass(frozen=True)
class Candidate:
    """Weights that met the validation data: the cost of each item [N] by which they are judged.

    The cost is the loss in nats, or the share of wrong decisions.
    """

    weights: Weights
    costs: Tensor
    loss: float
    accuracy: float

    def gain_over(self, other: Candidate) -> tuple[float, float]:
        """By how much the mean cost is lower, and the standard error of that (paired by item)."""
        gains = other.costs - self.costs
        error = float(gains.std()) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
        return float(gains.mean()), error

    def beats(self, other: Candidate) -> bool:
        """Whether the gain is more than one standard error."""
        gain, error = self.gain_over(other)
        return gain > error


def validate(run: State, phase: Phase, val: Inputs | States | None) -> Record:
    """Meet the validation data and move the position past this epoch, keeping the best weights.

    ``val``: that data as the trunk takes it now.
    """
    position = run.position
    run.engine.share_buffers(run.model)
    first = not position.validated
    epoch = position.epoch if first else position.epoch + 1
    with _seeing_features(run.model.head, run.plan.data.val) as features:
        scores, better = _scores(run, val), True
    if scores is not None:
        loss, accuracy, judged = scores
        by_loss = phase.train.select == "loss" or not math.isfinite(accuracy)
        score = judged if by_loss or not math.isfinite(loss) else -accuracy
        entry = {"score": score, "loss": loss, "accuracy": accuracy, "epoch": float(epoch)}
        better = run.leaders.offer(entry, run.changing_values)
    train_accuracy = run.running_accuracy()
    # Patience begins where the warm-up ends: before, the rate is lower than planned.
    counts = not better and (epoch - 1) * phase.steps_per_epoch >= phase.warmup_steps
    run.end_epoch(epoch=epoch, waited=position.waited + 1 if counts else 0)
    return records.Validated(
        phase=position.phase,
        epoch=epoch,
        step=epoch * phase.steps_per_epoch,
        loss=scores[0] if scores else None,
        accuracy=scores[1] if scores else None,
        best=better,
        train_loss=None if first or not position.step else position.loss_sum / position.step,
        rank=effective_rank(torch.cat(features).numpy()) if features else None,
        train_accuracy=train_accuracy,
    )


@contextmanager
def _seeing_features(head: nn.Module, items: int) -> Iterator[list[Tensor]]:
    """The features [B, D] that the head is given in the meantime, on the CPU.

    Of ``items`` every k-th, so that they are about 512 and of every class: items come class by class.
    """
    seen: list[Tensor] = []
    every, met = max(1, math.ceil(items / LOOKED_AT)), 0

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal met
        features = given[0]
        seen.append(features[-met % every :: every].detach().float().cpu())
        met += len(features)

    hook = head.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def settle(run: State, phase: Phase) -> tuple[int | None, str]:
    """Load what a phase keeps; the best epoch (None where nothing could decide), and what is kept.

    That is "best", "last" or "average".

    The best weights on the validation data; without such data the running average where there is one,
    else the last. Where a choice among more candidates follows, they stay as they are until then.

    Raises:
        TrainingError: no validation loss of the phase was finite.
    """
    best = run.leaders.best
    if best is None:
        if phase.train.objective == "labels" and run.splits.val is not None:
            raise TrainingError(
                f"The validation loss was not finite at any time of phase {phase.train.name!r}, so nothing "
                "can be chosen. Begin a new run with a smaller rate (train.lr) or train.precision=fp32; if "
                "that changes nothing, the backbone cannot compute on one of the validation pictures."
            )
        run.share_average()
        if run.average:
            run.load_values(run.average)
        return None, "average" if run.average else "last"
    what = "best"
    if not run.selects_next:
        run.share_average()
        candidates = {"best": run.leaders.weights[0]} | ({"average": run.average} if run.average else {})
        if run.average:
            trials = _try_all(run, candidates, phase.train.select)
            winner = _choose(trials)
            what = next(name for name, trial in trials.items() if trial is winner)
        run.load_values(candidates[what])
    return int(best["epoch"]), what


def select_phase(run: State, step: Select) -> Iterator[Record]:
    """Try every candidate on the validation data, and load the winner."""
    index = run.position.phase
    yield records.Started(index, step.name, 1)
    trials = _try_all(run, _candidates(run, step), step.score)
    if len(run.leaders.weights) > 1:
        trials["average of the best"] = _greedy_average(run, trials["best"], step)
    winner = _choose(trials)
    run.load_values(winner.weights)
    best = run.leaders.best
    assert best is not None
    name = next(name for name, trial in trials.items() if trial is winner)
    scores = {name: _describe(trial, trials["best"]) for name, trial in trials.items()}
    told = {"winner": name, "by": step.score, "best_epoch": int(best["epoch"]), "candidates": scores}
    run.position = replace(run.position, selected=told)
    yield records.Selected(index, name, scores)
    yield records.Finished(index, None, 0)


def calibrate_phase(run: State, step: Calibrate) -> Iterator[Record]:
    """Fit the temperature (and thresholds) on validation data; which label is ahead stays."""
    index = run.position.phase
    yield records.Started(index, step.name, 1)
    logits, targets = validation_logits(run, tta=run.plan.tta)
    _, found = calibrate(run.splits.task, logits, targets)
    run.position = replace(run.position, calibrated=found.to_dict())
    yield records.Calibrated(index, found.temperature, found.error_before, found.error_after)
    yield records.Finished(index, None, 0)


def validation_logits(
    run: State, source: Inputs | States | None = None, *, tta: str = "none"
) -> tuple[Tensor, Tensor]:
    """Logits [N, C] of the validation items, in every process, and their targets.

    ``source``: those items as the trunk takes them; by default as the whole network does.
    """
    val, engine = run.splits.val, run.engine
    assert val is not None and val.targets is not None
    mine = engine.share(list(range(len(val))))
    rows = Rows(mine)
    for numbers, logits in forward_batches(
        run.model,
        run.inputs(val) if source is None else source,
        engine.device,
        indices=mine,
        workers=run.plan.numerics.workers,
        tta=tta,
    ):
        rows.add(numbers, logits)
    return engine.gather_rows(rows.whole, len(val)), torch.from_numpy(val.targets)


def _scores(run: State, val: Inputs | States | None) -> tuple[float, float, float] | None:
    """Mean loss (nats), headline score, mean loss as it is judged; None where there are no such items."""
    if val is None:
        return None
    logits, targets = validation_logits(run, val)
    task = run.splits.task
    loss = float(task.losses(logits, targets).double().mean())
    return loss, task.score(logits, targets), float(_judged(run, logits, targets).mean())


def _judged(run: State, logits: Tensor, targets: Tensor) -> Tensor:
    """Each item's loss [N], with the temperature that suits these logits where the plan will fit one.

    Fine-tuning makes networks too sure of themselves before it makes them worse; by their plain loss the
    better weights would be thrown away for a fault that calibration takes away.
    """
    task = run.splits.task
    fits = any(isinstance(phase, Calibrate) for phase in run.plan.phases)
    if fits and bool(torch.isfinite(logits).all()):
        logits = logits.double() / fit_temperature(task, logits, targets, rounds=ROUGH)
    return task.losses(logits, targets).double()


def _candidates(run: State, step: Select) -> dict[str, Weights]:
    """What the last phase left, by name; the best checkpoint first."""
    run.share_average()
    best = run.leaders.weights[0]
    found = {"best": best, "last": run.changing_values()}
    if run.average:
        found["running average"] = {name: value.cpu() for name, value in run.average.items()}
    start = run.start_values()
    if start:
        found["start"] = start
        for alpha in step.alphas:
            found[f"{100 * alpha:.0f} % of the way"] = interpolate(start, best, alpha)
    return found


def count_candidates(step: Select, plan: Plan) -> int:
    """How many weights are tried on the validation data, at most."""
    averaged = any(isinstance(phase, Phase) and phase.train.ema for phase in plan.phases)
    return 3 + len(step.alphas) + int(averaged) + step.checkpoints - 1


def _try_all(run: State, candidates: dict[str, Weights], by: str) -> dict[str, Candidate]:
    return {name: _try(run, weights, by) for name, weights in candidates.items()}


def _try(run: State, weights: Weights, by: str) -> Candidate:
    run.load_values(weights)
    logits, targets = validation_logits(run, tta=run.plan.tta)
    task = run.splits.task
    losses = task.losses(logits, targets).double()
    costs = _judged(run, logits, targets)
    if by == "accuracy" and not task.multi_label:  # average precision has no cost for each item
        costs = (task.decisions(logits) != targets).double()
    return Candidate(weights, costs, float(losses.mean()), task.score(logits, targets))


def _greedy_average(run: State, best: Candidate, step: Select) -> Candidate:
    """Checkpoints, the best first, averaged as long as it helps (Wortsman et al., 2022).

    ``best`` itself where no average is better.
    """
    taken, current = [best.weights], best
    for weights in run.leaders.weights[1:]:
        trial = _try(run, average([*taken, weights]), step.score)
        if float(trial.costs.mean()) < float(current.costs.mean()):
            taken, current = [*taken, weights], trial
    return current


def _choose(trials: dict[str, Candidate]) -> Candidate:
    """The first, unless others beat it by more than one standard error: then the best of these."""
    first = next(iter(trials.values()))
    better = [trial for trial in trials.values() if math.isfinite(trial.loss) and trial.beats(first)]
    return min(better, key=lambda trial: float(trial.costs.mean()), default=first)


def _describe(trial: Candidate, first: Candidate) -> dict[str, Any]:
    gain, error = trial.gain_over(first)
    finite = math.isfinite(gain) and math.isfinite(error) and math.isfinite(trial.loss)
    return {
        "loss": trial.loss if math.isfinite(trial.loss) else None,
        "accuracy": trial.accuracy,
        "gain": gain if finite else None,
        "gain_error": error if finite else None,
    }
