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
import torch
from numpy.typing import NDArray

from graft.errors import DataError, RunError
from graft.files import read_json
from graft.options import Frozen
from graft.task import Task

COMPARISON = "comparison.json"
CONFIDENCE = 0.95
BLOCKS = 200  # of test items, each left out once
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
    command: str = ""
    """What was typed for it."""


class Cell(NamedTuple):
    """One run of a comparison; ``labels``: None: all."""

    candidate: Candidate
    labels: int | None
    seed: int

    @property
    def title(self) -> str:
        many = "all" if self.labels is None else f"{self.labels:,}"
        return f"{self.candidate.name}, {many} labels, seed {self.seed}"


class Outcome(Frozen):
    """What one run came to.

    ``items``: how many test it. ``score``: accuracy, or mean average precision of a multi-label task.
    ``right``: numbers whose mean is the score (see :func:`measure_items`). ``seconds``: from the data to
    the result, what was in the store already not counted. ``parameters``: that trained. ``memory``: bytes,
    as ``graft plan`` measures them (None where an earlier seed says it).
    """

    candidate: str
    labels: int
    seed: int
    items: int
    score: float
    right: tuple[float, ...]
    steps: int
    seconds: float
    parameters: int
    whole: int
    memory: int | None


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


def measure_items(
    task: Task, logits: NDArray[np.floating[Any]], targets: NDArray[np.integer[Any]]
) -> tuple[float, tuple[float, ...]]:
    """The score on N test items, and numbers whose mean it is, which tell how much it depends on the items.

    Of single labels 1 for each item that is right, and 0. A mean average precision is no mean over items:
    there they are the pseudo-values of up to 200 blocks of items, each left out once (Tukey, 1958).

    Raises:
        DataError: no test item has any of the labels, so that there is no score.
    """
    truth, found = torch.from_numpy(targets), torch.from_numpy(logits)
    score = float(task.score(found, truth))
    if not math.isfinite(score):
        raise DataError("No test item has a label, so there is no mean average precision to compare by.")
    if not task.multi_label:
        return score, tuple((task.decisions(found) == truth).double().tolist())
    blocks = min(BLOCKS, len(targets))
    block = torch.arange(len(targets)) % blocks
    without = [float(task.score(found[block != each], truth[block != each])) for each in range(blocks)]
    values = [blocks * score - (blocks - 1) * each for each in without if math.isfinite(each)]
    shift = (
        score - sum(values) / len(values) if values else 0.0
    )  # the jackknife's bias is of no interest here
    return score, tuple(value + shift for value in values)


def interval(scores: Sequence[float], rights: Sequence[Sequence[float]] | None = None) -> Interval:
    """Of the scores [S] of several seeds, and of numbers [S, N] whose means they are.

    Two things vary: the run (its seed) and which items the test part happens to hold. Each adds the square
    of its own standard error. One seed says nothing of the first, one item nothing of the second. Where
    nothing varies, as when every item is right, the interval is Wilson's (1927) of a share of N.
    """
    from scipy import stats  # a second, which a run that knows this module only by name need not wait

    mean = float(np.mean(scores))
    sources = [np.asarray(scores, dtype=np.float64)]
    if rights is not None:
        sources.append(np.mean(np.asarray(rights, dtype=np.float64), axis=0))
    error, freedom = _combine(sources)
    if error == 0 and rights is not None and 0 <= mean <= 1:
        found = stats.binomtest(round(mean * len(rights[0])), len(rights[0])).proportion_ci(method="wilson")
        return Interval(mean, min(mean, float(found.low)), max(mean, float(found.high)))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Interval(mean, max(0.0, mean - reach), min(1.0, mean + reach))


def compare_pair(one: Sequence[Sequence[float]], two: Sequence[Sequence[float]]) -> Pair:
    """Whether ``one`` is better than ``two``, from numbers [S, N] of the same seeds and items.

    A paired t-test, whose error has two sources as that of :func:`interval`: p is how often chance alone
    would put them this far apart. It is never below what so few items that differ allow (a sign test).
    """
    from scipy import stats

    differences = np.asarray(one, dtype=np.float64) - np.asarray(two, dtype=np.float64)
    gain, items = float(differences.mean()), differences.mean(axis=0)
    error, freedom = _combine([differences.mean(axis=1), items])
    fewest = min(1.0, 2 * 0.5 ** np.count_nonzero(items))  # all that differ, differ one way
    p = float(2 * stats.t.sf(abs(gain) / error, freedom)) if error else 0.0
    return Pair(gain, error, 1.0 if gain == 0 else max(p, float(fewest)))


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


