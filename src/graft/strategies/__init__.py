"""The named strategies: plain functions that turn what was asked into steps.

Register one of your own with ``register_strategy``. A strategy knows stage names, the size of the data
and what was measured on it, never the data or the weights themselves. What the recipe sets is put over
the strategy's own values here, in one place, so that no strategy can forget it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pydantic import ValidationError

from graft.errors import RecipeError, quote, suggest
from graft.options import Views, options_set
from graft.recipe import Recipe
from graft.schedule import count_warmup, parse_warmup, steps_in_epoch
from graft.steps import Calibrate, Select, Solve, Step, Train, stages_with
from graft.strategies import auto, named, thawing
from graft.strategies.asking import Ask, Trying
from graft.strategies.by_phase import with_own_rates

__all__ = [
    "Ask",
    "Entry",
    "Strategy",
    "Trying",
    "decides_by_evidence",
    "entry_of",
    "notes_of",
    "plan_steps",
    "register_strategy",
    "split_name",
    "strategy_names",
    "strategy_table",
]

Strategy = Callable[[Ask, str], tuple[Step, ...]]
"""A function of what is asked and the text after the strategy's colon ("" without one)."""


@dataclass(frozen=True)
class Entry:
    """A strategy and what belongs to it.

    ``takes_parameter``: something may stand after its colon. ``wants_evidence``: the data is measured for
    it first. ``tries``: what to try then. ``notes``: what the plan says of it beside its
    steps. ``views``: what predictions are the mean over, where the recipe does not say.
    ``adapts``: which of a backbone's stages get adapters, for the text after the colon.
    """

    strategy: Strategy
    takes_parameter: bool = True
    wants_evidence: bool = False
    tries: Callable[[Ask], Trying | None] | None = None
    notes: Callable[[Ask, str], Iterable[str]] | None = None
    views: Callable[[Ask, Sequence[Step]], Views] | None = None
    adapts: Callable[[Sequence[str], str], tuple[str, ...]] | None = None


_STRATEGIES: dict[str, Entry] = {
    "auto": Entry(
        auto.choose,
        takes_parameter=False,
        wants_evidence=True,
        tries=auto.what_to_try,
        notes=auto.reasons,
        views=auto.views,
    ),
    "probe": Entry(named.probe_head),
    "partial": Entry(named.partial),
    "full": Entry(named.full),
    "two-phase": Entry(named.two_phase),
    "gradual": Entry(thawing.gradual, notes=thawing.gradual_notes),
    "progressive": Entry(thawing.progressive, takes_parameter=False),
    "middle": Entry(named.middle),
    "first-only": Entry(named.first_only, takes_parameter=False),
    "stages": Entry(named.stages),
    "layer-decay": Entry(named.layer_decay),
    "lora": Entry(named.lora, adapts=named.adapted_stages),
    "scratch": Entry(named.scratch, takes_parameter=False),
}


def plan_steps(ask: Ask) -> tuple[Step, ...]:
    """The steps of the recipe's strategy, with what the recipe sets put over the strategy's own values.

    Raises:
        RecipeError: no such strategy, a wrong parameter, a head that cannot start as asked, or settings
            that do not fit the phases or each other.
    """
    recipe = ask.recipe
    name, parameter = split_name(recipe.strategy)
    if recipe.head_init == "solved" and not ask.solvable:
        why = "only a linear head" if ask.pretrained else "with random weights no head"
        raise RecipeError(
            f"head_init = 'solved': {why} can be solved; take head_init=random or leave it out."
        )
    if recipe.thaw is not None and name != "gradual":
        raise RecipeError(f"thaw is a table for the strategy gradual; the strategy here is {name}.")

    def build(asked: Ask) -> tuple[Step, ...]:
        return _with_contrast(asked, _STRATEGIES[name].strategy(asked, parameter))

    steps = build(ask)
    _check_numbers(ask, steps)
    steps = with_own_rates(ask, steps, build)
    steps = tuple(
        _with_options(ask, step, number) if isinstance(step, Train) else step
        for number, step in enumerate(steps, start=1)
    )
    _check_used(ask, steps)
    return *_with_adaptation(ask, steps), *_conclusion(ask, steps)


