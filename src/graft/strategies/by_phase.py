"""Rates of single phases: ``phase.N.lr`` and its like are to the N-th phase what ``train.lr`` is to all.

The strategy is asked once more, as if these rates held for every phase, and its N-th phase is taken: so
rates of one phase mean exactly what they mean for all, under every strategy. Only a table of rates by
stage is read for the phase alone, as the stages of others may be none of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from graft.errors import RecipeError, quote
from graft.recipe import RATES, PhaseSettings
from graft.steps import Rates, Step, Train
from graft.strategies.asking import Ask

GRADING = ("lowest_lr", "layer_decay")  # each of which fixes the rates of all stages


def with_own_rates(
    ask: Ask, steps: Sequence[Step], build: Callable[[Ask], Sequence[Step]]
) -> tuple[Step, ...]:
    """The steps that ``build`` makes of ``ask``, each phase with the rates that the recipe gives it alone.

    Raises:
        RecipeError: rates of stages that are frozen in their phase, or of all where the head trains alone.
    """
    changed = list(steps)
    for number, own in ask.recipe.phase.items():
        step = steps[number - 1] if number <= len(steps) else None
        if isinstance(step, Train) and _said(own):
            asked = _asked_for(ask, step, number, own)
            fitted = _by_table(asked, step) if own.rates else build(asked)[number - 1]
            assert isinstance(fitted, Train)
            changed[number - 1] = step.model_copy(update={"rates": fitted.rates})
    return tuple(changed)


def _by_table(asked: Ask, step: Train) -> Train:
    """The phase with rates by stage; the head's stays as it is where the table does not name it."""
    table = asked.table(step.stages)
    stages = {stage: table[stage] for stage in step.stages}
    return step.model_copy(update={"rates": Rates(head=table.get("head", step.rates.head), stages=stages)})


def _said(own: PhaseSettings) -> dict[str, object]:
    return {name: value for name in RATES if (value := getattr(own, name)) is not None}


def _asked_for(ask: Ask, step: Train, number: int, own: PhaseSettings) -> Ask:
    """What is asked where the rates of one phase hold for all."""
    where, said, train = f"phase.{number}", _said(own), ask.recipe.train
    _check(where, step, own)
    if not step.stages and "lr" in said:  # the head is the topmost part that trains
        said = {"head_lr": said["lr"], **{name: value for name, value in said.items() if name != "lr"}}
    dropped = set(RATES) if "rates" in said else set()
    if {"lr", *GRADING} & said.keys():
        dropped |= {"rates"}
    if set(GRADING) & said.keys():
        dropped |= set(GRADING)
    update = dict.fromkeys(dropped) | said
    recipe = ask.recipe.model_copy(update={"train": train.model_copy(update=update)})
    return replace(ask, recipe=recipe, rates_of=where)


def _check(where: str, step: Train, own: PhaseSettings) -> None:
    """Raises RecipeError where a rate is of nothing that trains in this phase."""
    for name in GRADING:
        if getattr(own, name) is not None and not step.stages:
            raise RecipeError(f"{where}.{name}: only the head trains in {step.name!r}; set {where}.lr.")
    if step.objective == "contrast" and (own.head_lr is not None or "head" in (own.rates or {})):
        raise RecipeError(f"{where}: in {step.name!r} there is no head yet; leave its rate out.")
    for pattern in own.rates or {}:
        if pattern != "head" and not any(fnmatchcase(stage, pattern) for stage in step.stages):
            moving = ", ".join((*step.stages, "head"))
            raise RecipeError(
                f"{where}.rates: {quote(pattern)} does not train in {step.name!r}; "
                f"what trains there: {moving}."
            )
