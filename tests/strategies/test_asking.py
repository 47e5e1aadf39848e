"""What the recipe says about rates wins over every strategy; a table names each stage exactly once."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from asked import NETWORKS, STAGES, ask, last, phases_of
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import RecipeError
from graft.strategies import plan_steps

NAMES = ["partial:2", "full", "two-phase", "middle", "layer-decay", "gradual", "progressive"]


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("lr", [1e-5, 3e-3])
def test_lr_is_the_rate_of_the_topmost_stage_and_the_others_keep_their_share(
    strategy: str, lr: float
) -> None:
    plain = last(strategy=strategy).rates
    scaled = last(strategy=strategy, train__lr=lr).rates
    factor = lr / plain.stages["top"]
    assert scaled.stages == pytest.approx({name: rate * factor for name, rate in plain.stages.items()})
    assert scaled.stages["top"] == pytest.approx(lr)
    assert scaled.head == pytest.approx(plain.head * factor)


@pytest.mark.parametrize("strategy", ["partial:2", "full", "two-phase"])
@pytest.mark.parametrize("lr", [1e-5, 3e-3])
def test_a_random_head_has_its_own_rate_and_never_moves_slower_than_the_top(
    strategy: str, lr: float
) -> None:
    rates = last(strategy=strategy, train__lr=lr, head_init="random").rates
    assert rates.head == max(1e-3, lr)


@pytest.mark.parametrize(
    "settings",
    [{"strategy": name} for name in NAMES]
    + [{"strategy": "scratch", "pretrained": False}]
    + [{"strategy": "probe:steps"}, {"strategy": "two-phase", "head": "mlp"}],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_the_rates_of_the_recipe_win(settings: dict[str, Any]) -> None:
    for phase in phases_of(train__lr=0.5, train__head_lr=0.7, train__lowest_lr=0.1, **settings):
        assert phase.rates.head == 0.7
        if len(phase.stages) > 1:
            assert next(iter(phase.rates.stages.values())) == pytest.approx(0.1)
        if phase.stages:
            assert list(phase.rates.stages.values())[-1] == pytest.approx(0.5)


@pytest.mark.parametrize("strategy", NAMES)
def test_the_layer_decay_of_the_recipe_wins(strategy: str) -> None:
    rates = last(strategy=strategy, train__layer_decay=0.5, stages=NETWORKS["vit"]).rates.stages
    values = list(rates.values())
    assert [one / two for one, two in itertools.pairwise(values)] == pytest.approx(
        [0.5] * (len(values) - 1)
    )


# ---------------------------------------------------------------------------------------------
# A table of rates.


def test_a_table_of_rates_is_taken_as_it_is() -> None:
    table = {"head": 1e-2, "top": 3e-3, "[sm]*": 1e-6}
    rates = last(strategy="full", train__rates=table).rates
    assert rates.head == 1e-2
    assert rates.stages == {"stem": 1e-6, "middle": 1e-6, "top": 3e-3}
    assert tuple(rates.stages) == STAGES


@pytest.mark.parametrize(("head_init", "head"), [("auto", 9e-3), ("random", 3e-3)])
def test_a_table_without_the_head_leaves_it_to_the_rule(head_init: str, head: float) -> None:
    rates = last(strategy="full", train__rates={"*": 3e-3}, head_init=head_init).rates
    assert rates.head == pytest.approx(head)


def test_a_table_serves_every_phase() -> None:
    table = {"head": 2e-3, "stem": 1e-6, "middle": 1e-5, "top": 1e-4}
    for phase in phases_of(strategy="progressive", train__rates=table):
        assert phase.rates.head == 2e-3
        assert phase.rates.stages == {name: table[name] for name in phase.stages}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"top": 1e-4, "middle": 1e-4}, "train.rates: the stage 'stem' trains, but no entry covers it"),
        (
            {"*": 1e-4, "top": 1e-3},
            r"train.rates: the entries '\*' and 'top' overlap: both cover the stage 'top'",
        ),
        ({"*": 1e-4, "toop": 1e-3}, "train.rates: this backbone has no stage 'toop'. Did you mean 'top'"),
        ({"*": 0.0}, "train.rates.*greater than 0"),
        ({"*": -1.0}, "train.rates.*greater than 0"),
        ({"head": 0}, "train.rates.*greater than 0"),
    ],
)
def test_a_table_that_leaves_out_or_names_twice_is_refused(table: dict[str, float], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        plan_steps(ask(strategy="full", train__rates=table))


@pytest.mark.parametrize("beside", ["lr", "head_lr", "lowest_lr", "layer_decay"])
def test_a_table_stands_alone(beside: str) -> None:
    with pytest.raises(RecipeError, match=f"leave out {beside} beside it"):
        ask(train__rates={"*": 1e-4}, **{f"train__{beside}": 0.5})
    with pytest.raises(RecipeError, match="each fixes all rates"):
        ask(train__lowest_lr=1e-6, train__layer_decay=0.5)


@pytest.mark.parametrize("key", ["lr", "head_lr", "lowest_lr", "layer_decay"])
@pytest.mark.parametrize("value", [0, -1e-4])
def test_a_rate_of_zero_or_below_is_refused(key: str, value: float) -> None:
    with pytest.raises(RecipeError, match=rf"train\.{key} = .*greater than 0"):
        ask(**{f"train__{key}": value})


# ---------------------------------------------------------------------------------------------
# Names.


@given(chosen=st.lists(st.sampled_from(NETWORKS["vit"]), min_size=1))
def test_names_are_found_once_each_in_the_networks_order(chosen: list[str]) -> None:
    asked = ask(stages=NETWORKS["vit"])
    found = asked.find_stages(" , ".join(chosen), "here")
    assert found == tuple(name for name in NETWORKS["vit"] if name in chosen)


def test_a_name_that_no_stage_has_is_refused_with_all_there_are() -> None:
    with pytest.raises(RecipeError, match=r"^here: .*'tap'.*'top'.*stem, middle, top"):
        ask().find_stages("stem,tap", "here")
