"""Strategies that thaw the backbone little by little: gradual (Howard & Ruder, 2018) and progressive."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from graft.errors import RecipeError
from graft.steps import Step, Train
from graft.strategies.asking import ALONE_HEAD_RATE, RANDOM_HEAD_RATE, Ask, flat, graded

HALF = 0.5  # the rate of a stage, as a share of that of the stage above it
HEAD_EPOCHS, LAST_EPOCHS, ALL_EPOCHS, PATIENCE = 5, 5, 10, 5


def gradual(ask: Ask, parameter: str) -> tuple[Step, ...]:
    """Stages thawed from the top, one every N epochs, each at half the rate: gradual:2, gradual:2+stem."""
    if ask.recipe.thaw is not None:
        if parameter:
            raise RecipeError(f"gradual:{parameter}: the table thaw says when stages thaw; leave one out.")
        return _by_table(ask, ask.recipe.thaw)
    every, stem = _every(parameter)
    order = _order(ask, stem=stem)
    total = ask.recipe.epochs or max(ask.epochs(), every * len(order))
    if stem and total <= every * (len(order) - 1):
        raise RecipeError(
            f"gradual:{parameter}: {total} epochs are too few to thaw {len(order)} stages down to the "
            f"stem; more than {every * (len(order) - 1)} were expected."
        )
    thawing = {epoch: (name,) for epoch, name in zip(range(0, total, every), order, strict=False)}
    return _phases(ask, thawing, total)


def gradual_notes(ask: Ask, parameter: str) -> Iterator[str]:
    """Says so where the recipe's epochs end before all stages have thawed."""
    every, stem = _every(parameter)
    total, stages = ask.recipe.epochs, len(_order(ask, stem=stem))
    if ask.recipe.thaw is None and total is not None and total <= every * (stages - 1):
        thawed = math.ceil(total / every)
        yield f"{total} epochs thaw {thawed} of {stages} stages; {every * stages} would thaw all."


def progressive(ask: Ask, _: str) -> tuple[Step, ...]:
    """For far domains: head, last two stages gently, then all with warm-up, under strong augmentation."""
    options: dict[str, Any] = {"augmentation": "aggressive", "patience": PATIENCE}
    solved = ask.recipe.head_init == "solved"
    head = ask.head_phase(RANDOM_HEAD_RATE, epochs=HEAD_EPOCHS, **options)
    last, everything = flat(ask.stages[-2:], 1e-5), graded(ask.stages, 1e-6, 1e-5)
    return (
        ask.solve() if solved else head,
        ask.phase(
            f"last {len(last)}",
            last,
            head=None if solved else 1e-3,
            epochs=LAST_EPOCHS,
            solved=solved,
            **options,
        ),
        ask.phase(
            "all stages",
            everything,
            head=1e-4,
            epochs=ask.recipe.epochs or ALL_EPOCHS,
            solved=solved,
            **options,
        ),
    )


def _order(ask: Ask, *, stem: bool) -> list[str]:
    """Stages in the order in which they thaw; the lowest one is the stem."""
    lowest, *others = ask.stages
    return [*reversed(others or [lowest]), *([lowest] if stem and others else [])]


def _every(parameter: str) -> tuple[int, bool]:
    """(epochs between two thaws, whether the stem thaws too) of "", "2", "2+stem" or "stem"."""
    number, _, stem = parameter.partition("+")
    if number == "stem" and not stem:
        number, stem = "", "stem"
    if (number and (not number.isdecimal() or int(number) < 1)) or stem not in ("", "stem"):
        raise RecipeError(
            f"gradual:{parameter}: a whole number of epochs was expected, with +stem where the stem is to "
            "thaw too, as in gradual:2 or gradual:2+stem."
        )
    return int(number or 2), bool(stem)


def _by_table(ask: Ask, thaw: Mapping[int, Iterable[str]]) -> tuple[Step, ...]:
    """Phases as the recipe's table of epochs and stages says."""
    thawing: dict[int, tuple[str, ...]] = {}
    moving: set[str] = set()
    for epoch in sorted(thaw):
        found = ask.find_stages(",".join(thaw[epoch]), f"thaw.{epoch}", parts=True)
        new = tuple(name for name in found if name not in moving)
        if not new:
            raise RecipeError(
                f"thaw.{epoch} = {list(thaw[epoch])}: nothing thaws at this epoch; leave it out."
            )
        moving |= set(new)
        thawing[epoch] = new
    if not thawing:
        top = ask.stages[-1]
        raise RecipeError(
            f"""thaw: the table thaws nothing; say what thaws when, as --set 'thaw={{"0": ["{top}"]}}'."""
        )
    last = max(thawing)
    total = ask.recipe.epochs or max(ask.epochs(), last + 2)
    if total <= last:
        raise RecipeError(f"thaw.{last}: the training ends after {total} epochs; epochs must be larger.")
    return _phases(ask, thawing, total)


def _phases(ask: Ask, thawing: Mapping[int, tuple[str, ...]], total: int) -> tuple[Step, ...]:
    """The head, then a phase for each thaw; the rates fall in the last one, and stay before."""
    starts = [*sorted(thawing), total]
    steps: list[Step] = list(ask.start())
    if not steps and starts[0] == 0:
        steps.append(ask.head_phase(ALONE_HEAD_RATE, epochs=5))
    elif starts[0] > 0:
        steps.append(ask.head_phase(_alone(ask), epochs=starts[0]))
    moving: set[str] = set()
    for begin, end in pairwise(starts):
        moving |= set(thawing[begin])
        steps.append(_phase(ask, thawing[begin], moving, end - begin, last=end == total))
    return tuple(steps)


def _phase(ask: Ask, new: tuple[str, ...], moving: set[str], epochs: int, *, last: bool) -> Train:
    names = [name for name in ask.stages if name in moving]
    depth = len(names) - 1
    rates = {name: ask.body_rate * HALF ** (depth - place) for place, name in enumerate(names)}
    options: dict[str, Any] = {} if last else {"schedule": "constant"}
    return ask.phase(f"+ {', '.join(reversed(new))}", rates, epochs=epochs, **options)


def _alone(ask: Ask) -> float:
    return RANDOM_HEAD_RATE if ask.solve_head else ALONE_HEAD_RATE
