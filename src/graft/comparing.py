"""What a comparison asks and what came out of it, as plain values; intervals, and whether leaders differ.

Shapes: S seeds, N test items.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from graft.errors import RunError
from graft.files import read_json
from graft.options import Frozen

CONFIDENCE = 0.95
Value = TypeVar("Value", bound=Frozen)


class Interval(NamedTuple):
    """A mean and where the true one lies with 95 % confidence."""

    mean: float
    low: float
    high: float


class Pair(NamedTuple):
    """By how much one is ahead of another on the same items: mean, standard error, p of a paired test."""

    gain: float
    error: float
    p: float


class Candidate(Frozen):
    """What is compared: its name, its recipe (data and seed left open), and its share of the common steps.

    ``own_length``: a recipe file that says its own number of epochs, which is kept.
    """

    name: str
    recipe: dict[str, Any]
    times: int = 1
    own_length: bool = False


class Asked(Frozen):
    """A whole comparison; ``steps``: of the optimiser, in each run; None: as many as ``full`` takes."""

    data: str
    candidates: tuple[Candidate, ...]
    seeds: tuple[int, ...]
    labels: tuple[int, ...] = ()
    """Numbers of training labels to draw; none: all that there are."""
    steps: int | None = None


class Outcome(Frozen):
    """What one run came to. ``right``: of each test item, 1 or 0; of several labels the share right.

    ``score``: accuracy, or mean average precision of a multi-label task. ``seconds``: from the data to the
    result, what was in the store already not counted. ``parameters``: that trained. ``memory``: bytes, as
    ``graft plan`` measures them (None where an earlier seed says it).
    """

    candidate: str
    labels: int
    seed: int
    score: float
    right: tuple[float, ...]
    steps: int
    seconds: float
    parameters: int
    whole: int
    memory: int | None
    plan: str


class Row(Frozen):
    """One candidate with one number of labels, over its seeds."""

    candidate: str
    labels: int
    seeds: int
    score: Interval
    seconds: float
    steps: int
    parameters: int
    whole: int
    memory: int | None


def interval(scores: Sequence[float], rights: Sequence[Sequence[float]] | None = None) -> Interval:
    """Of the scores [S] of several seeds, and of what is right of each item [S, N] where they are its mean.

    Two things vary: the run (its seed) and which items the test part happens to hold. Each adds the square
    of its own standard error. One seed says nothing of the first, one item nothing of the second.
    """
    mean = float(np.mean(scores))
    sources = [np.asarray(scores, dtype=np.float64)]
    if rights is not None:
        sources.append(np.mean(np.asarray(rights, dtype=np.float64), axis=0))
    error, freedom = _combine(sources)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Interval(mean, max(0.0, mean - reach), min(1.0, mean + reach))


def compare_pair(one: Sequence[Sequence[float]], two: Sequence[Sequence[float]]) -> Pair:
    """Whether ``one`` is better than ``two``, from what is right of each item [S, N] with the same seeds.

    A paired t-test, whose error has two sources as that of :func:`interval`: p is how often chance alone
    would put them this far apart.
    """
    differences = np.asarray(one, dtype=np.float64) - np.asarray(two, dtype=np.float64)
    gain = float(differences.mean())
    error, freedom = _combine([differences.mean(axis=1), differences.mean(axis=0)])
    if error == 0:
        return Pair(gain, 0.0, 1.0 if gain == 0 else 0.0)
    return Pair(gain, error, float(2 * stats.t.sf(abs(gain) / error, freedom)))


def _combine(sources: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """The standard error of a mean that varies for several reasons, and its degrees of freedom.

    Those are estimated after Satterthwaite (1946): two seeds know their deviation badly, and that counts
    for as much as seeds do. A source of one value says nothing, and adds nothing.
    """
    parts = [(float(np.var(each, ddof=1)) / len(each), len(each) - 1) for each in sources if len(each) > 1]
    whole = sum(part for part, _ in parts)
    if whole == 0:
        return 0.0, math.inf
    return math.sqrt(whole), whole**2 / sum(part**2 / freedom for part, freedom in parts)


def cells(asked: Asked) -> Iterator[tuple[int | None, Candidate, int]]:
    """Every run in its order: all candidates with one seed before the next, so that the first say most."""
    for seed in asked.seeds:
        for labels in asked.labels or (None,):
            for candidate in asked.candidates:
                yield labels, candidate, seed


def read_outcomes(folder: Path) -> tuple[Asked, list[Outcome]]:
    """What a comparison's folder asks, and what has come out so far.

    Raises:
        RunError: it is not a comparison, or a file is damaged.
    """
    asked = read_value(folder / "comparison.json", Asked)
    files = [outcome_file(folder, asked, each, labels, seed) for labels, each, seed in cells(asked)]
    return asked, [read_value(file, Outcome) for file in files if file.is_file()]


def rows_of(outcomes: Sequence[Outcome], *, several: bool = False) -> list[Row]:
    """Outcomes over their seeds: for each number of labels the best first. ``several``: labels an item."""
    groups: dict[tuple[int, str], list[Outcome]] = {}
    for each in outcomes:
        groups.setdefault((each.labels, each.candidate), []).append(each)
    rows = [_row(own, several=several) for own in groups.values()]
    return sorted(rows, key=lambda row: (row.labels, -row.score.mean))


def gaps_to_leader(outcomes: Sequence[Outcome], labels: int, most: int = 3) -> list[tuple[str, str, Pair]]:
    """The leader beside each of the next: (leader, other, how far it is ahead), on the seeds both have."""
    own = [each for each in outcomes if each.labels == labels]
    order = [row.candidate for row in rows_of(own)]
    by_name = {name: {each.seed: each.right for each in own if each.candidate == name} for name in order}
    found = []
    for other in order[1 : most + 1]:
        seeds = sorted(by_name[order[0]].keys() & by_name[other].keys())
        if seeds:
            one, two = ([by_name[name][seed] for seed in seeds] for name in (order[0], other))
            found.append((order[0], other, compare_pair(one, two)))
    return found


def _row(own: Sequence[Outcome], *, several: bool) -> Row:
    first = own[0]
    rights = None if several else [each.right for each in own]
    return Row(
        candidate=first.candidate,
        labels=first.labels,
        seeds=len(own),
        score=interval([each.score for each in own], rights),
        seconds=sum(each.seconds for each in own) / len(own),
        steps=round(sum(each.steps for each in own) / len(own)),
        parameters=first.parameters,
        whole=first.whole,
        memory=next((each.memory for each in own if each.memory is not None), None),
    )


def run_name(asked: Asked, candidate: Candidate, labels: int | None, seed: int) -> str:
    """A cell's name as a file's."""
    return f"{file_name(asked, candidate)}-{'all' if labels is None else labels}-{seed}"


def file_name(asked: Asked, candidate: Candidate) -> str:
    """A candidate's name as a file's, which no other has: what a file system may refuse is replaced."""
    number = asked.candidates.index(candidate) + 1
    plain = "".join(char if char.isalnum() or char in "-._" else "-" for char in candidate.name)
    return f"{number:02}-{plain[:80]}"


def outcome_file(folder: Path, asked: Asked, candidate: Candidate, labels: int | None, seed: int) -> Path:
    return folder / "outcomes" / f"{run_name(asked, candidate, labels, seed)}.json"


def read_value(file: Path, kind: type[Value]) -> Value:
    """A value of ours from its file; raises RunError where it is missing or damaged."""
    values = read_json(file, RunError, most=None)
    with contextlib.suppress(ValueError):
        return kind.model_validate(values)
    raise RunError(f"{file} is damaged, or of another version of graft.")
