"""Probabilities made honest: one temperature, fitted on data that the model was not trained on.

Logits are divided by a temperature T that makes the held-out labels most probable (Guo et al., 2017).
Decisions between labels stay as they are. A weak prior (log T normal around 0 with deviation 1, worth
one item) keeps T finite where every decision was right.

Shapes: N items, C classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graft.task import Task

_BOUNDS = (-4.0, 4.0)  # of log T
EXACT, ROUGH = 80, 20  # rounds of golden section, after which the interval is below 1e-15, and 1e-3
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Calibration:
    """The temperature, and on the data it was fitted on: ECE and loss (nats) before and after.

    ``n``: the number of items. ``thresholds``: of a multi-label task's decisions.
    """

    temperature: float
    n: int
    error_before: float
    error_after: float
    loss_before: float
    loss_after: float
    thresholds: tuple[float, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def calibrate(task: Task, logits: Tensor, targets: Tensor) -> tuple[Task, Calibration]:
    """The task with its temperature (and thresholds) fitted on ``logits`` [N, C], and what that did."""
    temperature = fit_temperature(task, logits, targets)
    cooled = task.with_temperature(temperature)
    if task.multi_label:
        cooled = cooled.choose_thresholds(logits, targets)
    before, after = (each.measure(logits.numpy(), targets.numpy()) for each in (task, cooled))
    found = Calibration(
        temperature=temperature,
        n=len(targets),
        error_before=before.ece,
        error_after=after.ece,
        loss_before=before.loss,
        loss_after=after.loss,
        thresholds=cooled.thresholds,
    )
    return cooled, found


def calibrated_task(task: Task, found: dict[str, Any] | None) -> Task:
    """``task`` with the temperature and thresholds of a :class:`Calibration` as plain values."""
    if found is None:
        return task
    thresholds = found["thresholds"]
    cooled = task.with_temperature(found["temperature"])
    return cooled if thresholds is None else replace(cooled, thresholds=tuple(thresholds))


def fit_temperature(task: Task, logits: Tensor, targets: Tensor, *, rounds: int = EXACT) -> float:
    """The temperature under which ``targets`` are most probable given ``logits`` [N, C].

    ``rounds``: of golden section, each a pass over the logits; ``ROUGH`` of them find it to a thousandth.
    """
    logits = logits.double()

    def cost(log_temperature: float) -> float:
        losses = task.losses(logits / torch.tensor(log_temperature).double().exp(), targets)
        return float(losses.sum()) + log_temperature**2 / 2

    low, high = _BOUNDS
    inner = [high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)]
    costs = [cost(inner[0]), cost(inner[1])]
    for _ in range(rounds):
        if costs[0] < costs[1]:
            high, inner[1], costs[1] = inner[1], inner[0], costs[0]
            inner[0] = high - _GOLDEN * (high - low)
            costs[0] = cost(inner[0])
        else:
            low, inner[0], costs[0] = inner[0], inner[1], costs[1]
            inner[1] = low + _GOLDEN * (high - low)
            costs[1] = cost(inner[1])
    return float(torch.tensor((low + high) / 2).exp())
