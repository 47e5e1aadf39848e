"""How large a part is set aside, where nobody says."""

from __future__ import annotations

import numpy as np
import pytest

from graft.data.items import Items
from graft.data.validation import share_by_size


def items_of(targets: np.ndarray) -> Items:
    names = tuple(map(str, range(len(targets))))
    return Items(names, names, targets, names)


@pytest.mark.parametrize(
    ("classes", "each", "share"),
    [
        (10, 149, 0.0),  # 30 of 149 are more than a fifth
        (10, 150, 0.2),
        (5, 299, 0.0),  # so are 300 of 1,495
        (5, 300, 0.2),
        (2, 749, 0.0),
        (2, 750, 0.2),
        (10, 300, 0.1),
        (2, 3000, 0.05),
        (10, 5000, 0.05),
    ],
)
def test_a_part_is_set_aside_where_it_tells_something(classes: int, each: int, share: float) -> None:
    targets = np.repeat(np.arange(classes), each)
    assert share_by_size(items_of(targets), classes) == pytest.approx(share)


def test_the_median_class_counts_and_of_several_labels_the_median_label() -> None:
    sizes = [4000, 200, 20]
    assert share_by_size(items_of(np.repeat(np.arange(3), sizes)), 3) == pytest.approx(0.15)
    rows = np.zeros((2000, 3), dtype=np.uint8)
    for label, size in enumerate([2000, 160, 10]):
        rows[:size, label] = 1
    assert share_by_size(items_of(rows), 3) == pytest.approx(30 / 160)
    assert share_by_size(items_of(rows * 0), 3) == 0.0
