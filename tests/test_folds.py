"""Folds are stratified, and keep copies together."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.folds import assign_folds


@settings(max_examples=40)
@given(counts=st.lists(st.integers(1, 12), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_folds_are_stratified_and_whole(counts: list[int], seed: int) -> None:
    targets = np.repeat(np.arange(len(counts)), counts)
    groups = [f"{label}-{index // 2}" for label, n in enumerate(counts) for index in range(n)]
    fold_of = assign_folds(targets, 5, seed=seed, groups=groups)
    for group in set(groups):
        assert len({int(fold_of[i]) for i, name in enumerate(groups) if name == group}) == 1
    for label, count in enumerate(counts):
        held = fold_of[targets == label]
        assert (held == -1).all() == (count <= 2)  # one group of at most two items
        pairs = [int((held == fold).sum()) for fold in range(5)]
        assert count <= 2 or max(pairs) - min(pairs) <= 4


@settings(max_examples=40)
@given(seed=st.integers(0, 999), n=st.integers(2, 60))
def test_folds_of_several_labels_are_stratified_and_whole(seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    targets = (generator.random((n, 3)) < [0.5, 0.2, 0.05]).astype(np.uint8)
    targets = targets[np.arange(n) // 2 * 2]  # copies have the same labels
    groups = [f"{index // 2}" for index in range(n)]
    fold_of = assign_folds(targets, 5, seed=seed, groups=groups)
    assert all(fold_of[index] == fold_of[index // 2 * 2] for index in range(n))
    for label in range(3):
        having = {groups[index] for index in np.flatnonzero(targets[:, label])}
        held = fold_of[targets[:, label] == 1]
        if len(having) == 1:
            assert (held == -1).all()  # nothing could be learned of it
        if len(having) >= 15:
            assert set(held) >= {0, 1, 2, 3, 4}
    assert np.array_equal(fold_of, assign_folds(targets, 5, seed=seed, groups=groups))
