"""Classes count alike by weight, and are drawn alike by order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from graft.data.balance import balanced_order, class_weights

COUNTS = st.lists(st.integers(0, 30), min_size=2, max_size=6).filter(any)


def test_weights_are_scikit_learns() -> None:
    targets = np.repeat([0, 1, 2], [50, 8, 3])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    assert torch.allclose(class_weights(targets, 3), torch.tensor(expected).float())


@given(counts=COUNTS)
def test_weights_have_a_mean_of_one_and_count_classes_alike(counts: list[int]) -> None:
    targets = np.repeat(np.arange(len(counts)), counts)
    weights = class_weights(targets, len(counts))
    assert float(weights[targets].mean()) == pytest.approx(1.0, rel=1e-5)
    sums = weights * torch.tensor(counts)
    present = sums[torch.tensor(counts) > 0]
    assert torch.allclose(present, present[0].expand_as(present), rtol=1e-4)
    assert (weights[torch.tensor(counts) == 0] == 0).all()


def test_weights_of_labels_make_both_sides_count_alike() -> None:
    targets = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]], np.uint8)
    assert class_weights(targets, 3).tolist() == [3.0, 1.0, 1.0]


def test_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="no class weights 'loud'"):
        class_weights(np.zeros(3, int), 2, "loud")
    with pytest.raises(ValueError, match="of 2 classes"):
        class_weights(np.zeros((3, 4), int), 2)


@given(counts=COUNTS, seed=st.integers(0, 50), epoch=st.integers(0, 50))
def test_classes_are_drawn_equally_often(counts: list[int], seed: int, epoch: int) -> None:
    targets = np.repeat(np.arange(len(counts)), counts)
    order = balanced_order(targets, seed, epoch)
    assert len(order) == len(targets)
    assert order == balanced_order(targets, seed, epoch)
    drawn = np.bincount(order, minlength=len(targets))
    share = len(targets) / np.count_nonzero(counts)
    for label, count in enumerate(counts):
        times = drawn[targets == label]
        if count:
            assert abs(times.sum() - share) < 1 + 1e-6
            assert times.max() - times.min() <= 1  # all were used before any was again


def test_epochs_and_seeds_draw_differently() -> None:
    targets = np.repeat([0, 1], [200, 20])
    orders = {tuple(balanced_order(targets, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    seen = {item for epoch in range(12) for item in balanced_order(targets, 0, epoch)}
    assert len(seen) == 220  # every item of the large class has its turn


def test_labels_are_drawn_by_the_rarest_one() -> None:
    """One label on all items, one on a tenth of them, and a few items without any."""
    targets = np.zeros((220, 2), np.uint8)
    targets[:200, 0] = 1
    targets[:20, 1] = 1
    order = balanced_order(targets, 0, 0)
    drawn = np.bincount(order, minlength=220)
    rare, common, none = drawn[:20], drawn[20:200], drawn[200:]
    assert rare.mean() == pytest.approx(none.mean(), rel=0.05)
    assert rare.mean() == pytest.approx(10 * common.mean(), rel=0.05)
    assert rare.max() - rare.min() <= 1


def test_nothing_has_no_order() -> None:
    assert balanced_order(np.zeros(0, int), 0, 0) == []
