"""Known mistakes that only the course of training shows, read from a run's log of records.

A log is what ``metrics.jsonl`` holds: plain values, one for each record (see :mod:`graft.records`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from graft.diagnosis.findings import Finding, found

BEFORE, SPIKE = 20, 3.0  # steps whose median loss a later one exceeds so many times
LITTLE, LONG = 0.02, 5  # share that the training loss falls by, in so many epochs: too slow
APART, RISEN = 0.5, 1.2  # training loss beside where it began, and validation loss beside its lowest
SURE = 0.3  # training loss in nats above which there was something left to learn


@dataclass
class _Course:
    """What one phase told: losses by step with their rates, and what each epoch validated."""

    number: int
    steps: list[tuple[float, float]] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)


def read_course(records: Iterable[dict[str, Any]], validated: int = 0) -> tuple[Finding, ...]:
    """What the log of a run shows, each finding once; ``validated``: how many items were validated on."""
    courses: dict[int, _Course] = {}
    for record in records:
        course = courses.setdefault(record["phase"], _Course(record["phase"] + 1))
        kind = record["record"]
        if kind == "stepped":
            course.steps.append((record["loss"], record["rate"]))
        elif kind == "validated":
            if record.get("train_loss") is not None:
                course.train.append(record["train_loss"])
            if record.get("loss") is not None and math.isfinite(record["loss"]):
                course.losses.append(record["loss"])
                course.accuracies.append(record["accuracy"] or 0.0)
    every: dict[str, Finding] = {}
    for course in courses.values():
        for finding in (*_spike(course), *_overfit(course), *_slow(course), *_forgot(course, validated)):
            every.setdefault(finding.id, finding)
    return tuple(every.values())


def _spike(course: _Course) -> Iterator[Finding]:
    losses = [loss for loss, _ in course.steps]
    for place in range(BEFORE, len(losses)):
        usual = median(losses[place - BEFORE : place])
        lasting = losses[place : place + 3]
        if usual > 0 and min(lasting) > SPIKE * usual and len(lasting) == 3:
            rate, before = course.steps[place][1], course.steps[place - BEFORE][1]
            risen = ", after the rate rose" if rate > before else ""
            yield found(
                "run.spike",
                "warning",
                f"The loss jumps from {usual:.3g} to {losses[place]:.3g} at step {place + 1} of phase "
                f"{course.number}{risen}",
                why="Such a step throws away what was learnt before it.",
                cure="A smaller rate (train.lr), a longer warm-up (train.warmup) or train.clip=1.0.",
            )
            return


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
