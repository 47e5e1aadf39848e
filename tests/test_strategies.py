"""Strategies as steps: options reach every phase, what follows the training, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from graft import strategies
from graft.backbones.contract import Backbone
from graft.data.items import Splits
from graft.errors import RecipeError
from graft.options import PhaseOptions
from graft.plan import make_plan
from graft.preparation import measure
from graft.recipe import read_recipe
from graft.steps import Calibrate, Select, Solve, Step, Train
from graft.strategies import Ask, plan_steps, register_strategy, strategy_names, strategy_table

STAGES = ("stem", "middle", "top")
NAMES = [
    *("auto", "probe", "probe:steps", "partial:1", "partial:3", "full", "full:1e-4", "two-phase"),
    *("two-phase:discriminative", "gradual", "gradual:1+stem", "progressive", "middle", "first-only"),
    *("stages:stem,top", "layer-decay", "layer-decay:0.9", "lora", "lora:2", "scratch"),
]


def ask(
    *, pretrained: bool = True, validates: bool = True, items: int | None = 320, **settings: Any
) -> Ask:
    recipe = read_recipe(**settings)
    name, _, count = recipe.strategy.partition(":")
    adapted = STAGES[-int(count or len(STAGES)) :] if name == "lora" else ()
    return Ask(recipe, STAGES, 10, pretrained, validates=validates, items=items, adapted=adapted)


def steps_of(**settings: Any) -> list[Step]:
    strategy = settings.get("strategy", "auto")
    return list(plan_steps(ask(**({"pretrained": strategy != "scratch"} | settings))))


def phases_of(**settings: Any) -> list[Train]:
    return [step for step in steps_of(**settings) if isinstance(step, Train)]


def test_every_strategy_is_tried_here_and_described() -> None:
    assert {name.partition(":")[0] for name in NAMES} == set(strategy_names()) == set(strategy_table())
    assert all(len(line) > 20 and line.endswith(".") for line in strategy_table().values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("head_init", ["auto", "random"])
def test_steps_survive_being_written_down(name: str, head_init: str) -> None:
    for step in steps_of(strategy=name, head_init=head_init):
        assert type(step).model_validate_json(step.model_dump_json()) == step


# ---------------------------------------------------------------------------------------------
# Options.

# A value other than its default for every option of a phase.
OVERRIDES: dict[str, Any] = {
    "batch_size": 7,
    "accumulate": 2,
    "optimizer": "sgd",
    "schedule": "step",
    "warmup": "3 steps",
    "drop_epochs": 3,
    "drop_factor": 0.5,
    "weight_decay": 0.3,
    "l2sp": 0.2,
    "clip": 5.0,
    "label_smoothing": 0.1,
    "focal": 2.0,
    "class_weights": "balanced",
    "sampling": "balanced",
    "mixup": 0.0,  # is refused beside focal
    "cutmix": 0.0,
    "ema": 0.9,
    "drop_path": 0.1,
    "augmentation": "standard",
    "flip": False,
    "batchnorm": {"stem": "adaptive", "top": "adaptive"},
    "patience": 3,
    "select": "accuracy",
}


def test_no_option_is_forgotten_here() -> None:
    assert set(OVERRIDES) == set(PhaseOptions.model_fields)
    same = {name for name, info in PhaseOptions.model_fields.items() if OVERRIDES[name] == info.default}
    assert same == {"mixup", "cutmix"}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "probe"])
def test_every_option_reaches_every_phase(name: str) -> None:
    phases = phases_of(strategy=name, **{f"train__{key}": value for key, value in OVERRIDES.items()})
    assert phases
    for phase in phases:
        assert {key: getattr(phase, key) for key in OVERRIDES} == OVERRIDES


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_reaches_every_phase(name: str) -> None:
    for phase in phases_of(strategy="gradual", **{f"train__{name}": 0.4}):
        assert getattr(phase, name) == 0.4


def test_an_option_of_one_phase_wins_there_and_only_there() -> None:
    settings = ["phase.2.augmentation=none", "phase.3.epochs=7", "phase.2.ema=0.5", "train.ema=0.9"]
    recipe = read_recipe(settings=settings, strategy="progressive")
    head, late, whole = (s for s in plan_steps(Ask(recipe, STAGES, 10, True)) if isinstance(s, Train))
    assert [phase.augmentation for phase in (head, late, whole)] == ["aggressive", "none", "aggressive"]
    assert [phase.epochs for phase in (head, late, whole)] == [5, 5, 7]
    assert [phase.ema for phase in (head, late, whole)] == [0.9, 0.5, 0.9]
    # Phases are numbered as the plan shows them: the solved head is the first.
    (whole,) = phases_of(strategy="full", phase={"2": {"clip": 3.0}})
    assert whole.clip == 3.0


@pytest.mark.parametrize("number", [1, 3])
def test_a_phase_that_is_not_there_or_takes_no_steps_is_refused(number: int) -> None:
    with pytest.raises(RecipeError, match=rf"phase\.{number}: .*full has no such phase.*it has: 2"):
        steps_of(strategy="full", phase={str(number): {"clip": 3.0}})
    with pytest.raises(RecipeError, match="it has: none"):
        steps_of(strategy="probe", phase={"1": {"clip": 3.0}})


def test_null_turns_clipping_and_patience_off_and_leaves_the_rest_to_the_strategy() -> None:
    nulls = ["clip", "patience", "augmentation", "lr", "batchnorm", "weight_decay", "ema"]
    recipe = read_recipe(settings=[f"train.{name}=null" for name in nulls], strategy="progressive")
    for phase in plan_steps(Ask(recipe, STAGES, 10, True)):
        if isinstance(phase, Train):
            assert phase.clip is None
            assert phase.patience is None
            assert phase.augmentation == "aggressive"
            assert phase.batchnorm == "frozen"


# ---------------------------------------------------------------------------------------------
# Adaptive statistics: once, before anything rests on them.


@pytest.mark.parametrize("head_init", ["auto", "random"])
@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ("adaptive", STAGES),
        ({"top": "adaptive", "stem": "adaptive"}, ("stem", "top")),
        ({"top": "train"}, ()),
        ("frozen", ()),
    ],
    ids=str,
)
def test_adaptation_comes_before_the_first_step(
    head_init: str, wish: Any, expected: tuple[str, ...]
) -> None:
    first, *others = [
        step
        for step in steps_of(strategy="two-phase", head_init=head_init, train__batchnorm=wish)
        if isinstance(step, Solve | Train)
    ]
    assert first.adapt == expected
    assert all(step.adapt == () for step in others)


def test_a_wish_of_one_phase_is_fulfilled_before_the_first() -> None:
    solve, train, *_ = steps_of(strategy="two-phase", phase={"2": {"batchnorm": "adaptive"}})
    assert isinstance(solve, Solve)
    assert isinstance(train, Train)
    assert (solve.adapt, train.adapt) == (STAGES, ())
    (probe, *_) = steps_of(strategy="probe", train__batchnorm="adaptive")
    assert isinstance(probe, Solve)
    assert probe.adapt == STAGES


def test_stages_whose_statistics_follow_are_those_that_train() -> None:
    (phase,) = phases_of(strategy="partial:2", train__batchnorm={"middle": "train", "stem": "adaptive"})
    assert phase.following == ("middle",)
    (phase,) = phases_of(strategy="partial:2", train__batchnorm="train")
    assert phase.following == ("middle", "top")
    (phase,) = phases_of(strategy="partial:2")
    assert phase.following == ()


# ---------------------------------------------------------------------------------------------
# What follows the training.


@pytest.mark.parametrize("name", NAMES)
def test_choice_and_calibration_end_every_plan_with_validation_data(name: str) -> None:
    kinds = [step.kind for step in steps_of(strategy=name)]
    if name == "probe":
        assert kinds == ["solve", "calibrate"]
    else:
        assert kinds[-2:] == ["select", "calibrate"]
        assert kinds.count("select") == kinds.count("calibrate") == 1


@pytest.mark.parametrize("name", NAMES)
def test_without_validation_data_nothing_is_chosen_or_calibrated(name: str) -> None:
    assert {step.kind for step in steps_of(strategy=name, validates=False)} <= {"solve", "train"}


def test_the_choice_is_as_asked() -> None:
    def choice(**settings: Any) -> Select:
        return next(step for step in steps_of(strategy="full", **settings) if isinstance(step, Select))

    assert choice() == Select(score="loss", checkpoints=3, alphas=(0.2, 0.4, 0.6, 0.8))
    asked = choice(train__select="accuracy", final__checkpoints=1, final__interpolate=False)
    assert asked == Select(score="accuracy", checkpoints=1, alphas=())
    assert choice(pretrained=False).alphas == ()  # there is no start worth going back to
    kinds = [step.kind for step in steps_of(strategy="full", final__calibrate=False)]
    assert kinds == ["solve", "train", "select"]


# ---------------------------------------------------------------------------------------------
# What is refused.


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train__warmup": "9 epochs", "epochs": 9}, "train.warmup = '9 epochs' in phase 2 .all stages."),
        ({"train__warmup": "90 steps", "epochs": 9}, r"train.warmup = '90 steps'.*9 epochs .90 steps"),
        ({"train__warmup": 1.0}, "train.warmup = 1.0"),
        ({"train__batchnorm": {"tap": "train"}}, "train.batchnorm: .*no stage 'tap'. Did you mean 'top'"),
        ({"train__batchnorm": {"t*": "train"}}, "train.batchnorm: 't.' is a pattern; name each stage"),
        ({"train__mixup": 0.2, "train__focal": 2.0}, "train.mixup with train.focal in phase 2"),
        ({"train__cutmix": 0.2, "phase": {"2": {"focal": 1.0}}}, "train.cutmix with train.focal"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused_naming_the_setting(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        steps_of(**({"strategy": "full"} | settings))


@pytest.mark.parametrize("warmup", ["0.6 epochs", "0.9 epochs", "3 steps"])
def test_a_warm_up_is_refused_early_only_where_no_data_could_make_it_fit(warmup: str) -> None:
    steps_of(strategy="full", epochs=1, train__warmup=warmup, items=None)
    for wrong in ("1 epoch", "2 epochs"):
        with pytest.raises(RecipeError, match=r"train\.warmup = .*the phase has 1 epochs; a shorter"):
            steps_of(strategy="full", epochs=1, train__warmup=wrong, items=None)


def test_a_warm_up_in_steps_counts_the_phases_own_batches() -> None:
    settings: dict[str, Any] = {"strategy": "full", "epochs": 1, "train__warmup": "12 steps", "items": 320}
    with pytest.raises(RecipeError, match="10 steps"):
        steps_of(**settings)
    steps_of(**settings, phase={"2": {"batch_size": 16}})


@pytest.mark.parametrize("name", ["two_phase", "Probe", "partail:2", "fulll", "gradul"])
def test_an_unknown_strategy_is_refused_with_the_nearest(name: str) -> None:
    near = r"no strategy.*Did you mean '(two-phase|probe|partial|full|gradual)'.*auto.*two-phase"
    with pytest.raises(RecipeError, match=near):
        steps_of(strategy=name)


@pytest.mark.parametrize("name", ["auto", "progressive", "first-only", "scratch"])
def test_a_parameter_that_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=f"'{name}' takes no parameter"):
        steps_of(strategy=f"{name}:2")


# ---------------------------------------------------------------------------------------------
# One's own.


@pytest.fixture
def _registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(strategies, "_STRATEGIES", dict(strategies._STRATEGIES))
    yield


@pytest.mark.usefixtures("_registry")
def test_a_strategy_of_ones_own() -> None:
    register_strategy("twice", lambda _, parameter: (Solve(name="a"), Solve(name=parameter or "b")))
    assert "twice" in strategy_names()
    names = [step.name for step in plan_steps(ask(strategy="twice:c"))]
    assert names == ["a", "c", "calibration"]
    for taken in ("twice", "probe", "a:b"):
        with pytest.raises(RecipeError, match="taken"):
            register_strategy(taken, lambda _, __: ())


@pytest.mark.usefixtures("_registry")
def test_a_strategy_of_ones_own_gets_the_options_and_may_choose_for_itself() -> None:
    def own(asked: Ask, _: str) -> tuple[Step, ...]:
        return asked.phase("a", {"top": 1e-3}, head=1e-2, epochs=2, ema=0.9), Select(checkpoints=5)

    register_strategy("own", own)
    train, choice = plan_steps(ask(strategy="own", train__clip=3.0, train__batchnorm="adaptive"))
    assert isinstance(train, Train)
    assert (train.clip, train.ema, train.adapt) == (3.0, 0.9, STAGES)
    assert choice == Select(checkpoints=5)
    assert not any(isinstance(step, Calibrate) for step in (train, choice))


@pytest.mark.usefixtures("_registry")
def test_a_strategy_of_ones_own_may_decide_by_evidence(backbone: Backbone, splits: Splits) -> None:
    asked = []

    def own(what: Ask, _: str) -> tuple[Step, ...]:
        asked.append(what.evidence)
        return what.start()

    register_strategy("blind", own)
    register_strategy("seeing", own, wants_evidence=True)
    for name in ("blind", "seeing"):
        recipe = read_recipe(strategy=name, device="cpu")
        evidence = measure(recipe, backbone, splits)
        plan = make_plan(recipe, backbone, splits, evidence)
        assert (evidence is not None) == (asked[-1] is not None) == (name == "seeing")
        assert plan.tta == "none"  # what follows from the evidence is the strategy's own to say
        assert plan.notes == ()
    assert asked[-1] == evidence


def test_adapters_move_ten_times_as_fast_as_the_body_would() -> None:
    (body,) = phases_of(strategy="partial:2")
    (phase,) = phases_of(strategy="lora:2")
    assert phase.rates.stages == {name: 10 * rate for name, rate in body.rates.stages.items()}
    assert phase.rates.head == body.rates.head  # a solved head goes on as gently as ever
    with pytest.raises(RecipeError, match="no adapters"):
        plan_steps(Ask(read_recipe(strategy="lora"), STAGES, 10, True))
