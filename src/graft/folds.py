"""Folds of a cross-validation: stratified, and copies of one picture never on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.seeds import mix
from graft.stratification import deal


def assign_folds(
    targets: NDArray[np.integer[Any]],
    folds: int,
    *,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> NDArray[np.int64]:
    """The fold of each item: stratified, groups kept whole; -1: never held out.

    A group that is the only one of its class (of a multi-label task: of one of its labels) is never held
    out, for nothing could be learned of it.
    """
    names = list(groups) if groups is not None else [str(index) for index in range(len(targets))]
    if targets.ndim == 2:
        return _label_folds(targets, folds, seed, names)
    fold_of = np.full(len(targets), -1, dtype=np.int64)
    dealt = 0  # classes go on where the last one stopped, so that small ones fill all folds
    for label in np.unique(targets):
        members = np.flatnonzero(targets == label)
        unique = sorted({names[index] for index in members})
        if len(unique) < 2:
            continue
        order = np.random.default_rng(mix(seed, "folds", int(label))).permutation(len(unique))
        place = {unique[index]: (dealt + rank) % folds for rank, index in enumerate(order)}
        dealt += len(unique)
        for index in members:
            fold_of[index] = place[names[index]]
    return fold_of


def _label_folds(
    targets: NDArray[np.integer[Any]], folds: int, seed: int, names: list[str]
) -> NDArray[np.int64]:
    unique, group_of = np.unique(names, return_inverse=True)
    counts = np.zeros((len(unique), targets.shape[1]), dtype=np.int64)
    np.add.at(counts, group_of, targets)
    alone = counts[:, (counts > 0).sum(axis=0) == 1].any(axis=1)
    dealt = np.random.default_rng(mix(seed, "folds")).permutation(np.flatnonzero(~alone))
    shares = np.full(folds, 1 / folds)
    sizes = np.bincount(group_of)[dealt]
    wanted = shares[:, None] * counts[dealt].sum(axis=0)
    part_of = np.full(len(unique), -1, dtype=np.int64)
    part_of[dealt] = deal(counts[dealt], sizes, wanted, shares.tolist())
    return part_of[group_of]
