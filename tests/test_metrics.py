"""Our numbers are scikit-learn's numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
)

from graft.metrics import (
    average_precisions,
    best_threshold,
    calibration_error,
    cross_entropies,
    effective_rank,
    score_label_logits,
    score_logits,
)

LABELS = ("a", "b", "c", "d")


@given(seed=st.integers(0, 10_000), n=st.integers(1, 60))
def test_all_metrics_agree_with_scikit_learn(seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    logits, targets = generator.normal(0, 2, (n, 4)), generator.integers(0, 4, n)
    found = score_logits(logits, targets, LABELS)
    decided = logits.argmax(1)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    every = list(range(4))
    assert found.n == n
    assert found.accuracy == pytest.approx(accuracy_score(targets, decided))
    assert found.loss == pytest.approx(log_loss(targets, shares, labels=every))
    assert np.array_equal(found.confusion, confusion_matrix(targets, decided, labels=every))
    if set(decided) <= set(targets) and len(set(targets)) > 1:  # else scikit-learn warns
        expected = balanced_accuracy_score(targets, decided)
        assert found.balanced_accuracy == pytest.approx(expected)
    table = precision_recall_fscore_support(targets, decided, labels=every, zero_division=0)
    for index, label in enumerate(LABELS):
        entry = found.per_class[label]
        assert (entry.precision, entry.recall, entry.f1, entry.n) == pytest.approx(
            tuple(column[index] for column in table)
        )


@given(seed=st.integers(0, 10_000), n=st.integers(2, 30), width=st.integers(1, 30))
def test_the_effective_rank_lies_between_one_and_the_rank(seed: int, n: int, width: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(n, width)) + 7
    found = effective_rank(rows)
    assert 1 - 1e-6 <= found <= min(n - 1, width) + 1e-6
    assert effective_rank(5 * rows) == pytest.approx(found)
    lengths = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    shares = lengths[lengths > 1e-9] / lengths.sum()
    assert found == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


def test_the_effective_rank_of_what_is_alike_or_broken() -> None:
    assert effective_rank(np.full((4, 3), 2.0)) == effective_rank(np.zeros((4, 3))) == 0
    assert effective_rank(np.eye(4)) == pytest.approx(3)
    assert np.isnan(effective_rank(np.array([[1.0, np.nan], [2.0, 3.0]])))


def test_huge_logits_give_finite_losses() -> None:
    losses = cross_entropies(np.array([[1e5, -1e5]], dtype=np.float32), np.array([1]))
    assert losses == pytest.approx([2e5])


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="3 targets"):
        score_logits(np.zeros((2, 4)), np.zeros(3, dtype=np.int64), LABELS)
    with pytest.raises(ValueError, match="0 targets"):
        score_logits(np.zeros((0, 4)), np.zeros(0, dtype=np.int64), LABELS)
    with pytest.raises(ValueError, match="targets"):
        score_logits(np.zeros((4, 4)), np.zeros((4, 4), dtype=np.int64), LABELS)
    with pytest.raises(ValueError, match="targets"):
        score_label_logits(np.zeros((4, 4)), np.zeros(4, dtype=np.int64), LABELS, (0.5,) * 4)


@given(seed=st.integers(0, 10_000), n=st.integers(2, 60), levels=st.sampled_from([5, 1000]))
def test_multi_label_metrics_agree_with_scikit_learn(seed: int, n: int, levels: int) -> None:
    """Every label on one item at least and missing on another, for what scikit-learn warns about."""
    generator = np.random.default_rng(seed)
    logits = np.round(generator.normal(0, 2, (n, 4)) * levels) / levels  # few levels make ties
    truth = (generator.random((n, 4)) < 0.4).astype(np.uint8)
    truth[0], truth[1] = 1, 0
    thresholds = (0.5, 0.3, 0.9, 0.5)
    found = score_label_logits(logits, truth, LABELS, thresholds)
    shares = 1 / (1 + np.exp(-logits))
    decided = shares >= np.array(thresholds)
    assert found.n == n
    assert found.accuracy == pytest.approx(accuracy_score(truth, decided))
    assert found.macro_f1 == pytest.approx(f1_score(truth, decided, average="macro", zero_division=0))
    assert found.micro_f1 == pytest.approx(f1_score(truth, decided, average="micro", zero_division=0))
    assert found.mean_average_precision == pytest.approx(average_precision_score(truth, logits))
    losses = [log_loss(truth[:, c], shares[:, c]) for c in range(4)]
    assert found.loss == pytest.approx(np.mean(losses))
    table = precision_recall_fscore_support(truth, decided, zero_division=0)
    alone = average_precision_score(truth, logits, average=None)
    for index, label in enumerate(LABELS):
        entry = found.per_class[label]
        assert (entry.precision, entry.recall, entry.f1, entry.n) == pytest.approx(
            tuple(column[index] for column in table)
        )
        assert entry.average_precision == pytest.approx(alone[index])


def test_a_label_that_no_item_has_is_left_out_of_the_mean() -> None:
    logits, truth = np.array([[1.0, 5.0], [0.0, 4.0]]), np.array([[1, 0], [0, 0]])
    assert np.isnan(average_precisions(logits, truth)).tolist() == [False, True]
    found = score_label_logits(logits, truth, ("a", "b"), (0.5, 0.5))
    assert (found.mean_average_precision, found.per_class["b"].average_precision) == (1.0, 0.0)
    none = score_label_logits(logits, 0 * truth, ("a", "b"), (0.5, 0.5))
    assert (none.mean_average_precision, none.micro_f1) == (0.0, 0.0)


def by_hand(confidence: np.ndarray, right: np.ndarray) -> float:
    """The definition of Guo et al. (2017), bin by bin."""
    total = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@given(seed=st.integers(0, 10_000), n=st.integers(1, 80))
def test_calibration_error_is_that_of_the_definition(seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    logits, targets = generator.normal(0, 2, (n, 4)), generator.integers(0, 4, n)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = by_hand(shares.max(1), shares.argmax(1) == targets)
    assert score_logits(logits, targets, LABELS).ece == pytest.approx(expected)
    truth, each = generator.integers(0, 2, (n, 4)), 1 / (1 + np.exp(-logits))
    expected = np.mean([by_hand(each[:, c], truth[:, c]) for c in range(4)])
    assert score_label_logits(logits, truth, LABELS, (0.5,) * 4).ece == pytest.approx(expected)


def test_what_is_certain_and_right_has_no_calibration_error() -> None:
    assert calibration_error(np.eye(4), np.arange(4)) == 0.0
    assert calibration_error(np.eye(4), np.zeros(4, dtype=np.int64)) == pytest.approx(0.75)


def test_a_threshold_separates_neighbours_of_single_precision() -> None:
    low = np.float32(0.09596737)
    shares = np.array([low, np.nextafter(low, np.float32(1))], dtype=np.float64)
    threshold = np.float32(best_threshold(shares, np.array([0, 1])))
    assert (shares.astype(np.float32) >= threshold).tolist() == [False, True]
