"""Which layers changed: the numbers agree with their definitions, and the sentence with the numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.backbones.contract import Stage
from graft.changes import StageChange, compare_values, group_by_name, linear_cka, summarise
from small import make_tiny


def test_every_stage_by_how_far_its_weights_moved() -> None:
    backbone = make_tiny()
    before = {name: value.clone() for name, value in backbone.trunk.state_dict().items()}
    after = {name: value.clone() for name, value in before.items()}
    moved = backbone.stages[1]
    for name in moved.parameters:
        after[name] = before[name] * 1.1
    found = {each.stage: each for each in compare_values(before, after, backbone.stages)}
    assert found[moved.name].weights == pytest.approx(0.1, rel=1e-5)
    assert found[moved.name].largest in moved.parameters
    others = [each for each in found.values() if each.stage != moved.name]
    assert others and all(each.weights == 0 and each.largest is None for each in others)
    sizes = {
        stage.name: sum(before[name].numel() for name in stage.parameters) for stage in backbone.stages
    }
    assert {each.stage: each.parameters for each in found.values()} == sizes


def test_batchnorm_statistics_in_deviations() -> None:
    stage = Stage("one", ("bn.weight",), ("bn",))
    before = {
        "bn.weight": torch.ones(2),
        "bn.running_mean": torch.zeros(2),
        "bn.running_var": torch.tensor([4.0, 1.0]),
    }
    after = before | {
        "bn.running_mean": torch.tensor([2.0, 3.0]),
        "bn.running_var": torch.tensor([16.0, 4.0]),
    }
    (found,) = compare_values(before, after, [stage])
    assert found.shift == pytest.approx((2 / 2 + 3 / 1) / 2) and found.spread == pytest.approx(2)
    (plain,) = compare_values(before, after, [Stage("one", ("bn.weight",), ())])
    assert plain.shift is None and plain.spread is None


def test_values_of_one_network_alone_are_passed_over() -> None:
    stage = Stage("one", ("a", "b", "c"), ())
    before = {"a": torch.ones(2), "b": torch.ones(3), "c": torch.zeros(1)}
    (found,) = compare_values(before, {"a": torch.ones(2), "b": torch.ones(4), "c": torch.ones(1)}, [stage])
    assert found.parameters == 3 and found.weights == pytest.approx(1 / math.sqrt(2))
    assert compare_values(before, {"d": torch.ones(1)}, [stage]) == ()


def test_stages_by_name_where_no_network_is_around() -> None:
    names = ["stem.weight", "stem.bn.running_mean", "stem.bn.running_var", "body.0.weight", "stem.bias"]
    stem, body = group_by_name(names)
    assert (stem.name, stem.parameters, stem.modules) == (
        "stem",
        ("stem.weight", "stem.bias"),
        ("stem.bn",),
    )
    assert (body.name, body.parameters) == ("body", ("body.0.weight",))


@given(seed=st.integers(0, 10_000), n=st.integers(8, 40), width=st.integers(1, 60))
def test_similarity_does_not_see_turns_and_scales(seed: int, n: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, width, generator=generator, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    found = linear_cka(rows, 3 * rows @ turn + 5)
    if not math.isnan(found):  # a set that varies in one direction alone may have none
        assert found == pytest.approx(1, abs=1e-6)


def test_similarity_of_what_has_nothing_in_common_is_none_however_wide() -> None:
    generator = torch.Generator().manual_seed(0)
    for width in (4, 64, 1024):  # the biased estimate goes to one with the width
        pairs = [
            linear_cka(
                torch.randn(64, width, generator=generator), torch.randn(64, width, generator=generator)
            )
            for _ in range(8)
        ]
        assert abs(sum(pairs) / len(pairs)) < 0.1


def test_similarity_of_what_does_not_vary_or_is_too_little() -> None:
    assert math.isnan(linear_cka(torch.ones(10, 3), torch.randn(10, 3)))
    assert math.isnan(linear_cka(torch.randn(3, 2), torch.randn(3, 2)))


def change(stage: str, weights: float, similarity: float | None = None) -> StageChange:
    return StageChange(stage=stage, parameters=1, weights=weights, similarity=similarity)


@pytest.mark.parametrize(
    "found, words",
    [
        ([change("stem", 0.0)], ["No weight of the backbone changed"]),
        ([change("stem", 0.01), change("top", 0.04)], ["top moved most, by 4 %", "4 times as far as stem"]),
        (
            [change("stem", 0.0, 1.0), change("top", 0.1, 0.99)],
            ["stem did not move", "Every stage computes nearly"],
        ),
        (
            [change("stem", 0.1, 0.99), change("mid", 0.1, 0.8), change("top", 0.2, 0.3)],
            ["Up to stem nearly the same", "From top on the features are others (CKA 0.30)"],
        ),
    ],
)
def test_the_sentence_says_what_the_numbers_say(found: list[StageChange], words: list[str]) -> None:
    text = summarise(found)
    assert all(each in text for each in words) and text.endswith(".")