def split_name(text: str) -> tuple[str, str]:
    """``partial:2`` -> ("partial", "2").

    Raises:
        RecipeError: no strategy has this name, or it takes no parameter.
    """
    name, colon, parameter = text.partition(":")
    if name not in _STRATEGIES:
        raise RecipeError(
            f"There is no strategy {quote(name)}.{suggest(name, _STRATEGIES)} "
            f"The strategies are: {', '.join(sorted(_STRATEGIES))}."
        )
    if colon and not _STRATEGIES[name].takes_parameter:
        raise RecipeError(f"The strategy {quote(name)} takes no parameter, but {quote(text)} has one.")
    return name, parameter


def entry_of(recipe: Recipe) -> Entry:
    """That of the recipe's strategy."""
    return _STRATEGIES[split_name(recipe.strategy)[0]]


def decides_by_evidence(recipe: Recipe) -> bool:
    """Whether the recipe's strategy wants to know what was measured on the data."""
    return entry_of(recipe).wants_evidence


def notes_of(ask: Ask) -> Iterable[str]:
    """What the recipe's strategy has to say beside its steps."""
    name, parameter = split_name(ask.recipe.strategy)
    notes = _STRATEGIES[name].notes
    return () if notes is None else notes(ask, parameter)


def register_strategy(name: str, strategy: Strategy, *, wants_evidence: bool = False) -> None:
    """Make ``strategy`` available under ``name`` (which must be new and without a colon).

    ``wants_evidence``: what it is asked then has ``evidence``, measured on the training data as for the
    strategy auto; None still where a recipe is checked before the data is read, where the backbone has
    random weights, and where there is too little data to measure on.
    """
    if ":" in name or name in _STRATEGIES:
        raise RecipeError(f"The strategy name {quote(name)} is taken or contains a colon.")
    _STRATEGIES[name] = Entry(strategy, wants_evidence=wants_evidence)


def strategy_names() -> tuple[str, ...]:
    return tuple(sorted(_STRATEGIES))


def strategy_table() -> dict[str, str]:
    """Each strategy's name and what it does, in one line."""
    return {
        name: (entry.strategy.__doc__ or "").strip().split("\n")[0] for name, entry in _STRATEGIES.items()
    }


