"""A plan says exactly what will happen: nothing is forgotten, nothing happens twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.backbones import from_module, load_backbone
from graft.backbones.contract import Backbone
from graft.data import read_splits
from graft.data.items import Splits
from graft.errors import DataError, RecipeError
from graft.model import make_model
from graft.plan import Phase, Plan, check, describe_network, make_plan, needs_validation
from graft.recipe import DataSettings, read_recipe
from graft.steps import Solve
from small import COLOURS, launched, make_pictures, make_tiny

STRATEGIES = [
    *(
        "probe",
        "probe:steps",
        "partial:1",
        "partial:3",
        "full",
        "two-phase",
        "gradual:1+stem",
        "progressive",
    ),
    *("middle", "first-only", "stages:stem,top", "layer-decay", "scratch", "auto"),
]
TINY = {name: make_tiny(pretrained=name == "pretrained") for name in ("pretrained", "random")}
# A transformer, its random weights taken for pretrained ones.
VIT = load_backbone("timm/test_vit:none", size=32)
VIT = replace(VIT, source=replace(VIT.source, weights="own"))


def small_splits(each: int = 2) -> Splits:
    labels = [label for label in COLOURS for _ in range(each)]
    pictures = [picture for label in COLOURS for picture in make_pictures(label, each, seed=0)]
    return read_splits((pictures, labels), DataSettings(validation=0.0))


SPLITS = small_splits()


def plan_for(backbone: Backbone, splits: Splits = SPLITS, **settings: Any) -> Plan:
    return make_plan(read_recipe(device="cpu", **settings), backbone, splits)


def phases_of(plan: Plan) -> list[Phase]:
    return [phase for phase in plan.phases if isinstance(phase, Phase)]


def backbone_for(strategy: str) -> Backbone:
    return TINY["random" if strategy == "scratch" else "pretrained"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("head", "network"), [("linear", "tiny"), ("mlp", "tiny"), ("linear", "vit")])
def test_groups_hold_what_trains_exactly_once_and_nothing_else(
    strategy: str, head: str, network: str
) -> None:
    backbone = backbone_for(strategy)
    if network == "vit":
        strategy = strategy.replace("stem,top", "stem,blocks.5")
        weights = "none" if strategy == "scratch" else "own"
        backbone = replace(VIT, source=replace(VIT.source, weights=weights))
    plan = plan_for(backbone, strategy=strategy, head=head)
    model = make_model(backbone, plan.make_head(), seed=0)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    for phase in phases_of(plan):
        names = [name for group in phase.groups for name in group.parameters]
        stages = {stage.name: stage.parameters for stage in backbone.stages}
        expected = {f"trunk.{name}" for stage in phase.train.stages for name in stages[stage]}
        expected |= {name for name in sizes if name.startswith("head.")}
        assert len(names) == len(set(names))
        assert set(names) == expected
        assert set(phase.frozen) | set(phase.train.stages) == set(stages)
        assert not set(phase.frozen) & set(phase.train.stages)
        assert sum(group.count for group in phase.groups) == sum(sizes[name] for name in expected)
        settings = [(group.rate, group.weight_decay) for group in phase.groups]
        assert len(settings) == len(set(settings))
        rates = {name: group.rate for group in phase.groups for name in group.parameters}
        for stage, rate in phase.train.rates.stages.items():
            assert {rates[f"trunk.{name}"] for name in stages[stage]} == {rate}
        heads = {rate for name, rate in rates.items() if name.startswith("head.")}
        assert heads == {phase.train.rates.head}


@pytest.mark.parametrize("strategy", ["full", "scratch", "two-phase"])
def test_biases_and_norms_do_not_decay_and_all_weights_do(strategy: str) -> None:
    backbone = backbone_for(strategy)
    plan = plan_for(backbone, strategy=strategy, train__weight_decay=0.1)
    model = make_model(backbone, plan.make_head(), seed=0)
    dimensions = {name: parameter.dim() for name, parameter in model.named_parameters()}
    for group in phases_of(plan)[-1].groups:
        for name in group.parameters:  # in the tiny network: weights have dimensions, norms have one
            assert group.weight_decay == (0.1 if dimensions[name] > 1 else 0.0), name


def test_norms_of_a_transformer_do_not_decay() -> None:
    (phase,) = phases_of(plan_for(VIT, strategy="full", train__weight_decay=0.1))
    decaying = {name for group in phase.groups if group.weight_decay for name in group.parameters}
    assert "trunk.blocks.0.attn.qkv.weight" in decaying
    assert not [name for name in decaying if "norm" in name or name.endswith("bias")]


def test_under_l2sp_only_the_head_decays_to_zero() -> None:
    (phase,) = phases_of(plan_for(TINY["pretrained"], strategy="full", train__l2sp=0.1))
    decaying = {name for group in phase.groups if group.weight_decay for name in group.parameters}
    assert decaying
    assert all(name.startswith("head.") for name in decaying)


def test_a_phase_with_batches_of_its_own_has_steps_of_its_own() -> None:
    """18 items: three batches of 6 an epoch, and nine of 2 in the second phase."""
    plan = plan_for(
        TINY["pretrained"],
        small_splits(6),
        strategy="progressive",
        train__batch_size=6,
        train__warmup="1 epoch",
        phase={"2": {"batch_size": 2}},
    )
    assert [phase.steps_per_epoch for phase in phases_of(plan)] == [3, 9, 3]
    assert [phase.warmup_steps for phase in phases_of(plan)] == [3, 9, 3]
    assert [phase.steps for phase in phases_of(plan)] == [15, 45, 30]


def test_rates_rise_geometrically_from_the_lowest_stage_to_the_top() -> None:
    (phase,) = phases_of(plan_for(TINY["pretrained"], strategy="full", train__lowest_lr=1e-6))
    rates = {stage: group.rate for group in phase.groups for stage in group.stages}
    bottom, middle, top = (rates[stage] for stage in TINY["pretrained"].stage_names)
    assert (bottom, top, rates["head"]) == (pytest.approx(1e-6), 1e-4, pytest.approx(3e-4))
    assert middle**2 == pytest.approx(bottom * top)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_parameters_that_are_never_used_never_train(optimizer: str) -> None:
    backbone = make_tiny()
    unused = backbone.stages[0].parameters[0]
    plan = plan_for(replace(backbone, unused=(unused,)), strategy="full", train__optimizer=optimizer)
    (phase,) = phases_of(plan)
    assert f"trunk.{unused}" not in [name for group in phase.groups for name in group.parameters]
    assert any("never used" in note for note in plan.notes)


@given(
    epochs=st.integers(1, 60),
    batch_size=st.integers(1, 40),
    warmup=st.floats(0, 0.999999),
    items=st.integers(1, 4),
)
def test_a_warm_up_never_swallows_a_phase(epochs: int, batch_size: int, warmup: float, items: int) -> None:
    settings = {"train__batch_size": batch_size, "train__warmup": warmup}
    plan = plan_for(TINY["pretrained"], small_splits(items), epochs=epochs, strategy="full", **settings)
    (phase,) = phases_of(plan)
    assert phase.steps == epochs * phase.steps_per_epoch >= 1
    assert 0 <= phase.warmup_steps < phase.steps
    assert phase.warmup_steps <= warmup * phase.steps + 0.5


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_plan_survives_being_written_down(strategy: str, head: str) -> None:
    plan = plan_for(backbone_for(strategy), strategy=strategy, head=head, train__lr=1 / 3e5)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert plan_for(backbone_for(strategy), strategy=strategy, head=head, train__lr=1 / 3e5) == plan


def test_a_head_with_a_dropout_for_each_layer_survives_being_written_down() -> None:
    plan = plan_for(make_tiny(), strategy="full", head="mlp", head_dropout=[0.1, 0.6])
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.make_head().dropout == (0.1, 0.6)
    dropouts = [m for m in again.make_head().build(seed=0).modules() if isinstance(m, torch.nn.Dropout)]
    assert [dropout.p for dropout in dropouts] == [0.1, 0.6]
    with pytest.raises(RecipeError, match=r"head_dropout has two shares.*linear head has one layer"):
        plan_for(make_tiny(), strategy="full", head_dropout=[0.1, 0.6])


def test_a_plan_with_unknown_or_missing_keys_is_refused() -> None:
    text = plan_for(TINY["pretrained"]).to_json()
    for damaged in (text.replace('"seed"', '"sead"'), text.replace('"kind": "solve"', '"kind": "x"'), "{}"):
        with pytest.raises(ValueError, match="validation error"):
            Plan.from_json(damaged)


def test_the_plan_knows_its_size_data_and_labels() -> None:
    for head in ("linear", "mlp"):
        backbone = TINY["pretrained"]
        plan = plan_for(backbone, head=head)
        model = make_model(backbone, plan.make_head(), seed=0)
        assert plan.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert plan.labels == ("blue", "green", "red")
        assert (plan.data.train, plan.data.val, plan.data.test) == (6, 0, 0)
        assert plan.data.fingerprint == SPLITS.fingerprint
        assert plan.network == describe_network(backbone)
    assert describe_network(make_tiny()) == plan.network
    assert describe_network(TINY["random"])["sha256"] == plan.network["sha256"]  # of one seed
    with torch.no_grad():
        changed = make_tiny()
        changed.trunk.stem[0].weight[0, 0, 0, 0] += 1e-6
    assert describe_network(changed) != plan.network


@pytest.mark.parametrize(
    ("settings", "pretrained", "words"),
    [
        ({"strategy": "two_phase"}, True, "Did you mean 'two-phase'"),
        ({"strategy": "partial:9"}, True, "from 1 to 3"),
        ({"device": "gpu"}, True, "device 'gpu' is not auto"),
        ({"device": "meta"}, True, "device 'meta' is not auto"),
        ({"device": "cuda:99"}, True, "device 'cuda:99'"),
        ({"train__accumulate": 9, "train__batch_size": 8}, True, "cannot be cut into 9 parts"),
        (
            {"phase": {"2": {"accumulate": 9, "batch_size": 8}}, "strategy": "full"},
            True,
            "cannot be cut into 9 parts .*in phase 'all stages'",
        ),
        (
            {"strategy": "stages:layer9"},
            True,
            "stages: this backbone has no stage 'layer9'.*stem, middle, top",
        ),
        ({"train__batchnorm": {"layer1": "train"}}, True, "train.batchnorm: .*no stage 'layer1'"),
        ({"strategy": "stages:"}, True, "the strategy probe"),
        ({"strategy": "gradual", "thaw": {}}, True, "thaw: the table thaws nothing"),
        ({"strategy": "gradual", "thaw": {"1": []}}, True, "thaw.1 .*nothing thaws"),
        ({"strategy": "full:0"}, True, "full:0: a number above zero"),
        (
            {"strategy": "full", "train__rates": {"t*": 1.0, "top": 1.0, "*": 1.0}},
            True,
            "train.rates: .*overlap",
        ),
        (
            {"strategy": "full", "train__rates": {"top": 1.0}},
            True,
            "train.rates: .*'stem'.*no entry covers",
        ),
        (
            {"strategy": "full", "epochs": 3, "train__warmup": "3 epochs"},
            True,
            "train.warmup = '3 epochs' .*3 epochs",
        ),
        (
            {"strategy": "full", "train__mixup": 0.2, "train__focal": 1.0},
            True,
            "train.mixup with train.focal",
        ),
        ({"strategy": "full", "train__drop_path": 0.1}, True, "train.drop_path: .*no stochastic depth"),
        ({"strategy": "full", "phase": {"7": {"ema": 0.5}}}, True, "phase.7: .*it has: 2"),
        ({"data__size": 32}, True, "data.size = 32, but the backbone was loaded for 8 x 8"),
        ({"strategy": "scratch"}, True, "scratch wants random weights"),
        ({"head_init": "solved", "head": "mlp"}, True, "only a linear head"),
        ({"head_init": "solved"}, False, "with random weights no head"),
        ({"data__channels": 1}, True, "loaded for 3 channels"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_done_is_refused_before_data_is_read(
    settings: dict[str, Any], pretrained: bool, words: str
) -> None:
    recipe = read_recipe(**({"device": "cpu"} | settings))
    with pytest.raises(RecipeError, match=words):
        check(recipe, TINY["pretrained" if pretrained else "random"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_can_be_done_is_not_refused(strategy: str) -> None:
    check(read_recipe(device="cpu", strategy=strategy, train__accumulate=32), backbone_for(strategy))


def test_processes_cut_a_batch_like_accumulation_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in launched(0, 4).items():
        monkeypatch.setenv(name, value)
    recipe = read_recipe(device="cpu", train__batch_size=8, train__accumulate=3)
    with pytest.raises(RecipeError, match=r"into 12 parts .*4 processes"):
        check(recipe, TINY["pretrained"])
    with pytest.raises(DataError, match="3 training items are too few for 4 processes"):
        plan_for(TINY["pretrained"], small_splits(1))


def test_which_runs_need_validation_data() -> None:
    needs = {
        strategy: needs_validation(read_recipe(strategy=strategy), backbone_for(strategy))
        for strategy in STRATEGIES
    }
    assert needs == dict.fromkeys(STRATEGIES, True) | {"probe": False}
    assert not needs_validation(read_recipe(strategy="probe"), VIT)
    assert needs_validation(read_recipe(strategy="probe", head="mlp"), TINY["pretrained"])


@pytest.mark.parametrize(
    ("settings", "pretrained", "words"),
    [
        ({"head": "mlp"}, True, "not linear"),
        ({}, False, "random weights"),
        ({"strategy": "full"}, True, "no validation data"),
        ({"strategy": "gradual", "epochs": 2}, True, "2 epochs thaw 1 of 2 stages; 4 would thaw all."),
    ],
)
def test_notes_tell_what_a_person_may_not_expect(
    settings: dict[str, Any], pretrained: bool, words: str
) -> None:
    plan = plan_for(TINY["pretrained" if pretrained else "random"], **settings)
    assert any(words in note for note in plan.notes)


def test_a_plan_without_surprises_has_no_notes(splits: Splits) -> None:
    assert plan_for(TINY["pretrained"], splits, strategy="two-phase").notes == ()
    probe = plan_for(TINY["pretrained"], strategy="probe")
    assert probe.notes == ()
    assert [type(phase) for phase in probe.phases] == [Solve]


def test_settings_that_a_solved_probe_never_looks_at_are_named(backbone: Backbone, splits: Splits) -> None:
    recipe = read_recipe(
        strategy="probe",
        device="cpu",
        epochs=3,
        train__batch_size=8,
        data__validation=0.3,
        train__workers=0,
    )
    notes = make_plan(recipe, backbone, splits).notes
    assert notes == ("Set, but of no effect here: data.validation, epochs, train.batch_size.",)


@pytest.mark.parametrize("word", ["adaptive", "train"])
def test_statistics_of_a_network_without_batch_norm_cannot_move(word: str) -> None:
    network = torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()),
        torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
        torch.nn.Linear(8, 2),
    )
    backbone = from_module(network, preprocess=make_tiny().preprocess)
    with pytest.raises(RecipeError, match="has no batch-norm"):
        check(read_recipe(device="cpu", strategy="full", train__batchnorm=word), backbone)


def test_what_has_no_effect_is_said() -> None:
    settings = {"final__checkpoints": 5, "train__drop_epochs": 3, "head_hidden": 9}
    splits = replace(small_splits(4), val=None)
    (note,) = (
        note
        for note in plan_for(TINY["pretrained"], splits, strategy="full", **settings).notes
        if "no effect" in note
    )
    for name in ("final.checkpoints", "train.drop_epochs", "head_hidden"):
        assert name in note


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strategy": "full", "train__rates": {"*": 1e-4, "stem": 1e-5}}, "overlap"),
        ({"strategy": "partial:1", "train__rates": {"top": 1e-4, "stem": 1e-5}}, "'stem' never trains"),
        ({"strategy": "partial:1", "train__batchnorm": {"stem": "train"}}, "'stem' never trains"),
        ({"strategy": "full:1e-4", "train__lr": 1e-3}, "train.lr both say the rates"),
        ({"strategy": "full:1e-4", "train__rates": {"*": 1e-5}}, "train.rates both say the rates"),
        ({"strategy": "full:1e-4", "train__layer_decay": 0.5}, "train.layer_decay both say the rates"),
        ({"strategy": "layer-decay:0.8", "train__layer_decay": 0.5}, "train.layer_decay both say"),
        ({"strategy": "layer-decay:0.8", "train__lowest_lr": 1e-7}, "train.lowest_lr both say"),
        ({"strategy": "gradual:2+stem", "epochs": 4}, "too few to thaw"),
        ({"train__mixup": 0.2, "train__batch_size": 1}, "one picture of a batch"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        check(read_recipe(device="cpu", **settings), TINY["pretrained"])


def test_the_rate_of_a_head_that_trains_alone_is_trains_lr() -> None:
    (phase,) = phases_of(plan_for(TINY["pretrained"], strategy="probe:steps", train__lr=0.02))
    assert phase.train.rates.head == 0.02


@pytest.mark.parametrize(
    ("settings", "idle"),
    [
        ({"strategy": "partial:1", "train__lowest_lr": 1e-6}, "train.lowest_lr"),
        ({"strategy": "probe:steps", "train__layer_decay": 0.5}, "train.layer_decay"),
        ({"strategy": "full", "settings": ["phase.2.drop_epochs=3"]}, "phase.2.drop_epochs"),
        ({"strategy": "full", "epochs": 5, "settings": ["phase.2.epochs=1"]}, "epochs"),
        ({"strategy": "full", "train__flip": False, "train__augmentation": "none"}, "train.flip"),
    ],
)
def test_options_that_no_phase_has_a_use_for_are_named(settings: dict[str, Any], idle: str) -> None:
    assert f"Set, but of no effect here: {idle}." in plan_for(TINY["pretrained"], **settings).notes


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "partial:2", "train__lowest_lr": 1e-6},
        {"strategy": "full", "train__schedule": "step", "train__drop_epochs": 3},
        {"strategy": "full", "settings": ["phase.2.schedule=step", "phase.2.drop_epochs=3"]},
        {"strategy": "full", "epochs": 5},
        {"strategy": "full", "train__flip": False},
    ],
)
def test_options_of_use_are_not_named(settings: dict[str, Any]) -> None:
    assert "no effect" not in " ".join(plan_for(TINY["pretrained"], **settings).notes)


def test_a_pull_toward_random_weights_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"train\.l2sp"):
        check(read_recipe(device="cpu", strategy="scratch", train__l2sp=0.1), TINY["random"])


def test_a_probe_by_steps_starts_from_a_solved_head_where_asked() -> None:
    plan = plan_for(TINY["pretrained"], strategy="probe:steps", head_init="solved")
    assert [phase.kind for phase in plan.phases] == ["solve", "phase"]


def test_stochastic_depth_of_one_phase_is_not_that_of_others() -> None:
    recipe = read_recipe(
        device="cpu",
        backbone="timm/resnet10t:none",
        strategy="two-phase",
        head_init="random",
        data__size=32,
        settings=["phase.2.drop_path=0.3"],
    )
    alone, whole = phases_of(make_plan(recipe, load_backbone(recipe), SPLITS))
    assert (alone.train.drop_path, whole.train.drop_path) == (0.0, 0.3)


def test_candidates_of_several_labels_are_compared_by_loss_whatever_was_asked() -> None:
    pictures = [picture for label in COLOURS for picture in make_pictures(label, 8, seed=0)]
    labels = [[label, "picture"] if number % 2 else [label] for label in COLOURS for number in range(8)]
    splits = read_splits((pictures, labels), DataSettings(validation=0.3))
    plan = plan_for(TINY["pretrained"], splits, strategy="full", train__select="accuracy")
    (choice,) = (phase for phase in plan.phases if phase.kind == "select")
    assert choice.score == "loss"


def test_a_column_of_texts_is_refused_for_pictures() -> None:
    recipe = read_recipe(strategy="full", device="cpu", data__text="review")
    with pytest.raises(RecipeError, match=r"data\.text: of texts alone"):
        check(recipe, make_tiny())
