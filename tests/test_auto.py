"""The rules of auto: what follows from which evidence, and that the plan does and says it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graft
from graft.errors import TrainingError
from graft.evidence import Depth, Evidence, Mirrored, RateTrial, _probe_middle
from graft.looking import Look, Passes
from graft.rate_trial import try_rates
from graft.recipe import read_recipe
from graft.reuse.store import NOWHERE
from graft.steps import Solve, Train
from graft.strategies import Ask, Trying, notes_of, plan_steps
from graft.strategies.auto import HABITS, decide, what_to_try
from graft.training import fit
from small import make_tiny
from test_evidence import CPU, coloured

STAGES = ("stem", "middle", "top")


def evidence(
    top: float = 0.5,
    middle: float | None = 0.3,
    *,
    pretrained: float | None = None,
    known: float = 0.6,
    kept: float = 1.0,
    t: float = 0.0,
) -> Evidence:
    def depth(information: float) -> Depth:
        return Depth(stage="middle", information=information, accuracy=0.5)

    return Evidence(
        items=100,
        per_class=10,
        pretrained=depth(top if pretrained is None else pretrained),
        adapted=None if pretrained is None else depth(top),
        middle=None if middle is None else depth(middle),
        mirrored=Mirrored(known=known, kept=kept, t=t),
    )


def tried(*, pretrained: float | None = None, **trial: Any) -> Evidence:
    found = evidence(0.5, 0.5, pretrained=pretrained)
    return found.model_copy(update={"trial": RateTrial(**trial)})


def planned(found: Evidence | None, *, pretrained: bool = True, per_epoch: int = 4, **settings: Any) -> Any:
    ask = Ask(read_recipe(**settings), STAGES, per_epoch, pretrained, validates=False, evidence=found)
    return plan_steps(ask)


@pytest.mark.parametrize(
    ("top", "middle", "domain"),
    [
        (0.5, 0.3, "near"),
        (0.5, 0.5, "between"),
        (0.5, 0.7, "between"),
        (0.05, 0.0, "far"),
        (-0.3, 0.4, "far"),
    ],
)
def test_the_domain_follows_from_what_the_depths_know(top: float, middle: float, domain: Any) -> None:
    decision = decide(evidence(top, middle))
    assert decision.domain == domain
    solve, train = planned(evidence(top, middle))
    assert isinstance(solve, Solve)
    assert isinstance(train, Train)
    habit = HABITS[domain]
    rate = habit.rate * (1.18 if domain == "near" else 1.0)  # 144 steps of the 200
    assert list(train.rates.stages.values()) == pytest.approx([rate] * len(STAGES), rel=1e-2)
    assert train.rates.head == pytest.approx(3 * rate, rel=1e-2)
    assert train.augmentation == "standard"
    assert train.epochs == max(habit.fewest, min(habit.epochs, habit.steps / 4))


@pytest.mark.parametrize(
    ("domain", "per_epoch", "settings", "said"),
    [
        ("far", 4, {}, ["150 epochs, for one has 4 steps"]),
        ("far", 2, {}, ["200 epochs, for one has 2 steps"]),
        ("far", 60, {}, []),
        ("near", 4, {}, ["36 epochs, for one has 4 steps"]),
        ("near", 60, {}, []),
        ("far", 1, {}, ["200 epochs, for one has 1 step,"]),
        ("far", 4, {"epochs": 30}, []),
        ("far", 4, {"phase": {"2": {"epochs": 30}}}, []),
    ],
)
def test_many_epochs_are_explained(domain: str, per_epoch: int, settings: Any, said: list[str]) -> None:
    found = evidence(*{"far": (0.05, 0.0), "near": (0.5, 0.3)}[domain])
    ask = Ask(read_recipe(**settings), STAGES, per_epoch, True, validates=False, evidence=found)
    told = [words for words in notes_of(ask) if " epochs, " in words]
    assert len(told) == len(said)
    assert all(words.startswith(start) for words, start in zip(told, said, strict=True))


@pytest.mark.parametrize(
    ("domain", "per_epoch", "settings", "times"),
    [
        ("near", 6, {}, 1.0),
        ("near", 3, {}, (200 / 108) ** 0.5),
        ("near", 1, {}, 1.4),
        ("near", 3, {"epochs": 36}, 1.0),  # as asked: nothing is missing
        ("near", 3, {"phase": {"2": {"epochs": 200}}}, 1.0),
        ("near", 3, {"phase": {"2": {"batch_size": 8}}}, 1.0),
        ("far", 1, {}, 1.0),
    ],
)
def test_near_pictures_that_are_too_few_for_the_steps_move_faster(
    domain: str, per_epoch: int, settings: Any, times: float
) -> None:
    found = evidence(*{"far": (0.05, 0.0), "near": (0.5, 0.3)}[domain])
    train = planned(found, per_epoch=per_epoch, **settings)[-1]
    habit = HABITS[domain]  # type: ignore[index]
    assert train.rates.stages["top"] == pytest.approx(times * habit.rate)
    asked = planned(found, per_epoch=per_epoch, train__lr=1e-5, **settings)[-1]
    assert asked.rates.stages["top"] == 1e-5
    trial = {"trial": RateTrial(losses={3e-4: 0.5})}
    as_tried = planned(found.model_copy(update=trial), per_epoch=per_epoch, **settings)[-1]
    assert as_tried.rates.stages["top"] == 3e-4
    ask = Ask(read_recipe(**settings), STAGES, per_epoch, True, validates=False, evidence=found)
    assert any(f"at {times:.2g} times the rate" in words for words in notes_of(ask)) == (times > 1)


def test_far_domains_move_faster_and_longer_than_near_ones() -> None:
    near, between, far = HABITS["near"], HABITS["between"], HABITS["far"]
    assert near.rate <= between.rate < far.rate
    assert near.steps < between.steps <= far.steps
    assert near.epochs < between.epochs <= far.epochs


@pytest.mark.parametrize(
    ("mirrored", "flips"),
    [
        ({}, True),
        ({"kept": 0.5, "t": 1.0}, True),  # it may be chance
        ({"kept": 0.97, "t": 8.0}, True),  # certain, but small
        ({"kept": 0.5, "t": 8.0}, False),
        ({"known": 0.05}, False),  # nothing can be told
    ],
)
def test_pictures_are_mirrored_only_where_that_keeps_their_labels(mirrored: Any, flips: bool) -> None:
    found = evidence(**mirrored)
    assert decide(found).flips == flips
    assert planned(found)[-1].flip == flips


@pytest.mark.parametrize(
    ("pretrained", "top", "adapts"),
    [(0.2, 0.5, True), (0.55, 0.5, True), (0.7, 0.5, False), (None, 0.5, False)],
)
def test_statistics_of_the_pictures_unless_the_others_know_clearly_more(
    pretrained: float | None, top: float, adapts: bool
) -> None:
    found = evidence(top, pretrained=pretrained)
    assert decide(found).adapts == adapts
    solve, train = planned(found)
    assert solve.adapt == (STAGES if adapts else ())
    assert train.batchnorm == ("adaptive" if adapts else "frozen")


def test_a_far_domain_takes_its_own_statistics() -> None:
    assert decide(evidence(-0.2, pretrained=0.05)).adapts
    assert not decide(evidence(-0.2)).adapts


def test_what_the_recipe_sets_wins() -> None:
    train = planned(
        evidence(pretrained=0.1), train__lr=1e-5, train__flip=False, train__batchnorm="frozen", epochs=3
    )[-1]
    assert set(train.rates.stages.values()) == {1e-5}
    assert (train.flip, train.batchnorm, train.epochs) == (False, "frozen", 3)


def test_random_weights_are_trained_from_scratch_and_nothing_measured_is_near() -> None:
    assert planned(None, pretrained=False)[0].name == "from scratch"
    train = planned(None)[-1]
    assert train.flip is False
    assert train.rates.stages["top"] == pytest.approx(HABITS["near"].rate, rel=0.2)


def test_small_data_trains_on_all_labels_and_the_plan_gives_its_reasons() -> None:
    backbone = make_tiny()
    recipe = read_recipe(strategy="auto", device="cpu", backbone="tiny/net")
    splits = coloured(12)
    found = graft.measure(recipe, backbone, splits)
    plan = graft.make_plan(recipe, backbone, splits, found)
    assert [phase.kind for phase in plan.phases] == ["solve", "phase"]
    assert plan.tta == ("flip+zoom" if decide(found).flips else "zoom")
    text = " ".join(plan.notes)
    for words in (
        "Batch-norm statistics",
        ": a probe on the features knows",
        "mirrored",
        "All labels train",
    ):
        assert words in text


def test_auto_is_the_default() -> None:
    assert read_recipe().strategy == "auto"


@pytest.mark.parametrize(
    ("top", "middle", "per_class", "settings", "tries"),
    [
        (0.5, 0.5, 40.0, {}, Trying((3e-4, 1e-3))),
        (0.9, 0.9, 40.0, {}, Trying((3e-4, 1e-3), compares=True)),
        (0.9, 0.9, 40.0, {"validates": True}, Trying((3e-4, 1e-3))),  # the choice will compare
        (0.9, 0.9, 40.0, {"head_init": "random"}, Trying((3e-4, 1e-3))),
        (0.5, 0.5, 10.0, {}, None),  # too few labels
        (0.9, 0.5, 40.0, {}, Trying((3e-4,), compares=True)),
        (0.9, 0.5, 40.0, {"validates": True}, None),
        (0.9, 0.5, 40.0, {"head": "mlp"}, None),
        (0.58, 0.5, 40.0, {}, None),  # near, but there is much to learn
        (0.05, 0.5, 40.0, {}, None),  # far
        (0.9, None, 40.0, {}, Trying((3e-4, 1e-3), compares=True)),  # nothing to compare the top with
    ],
)
def test_rates_are_tried_only_where_features_cannot_decide_and_labels_can(
    top: float, middle: float | None, per_class: float, settings: dict[str, Any], tries: Trying | None
) -> None:
    found = evidence(top, middle).model_copy(update={"per_class": per_class})
    settings = dict(settings)
    validates = settings.pop("validates", False)
    ask = Ask(read_recipe(**settings), STAGES, 4, True, validates=validates, evidence=found)
    assert what_to_try(ask) == tries


def test_the_rate_with_the_lower_loss_is_taken_and_said() -> None:
    found = tried(losses={3e-4: 1.5, 1e-3: 0.7})
    assert set(planned(found)[-1].rates.stages.values()) == {1e-3}
    assert any("1.5 at 0.0003, 0.7 at 0.001" in words for _, words in decide(found).reasons)


@pytest.mark.parametrize(
    ("trial", "moves"),
    [
        ({"losses": {2e-4: 0.5}, "solved": 0.9, "trained": 0.85, "error": 0.02}, False),
        ({"losses": {2e-4: 0.5}, "solved": 0.9, "trained": 0.85, "error": 0.06}, True),  # it may be chance
        ({"losses": {2e-4: 0.5}, "solved": 0.85, "trained": 0.9, "error": 0.02}, True),
        ({"losses": {2e-4: 0.5}}, True),  # no head was solved
        ({"losses": {}}, False),  # it diverged
    ],
)
@pytest.mark.parametrize("pretrained", [0.1, 0.9])
def test_the_body_rests_where_a_trial_lost_accuracy(trial: Any, moves: bool, pretrained: float) -> None:
    found = tried(pretrained=pretrained, **trial)
    steps = planned(found)
    assert [isinstance(step, Train) for step in steps] == [False, True][: 1 + moves]
    assert steps[0].adapt == (STAGES if decide(found).adapts else ())
    assert any("body stays frozen" in words for _, words in decide(found).reasons) == (not moves)
    assert planned(found, train__batchnorm="frozen")[0].adapt == ()


def test_a_random_head_trains_whatever_a_trial_showed() -> None:
    found = tried(losses={2e-4: 0.5}, solved=0.9, trained=0.5, error=0.01)
    assert isinstance(planned(found, head="mlp")[-1], Train)


def test_trying_rates_trains_on_four_fifths_and_measures_on_the_rest() -> None:
    """A rate of nothing leaves the start; a good one learns; one that destroys is worse, or left out."""
    backbone, splits = make_tiny(), coloured(40)
    recipe = read_recipe(device="cpu", backbone="tiny/net", train__precision="fp32", head_init="random")
    told: list[tuple[int, int]] = []
    trial = try_rates(
        recipe,
        backbone,
        splits,
        evidence(0.5, 0.5),
        Trying((1e-12, 1e-2, 1e6)),
        progress=lambda *done: told.append(done),
    )
    assert told == sorted(told)
    assert told[0] == (1, 450)
    assert told[-1][0] > 300
    losses = trial.losses
    assert trial.best == 1e-2
    assert trial.solved is None  # the head started random
    assert losses[1e-2] < losses[1e-12]
    assert losses.get(1e6, 1e9) > losses[1e-2]


def test_a_trial_compares_with_the_head_solved_on_the_same_labels() -> None:
    """A rate of nothing leaves the solved head as it was, one that destroys is worse."""
    backbone, splits = make_tiny(), coloured(40)
    recipe = read_recipe(device="cpu", backbone="tiny/net", train__precision="fp32", train__head_lr=1e-12)
    rests = try_rates(recipe, backbone, splits, evidence(0.5, 0.5), Trying((1e-12,), compares=True))
    assert rests.solved == rests.trained
    assert not rests.spoils
    recipe = read_recipe(device="cpu", backbone="tiny/net", train__precision="fp32")
    spoilt = try_rates(recipe, backbone, splits, evidence(0.5, 0.5), Trying((1e4,), compares=True))
    assert spoilt.best is None or (spoilt.trained is not None and spoilt.trained < 1)
    assert spoilt.spoils


def test_a_trial_is_short_on_any_amount_of_data_and_under_any_recipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the recipe says of single phases and of a long warm-up is not for a trial."""
    monkeypatch.setattr("graft.rate_trial.TRIAL_STEPS", 3)
    seen: list[int] = []

    def count(backbone: Any, splits: Any, plan: Any, **_: Any) -> Any:
        seen.append(sum(phase.steps for phase in plan.phases if phase.kind == "phase"))
        return fit(backbone, splits, plan)

    monkeypatch.setattr("graft.rate_trial.fit", count)
    recipe = read_recipe(
        device="cpu",
        backbone="tiny/net",
        train__precision="fp32",
        train__batch_size=4,
        train__warmup="5 epochs",
        epochs=40,
        settings=["phase.2.epochs=30"],
    )
    try_rates(recipe, make_tiny(), coloured(40), evidence(0.5, 0.5), Trying((1e-3,)))
    assert seen and max(seen) <= 3


