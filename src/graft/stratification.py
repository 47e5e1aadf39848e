"""Dealing items with several labels into parts, each of which holds every label in its share.

Iterative stratification (Sechidis, Tsoumakas & Vlahavas, 2011): the label with the fewest items that are
still to be dealt comes first, and each of its items goes to the part that lacks this label most. What
must stay together (copies of a picture) is dealt as one.

Shapes: G groups, C labels, P parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def deal(
    counts: NDArray[np.integer],
    sizes: NDArray[np.integer],
    wanted: NDArray[np.floating],
    shares: Sequence[float],
) -> NDArray[np.int64]:
    """The part of each group, int64 [G].

    ``counts`` [G, C]: how many items of a group have a label. ``sizes`` [G]: its items. ``wanted``
    [P, C]: how many items with each label a part should get. ``shares``: of all items, one a part, which
    say where items without labels go and decide between parts that lack a label alike. Groups of one label
    are dealt in the order in which they are given, so that order is all the randomness there is.
    """
    lacking = np.array(wanted, dtype=np.float64)
    room = np.asarray(shares, dtype=np.float64) * sizes.sum()
    part_of = np.full(len(counts), -1, dtype=np.int64)
    left = counts.sum(axis=0, dtype=np.int64)
    while left.any():
        label = int(np.where(left > 0, left, np.iinfo(np.int64).max).argmin())
        for group in np.flatnonzero((part_of < 0) & (counts[:, label] > 0)):
            part_of[group] = part = _neediest(lacking[:, label], room)
            lacking[part] -= counts[group]
            room[part] -= sizes[group]
            left -= counts[group]
    for group in np.flatnonzero(part_of < 0):
        part_of[group] = part = int(room.argmax())
        room[part] -= sizes[group]
    return part_of


def _neediest(lacking: NDArray[np.float64], room: NDArray[np.float64]) -> int:
    """The part that lacks most; of several the one with most room, then the first."""
    most = np.flatnonzero(lacking >= lacking.max() - 1e-9)
    return int(most[room[most].argmax()])