def _with_contrast(ask: Ask, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The first stage that the recipe asks for; without the strategy's own where it wants none."""
    own = tuple(step for step in steps if not (isinstance(step, Train) and step.objective == "contrast"))
    if ask.recipe.contrast is None:
        return steps
    if ask.recipe.contrast and not ask.pretrained:
        raise RecipeError("contrast: random weights have no features to draw together; leave it out.")
    return (ask.contrast_phase(), *own) if ask.recipe.contrast else own


def _with_adaptation(ask: Ask, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Statistics that any phase wants adapted are adapted before the first step, which rests on them."""
    wishes = [step.batchnorm for step in steps if isinstance(step, Train)]
    if "batchnorm" in ask.recipe.train.model_fields_set:
        wishes.append(ask.recipe.train.batchnorm)
    wanted = {stage for wish in wishes for stage in stages_with(wish, "adaptive", ask.stages)}
    adapt = tuple(stage for stage in ask.stages if stage in wanted)
    if not adapt or not steps or not isinstance(steps[0], Solve | Train):
        return steps
    return steps[0].model_copy(update={"adapt": adapt}), *steps[1:]


def _check_numbers(ask: Ask, steps: tuple[Step, ...]) -> None:
    """Raises RecipeError where ``phase.N`` names no phase of gradient steps."""
    training = [number for number, step in enumerate(steps, start=1) if isinstance(step, Train)]
    if not training and decides_by_evidence(ask.recipe):
        return  # whether it trains could not be known by whoever set a phase; the plan says it is of no use
    if ask.takes_text and ask.items is None and _may_draw(ask):
        training = sorted({1, *training, *(number + 1 for number in training)})
    for number in ask.recipe.phase:
        if number not in training:
            which = ", ".join(map(str, training)) or "none"
            raise RecipeError(
                f"phase.{number}: the strategy {ask.recipe.strategy} has no such phase of gradient steps; "
                f"it has: {which}."
            )


def _may_draw(ask: Ask) -> bool:
    """Whether few labels, where there are few, will put a contrast before the other phases."""
    return ask.recipe.contrast is None and ask.pretrained and decides_by_evidence(ask.recipe)


def _check_used(ask: Ask, steps: tuple[Step, ...]) -> None:
    """Raises RecipeError where rates, or statistics that follow the batches, are of what never trains."""
    moving = {stage for step in steps if isinstance(step, Train) for stage in step.stages}
    for pattern in ask.recipe.train.rates or {}:
        if pattern != "head" and not any(fnmatchcase(stage, pattern) for stage in moving):
            raise RecipeError(
                f"train.rates: {quote(pattern)} never trains under the strategy {ask.recipe.strategy}; "
                "leave it out."
            )
    for step in steps:
        wanted = step.batchnorm if isinstance(step, Train) and isinstance(step.batchnorm, dict) else {}
        for stage in stages_with(wanted, "train", ask.stages):
            if stage not in moving:
                raise RecipeError(
                    f"train.batchnorm: the stage {quote(stage)} never trains, so its statistics cannot "
                    "follow the batches; adaptive or frozen was expected."
                )


def _with_options(ask: Ask, step: Train, number: int) -> Train:
    """The phase with what the recipe sets for all phases, then for this one."""
    own = ask.recipe.phase.get(number)
    given = options_set(ask.recipe.train, *([own] if own is not None else []))
    if ask.recipe.data.augment is not None:
        given.setdefault("augmentation", ask.recipe.data.augment)
    if own is not None and own.epochs is not None:
        given["epochs"] = own.epochs
    if ask.recipe.drop_path and step.drop_path is None:
        given.setdefault("drop_path", 0.0)  # the network is built with that of another phase
    if step.objective == "contrast":  # which compares whole pictures, all of a batch
        given |= {"mixup": 0.0, "cutmix": 0.0, "accumulate": 1}
    try:
        phase = Train.model_validate(step.model_dump() | given)
    except ValidationError as error:
        raise RecipeError(f"phase {number}: {error.errors()[0]['msg']}.") from None
    _check_phase(ask, phase, number)
    return phase


def _check_phase(ask: Ask, phase: Train, number: int) -> None:
    where = f"phase {number} ({phase.name})"
    amount, unit = parse_warmup(phase.warmup)
    try:
        if ask.items is not None:
            per_epoch = steps_in_epoch(ask.items, phase.batch_size)
            count_warmup(phase.warmup, epochs=phase.epochs, per_epoch=per_epoch)
        elif unit == "epochs" and amount >= phase.epochs:
            raise ValueError(f"the phase has {phase.epochs} epochs; a shorter warm-up was expected")
    except ValueError as error:
        raise RecipeError(f"train.warmup = {quote(phase.warmup)} in {where}: {error}.") from None
    if isinstance(phase.batchnorm, dict):
        for stage in phase.batchnorm:
            if stage not in ask.stages:
                ask.require_stage(stage, "train.batchnorm")
                raise RecipeError(f"train.batchnorm: {quote(stage)} is a pattern; name each stage.")
    mixing = [name for name in ("mixup", "cutmix") if getattr(phase, name)]
    if mixing and phase.focal:
        raise RecipeError(
            f"train.{mixing[0]} with train.focal in {where}: the focal loss is not defined for mixed "
            "labels; leave one of them out."
        )


def _conclusion(ask: Ask, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """What is chosen and calibrated on validation data, where there is any."""
    last, final = steps[-1], ask.recipe.final
    if not ask.validates or any(isinstance(step, Select) for step in steps):
        return ()
    made: list[Step] = []
    if isinstance(last, Train):
        alphas = Select().alphas if final.interpolate and ask.pretrained else ()
        made.append(Select(score=last.select, checkpoints=final.checkpoints, alphas=alphas))
    if isinstance(last, Solve | Train) and final.calibrate:
        made.append(Calibrate())
    return tuple(made)