def plan_of(**settings: Any) -> Any:
    recipe = read_recipe(strategy="auto", device="cpu", backbone="tiny/net", **settings)
    return graft.make_plan(recipe, make_tiny(), coloured(12), evidence(pretrained=0.2))


def test_whoever_forbids_mirroring_gets_no_mirrored_prediction() -> None:
    assert plan_of().tta == "flip+zoom"
    assert plan_of(train__flip=False).tta == "zoom"
    assert plan_of(final__tta="none").tta == "none"


def test_reasons_are_given_only_for_what_auto_decided() -> None:
    def notes(**settings: Any) -> str:
        return " ".join(plan_of(**settings).notes)

    for words, setting in (
        ("Batch-norm statistics", {"train__batchnorm": "frozen"}),
        ("so the body moves", {"train__lr": 1e-5}),
        ("so the body moves", {"train__rates": {"*": 1e-5}}),
        ("mirrored", {"train__flip": False}),
        ("mirrored", {"train__augmentation": "none"}),
    ):
        assert words in notes()
        assert words not in notes(**setting)


def test_a_random_head_alone_sees_what_auto_decided() -> None:
    found = evidence(kept=0.5, t=8.0, top=0.5, middle=0.5)
    alone, whole = planned(found, head="mlp")
    assert (alone.flip, alone.augmentation) == (whole.flip, whole.augmentation) == (False, "standard")


