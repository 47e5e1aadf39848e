"""The best weights so far: what stands in the list, in which order, and what goes through the disk."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.leaders import Leaders, Weights

SCORES = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, math.nan, math.inf, -math.inf]), max_size=12)


def fill(scores: list[float], most: int) -> tuple[Leaders, list[bool], list[int]]:
    leaders, best, taken = Leaders(most), [], []

    def take(epoch: int) -> Weights:
        taken.append(epoch)
        return {"w": torch.tensor(float(epoch))}

    for epoch, score in enumerate(scores):
        entry = {"score": score, "epoch": float(epoch)}
        best.append(leaders.offer(entry, lambda epoch=epoch: take(epoch)))  # type: ignore[misc]
    return leaders, best, taken


@given(scores=SCORES, most=st.integers(1, 4))
def test_the_best_are_kept_in_order_and_the_earlier_of_equals_leads(scores: list[float], most: int) -> None:
    leaders, best, taken = fill(scores, most)
    finite = [(score, epoch) for epoch, score in enumerate(scores) if math.isfinite(score)]
    expected = [epoch for _, epoch in sorted(finite)[:most]]
    assert [int(entry["epoch"]) for entry in leaders.entries] == expected
    assert [int(each["w"]) for each in leaders.weights] == expected
    for epoch, (score, leads) in enumerate(zip(scores, best, strict=True)):
        before = [value for value, when in finite if when < epoch]
        assert leads == (math.isfinite(score) and all(score < value for value in before))
    assert set(expected) <= set(taken)
    # Copying weights costs: only those that come in are taken.
    for epoch in taken:
        better = sum(1 for value, when in finite if when < epoch and value <= scores[epoch])
        assert better < most


@given(scores=SCORES, most=st.integers(1, 4))
def test_what_is_written_down_is_what_comes_back(scores: list[float], most: int) -> None:
    leaders, _, _ = fill(scores, most)
    again = Leaders(most)
    again.restore(leaders.entries, leaders.tensors())
    assert again.entries == leaders.entries
    assert len(again.weights) == len(leaders.weights)
    for one, two in zip(again.weights, leaders.weights, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_names_with_colons_come_back() -> None:
    leaders = Leaders(2)
    leaders.offer({"score": 1.0, "epoch": 0.0}, lambda: {"a::b": torch.ones(1)})
    again = Leaders(2)
    again.restore(leaders.entries, leaders.tensors())
    assert again.weights[0].keys() == {"a::b"}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_best_entry(count: int) -> None:
    leaders, _, _ = fill([0.3, 0.1, 0.2][:count], 3)
    assert (leaders.best or {}).get("score") == (min([0.3, 0.1, 0.2][:count]) if count else None)
