"""The steps a strategy is made of, before they meet data: what to do, not yet how long.

A strategy returns steps; ``plan.make_plan`` resolves them to optimiser steps, parameter names and
rates. Both are frozen values that go through JSON unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field

from graft.options import Frozen, PhaseOptions

# Kornblith et al. (2019) search 45 strengths over 1e-6..1e5 of the summed loss; for the mean loss
# this covers the part of it where an optimum was ever found, in half decades.
STRENGTHS = tuple(10.0 ** (power / 2) for power in range(2, -13, -1))

Rate = Annotated[float, Field(gt=0)]


def stages_with(batchnorm: str | Mapping[str, str], mode: str, stages: Iterable[str]) -> tuple[str, ...]:
    """Those of ``stages`` whose batch-norm statistics are in ``mode``."""
    if isinstance(batchnorm, str):
        return tuple(stages) if batchnorm == mode else ()
    return tuple(stage for stage in stages if batchnorm.get(stage, "frozen") == mode)


class Solve(Frozen):
    """Solve the linear head to its optimum on frozen features (logistic regression)."""

    kind: Literal["solve"] = "solve"
    name: str = "probe"
    strengths: tuple[float, ...] = STRENGTHS
    """L2 strengths tried, strongest first; the best by cross-validation is kept."""
    folds: int = Field(default=5, ge=2)
    """Stratified folds of the cross-validation."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: the loss weighs every class alike, however many items it has."""
    adapt: tuple[str, ...] = ()
    """Stages whose batch-norm statistics become those of the training pictures first, once a run."""


class Rates(Frozen):
    """Peak learning rates: of the head, and of each stage that trains, lowest first."""

    head: Rate
    stages: dict[str, Rate] = Field(default_factory=dict)


class Train(PhaseOptions):
    """A phase of gradient steps; the head always trains (but see objective), what has no rate is frozen."""

    kind: Literal["train"] = "train"
    name: str
    rates: Rates
    epochs: int = Field(ge=1)
    objective: Literal["labels", "contrast"] = "labels"
    """labels: the head tells them; contrast: features of one label come together, and the head rests."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Stages that train, lowest first."""
        return tuple(self.rates.stages)

    adapt: tuple[str, ...] = ()
    """Stages whose batch-norm statistics become those of the training pictures first, once a run."""

    @property
    def following(self) -> tuple[str, ...]:
        """Stages that train and whose batch-norm statistics follow the batches."""
        return stages_with(self.batchnorm, "train", self.stages)


class Select(Frozen):
    """Choose among named candidates on validation data: what the last phase left, and blends of it.

    Candidates: the best checkpoint, the last weights, their running average (EMA) where there is one,
    the start, blends of start and best (WiSE-FT, Wortsman et al., 2022), and the greedy average of the
    best checkpoints (Wortsman et al., 2022, "Model soups"). The best checkpoint is kept unless another
    beats it by more than one standard error of their paired difference.
    """

    kind: Literal["select"] = "select"
    name: str = "choice"
    score: Literal["loss", "accuracy"] = "loss"
    alphas: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    """Shares of the trained weights in the blends; the rest is the start."""
    checkpoints: int = Field(default=3, ge=1)
    """Best checkpoints kept for the average; 1: no average."""


class Calibrate(Frozen):
    """Fit the temperature of the probabilities (and a multi-label task's thresholds) on validation data."""

    kind: Literal["calibrate"] = "calibrate"
    name: str = "calibration"


Step = Solve | Train | Select | Calibrate
