"""The strategy auto for texts: what to do follows from how many labels there are.

With few of them, features of one label are drawn together before there is a head: n labels make n² pairs
to learn from (SetFit, Tunstall et al., 2022). The constants come from trials on parts of a training set
(benchmarks/README.md).
"""

from __future__ import annotations

from collections.abc import Iterator

from graft.numerics import world_size
from graft.steps import Step
from graft.strategies.asking import Ask, flat

FEW = 64  # labels a class up to which pairs teach more than the labels one by one
RATE, AFTER_RATE = 5e-5, 2e-5  # of the body; and where it was drawn together before
STEPS, AFTER_STEPS = 150, 50
FEWEST_EPOCHS, MOST_EPOCHS = 3, 50
BATCHES = (32, 16, 8)  # texts a step: the largest that makes so many steps of the fewest epochs
ENOUGH_STEPS = 375


def choose_for_texts(ask: Ask) -> tuple[Step, ...]:
    """Contrast first where labels are few; then the head solved, and the whole network."""
    if _labels(ask) <= FEW and _can_be_drawn(ask):
        epochs = ask.epochs(FEWEST_EPOCHS, steps=AFTER_STEPS, most=MOST_EPOCHS)
        whole = ask.phase("all stages", flat(ask.stages, AFTER_RATE), epochs=epochs)
        return ask.contrast_phase(), *ask.start(), whole
    start, size = ask.start(), _batch_size(ask)
    epochs = ask.epochs(FEWEST_EPOCHS, steps=STEPS, most=MOST_EPOCHS, batch_size=size)
    return *start, ask.phase("all stages", flat(ask.stages, RATE), epochs=epochs, batch_size=size)


def reasons_for_texts(ask: Ask) -> Iterator[str]:
    """What was decided, and why."""
    found = ask.evidence
    if found is None:
        return
    knows = (
        f"a probe on the features is right about {100 * found.pretrained.accuracy:.0f} % of held-out labels"
    )
    labels = f"{found.per_class:g} labels in the median class"
    if found.per_class > FEW:
        yield f"{labels}, more than {FEW}: the whole network trains; {knows}."
        if (size := _own_batch_size(ask)) == _batch_size(ask) < BATCHES[0]:
            yield f"batches of {size}: few texts teach more in many small steps than in few large ones."
    elif _can_be_drawn(ask):
        yield (
            f"{labels}, at most {FEW}: features of one label are drawn together first, which makes more of "
            f"few labels; then the whole network trains. {knows[0].upper()}{knows[1:]}."
        )
    else:
        yield f"{labels}; the whole network trains; {knows}."


def _batch_size(ask: Ask) -> int:
    """Of the phase that trains the whole network, which comes after the solved head."""
    return ask.batch_size(_own_batch_size(ask), phase=len(ask.start()) + 1)


def _own_batch_size(ask: Ask) -> int:
    """Small batches make more steps of few texts, which teach more than the same texts in large ones."""
    parts = ask.recipe.train.accumulate * world_size()
    sizes = [size for size in BATCHES if size > parts] or [BATCHES[0]]  # the smallest batches are cut, too
    enough = (
        size for size in sizes if ask.items is None or FEWEST_EPOCHS * ask.items >= ENOUGH_STEPS * size
    )
    return next(enough, sizes[-1])


def _can_be_drawn(ask: Ask) -> bool:
    """Contrast is of one label an item, and of whole batches in one process."""
    return ask.recipe.contrast != 0 and not ask.multi_label and world_size() == 1


def _labels(ask: Ask) -> float:
    """Labels of the median class; before the data is read, as if there were many."""
    return float("inf") if ask.evidence is None else ask.evidence.per_class
