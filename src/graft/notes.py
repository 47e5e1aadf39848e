"""What a plan says beside its phases: reasons, settings of no effect, and what nobody checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from graft.backbones.contract import Backbone
from graft.recipe import Recipe
from graft.reuse.planning import Reuse
from graft.steps import Step, Train
from graft.strategies import Ask, decides_by_evidence, notes_of

_NO_VALIDATION = "There is no validation data: {} kept, whatever that is worth."
_OF_A_HEAD = {
    "epochs",
    *(
        f"train.{name}"
        for name in ("head_lr", "label_smoothing", "focal", "sampling", "select", "patience")
    ),
}
_ALL_TRAIN = (
    "All labels train: with fewer than 1,500 items, or 150 in the median class, a part set aside would "
    "decide little and cost accuracy. So {} kept, and probabilities are not calibrated."
)


def notes_on(ask: Ask, steps: Sequence[Step], *, validates: bool) -> Iterator[str]:
    """What was decided and why, what has no effect, and what nobody checks."""
    yield from notes_of(ask)
    if ask.recipe.head_init == "auto" and not ask.solvable:
        why = "is not linear" if ask.pretrained else "stands on random weights"
        yield f"The head starts random: it {why}, so it cannot be solved."
    trains = any(isinstance(step, Train) and step.objective == "labels" for step in steps)
    unused = _unused(ask.recipe, steps, validates=validates)
    if unused:
        yield f"Set, but of no effect here: {', '.join(unused)}."
    if not validates and trains:
        chosen = "validation" not in ask.recipe.data.model_fields_set
        averaged = any(isinstance(step, Train) and step.ema for step in steps)
        kept = "the running average is" if averaged else "the last weights are"
        yield (_ALL_TRAIN if chosen and decides_by_evidence(ask.recipe) else _NO_VALIDATION).format(kept)


def notes_on_reuse(
    ask: Ask, steps: Sequence[Step], reuses: Mapping[int, Reuse], views: int | None
) -> Iterator[str]:
    """What is computed once, and what that takes; ``reuses`` by the step's place."""
    recipe, items = ask.recipe, ask.items or 0
    if recipe.reuse.views is not None and not reuses:
        yield "Set, but of no effect here: reuse.views, because no phase keeps what is frozen."
    for number, reuse in reuses.items():
        step = steps[number]
        assert isinstance(step, Train)
        kept = 1 if step.augmentation == "none" else min(views or 1, step.epochs)
        size = f"{max(1, round(items * reuse.row_bytes * kept / 1e6)):,} MB"
        where = "The backbone" if reuse.above == "head" else f"What lies below {reuse.above}"
        if views:
            times = "at most once" if kept == 1 else f"at most {kept} times, for as many views,"
            what = "text" if ask.takes_text else "picture"
            yield f"{where} runs {times} on each {what} in phase {number + 1}; at most {size} are kept."
        else:
            yield (
                f"{where} runs in every step of phase {number + 1}: reuse.limit leaves no room for the "
                f"{size} that would be kept."
            )


def notes_on_backbone(backbone: Backbone) -> Iterator[str]:
    """What of a file's weights and of the backbone takes no part."""
    average = backbone.source.options.get("average")
    if average:
        yield f"The weights are the average that the file calls {average}, not the raw ones beside it."
    if backbone.unused:
        yield f"{len(backbone.unused)} parameters of the backbone are never used and never train."
    unread = () if backbone.adapters is None else backbone.adapters.unread
    if unread:
        yield (
            f"The network reads the weights of {len(unread)} layers and never calls them, so that an "
            f"adapter would have no effect there: {unread[0]}{' and others' if unread[1:] else ''}."
        )


def notes_on_pixels(recipe: Recipe, backbone: Backbone) -> Iterator[str]:
    """What counts as full in pictures of more than 8 bits, where the pictures decided it."""
    full = getattr(backbone.preprocess, "max_value", None)
    if recipe.data.max_value == "auto" and full is not None:
        yield (
            f"data.max_value = {full:g} (auto): no picture of more than 8 bits has a higher value, and "
            "each uses more than a 16th of it. data.max_value=65535 counts all 16 bits."
        )


def _unused(recipe: Recipe, steps: Sequence[Step], *, validates: bool) -> list[str]:
    """Settings that were given and that no step of this plan looks at."""
    every = {number: step for number, step in enumerate(steps, start=1) if isinstance(step, Train)}
    phases = {number: step for number, step in every.items() if step.objective == "labels"}
    train, final = recipe.train, recipe.final.model_fields_set
    given = {f"train.{name}" for name in train.model_fields_set}
    by_phase = {f"phase.{n}.{name}" for n, each in recipe.phase.items() for name in each.model_fields_set}
    if recipe.epochs is not None:
        given.add("epochs")
    idle = set() if validates else {f"final.{name}" for name in final - {"tta"}}
    if recipe.head == "linear" and "head_hidden" in recipe.model_fields_set:
        idle.add("head_hidden")
    if not phases:
        return sorted(idle | _idle_without_phases(recipe, given, by_phase, contrasts=bool(every)))
    if not any(len(step.stages) > 1 for step in phases.values()):
        idle |= given & {"train.lowest_lr", "train.layer_decay"}
    if all(number in recipe.phase and recipe.phase[number].epochs for number in phases):
        idle |= given & {"epochs"}
    idle |= {f"train.{name}" for name in _idle(train.model_fields_set, list(phases.values()))}
    for number, own in recipe.phase.items():
        if number in phases:
            idle |= {f"phase.{number}.{name}" for name in _idle(own.model_fields_set, [phases[number]])}
    if not validates:
        idle |= {name for name in given | by_phase if name.endswith((".patience", ".select"))}
    return sorted(idle)


def _idle_without_phases(
    recipe: Recipe, given: set[str], by_phase: set[str], *, contrasts: bool
) -> set[str]:
    """Settings of no use where no head is trained by steps."""
    if recipe.data.augment is not None and not contrasts:
        given = given | {"data.augment"}
    idle = {f"final.{name}" for name in recipe.final.model_fields_set & {"checkpoints", "interpolate"}}
    if "validation" in recipe.data.model_fields_set:
        idle.add("data.validation")  # a solved head decides out of fold, on all labels
    if contrasts:  # with steps and rates, but no head
        return idle | (given & _OF_A_HEAD)
    return idle | by_phase | (given - {"train.workers", "train.class_weights", "train.batchnorm"})


def _idle(names: Iterable[str], phases: Sequence[Train]) -> set[str]:
    """Options among ``names`` that none of these phases has a use for."""
    steps_down = any(phase.schedule == "step" for phase in phases)
    # A list of changes of one's own says itself whether it mirrors.
    augments = any(phase.augmentation in ("light", "standard", "aggressive") for phase in phases)
    idle = (set() if steps_down else {"drop_epochs", "drop_factor"}) | (set() if augments else {"flip"})
    return idle & set(names)