def test_a_phase_of_a_body_that_rests_is_of_no_effect_and_said() -> None:
    recipe = read_recipe(
        strategy="auto", device="cpu", backbone="tiny/net", settings=["phase.2.augmentation=none"]
    )
    rests = tried(losses={2e-4: 0.5}, solved=0.9, trained=0.5, error=0.01)
    plan = graft.make_plan(recipe, make_tiny(), coloured(12), rests)
    assert [phase.kind for phase in plan.phases] == ["solve"]
    assert "phase.2.augmentation" in " ".join(plan.notes)


def test_a_network_that_gives_nonsense_is_refused_in_words() -> None:
    backbone = make_tiny()
    next(backbone.trunk.parameters()).data.fill_(float("nan"))
    recipe = read_recipe(strategy="auto", device="cpu", backbone="tiny/net")
    with pytest.raises(TrainingError, match="not finite"):
        graft.measure(recipe, backbone, coloured(12))


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_the_middle_is_never_the_top(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    items = coloured(12)
    look = Look(make_tiny().trunk, make_tiny(), items.train, items.task, CPU, 0, NOWHERE, Passes(0, None))
    look.__dict__["states"] = [torch.randn(12, 3) for _ in range(count)]
    seen: list[int] = []
    monkeypatch.setattr("graft.evidence.probe_depth", lambda _, place: seen.append(place))
    _probe_middle(look)
    assert seen == ([] if count == 1 else [count // 2 if count > 2 else 0])
