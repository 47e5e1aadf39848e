"""Intervals hold the truth as often as they say, and chance is told from a difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from graft.comparing import (
    Asked,
    Candidate,
    Outcome,
    cells,
    compare_pair,
    file_name,
    gaps_to_leader,
    interval,
    measure_items,
    read_outcomes,
    rows_of,
)
from graft.errors import DataError, RunError
from graft.task import Task

ASKED = Asked(
    data="x",
    candidates=(Candidate(name="a/b", recipe={}), Candidate(name="a b", recipe={})),
    seeds=(0, 1),
    labels=(10,),
)


def outcome(candidate: str, seed: int, right: list[float], labels: int = 10) -> Outcome:
    return Outcome(
        candidate=candidate, labels=labels, seed=seed, items=len(right),
        score=float(np.mean(right)), right=tuple(right), steps=3, seconds=1.0,
        parameters=5, whole=10, memory=None if seed else 100,
    )  # fmt: skip


def test_an_interval_of_seeds_alone_is_students() -> None:
    scores = [0.5, 0.6, 0.7]
    low, high = stats.t.interval(0.95, 2, loc=0.6, scale=stats.sem(scores))
    assert interval(scores) == pytest.approx((0.6, low, high))
    assert interval([0.5]) == (0.5, 0.5, 0.5)


def test_an_interval_of_items_alone_is_students() -> None:
    right = [1.0] * 30 + [0.0] * 10
    low, high = stats.t.interval(0.95, 39, loc=0.75, scale=stats.sem(right))
    assert interval([0.75], [right]) == pytest.approx((0.75, low, high))


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    generator, held = np.random.default_rng(0), 0
    for _ in range(400):
        easy = generator.normal(0.7, 0.15, 120)  # items differ, and runs do
        runs = [np.clip(easy + generator.normal(0, 0.04), 0, 1) for _ in range(3)]
        right = [(generator.random(120) < chance).astype(float) for chance in runs]
        found = interval([float(each.mean()) for each in right], [each.tolist() for each in right])
        held += found.low <= 0.7 <= found.high
    assert held / 400 > 0.93


def test_chance_alone_is_rarely_taken_for_a_difference() -> None:
    generator, wrong = np.random.default_rng(1), 0
    for _ in range(400):
        one, two = (generator.random((3, 100)) < 0.7 for _ in range(2))
        wrong += compare_pair(one.astype(float).tolist(), two.astype(float).tolist()).p < 0.05
    assert wrong / 400 < 0.08


def test_a_difference_is_seen_and_has_a_sign() -> None:
    generator = np.random.default_rng(2)
    good, bad = ((generator.random((3, 400)) < share).astype(float).tolist() for share in (0.9, 0.6))
    ahead, behind = compare_pair(good, bad), compare_pair(bad, good)
    assert ahead.p < 1e-3 and ahead.gain == pytest.approx(-behind.gain) and ahead.gain > 0.2
    assert compare_pair(good, good) == (0.0, 0.0, 1.0)
    assert compare_pair([[1.0, 1.0]], [[0.0, 0.0]]) == (1.0, 0.0, 0.5)  # two items prove nothing
    assert compare_pair([[1.0] * 20], [[0.0] * 20]).p < 1e-4


def test_what_never_varies_is_not_certain() -> None:
    found = interval([1.0, 1.0], [[1.0] * 20] * 2)
    assert found.mean == found.high == 1 and 0.8 < found.low < 0.9  # Wilson's, of 20
    assert interval([0.0], [[0.0] * 20]).high == pytest.approx(1 - found.low)


def test_several_comparisons_at_once_raise_each_p() -> None:
    generator = np.random.default_rng(3)
    shares = {"a": 0.8, "b": 0.7, "c": 0.6, "d": 0.5}
    rights = {
        name: (generator.random(200) < share).astype(float).tolist() for name, share in shares.items()
    }
    found = gaps_to_leader([outcome(name, 0, right) for name, right in rights.items()], 10)
    alone = [compare_pair([rights["a"]], [rights[other]]).p for _, other, _ in found]
    raised = [pair.p for *_, pair in found]
    assert len(found) == 3 and all(new >= old for new, old in zip(raised, alone, strict=True))
    smallest = min(range(3), key=alone.__getitem__)
    assert raised[smallest] == pytest.approx(3 * alone[smallest])


def test_numbers_of_items_have_the_score_for_their_mean() -> None:
    generator = np.random.default_rng(4)
    single, several = Task(("a", "b", "c")), Task(("a", "b"), kind="multi-label")
    logits = generator.normal(size=(60, 3)).astype(np.float32)
    targets = generator.integers(0, 3, 60)
    score, right = measure_items(single, logits, targets)
    assert score == pytest.approx(np.mean(right)) and set(right) <= {0.0, 1.0} and len(right) == 60
    truth = generator.integers(0, 2, (60, 2)).astype(np.uint8)
    score, parts = measure_items(several, logits[:, :2], truth)
    assert score == pytest.approx(several.score(torch.from_numpy(logits[:, :2]), torch.from_numpy(truth)))
    assert score == pytest.approx(np.mean(parts)) and len(parts) == 60
    with pytest.raises(DataError, match="No test item has a label"):
        measure_items(several, logits[:, :2], np.zeros((60, 2), dtype=np.uint8))


def test_the_error_of_an_average_precision_is_that_of_drawing_items_again() -> None:
    generator = np.random.default_rng(5)
    task = Task(("a", "b"), kind="multi-label")

    def draw() -> tuple[float, float]:
        truth = generator.integers(0, 2, (150, 2)).astype(np.uint8)
        logits = (generator.normal(size=(150, 2)) + truth).astype(np.float32)
        score, parts = measure_items(task, logits, truth)
        return score, float(np.std(parts, ddof=1)) / np.sqrt(len(parts))

    scores, errors = zip(*(draw() for _ in range(40)), strict=True)
    assert np.mean(errors) == pytest.approx(np.std(scores, ddof=1), rel=0.35)


def test_rows_are_ordered_by_labels_and_then_the_best_first() -> None:
    found = rows_of(
        [
            outcome("low", 0, [0.0, 1.0, 0.0]),
            outcome("high", 0, [1.0, 1.0, 0.0]),
            outcome("low", 1, [0.0, 0.0, 0.0]),
            outcome("low", 0, [1.0, 1.0, 1.0], labels=5),
        ]
    )
    assert [(row.labels, row.candidate, row.seeds) for row in found] == [
        (5, "low", 1),
        (10, "high", 1),
        (10, "low", 2),
    ]
    assert found[2].score.mean == pytest.approx(1 / 6) and found[2].memory == 100


def test_the_leader_is_laid_beside_the_others_on_the_seeds_of_both() -> None:
    found = [
        outcome("a", 0, [1.0, 1.0, 1.0]),
        outcome("a", 1, [1.0, 1.0, 0.0]),
        outcome("b", 0, [0.0, 1.0, 0.0]),
    ]
    ((first, other, pair),) = gaps_to_leader(found, 10)
    assert (first, other) == ("a", "b") and pair.gain == pytest.approx(2 / 3)


def test_every_cell_has_a_file_of_its_own(tmp_path: Path) -> None:
    assert len({file_name(ASKED, each) for each in ASKED.candidates}) == 2
    assert [(cell.labels, cell.candidate.name, cell.seed) for cell in cells(ASKED)] == [
        (10, "a/b", 0), (10, "a b", 0), (10, "a/b", 1), (10, "a b", 1)
    ]  # fmt: skip
    with pytest.raises(RunError, match=r"comparison\.json"):
        read_outcomes(tmp_path)
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(RunError, match="is damaged"):
        read_outcomes(tmp_path)
