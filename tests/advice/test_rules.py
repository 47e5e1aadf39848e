"""The rules that people are taught."""

from __future__ import annotations

import pytest

from graft.advice.rules import LIKENESSES, known_rules, look_up, size_of
from graft.data.items import Splits
from graft.errors import RecipeError
from graft.plan import Phase, make_plan
from graft.recipe import make_recipe
from graft.strategies import split_name
from graft.strategies.asking import BODY_RATE, TEXT_BODY_RATE
from small import make_tiny

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
        assert rule.source


@pytest.mark.parametrize("strategy", sorted({rule.strategy for rule in known_rules()}))
def test_the_rates_of_a_rule_are_those_that_training_uses(strategy: str, splits: Splits) -> None:
    scratch = strategy == "scratch"
    backbone = make_tiny(pretrained=not scratch)
    plan = make_plan(make_recipe({"strategy": strategy, "device": "cpu"}), backbone, splits)
    phases = [phase.train for phase in plan.phases if isinstance(phase, Phase)]
    (rule, *_) = (rule for rule in known_rules() if rule.strategy == strategy)
    if not phases:
        assert rule.rates == (None, None, None) and strategy == "probe"
        return
    head, stages, names = phases[-1].rates.head, phases[-1].rates.stages, backbone.stage_names
    assert rule.rates == (head, stages.get(names[-1]), stages.get(names[0]))


def test_texts_have_rates_of_their_own() -> None:
    for pictures, texts in zip(
        look_up(5_000, "similar"), look_up(5_000, "similar", takes_text=True), strict=True
    ):
        assert pictures.strategy == texts.strategy
        assert (texts.rates[1], pictures.rates[1]) == pytest.approx((TEXT_BODY_RATE, BODY_RATE))


def test_scratch_is_for_large_and_strange_data_alone() -> None:
    found = {(rule.size, rule.likeness) for rule in known_rules() if rule.strategy == "scratch"}
    assert found == {(size_of(labels), "very different") for labels in SIZES[2:]}
    assert names(1_000_000, "very different") == {"two-phase", "scratch"}  # guides disagree


def test_more_labels_never_train_less() -> None:
    order = (
        "probe",
        "first-only",
        "partial",
        "gradual",
        "progressive",
        "middle",
        "full",
        "scratch",
    )
    for likeness in LIKENESSES:
        most = [
            max(order.index(name.replace("two-phase", "full")) for name in names(labels, likeness))
            for labels in SIZES
        ]
        assert most == sorted(most), likeness


def test_bounds() -> None:
    assert [size_of(count) for count in (999, 1_000, 999_999, 1_000_000)] == [
        "below 1,000", "1,000 to 10,000", "100,000 to a million", "a million",
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="similar, somewhat similar"):
        look_up(10, "odd")
