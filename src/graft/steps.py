"""The steps a strategy is made of, before they meet data: what to do, not yet how long.

A strategy returns steps; ``plan.make_plan`` resolves them to optimiser steps, parameter names and
rates. Both are frozen values that go through JSON unchanged.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from graft.recipe import Frozen

# Kornblith et al. (2019) search 45 strengths over 1e-6..1e5 of the summed loss; for the mean loss
# this covers the part of it where an optimum was ever found, in half decades.
STRENGTHS = tuple(10.0 ** (power / 2) for power in range(2, -13, -1))


class Solve(Frozen):
    """Solve the linear head to its optimum on frozen features (multinomial logistic regression)."""

    kind: Literal["solve"] = "solve"
    name: str = "probe"
    strengths: tuple[float, ...] = STRENGTHS
    """L2 strengths tried, strongest first; the best by cross-validation is kept."""
    folds: int = Field(default=5, ge=2)
    """Stratified folds of the cross-validation."""


class Rates(Frozen):
    """Peak learning rates: of the head, and of stages from top to lowest, geometric between."""

    head: float = Field(gt=0)
    top: float = Field(gt=0)
    lowest: float = Field(gt=0)


class Train(Frozen):
    """A phase of gradient steps."""

    kind: Literal["train"] = "train"
    name: str
    stages: tuple[str, ...]
    """Stages that train, lowest first; the head always trains, everything else stays frozen."""
    rates: Rates
    epochs: int = Field(ge=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which rates rise linearly."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float | None = Field(default=1.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augmentation: Literal["none", "light", "standard", "aggressive"] = "light"
    batchnorm: Literal["frozen", "train"] = "frozen"
    batch_size: int = Field(default=32, ge=1)
    accumulate: int = Field(default=1, ge=1)
    patience: int | None = Field(default=None, ge=1)
    select: Literal["loss", "accuracy"] = "loss"


Step = Solve | Train
