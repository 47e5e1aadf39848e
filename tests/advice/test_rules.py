"""The rules that people are taught."""

from __future__ import annotations

import pytest

from graft.advice.rules import LIKENESSES, RULES, look_up, size_of
from graft.errors import RecipeError
from graft.strategies import split_name

SIZES = (500, 5_000, 50_000, 500_000, 5_000_000)


def names(labels: int, likeness: str) -> set[str]:
    return {rule.strategy.partition(":")[0] for rule in look_up(labels, likeness)}


def test_plants_and_x_rays() -> None:
    plants = look_up(500, "similar")
    assert [rule.strategy for rule in plants] == ["probe"] and plants[0].augmentation == "aggressive"
    for likeness in ("different", "very different"):
        found = names(5_000, likeness)
        assert found <= {"partial", "gradual", "progressive"} and not found & {"probe", "scratch"}


@pytest.mark.parametrize("labels", SIZES)
@pytest.mark.parametrize("likeness", LIKENESSES)
def test_every_case_has_a_rule_with_rates_and_a_source(labels: int, likeness: str) -> None:
    rules = look_up(labels, likeness)
    assert rules
    for rule in rules:
        split_name(rule.strategy)  # it is one of graft's
        head, late, early = rule.rates
        assert early is None or (late is not None and head >= late >= early)
        assert rule.source


def test_scratch_is_for_the_largest_and_strangest_data_alone() -> None:
    found = [(rule.size, rule.likeness) for rule in RULES if rule.strategy == "scratch"]
    assert found == [("a million", "very different")]
    assert names(1_000_000, "very different") == {"full", "scratch"}  # guides disagree


def test_more_labels_never_train_less() -> None:
    order = (
        "probe",
        "first-only",
        "partial",
        "gradual",
        "progressive",
        "middle",
        "two-phase",
        "full",
        "scratch",
    )
    for likeness in LIKENESSES:
        most = [max(order.index(name) for name in names(labels, likeness)) for labels in SIZES]
        assert most == sorted(most), likeness


def test_bounds() -> None:
    assert [size_of(count) for count in (999, 1_000, 999_999, 1_000_000)] == [
        "below 1,000", "1,000 to 10,000", "100,000 to a million", "a million",
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="similar, somewhat similar"):
        look_up(10, "odd")
