"""Arithmetic on sets of weights, against the closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graft.averaging import average, interpolate, update_average


def weights(value: float, count: int = 0) -> dict[str, Tensor]:
    return {"w": torch.full((2, 3), value, dtype=torch.float64), "n": torch.tensor(count)}


@given(decay=st.floats(0.5, 0.9999), values=st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_a_running_average_is_its_closed_form(decay: float, values: list[float]) -> None:
    found = weights(7.0)
    for step, value in enumerate(values, start=1):
        update_average(found, weights(value, step), decay, step)
    # The start and each value, weighted by what was kept of them ever since.
    expected, left = 0.0, 1.0
    for step in range(len(values), 0, -1):
        kept = min(decay, (1 + step) / (10 + step))
        expected += left * (1 - kept) * values[step - 1]
        left *= kept
    expected += left * 7.0
    assert torch.allclose(found["w"], torch.full_like(found["w"], expected))
    assert int(found["n"]) == len(values)  # counters are those of the newest


def test_the_start_is_forgotten_soon_and_the_decay_is_reached() -> None:
    found = weights(1000.0)
    for step in range(1, 31):
        update_average(found, weights(0.0), 0.9999, step)
    assert float(found["w"].max()) < 1e-3
    late = weights(1.0)
    update_average(late, weights(0.0), 0.9, 10**6)
    assert float(late["w"][0, 0]) == pytest.approx(0.9)


@given(start=st.floats(-5, 5), end=st.floats(-5, 5), share=st.floats(0, 1))
def test_interpolation_is_a_share_of_the_way(start: float, end: float, share: float) -> None:
    found = interpolate(weights(start, 1), weights(end, 2), share)
    assert torch.allclose(found["w"], torch.full_like(found["w"], (1 - share) * start + share * end))
    assert int(found["n"]) == 2


@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_an_average_is_the_mean(values: list[float]) -> None:
    found = average([weights(value, place) for place, value in enumerate(values)])
    assert torch.allclose(found["w"], torch.full_like(found["w"], sum(values) / len(values)))
    assert int(found["n"]) == 0


def test_ends_of_the_way_are_the_sets_themselves_and_nothing_is_changed() -> None:
    start, end = weights(1 / 3), weights(2 / 7)
    assert torch.equal(interpolate(start, end, 0.0)["w"], start["w"])
    assert torch.equal(interpolate(start, end, 1.0)["w"], end["w"])
    average([start, end])["w"] += 1
    interpolate(start, end, 1.0)["n"] += 1
    assert torch.equal(start["w"], weights(1 / 3)["w"])
    assert torch.equal(end["n"], weights(2 / 7)["n"])