def cells(asked: Asked) -> Iterator[Cell]:
    """Every run in its order: all candidates with one seed before the next, so that the first say most."""
    for seed in asked.seeds:
        for labels in asked.labels or (None,):
            for candidate in asked.candidates:
                yield Cell(candidate, labels, seed)


def read_outcomes(folder: Path) -> tuple[Asked, list[Outcome]]:
    """What a comparison's folder asks, and what has come out so far.

    Raises:
        RunError: it is not a comparison, or a file is damaged.
    """
    asked = read_value(folder / COMPARISON, Asked)
    files = [outcome_file(folder, asked, cell) for cell in cells(asked)]
    return asked, [read_value(file, Outcome) for file in files if file.is_file()]


def rows_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """Outcomes over their seeds: for each number of labels the best first."""
    groups: dict[tuple[int, str], list[Outcome]] = {}
    for each in outcomes:
        groups.setdefault((each.labels, each.candidate), []).append(each)
    return sorted(map(_row, groups.values()), key=lambda row: (row.labels, -row.score.mean))


def gaps_to_leader(outcomes: Sequence[Outcome], labels: int, most: int = 3) -> list[tuple[str, str, Pair]]:
    """The leader beside each of the next: (leader, other, how far it is ahead), on the seeds both have.

    The p of each is raised for there being several (Holm, 1979).
    """
    own = [each for each in outcomes if each.labels == labels]
    order = [row.candidate for row in rows_of(own)]
    by_name = {name: {each.seed: each.right for each in own if each.candidate == name} for name in order}
    found: list[tuple[str, str, Pair]] = []
    for other in order[1 : most + 1]:
        seeds = sorted(by_name[order[0]].keys() & by_name[other].keys())
        if seeds:
            one, two = ([by_name[name][seed] for seed in seeds] for name in (order[0], other))
            found.append((order[0], other, compare_pair(one, two)))
    raised = _holm([pair.p for *_, pair in found])
    return [(one, two, pair._replace(p=p)) for (one, two, pair), p in zip(found, raised, strict=True)]


def _holm(chances: Sequence[float]) -> list[float]:
    """Each p times how many are still to be judged when it is its turn, the smallest first."""
    found, highest = [0.0] * len(chances), 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[place]))
        found[place] = highest
    return found


def _row(own: Sequence[Outcome]) -> Row:
    first = own[0]
    return Row(
        candidate=first.candidate,
        labels=first.labels,
        seeds=len(own),
        score=interval([each.score for each in own], [each.right for each in own]),
        seconds=sum(each.seconds for each in own) / len(own),
        steps=round(sum(each.steps for each in own) / len(own)),
        parameters=first.parameters,
        whole=first.whole,
        memory=next((each.memory for each in own if each.memory is not None), None),
    )


def run_name(asked: Asked, cell: Cell) -> str:
    """A cell's name as a file's."""
    return f"{file_name(asked, cell.candidate)}-{'all' if cell.labels is None else cell.labels}-{cell.seed}"


def file_name(asked: Asked, candidate: Candidate) -> str:
    """A candidate's name as a file's, which no other has: what a file system may refuse is replaced."""
    number = asked.candidates.index(candidate) + 1
    plain = "".join(char if char.isalnum() or char in "-._" else "-" for char in candidate.name)
    return f"{number:02}-{plain[:80]}"


def outcome_file(folder: Path, asked: Asked, cell: Cell) -> Path:
    return folder / "outcomes" / f"{run_name(asked, cell)}.json"


def read_value(file: Path, kind: type[Value]) -> Value:
    """A value of ours from its file; raises RunError where it is missing or damaged."""
    values = read_json(file, RunError, most=None)
    with contextlib.suppress(ValueError):
        return kind.model_validate(values)
    raise RunError(f"{file} is damaged, or of another version of graft.")
