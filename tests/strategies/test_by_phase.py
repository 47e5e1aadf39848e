"""Rates of single phases mean what rates of all phases mean, for that phase alone."""

from __future__ import annotations

from typing import Any

import pytest
from asked import NETWORKS, ask, phases_of
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import RecipeError
from graft.recipe import Recipe, make_recipe, read_recipe
from graft.steps import Solve, Train
from graft.strategies import plan_steps

STRATEGIES = ("full", "two-phase", "two-phase:discriminative", "gradual:1", "progressive", "partial:2",
              "layer-decay", "middle", "first-only")  # fmt: skip
RATES: dict[str, Any] = {"lr": 2e-5, "head_lr": 3e-3, "lowest_lr": 1e-7, "layer_decay": 0.5}


@given(
    strategy=st.sampled_from(STRATEGIES),
    name=st.sampled_from(sorted(RATES)),
    start=st.sampled_from(["solved", "random"]),
    number=st.integers(0, 5),
)
def test_a_rate_of_one_phase_is_that_of_all_there_and_changes_no_other(
    strategy: str, name: str, start: str, number: int
) -> None:
    basis: dict[str, Any] = {"strategy": strategy, "stages": NETWORKS["resnet"], "head_init": start}
    recipe = {key: value for key, value in basis.items() if key != "stages"}
    steps = plan_steps(ask(**basis))
    places = [place for place, step in enumerate(steps) if isinstance(step, Train) and step.stages]
    place = places[number % len(places)]
    rated = plan_steps(ask(**basis, phase={place + 1: {name: RATES[name]}}))
    everywhere = plan_steps(ask(**basis, train={name: RATES[name]}))
    assert rated[place] == everywhere[place]
    assert [step for at, step in enumerate(rated) if at != place] == [
        step for at, step in enumerate(steps) if at != place
    ]
    written = read_recipe(**recipe, phase={place + 1: {name: RATES[name]}})
    assert Recipe.from_json(written.to_json()) == written


def test_what_the_courses_teach() -> None:
    """The head at 1e-3 for 5 epochs, then everything at 1e-4 for 10."""
    settings = {1: {"epochs": 5, "lr": 1e-3}, 2: {"epochs": 10, "lr": 1e-4, "head_lr": 1e-4}}
    alone, whole = phases_of(strategy="two-phase", head_init="random", phase=settings)
    assert (alone.epochs, alone.rates.head, alone.stages) == (5, 1e-3, ())
    assert whole.epochs == 10
    assert set(whole.rates.stages.values()) == {whole.rates.head} == {1e-4}


def test_a_phase_has_the_last_word_over_what_holds_for_all() -> None:
    table = {"train": {"rates": {"head": 1e-2, "*": 1e-3}}, "phase": {2: {"lr": 1e-5}}}
    assert set(phases_of(strategy="two-phase", **table)[0].rates.stages.values()) == {1e-5}
    decays = {"train": {"layer_decay": 0.5}, "phase": {2: {"lowest_lr": 1e-6}}}
    assert min(phases_of(strategy="full", **decays)[0].rates.stages.values()) == pytest.approx(1e-6)


def test_a_table_of_one_phase_is_of_the_stages_that_train_in_it() -> None:
    stages = NETWORKS["resnet"]
    plain = phases_of(strategy="gradual:1", stages=stages)
    settings = {3: {"rates": {"layer4": 1e-3, "layer[123]": 1e-6}}}
    first, second, *others = phases_of(strategy="gradual:1", stages=stages, phase=settings)
    assert second.rates.stages == {"layer3": 1e-6, "layer4": 1e-3}
    assert second.rates.head == plain[1].rates.head
    assert [first, *others] == [plain[0], *plain[2:]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"phase": {2: {"rates": {"top": 1e-3}}}}, "phase.2.rates: the stage 'stem' trains, but no entry"),
        (
            {"phase": {2: {"rates": {"*": 1e-3, "top": 1}}}},
            "phase.2.rates: the entries '\\*' and 'top' overlap",
        ),
        ({"phase": {2: {"rates": {"tip": 1e-3}}}}, "phase.2.rates: 'tip' does not train in 'all stages'"),
        ({"phase": {1: {"layer_decay": 0.5}}, "head_init": "random"}, "phase.1.layer_decay: only the head"),
        ({"phase": {1: {"lr": 1e-3}}}, "phase.1: the strategy two-phase has no such phase"),
        ({"phase": {2: {"lr": 1e-3}}, "strategy": "full:1e-4"}, "full:1e-4 and phase.2.lr both"),
    ],
    ids=str,
)
@pytest.mark.odd_input("Building blocks and advice")
def test_rates_of_what_does_not_train_in_a_phase_are_refused(settings: dict[str, Any], words: str) -> None:
    """`phase.N.lr` and `phase.N.rates` of a phase or stage that does not train: refused by name."""
    with pytest.raises(RecipeError, match=words):
        plan_steps(ask(**({"strategy": "two-phase"} | settings)))


def test_two_ways_to_say_a_phases_rates_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"phase\.2: rates names every rate; leave out lr"):
        make_recipe({"phase": {2: {"rates": {"*": 1e-3}, "lr": 1e-4}}})
    with pytest.raises(RecipeError, match=r"phase\.2: give lowest_lr or layer_decay"):
        make_recipe({"phase": {2: {"lowest_lr": 1e-3, "layer_decay": 0.5}}})


def test_a_list_of_changes_holds_in_every_phase_that_says_nothing_else() -> None:
    alone, whole = phases_of(
        strategy="progressive", data={"augment": ["flip"]}, phase={2: {"augmentation": "none"}}
    )[:2]
    assert (alone.augmentation, whole.augmentation) == (("flip",), "none")


def test_the_solved_head_is_a_step_with_a_number_of_its_own() -> None:
    solved, whole = plan_steps(ask(strategy="full", phase={2: {"lr": 1e-5}}))[:2]
    assert isinstance(solved, Solve)
    assert isinstance(whole, Train)
    assert max(whole.rates.stages.values()) == 1e-5
