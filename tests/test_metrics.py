"""Our numbers are scikit-learn's numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
)

from graft.metrics import cross_entropies, score_logits

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


def test_huge_logits_give_finite_losses() -> None:
    losses = cross_entropies(np.array([[1e5, -1e5]], dtype=np.float32), np.array([1]))
    assert losses == pytest.approx([2e5])


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="3 targets"):
        score_logits(np.zeros((2, 4)), np.zeros(3, dtype=np.int64), LABELS)
    with pytest.raises(ValueError, match="0 targets"):
        score_logits(np.zeros((0, 4)), np.zeros(0, dtype=np.int64), LABELS)
