"""Every label in its share in every part, and groups whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from graft.stratification import deal


def draw(seed: int, groups: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 3, groups)
    rates = generator.uniform(0.05, 0.6, classes)
    return (generator.random((groups, classes)) < rates) * sizes[:, None], sizes


SHARES = [0.5, 0.3, 0.2]


def worst(part_of: np.ndarray, counts: np.ndarray) -> float:
    """The largest distance of a label's items in a part from its share of them."""
    found = np.array([counts[part_of == part].sum(0) for part in range(3)])
    return float(np.abs(found - np.array(SHARES)[:, None] * counts.sum(0)).max())


@given(seed=st.integers(0, 999), groups=st.integers(1, 120), classes=st.integers(1, 6))
def test_every_group_is_dealt_once_and_the_same_again(seed: int, groups: int, classes: int) -> None:
    counts, sizes = draw(seed, groups, classes)
    wanted = np.array(SHARES)[:, None] * counts.sum(0)
    part_of = deal(counts, sizes, wanted, SHARES)
    assert set(part_of.tolist()) <= {0, 1, 2}
    assert np.array_equal(deal(counts, sizes, wanted, SHARES), part_of)
    if classes == 1:
        assert worst(part_of, counts) <= 2  # a group has up to two items


def test_labels_are_dealt_far_closer_to_their_shares_than_by_chance() -> None:
    ours, chance = [], []
    for seed in range(40):
        counts, sizes = draw(seed, 150, 6)
        ours.append(worst(deal(counts, sizes, np.array(SHARES)[:, None] * counts.sum(0), SHARES), counts))
        chance.append(worst(np.random.default_rng(seed).choice(3, 150, p=SHARES), counts))
    assert np.mean(ours) < np.mean(chance) / 3


def test_one_label_each_is_dealt_as_by_class() -> None:
    counts = np.repeat(np.eye(3, dtype=int), [5, 10, 20], axis=0)
    part_of = deal(counts, np.ones(35, dtype=int), np.full((5, 1), 0.2) * [5, 10, 20], [0.2] * 5)
    for part in range(5):
        assert counts[part_of == part].sum(0).tolist() == [1, 2, 4]


def test_items_without_labels_fill_up() -> None:
    part_of = deal(np.zeros((10, 2), int), np.ones(10, int), np.zeros((2, 2)), [0.8, 0.2])
    assert np.bincount(part_of).tolist() == [8, 2]
