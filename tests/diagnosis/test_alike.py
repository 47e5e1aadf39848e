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
def test_texts_by_the_runs_of_letters_that_both_have(text: str, alike: bool) -> None:
    assert bool(pairs_of(said(text), NOTHING, said("no", LONG), NOTHING)) == alike


def test_texts_of_a_script_without_spaces() -> None:
    said_so = "这部电影的情节非常精彩演员的表演也很出色我和我的家人都非常喜欢这部电影推荐给大家"
    other = "今天的天气很好我们一起去公园散步看到了很多美丽的花朵和小鸟孩子们玩得很开心晚上回家"
    assert pairs_of(said(said_so.replace("出色", "一般")), NOTHING, said(other, said_so), NOTHING) == [
        (0, 1)
    ]
    assert pairs_of(said(other), NOTHING, said(said_so), NOTHING) == []


def test_the_order_of_words_counts() -> None:
    one, two = "the man bites the dog in the park", "in the park the dog bites the man"
    assert pairs_of(said(one), NOTHING, said(two), NOTHING) == []


def test_short_texts_must_be_the_same_but_for_punctuation() -> None:
    assert pairs_of(said("not bad film"), NOTHING, said("bad film", "not a bad film"), NOTHING) == []
    assert pairs_of(said("Not bad, film."), NOTHING, said("bad film", "not bad film"), NOTHING) == [(0, 1)]


def test_both_of_two_texts_must_be_alike() -> None:
    asked = "was it a dog or was it a fox that jumped so high this time"
    both = said(Text(LONG, asked))
    assert (
        pairs_of(both, NOTHING, said(Text(LONG, "who knows what happens when nobody listens")), NOTHING)
        == []
    )
    assert pairs_of(both, NOTHING, said(Text(LONG), asked), NOTHING) == []
    assert pairs_of(both, NOTHING, said(Text(LONG.upper(), asked + "?")), NOTHING) == [(0, 0)]
