"""The named strategies: plain functions that turn what was asked into steps.

Register one of your own with ``register_strategy``. A strategy knows stage names and the size of the data,
never the data or the weights themselves.

The rates are those of the field for pictures: a pretrained body moves at 1e-5 to 1e-4, a random head at
1e-3, a solved head at three times the body's rate (after LP-FT, Kumar et al., 2022: a solved head lets
the body move little). The floor on the number of steps follows BiT (Kolesnikov et al., 2020), which
takes 500 on small data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graft.errors import RecipeError, suggest
from graft.recipe import Recipe
from graft.steps import Rates, Solve, Step, Train

BODY_RATE, EARLY_FACTOR = 1e-4, 0.1
RANDOM_HEAD_RATE, SOLVED_HEAD_FACTOR = 1e-3, 3.0
ALONE_HEAD_RATE = 1e-2  # a random head trained alone, before the body moves
FEWEST_STEPS, MOST_EPOCHS = 500, 40
SCRATCH_RATE, SCRATCH_STEPS, SCRATCH_MOST_EPOCHS = 1e-3, 1500, 120


@dataclass(frozen=True)
class Ask:
    """What a strategy may know: the recipe, the stages from input to top, and the data's size."""

    recipe: Recipe
    stages: tuple[str, ...]
    steps_per_epoch: int
    pretrained: bool

    @property
    def solvable(self) -> bool:
        """Whether the head can be solved: it is linear, and its features mean something."""
        return self.recipe.head == "linear" and self.pretrained

    @property
    def solve_head(self) -> bool:
        """Whether the head starts solved, as asked or wherever it can be."""
        wish = self.recipe.head_init
        return self.solvable if wish == "auto" else wish == "solved"

    def epochs(self, least: int, *, steps: int = FEWEST_STEPS, most: int = MOST_EPOCHS) -> int:
        """The recipe's epochs, else at least ``least`` and about ``steps`` steps, within ``most``."""
        if self.recipe.epochs is not None:
            return self.recipe.epochs
        return max(least, min(most, math.ceil(steps / self.steps_per_epoch)))


Strategy = Callable[[Ask, str], tuple[Step, ...]]
"""A function of what is asked and the text after the strategy's colon ("" without one)."""


def plan_steps(ask: Ask) -> tuple[Step, ...]:
    """The steps of the recipe's strategy.

    Raises:
        RecipeError: no such strategy, a wrong parameter, or a head that cannot start as asked.
    """
    name, parameter = split_name(ask.recipe.strategy)
    if ask.recipe.head_init == "solved" and not ask.solvable:
        why = "only a linear head" if ask.pretrained else "with random weights no head"
        raise RecipeError(
            f"head_init = 'solved': {why} can be solved; take head_init=random or leave it out."
        )
    return _STRATEGIES[name](ask, parameter)


def split_name(text: str) -> tuple[str, str]:
    """``partial:2`` -> ("partial", "2").

    Raises:
        RecipeError: no strategy has this name, or it takes no parameter.
    """
    name, colon, parameter = text.partition(":")
    if name not in _STRATEGIES:
        raise RecipeError(
            f"There is no strategy {name!r}.{suggest(name, _STRATEGIES)} "
            f"The strategies are: {', '.join(sorted(_STRATEGIES))}."
        )
    if colon and name in _PLAIN:
        raise RecipeError(f"The strategy {name!r} takes no parameter, but {text!r} has one.")
    return name, parameter


def register_strategy(name: str, strategy: Strategy) -> None:
    """Make ``strategy`` available under ``name`` (which must be new and without a colon)."""
    if ":" in name or name in _STRATEGIES:
        raise RecipeError(f"The strategy name {name!r} is taken or contains a colon.")
    _STRATEGIES[name] = strategy


def strategy_names() -> tuple[str, ...]:
    return tuple(sorted(_STRATEGIES))


def _probe(ask: Ask, _: str) -> tuple[Step, ...]:
    if ask.solve_head:
        return (Solve(),)
    return (_train(ask, "probe", stages=(), rates=_head_rates(ask, RANDOM_HEAD_RATE)),)


def _partial(ask: Ask, parameter: str) -> tuple[Step, ...]:
    count = _count(parameter or "1", most=len(ask.stages))
    rates = _rates(ask)
    return *_start(ask), _train(ask, f"last {count}", stages=ask.stages[-count:], rates=rates)


def _full(ask: Ask, _: str) -> tuple[Step, ...]:
    rates = _rates(ask, spread=EARLY_FACTOR)
    return *_start(ask), _train(ask, "all stages", stages=ask.stages, rates=rates)


def _two_phase(ask: Ask, _: str) -> tuple[Step, ...]:
    rates = _rates(ask)
    whole = _train(ask, "all stages", stages=ask.stages, rates=rates)
    if ask.solve_head:
        return Solve(name="head"), whole
    alone = _head_rates(ask, ALONE_HEAD_RATE)
    return _train(ask, "head", stages=(), rates=alone, epochs=5), whole


def _scratch(ask: Ask, _: str) -> tuple[Step, ...]:
    rate = ask.recipe.train.lr or SCRATCH_RATE
    return (
        _train(
            ask,
            "from scratch",
            stages=ask.stages,
            rates=Rates(
                head=ask.recipe.train.head_lr or rate,
                top=rate,
                lowest=ask.recipe.train.lowest_lr or rate,
            ),
            epochs=ask.epochs(30, steps=SCRATCH_STEPS, most=SCRATCH_MOST_EPOCHS),
            weight_decay=0.05,
            augmentation="standard",
        ),
    )


_STRATEGIES: dict[str, Strategy] = {
    "probe": _probe,
    "partial": _partial,
    "full": _full,
    "two-phase": _two_phase,
    "scratch": _scratch,
}
_PLAIN = frozenset({"probe", "full", "two-phase", "scratch"})


def _start(ask: Ask) -> tuple[Step, ...]:
    return (Solve(name="head"),) if ask.solve_head else ()


def _rates(ask: Ask, *, spread: float = 1.0) -> Rates:
    """Of a phase in which the body moves; the lowest stage has ``spread`` times the top one's rate."""
    wish = ask.recipe.train
    top = wish.lr or BODY_RATE
    head = top * SOLVED_HEAD_FACTOR if ask.solve_head else max(RANDOM_HEAD_RATE, top)
    return Rates(head=wish.head_lr or head, top=top, lowest=wish.lowest_lr or top * spread)


def _head_rates(ask: Ask, rate: float) -> Rates:
    """Of a phase in which the head trains alone."""
    rate = ask.recipe.train.head_lr or rate
    return Rates(head=rate, top=rate, lowest=rate)


def _train(ask: Ask, name: str, **values: Any) -> Train:
    """A phase: the defaults, over them the strategy's values, over them what the recipe sets."""
    wish = ask.recipe.train.model_dump(
        exclude_unset=True, exclude={"lr", "head_lr", "lowest_lr", "precision", "workers"}
    )
    asked = {key: value for key, value in wish.items() if value is not None or key in ("clip", "patience")}
    batchnorm = "frozen" if ask.pretrained else "train"
    start = {"name": name, "epochs": ask.epochs(10), "batchnorm": batchnorm}
    return Train.model_validate(start | values | asked)


def _count(text: str, *, most: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise RecipeError(
            f"partial:{text}: the number of stages to train must be a whole number from 1 to {most}, "
            "the number of stages of this backbone, as in partial:2."
        )
    return int(text)
