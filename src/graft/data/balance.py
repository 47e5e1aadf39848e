"""Classes of unequal size: weights that make them count alike, and an order that draws them alike.

Shapes: N items, C classes. Targets are class indices [N], or zeros and ones [N, C] of a multi-label task.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from graft.seeds import mix

Integers = NDArray[np.integer[Any]]


def class_weights(targets: Integers, classes: int, how: Literal["balanced"] = "balanced") -> torch.Tensor:
    """Weights of classes for the loss, float32 [C]; see ``Task.losses`` for what they multiply.

    Single-label: n / (P * n_c) of the P classes that are present, so that the weights of all items have a
    mean of 1; 0 for a class without items. Multi-label: items without a label over items with it, so
    that both count alike; 1 where either are none.

    Raises:
        ValueError: no such ``how``, or targets of another shape.
    """
    if how != "balanced":
        raise ValueError(f"There are no class weights {how!r}; there are: balanced.")
    if targets.ndim == 2 and targets.shape[1] != classes:
        raise ValueError(f"targets {targets.shape} of {classes} classes")
    if targets.ndim == 2:
        present = targets.astype(np.int64).sum(axis=0)
        absent = len(targets) - present
        one_sided = (present == 0) | (absent == 0)
        weights = np.where(one_sided, 1.0, absent / np.maximum(present, 1))
    else:
        counts = np.bincount(targets, minlength=classes)
        share = (counts > 0).sum() * np.maximum(counts, 1)
        weights = np.where(counts > 0, len(targets) / share, 0.0)
    return torch.from_numpy(weights).float()


def balanced_order(targets: Integers, seed: int, epoch: int) -> list[int]:
    """N indices, shuffled, in which every class is drawn equally often (to within one draw).

    Within a class no item is drawn twice more often than another's once: all are used before any is
    repeated, and of a class with more items than draws others come in every epoch. In a multi-label
    task an item is drawn in inverse proportion to how many items have the rarest of its labels; items
    without labels are a class of their own. A function of (seed, epoch) alone.
    """
    if not len(targets):
        return []
    generator = np.random.default_rng(mix(seed, "balance", epoch))
    group, frequency = _rarity(targets)
    shuffled = generator.permutation(len(targets))
    # Groups one after another, each shuffled; systematic sampling along them then takes of every group,
    # and of every item in it, its share rounded down or up.
    along = shuffled[np.argsort(group[shuffled], kind="stable")]
    reached = np.cumsum(1.0 / frequency[along])
    marks = (np.arange(len(targets)) + generator.random()) * (reached[-1] / len(targets))
    drawn = along[np.minimum(np.searchsorted(reached, marks, side="right"), len(targets) - 1)]
    order: list[int] = generator.permutation(drawn).tolist()
    return order


def _rarity(targets: Integers) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each item its class (the rarest of its labels, C for none), and how many items have that."""
    if targets.ndim == 1:
        group = targets.astype(np.int64)
        return group, np.bincount(group)[group]
    present = targets.astype(bool)
    counts = np.append(present.sum(axis=0), (~present.any(axis=1)).sum())
    own = np.column_stack([present, ~present.any(axis=1)])
    group = np.where(own, counts, len(targets) + 1).argmin(axis=1)
    return group, counts[group]
