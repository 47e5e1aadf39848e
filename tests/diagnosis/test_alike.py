from __future__ import annotations

import numpy as np
import pytest
import torch

from graft.data.items import Items, Text
from graft.diagnosis.alike import pairs_of
from test_evidence import coloured

LONG = "the quick brown fox jumps over a lazy dog in the early morning"
NOTHING = torch.zeros(0)


def said(*texts: Text | str) -> Items:
    each = tuple(Text(text) if isinstance(text, str) else text for text in texts)
    return Items(each, tuple(f"line {n}" for n in range(len(each))), None, tuple(t.digest for t in each))


def spread(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 8)))


def test_a_picture_of_another_part_with_the_features_of_a_training_one() -> None:
    train, test = coloured(20).train, coloured(10, seed=1).train
    ours, theirs = spread(60, 0), spread(30, 1)
    assert pairs_of(test, theirs, train, ours) == []
    theirs[3] = ours[17] + 1e-3
    assert pairs_of(test, theirs, train, ours) == [(3, 17)]


def test_within_the_training_items_a_pair_is_told_once() -> None:
    train, features = coloured(20).train, spread(60, 0)
    assert pairs_of(train, features, train, features) == []
    features[41] = features[7] + 1e-3
    assert pairs_of(train, features, train, features) == [(41, 7)]


def test_exact_copies_are_no_near_copies_but_do_not_hide_one() -> None:
    items = said(LONG, LONG, LONG.replace("lazy", "sleepy"))
    assert pairs_of(items.select([0, 1]), NOTHING, items.select([0]), NOTHING) == []
    found = pairs_of(items, NOTHING, items, NOTHING)
    assert [row for row, _ in found] == [2] and found[0][1] in (0, 1)


@pytest.mark.parametrize(
    ("text", "alike"),
    [
        (LONG.upper() + "!", True),
        (LONG.replace("lazy", "sleepy"), True),
        (LONG.replace("lazy dog", "cat").replace("quick", "slow").replace("brown", "red"), False),
        ("something else entirely was said on another day", False),
    ],
)
def test_texts_by_the_words_that_both_have(text: str, alike: bool) -> None:
    assert bool(pairs_of(said(text), NOTHING, said("no", LONG), NOTHING)) == alike


def test_short_texts_must_have_every_word_in_common() -> None:
    assert pairs_of(said("not bad film"), NOTHING, said("bad film", "not a bad film"), NOTHING) == []
    assert pairs_of(said("Not bad, film."), NOTHING, said("bad film", "not bad film"), NOTHING) == [(0, 1)]


def test_the_second_of_two_texts_counts() -> None:
    pairs = said(Text(LONG, "was it a dog or was it a fox that jumped so high this time"))
    other = said(Text(LONG, "who knows what happens when nobody listens and everything burns down"))
    assert pairs_of(pairs, NOTHING, other, NOTHING) == []
    assert pairs_of(pairs, NOTHING, said(Text(LONG), pairs.sources[0]), NOTHING) == []
