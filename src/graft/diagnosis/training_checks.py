"""Known mistakes that only the course of training shows, seen in its records as they come.

A record here is what ``metrics.jsonl`` holds of it: plain values (see :mod:`graft.records`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from graft.diagnosis.findings import Finding, found
from graft.recipe import Recipe
from graft.records import LOOKED_AT
from graft.strategies import decides_by_evidence

_OF_COURSE = {  # settings that decide how fast, how long and on what it trains
    *("lr", "head_lr", "lowest_lr", "layer_decay", "rates", "optimizer", "schedule", "warmup", "clip"),
    *("epochs", "batch_size", "batchnorm", "augmentation", "weight_decay", "class_weights", "focal"),
}
BEFORE, SPIKE = 20, 3.0  # steps whose median loss a later one exceeds so many times
LITTLE, LONG = 0.02, 5  # share that the training loss falls by, in so many epochs: too slow
APART, RISEN = 0.5, 1.2  # training loss beside where it began, and validation loss beside its lowest
SURE = 0.3  # training loss in nats above which there was something left to learn
DEAD = 20  # steps in a row without a gradient
OF_RATES = frozenset({"run.spike", "run.overfitting", "run.too-slow", "run.forgetting"})  # and of lengths
FEW = 1 / 4  # of the directions that so many classes need, in which the features still spread


@dataclass
class _Course:
    """What one phase told: losses by step with their rates, and what each epoch validated.

    ``idle``: for each stage, how many steps in a row it has had no gradient. ``usual``: the loss before the
    first rise in a warm-up.
    """

    number: int
    steps: list[tuple[float, float]] = field(default_factory=list)
    idle: dict[str, int] = field(default_factory=dict)
    usual: float | None = None
    train: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    ranks: list[float] = field(default_factory=list)


def rates_are_own(recipe: Recipe) -> bool:
    """Whether graft itself decided by evidence how fast and how long everything trains."""
    settings = (recipe, recipe.train, *recipe.phase.values())
    asked = {name for each in settings for name in each.model_fields_set if getattr(each, name) is not None}
    return decides_by_evidence(recipe) and not asked & _OF_COURSE


class Watch:
    """Looks at records as they come and tells each finding once.

    ``validated``: how many items are validated on, of which about 512 are looked at. ``classes``: of a
    single-label task; 0 of others. ``warmups``: the steps of warm-up of each phase. ``own_rates``: graft
    itself chose rates and lengths, by what was measured (:func:`rates_are_own`); what they lead to is then
    not reported as a mistake, and the weights that did best are kept.
    """

    def __init__(
        self,
        validated: int = 0,
        classes: int = 0,
        *,
        warmups: Sequence[int] = (),
        own_rates: bool = False,
    ) -> None:
        self.validated, self.classes = validated, classes
        self.warmups, self.own_rates = tuple(warmups), own_rates
        self._course = _Course(0)
        self._told: set[str] = set()

    def see(self, record: dict[str, Any]) -> tuple[Finding, ...]:
        """What this record shows, with those before it, that was not reported yet."""
        number = record["phase"] + 1
        if number != self._course.number:
            self._course = _Course(number)
        silent = self._told | (OF_RATES if self.own_rates else frozenset())
        new = [finding for finding in self._look(record, self._course) if finding.id not in silent]
        self._told |= {finding.id for finding in new}
        return tuple(new)

    def _look(self, record: dict[str, Any], course: _Course) -> Iterator[Finding]:
        kind = record["record"]
        if kind == "stepped":
            course.steps.append((record["loss"], record["rate"]))
            course.idle = {stage: course.idle.get(stage, 0) + 1 for stage in record.get("idle", ())}
            yield from _spike(course, self._warmup(record["phase"]))
            yield from _dead(course)
        elif kind == "validated":
            _note_epoch(record, course)
            yield from _collapse(course, self.validated, self.classes)
        elif kind == "finished":
            yield from _overfit(course)
            yield from _slow(course)
            yield from _forgot(course, self.validated)

    def _warmup(self, phase: int) -> int:
        return self.warmups[phase] if phase < len(self.warmups) else 0


def _note_epoch(record: dict[str, Any], course: _Course) -> None:
    if record.get("train_loss") is not None:
        course.train.append(record["train_loss"])
    if record.get("loss") is not None:
        course.losses.append(record["loss"])
        course.accuracies.append(record["accuracy"] or 0.0)
    if record.get("rank") is not None:
        course.ranks.append(record["rank"])


def _spike(course: _Course, warmup: int) -> Iterator[Finding]:
    """Whether the last three losses lie above what was usual, and above what is next to nothing.

    In a warm-up a loss may rise and come back: one that did is no mistake, so what was usual before the
    first rise is kept until the warm-up ends, and a loss that is not made good is reported there.
    """
    place = len(course.steps) - 3
    if place < BEFORE:
        return
    last = [loss for loss, _ in course.steps[place:]]
    usual = course.usual or median(loss for loss, _ in course.steps[place - BEFORE : place])
    if not (usual > 0 and min(last) > max(SPIKE * usual, SURE)):
        course.usual = course.usual if place < warmup else None
    elif place < warmup:
        course.usual = usual
    else:
        course.usual = None
        risen = ", after the rate rose" if course.steps[place][1] > course.steps[place - BEFORE][1] else ""
        yield found(
            "run.spike",
            "warning",
            f"The loss jumps from {usual:.3g} to {last[0]:.3g} at step {place + 1} of phase "
            f"{course.number}{risen}",
            why="Such a step throws away what was learnt before it.",
            cure="A smaller rate (train.lr), a longer warm-up (train.warmup) or train.clip=1.0.",
        )


def _dead(course: _Course) -> Iterator[Finding]:
    dead = [stage for stage, steps in course.idle.items() if steps >= DEAD]
    if dead:
        yield found(
            "run.dead-gradients",
            "warning",
            f"{', '.join(dead)} had no gradient in {DEAD} steps in a row, up to step {len(course.steps)} "
            f"of phase {course.number}",
            why="What has no gradient learns nothing, though it is meant to train: its units are dead, or "
            "what lies above lets nothing through.",
            cure="A smaller rate (train.lr) from the start; or leave these stages frozen.",
        )


def _collapse(course: _Course, validated: int, classes: int) -> Iterator[Finding]:
    """Features that spread in C - 1 directions or more can tell C classes apart."""
    if len(course.ranks) < 2:
        return
    before, now, needed = course.ranks[0], course.ranks[-1], FEW * (classes - 1)
    enough = min(validated, LOOKED_AT) >= 4 * classes  # fewer items cannot show so many directions
    if before > 0 and (now == 0 or (enough and now < min(needed, before))):
        yield found(
            "run.collapse",
            "warning",
            f"The features of validation items spread in {now:.1f} directions after {before:.1f} at the "
            f"start of phase {course.number}",
            why=f"So few do not tell {classes or 'the'} classes apart: items become alike.",
            cure="A smaller rate (train.lr), fewer stages, or the head alone: --strategy probe.",
        )


def _overfit(course: _Course) -> Iterator[Finding]:
    if len(course.losses) < 4 or len(course.train) < 3:
        return
    lowest = min(course.losses)
    worse = course.accuracies[-1] < max(course.accuracies)
    if course.train[-1] < APART * course.train[0] and course.losses[-1] > RISEN * lowest and worse:
        yield found(
            "run.overfitting",
            "note",
            f"The training loss falls from {course.train[0]:.3g} to {course.train[-1]:.3g}, that of "
            f"validation rises from {lowest:.3g} to {course.losses[-1]:.3g} in phase {course.number}",
            why="The network learns the training items by heart.",
            cure="Fewer epochs, stronger augmentation, dropout in the head (head_dropout) or fewer stages "
            "(--strategy partial:1); the best epoch was kept.",
        )


def _slow(course: _Course) -> Iterator[Finding]:
    if len(course.train) < LONG or course.train[0] <= SURE:
        return
    if course.train[-1] > (1 - LITTLE) * course.train[0]:
        yield found(
            "run.too-slow",
            "warning",
            f"The training loss stays at {course.train[-1]:.3g} after {course.train[0]:.3g}, for "
            f"{len(course.train)} epochs of phase {course.number}",
            why="Nothing is learnt at this rate, or nothing can be.",
            cure="A larger rate: graft lr --sweep shows which.",
        )


def _forgot(course: _Course, validated: int) -> Iterator[Finding]:
    if len(course.accuracies) < 2 or validated < 1:
        return
    start, end = course.accuracies[0], course.accuracies[-1]
    error = math.sqrt(max(start * (1 - start), 0.25 / validated) / validated)
    if end < start - 2 * error:
        yield found(
            "run.forgetting",
            "warning",
            f"Accuracy falls from {100 * start:.1f} % at the start of phase {course.number} to "
            f"{100 * end:.1f} % at its end",
            why="The head on the features as they were was better: training wiped out what they knew.",
            cure="A smaller rate, fewer stages, or the head alone: --strategy probe.",
        )
