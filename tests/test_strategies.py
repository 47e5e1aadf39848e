"""Strategies: what trains, how fast and for how long; what the recipe sets always wins."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft import strategies
from graft.errors import RecipeError
from graft.recipe import Recipe, read_recipe
from graft.steps import Solve, Train
from graft.strategies import Ask, plan_steps, register_strategy, strategy_names

STAGES = ("stem", "middle", "top")
NAMES = ["probe", "partial:1", "partial:3", "full", "two-phase", "scratch"]


def ask(*, pretrained: bool = True, per_epoch: int = 10, stages: Any = STAGES, **settings: Any) -> Ask:
    return Ask(read_recipe(**settings), tuple(stages), per_epoch, pretrained)


def last(**settings: Any) -> Train:
    step = plan_steps(ask(**settings))[-1]
    assert isinstance(step, Train)
    return step


@pytest.mark.parametrize(
    ("strategy", "stages"),
    [
        ("partial", ("top",)),
        ("partial:1", ("top",)),
        ("partial:2", ("middle", "top")),
        ("partial:3", STAGES),
        ("full", STAGES),
        ("two-phase", STAGES),
    ],
)
def test_which_stages_train_and_the_head_is_solved_first(strategy: str, stages: tuple[str, ...]) -> None:
    solve, train = plan_steps(ask(strategy=strategy))
    assert isinstance(solve, Solve)
    assert isinstance(train, Train)
    assert train.stages == stages
    assert train.batchnorm == "frozen"


def test_a_probe_trains_no_stage() -> None:
    assert [step.kind for step in plan_steps(ask(strategy="probe"))] == ["solve"]
    (random,) = plan_steps(ask(strategy="probe", head_init="random"))
    assert isinstance(random, Train)
    assert random.stages == ()


def test_a_random_head_trains_alone_before_the_body_moves() -> None:
    alone, whole = plan_steps(ask(head="mlp"))
    assert isinstance(alone, Train)
    assert isinstance(whole, Train)
    assert (alone.stages, whole.stages) == ((), STAGES)
    assert whole.rates.head == 1e-3


def test_from_scratch_everything_trains_with_its_statistics_and_nothing_is_solved() -> None:
    (train,) = plan_steps(ask(strategy="scratch", pretrained=False))
    assert isinstance(train, Train)
    assert train.stages == STAGES
    assert train.batchnorm == "train"
    assert train.rates.head == train.rates.top == train.rates.lowest


@pytest.mark.parametrize("lr", [None, 1e-5, 3e-3])
@pytest.mark.parametrize("strategy", ["partial:2", "full", "two-phase"])
def test_a_solved_head_moves_three_times_as_fast_as_the_top_and_a_random_one_at_its_own_rate(
    strategy: str, lr: float | None
) -> None:
    solved = last(strategy=strategy, train__lr=lr).rates
    random = last(strategy=strategy, train__lr=lr, head_init="random").rates
    assert solved.top == random.top == (lr or 1e-4)
    assert solved.head == pytest.approx(3 * solved.top)
    assert random.head == max(1e-3, solved.top)
    assert solved.lowest <= solved.top


def test_full_fine_tuning_is_gentler_with_the_lower_stages_and_the_others_are_not() -> None:
    assert last(strategy="full").rates.lowest == pytest.approx(last(strategy="full").rates.top / 10)
    for strategy in ("partial:2", "two-phase"):
        assert last(strategy=strategy).rates.lowest == last(strategy=strategy).rates.top


@pytest.mark.parametrize(
    "settings",
    [{"strategy": name} for name in ("partial:2", "full", "two-phase")]
    + [{"strategy": "scratch", "pretrained": False}]
    + [{"strategy": "probe", "head_init": "random"}, {"strategy": "two-phase", "head": "mlp"}],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_the_rates_of_the_recipe_win(settings: dict[str, Any]) -> None:
    rates = last(train__lr=0.5, train__head_lr=0.7, train__lowest_lr=0.1, **settings).rates
    assert rates.head == 0.7
    for step in plan_steps(ask(train__head_lr=0.7, **settings)):
        assert isinstance(step, Solve) or step.rates.head == 0.7
    if settings["strategy"] != "probe":
        assert (rates.top, rates.lowest) == (0.5, 0.1)


@given(per_epoch=st.integers(1, 10_000), strategy=st.sampled_from(["partial:2", "full", "two-phase"]))
def test_about_500_steps_but_at_least_10_epochs_and_at_most_40(per_epoch: int, strategy: str) -> None:
    epochs = last(strategy=strategy, per_epoch=per_epoch).epochs
    assert epochs == min(40, max(10, math.ceil(500 / per_epoch)))


def test_scratch_is_given_more_time() -> None:
    for per_epoch in (1, 20, 5000):
        short = last(per_epoch=per_epoch).epochs
        assert last(strategy="scratch", pretrained=False, per_epoch=per_epoch).epochs == 3 * short


@pytest.mark.parametrize("strategy", ["partial:2", "full", "two-phase", "scratch"])
@pytest.mark.parametrize("epochs", [1, 100])
def test_the_epochs_of_the_recipe_win(strategy: str, epochs: int) -> None:
    assert last(strategy=strategy, pretrained=strategy != "scratch", epochs=epochs).epochs == epochs


OVERRIDES: dict[str, Any] = {
    "batch_size": 7,
    "accumulate": 2,
    "optimizer": "sgd",
    "schedule": "constant",
    "warmup": 0.0,
    "weight_decay": 0.3,
    "clip": 5.0,
    "label_smoothing": 0.1,
    "augmentation": "aggressive",
    "batchnorm": "train",
    "patience": 3,
    "select": "accuracy",
}


@pytest.mark.parametrize("strategy", NAMES[1:])
def test_every_training_setting_reaches_every_phase(strategy: str) -> None:
    settings = {f"train__{key}": value for key, value in OVERRIDES.items()}
    asked = ask(strategy=strategy, pretrained=strategy != "scratch", **settings)
    for step in plan_steps(asked):
        if isinstance(step, Train):
            assert {key: getattr(step, key) for key in OVERRIDES} == OVERRIDES


def test_no_setting_of_a_phase_is_forgotten_here() -> None:
    decided_by_strategy = {"kind", "name", "stages", "rates", "epochs"}
    assert set(Train.model_fields) - decided_by_strategy == set(OVERRIDES)


def test_null_turns_clipping_off_and_leaves_a_preset_to_the_strategy() -> None:
    recipe = read_recipe(settings=["train.clip=null", "train.augmentation=null", "train.lr=null"])
    step = plan_steps(Ask(recipe, STAGES, 10, True))[-1]
    assert isinstance(step, Train)
    assert step.clip is None
    assert step.augmentation == "light"
    assert step.rates.top == 1e-4


@pytest.mark.parametrize("count", ["0", "4", "-1", "1.5", "two", " 1", "²"])
def test_a_wrong_number_of_stages_names_the_right_ones(count: str) -> None:
    with pytest.raises(RecipeError, match="whole number from 1 to 3"):
        plan_steps(ask(strategy=f"partial:{count}"))


@pytest.mark.parametrize("name", ["two_phase", "Probe", "partail:2", "fulll"])
def test_an_unknown_strategy_is_refused_with_the_nearest(name: str) -> None:
    with pytest.raises(RecipeError, match=r"no strategy.*Did you mean '(two-phase|probe|partial|full)'"):
        plan_steps(ask(strategy=name))


@pytest.mark.parametrize("name", ["probe", "full", "two-phase", "scratch"])
def test_a_parameter_that_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=f"'{name}' takes no parameter"):
        plan_steps(ask(strategy=f"{name}:2"))


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize(("head", "pretrained"), [("mlp", True), ("linear", False)])
def test_a_head_that_cannot_be_solved_is_not_promised(strategy: str, head: str, pretrained: bool) -> None:
    with pytest.raises(RecipeError, match=r"head_init = 'solved'.*head_init=random"):
        plan_steps(ask(strategy=strategy, head=head, pretrained=pretrained, head_init="solved"))


@pytest.fixture
def _registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(strategies, "_STRATEGIES", dict(strategies._STRATEGIES))
    yield


@pytest.mark.usefixtures("_registry")
def test_a_strategy_of_ones_own() -> None:
    register_strategy("twice", lambda _, parameter: (Solve(name="a"), Solve(name=parameter or "b")))
    assert "twice" in strategy_names()
    names = [step.name for step in plan_steps(ask(strategy="twice:c"))]
    assert names == ["a", "c"]
    for taken in ("twice", "probe", "a:b"):
        with pytest.raises(RecipeError, match="taken"):
            register_strategy(taken, lambda _, __: ())


def test_the_default_is_two_phase() -> None:
    assert plan_steps(Ask(Recipe(), STAGES, 10, True)) == plan_steps(ask(strategy="two-phase"))
