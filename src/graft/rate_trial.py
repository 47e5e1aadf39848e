"""Which rate suits the data, by trying: a short training at each on four fifths of the labels.

The rest measures. What the features show beforehand does not tell a domain where the body should move
fast from one where it should not, as long as the two are neither near nor far (see
benchmarks/results/study.md); a hundred and fifty steps do. They also tell whether training helps at all
beside the head that was solved on the resting body.

Shapes: N held-out items, C classes.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graft.backbones.contract import Backbone
from graft.data.inputs import open_inputs
from graft.data.items import Items, Splits
from graft.data.validation import split_off
from graft.errors import Diverged
from graft.evidence import Evidence, RateTrial
from graft.inference import forward_all
from graft.looking import Progress
from graft.numerics import resolve_device
from graft.plan import Plan, make_plan
from graft.recipe import Recipe
from graft.records import Record, Stepped
from graft.schedule import steps_in_epoch
from graft.seeds import mix
from graft.strategies import Trying
from graft.strategies.auto import TRIAL_STEPS
from graft.task import Task
from graft.training import fit

SHARE, MOST_ITEMS = 0.2, 500  # held out to measure on, and no more than


def try_rates(
    recipe: Recipe,
    backbone: Backbone,
    splits: Splits,
    evidence: Evidence,
    trying: Trying,
    *,
    progress: Progress | None = None,
) -> RateTrial:
    """Train a copy shortly at each rate that is to be tried, and measure it on held-out training items.

    ``progress`` is called with (steps done, all of them).
    """
    kept, held, _ = split_off(splits.train, splits.task.labels, SHARE, mix(recipe.seed, "rate trial"))
    batch_size = recipe.train.batch_size
    # One epoch of them at most.
    drawn = mix(recipe.seed, "rate trial items")
    seen = splits.train.select(kept).sample(TRIAL_STEPS * batch_size, drawn)
    part = replace(splits, train=seen, val=None, test=None)
    measured = splits.train.select(held).sample(MOST_ITEMS, drawn)
    epochs = math.ceil(TRIAL_STEPS / steps_in_epoch(len(seen), batch_size))
    logits: dict[float, Tensor] = {}
    for number, rate in enumerate(trying.rates):
        plan = make_plan(_with_rate(recipe, rate, epochs), backbone, part, evidence)
        tell = _Tell(progress, number, len(trying.rates))
        with contextlib.suppress(Diverged):
            logits[rate] = _logits_after(plan, backbone, part, measured, tell)
    task, targets = splits.task, _targets(measured)
    losses = {rate: float(task.losses(each, targets).mean()) for rate, each in logits.items()}
    trial = RateTrial(losses={rate: loss for rate, loss in losses.items() if math.isfinite(loss)})
    if not trying.compares or trial.best is None:
        return trial
    solved = plan.model_copy(update={"phases": plan.phases[:1]})
    start = _logits_after(solved, backbone, part, measured)
    one, two = (_right(task, each, targets) for each in (start, logits[trial.best]))
    error = float((one - two).std()) / math.sqrt(len(one))
    return trial.model_copy(
        update={"solved": float(one.mean()), "trained": float(two.mean()), "error": error}
    )


def _with_rate(recipe: Recipe, rate: float, epochs: int) -> Recipe:
    """The recipe for a trial: what it says of single phases, and of a warm-up, is of the whole length."""
    train = recipe.train.model_copy(update={"lr": rate, "warmup": 0.1})
    return recipe.model_copy(update={"train": train, "epochs": epochs, "phase": {}})


@dataclass
class _Tell:
    """Tells the steps of one of several trainings as a part of all."""

    progress: Progress | None
    number: int
    of: int
    steps: int = 0

    def show(self, record: Record) -> None:
        if isinstance(record, Stepped) and self.progress is not None:
            self.steps += 1
            done = min(self.steps, TRIAL_STEPS)
            self.progress(self.number * TRIAL_STEPS + done, self.of * TRIAL_STEPS)


def _logits_after(
    plan: Plan, backbone: Backbone, splits: Splits, measured: Items, tell: _Tell | None = None
) -> Tensor:
    """Logits [N, C] of the held-out items when the plan was carried out."""
    trained = fit(backbone, splits, plan, show=None if tell is None else tell.show)
    device = resolve_device(plan.numerics.device)
    return forward_all(trained.model, open_inputs(measured, backbone.preprocess), device)


def _right(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """Of each item, whether its decision is right; of a multi-label task the share that is, [N]."""
    right = (task.decisions(logits) == targets).double()
    return right.mean(1) if right.ndim > 1 else right


def _targets(items: Items) -> Tensor:
    assert items.targets is not None
    return torch.from_numpy(items.targets)
