"""The strategies with a name: which stages train, how fast, for how long, and how the head starts.

The numbers are those of the issue's table: head 1e-3 at random and three times the body's when solved,
late stages 1e-4, early ones 1e-5.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from asked import NETWORKS, STAGES, ask, kinds_of, last, phases_of, steps_of
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import RecipeError
from graft.steps import Solve, Train
from graft.strategies import plan_steps

EVERY_NETWORK = pytest.mark.parametrize("network", NETWORKS)


def near(rates: dict[str, float]) -> Any:
    return pytest.approx(rates, rel=1e-9)


# ---------------------------------------------------------------------------------------------
# probe


@EVERY_NETWORK
def test_a_probe_is_one_solution_and_moves_nothing(network: str) -> None:
    (step,) = steps_of(strategy="probe", stages=NETWORKS[network])
    assert isinstance(step, Solve)
    assert step.name == "probe"


@pytest.mark.parametrize(
    "settings",
    [{"strategy": "probe:steps"}, {"head_init": "random"}, {"head": "mlp"}, {"pretrained": False}],
    ids=str,
)
def test_a_probe_by_steps_as_courses_do_it(settings: dict[str, Any]) -> None:
    (step,) = steps_of(**({"strategy": "probe"} | settings))
    assert isinstance(step, Train)
    assert step.stages == ()
    assert step.rates.head == 1e-3
    assert step.augmentation == "light"
    assert step.epochs == 40  # 500 steps at 10 an epoch would be 50


# ---------------------------------------------------------------------------------------------
# partial:k, middle, first-only, stages:…


@EVERY_NETWORK
@pytest.mark.parametrize("count", [None, 1, 2, 3])
def test_partial_is_the_head_and_the_last_stages(network: str, count: int | None) -> None:
    stages = NETWORKS[network]
    strategy = "partial" if count is None else f"partial:{count}"
    expected = stages[-(count or 1) :]
    solve, train = steps_of(strategy=strategy, stages=stages)
    assert solve.kind == "solve"
    assert isinstance(train, Train)
    assert train.rates.stages == dict.fromkeys(expected, 1e-4)
    assert train.rates.head == pytest.approx(3e-4)
    (random,) = phases_of(strategy=strategy, stages=stages, head_init="random")
    assert random.rates.stages == dict.fromkeys(expected, 1e-4)
    assert random.rates.head == 1e-3


@EVERY_NETWORK
def test_middle_freezes_the_early_half_and_moves_the_rest_faster(network: str) -> None:
    stages = NETWORKS[network]
    for strategy in ("middle", f"middle:{stages[len(stages) // 2]}"):
        assert last(strategy=strategy, stages=stages).rates.stages == near(
            dict.fromkeys(stages[len(stages) // 2 :], 3e-4)
        )
    assert last(strategy=f"middle:{stages[1]}", stages=stages).stages == stages[1:]
    assert last(strategy=f"middle:{stages[-1]}", stages=stages).stages == stages[-1:]


@EVERY_NETWORK
def test_first_only_moves_the_first_stage(network: str) -> None:
    stages = NETWORKS[network]
    assert kinds_of(strategy="first-only", stages=stages) == ["solve", "train"]
    assert last(strategy="first-only", stages=stages).rates.stages == {stages[0]: 1e-4}


@pytest.mark.parametrize(
    ("network", "names", "expected"),
    [
        ("tiny", "middle", ("middle",)),
        ("tiny", "top,stem", ("stem", "top")),
        ("resnet", "layer1, layer3", ("layer1", "layer3")),
        ("resnet", "layer[2-4]", ("layer2", "layer3", "layer4")),
        ("vit", "blocks.0,blocks.[45]", ("blocks.0", "blocks.4", "blocks.5")),
        ("vit", "*", NETWORKS["vit"]),
    ],
)
def test_any_set_of_stages_in_the_networks_order(
    network: str, names: str, expected: tuple[str, ...]
) -> None:
    train = last(strategy=f"stages:{names}", stages=NETWORKS[network])
    assert train.rates.stages == dict.fromkeys(expected, 1e-4)
    assert train.stages == expected


# ---------------------------------------------------------------------------------------------
# full, two-phase, layer-decay


@EVERY_NETWORK
@pytest.mark.parametrize("strategy", ["full", "two-phase:discriminative"])
def test_discriminative_rates_rise_tenfold_from_early_to_late(network: str, strategy: str) -> None:
    stages = NETWORKS[network]
    rates = last(strategy=strategy, stages=stages).rates
    ratio = 10 ** (1 / (len(stages) - 1))
    assert rates.stages == near({name: 1e-5 * ratio**place for place, name in enumerate(stages)})
    assert rates.stages[stages[0]] == pytest.approx(1e-5)
    assert rates.stages[stages[-1]] == pytest.approx(1e-4)
    assert rates.head == pytest.approx(3e-4)
    assert last(strategy=strategy, stages=stages, head_init="random").rates.head == 1e-3


@EVERY_NETWORK
@pytest.mark.parametrize("head_init", ["auto", "random"])
def test_full_with_one_rate_for_everything(network: str, head_init: str) -> None:
    stages = NETWORKS[network]
    rates = last(strategy="full:2e-4", stages=stages, head_init=head_init).rates
    assert (rates.head, rates.stages) == (2e-4, dict.fromkeys(stages, 2e-4))


@EVERY_NETWORK
def test_two_phase_is_the_head_then_everything_at_one_rate(network: str) -> None:
    stages = NETWORKS[network]
    assert kinds_of(strategy="two-phase", stages=stages) == ["solve", "train"]
    whole = last(strategy="two-phase", stages=stages)
    assert whole.rates.stages == near(dict.fromkeys(stages, 1e-4))
    alone, whole = phases_of(strategy="two-phase", stages=stages, head_init="random")
    assert (alone.stages, alone.epochs, alone.rates.head) == ((), 5, 1e-2)
    assert (whole.rates.head, whole.rates.stages) == (1e-3, near(dict.fromkeys(stages, 1e-4)))


@EVERY_NETWORK
@pytest.mark.parametrize("factor", [None, 0.65, 0.9, 1.0])
def test_layer_decay_multiplies_from_stage_to_stage(network: str, factor: float | None) -> None:
    stages = NETWORKS[network]
    strategy = "layer-decay" if factor is None else f"layer-decay:{factor}"
    rates = last(strategy=strategy, stages=stages).rates.stages
    decay = 0.75 if factor is None else factor
    assert rates == near({name: 1e-4 * decay**depth for depth, name in enumerate(reversed(stages))})
    assert tuple(rates) == stages


# ---------------------------------------------------------------------------------------------
# scratch


@EVERY_NETWORK
def test_from_scratch_everything_trains_with_its_statistics_and_nothing_is_solved(network: str) -> None:
    stages = NETWORKS[network]
    (train,) = steps_of(strategy="scratch", stages=stages, pretrained=False)
    assert isinstance(train, Train)
    assert train.rates.stages == dict.fromkeys(stages, 1e-3)
    assert train.rates.head == 1e-3
    assert (train.batchnorm, train.augmentation, train.weight_decay) == ("train", "standard", 0.05)


def test_scratch_is_given_more_time() -> None:
    for per_epoch in (1, 20, 5000):
        short = last(strategy="full", per_epoch=per_epoch).epochs
        assert last(strategy="scratch", pretrained=False, per_epoch=per_epoch).epochs == 3 * short


# ---------------------------------------------------------------------------------------------
# Lengths, and what is the same for all.


@given(
    per_epoch=st.integers(1, 10_000), strategy=st.sampled_from(["partial:2", "full", "two-phase", "middle"])
)
def test_about_500_steps_but_at_least_10_epochs_and_at_most_40(per_epoch: int, strategy: str) -> None:
    epochs = last(strategy=strategy, per_epoch=per_epoch).epochs
    assert epochs == min(40, max(10, math.ceil(500 / per_epoch)))


@pytest.mark.parametrize("strategy", ["partial:2", "full", "two-phase", "middle", "scratch", "probe:steps"])
@pytest.mark.parametrize("epochs", [1, 100])
def test_the_epochs_of_the_recipe_win(strategy: str, epochs: int) -> None:
    assert last(strategy=strategy, pretrained=strategy != "scratch", epochs=epochs).epochs == epochs


@pytest.mark.parametrize(
    "strategy", ["partial", "full", "two-phase", "middle", "first-only", "layer-decay"]
)
def test_pretrained_statistics_stay(strategy: str) -> None:
    assert last(strategy=strategy).batchnorm == "frozen"
    assert last(strategy=strategy, pretrained=False).batchnorm == "train"


# ---------------------------------------------------------------------------------------------
# Wrong parameters.


@pytest.mark.parametrize("count", ["0", "4", "-1", "1.5", "two", " 1", "²"])
def test_a_wrong_number_of_stages_names_the_right_ones(count: str) -> None:
    with pytest.raises(RecipeError, match="whole number from 1 to 3"):
        plan_steps(ask(strategy=f"partial:{count}"))


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("probe:step", "probe:steps trains it"),
        ("full:0", "full:0: a number above zero"),
        ("full:-1e-4", "a number above zero"),
        ("full:fast", "a number above zero"),
        ("full:inf", "a number above zero"),
        ("full:nan", "a number above zero"),
        ("two-phase:disc", "two-phase:discriminative was expected"),
        ("middle:mid", "no stage 'mid'"),
        ("middle:stem", "nothing would stay frozen"),
        ("stages", "names of stages were expected"),
        ("stages:,", "names of stages were expected"),
        ("stages:toop", "no stage 'toop'. Did you mean 'top'"),
        ("stages:top,layer[1-4]", r"no stage 'layer\[1-4\]'"),
        ("layer-decay:0", "layer-decay:0: a number above zero"),
        ("layer-decay:1.1", "a factor above 0 and up to 1"),
        ("scratch:2", "'scratch' takes no parameter"),
        ("first-only:2", "'first-only' takes no parameter"),
    ],
)
def test_a_wrong_parameter_is_refused_with_the_right_form(strategy: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        plan_steps(ask(strategy=strategy))


def test_middle_needs_a_stage_below() -> None:
    with pytest.raises(RecipeError, match="one stage only"):
        plan_steps(ask(strategy="middle", stages=["all"]))


@pytest.mark.parametrize("strategy", ["probe", "partial:1", "full", "two-phase", "gradual", "progressive"])
@pytest.mark.parametrize(("head", "pretrained"), [("mlp", True), ("linear", False)])
def test_a_head_that_cannot_be_solved_is_not_promised(strategy: str, head: str, pretrained: bool) -> None:
    with pytest.raises(RecipeError, match=r"head_init = 'solved'.*head_init=random"):
        plan_steps(ask(strategy=strategy, head=head, pretrained=pretrained, head_init="solved"))


def test_the_stages_are_those_of_the_tiny_network() -> None:
    from small import make_tiny

    assert make_tiny().stage_names == STAGES
