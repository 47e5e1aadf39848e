"""Adaptive statistics: those of the training pictures, taken once, and frozen ever after."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graft import records
from graft.backbones.contract import Backbone
from graft.data.items import Splits
from graft.plan import make_plan
from graft.recipe import read_recipe
from graft.state import State, Trained
from graft.training import fit, fit_steps
from small import make_tiny

BASE: dict[str, Any] = {
    "device": "cpu",
    "strategy": "probe:steps",
    "epochs": 1,
    "train__precision": "fp32",
    "train__batch_size": 8,
    "train__batchnorm": "adaptive",
}


def fitted(splits: Splits, backbone: Backbone | None = None, **settings: Any) -> Trained:
    backbone = backbone or make_tiny()
    return fit(backbone, splits, make_plan(read_recipe(**(BASE | settings)), backbone, splits))


def by_hand(splits: Splits) -> dict[str, Tensor]:
    """Mean and variance that each batch-norm sees when all training pictures pass as one batch."""
    backbone = make_tiny()
    plan = make_plan(read_recipe(**BASE), backbone, splits)
    pictures = State(backbone, splits, plan, None).inputs(splits.train)
    values = torch.stack([pictures[item][0] for item in range(len(splits.train))])
    found = {}
    with torch.no_grad():
        for name in ("stem", "middle", "top"):
            conv, norm, *others = getattr(backbone.trunk, name)
            values = conv(values)
            mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3))
            found |= {f"{name}.1.running_mean": mean, f"{name}.1.running_var": variance}
            biased = values.var((0, 2, 3), unbiased=False)
            values = (values - mean[:, None, None]) / (biased + norm.eps).sqrt()[:, None, None]
            values = values * norm.weight[:, None, None] + norm.bias[:, None, None]
            for module in others:
                values = module.eval()(values)
    return found


@pytest.mark.parametrize("strategy", ["probe", "probe:steps", "partial:1"])
def test_statistics_are_those_of_the_training_pictures(splits: Splits, strategy: str) -> None:
    trained = fitted(splits, strategy=strategy)
    expected, after = by_hand(splits), trained.model.trunk.state_dict()
    for name, value in expected.items():
        assert torch.allclose(after[name], value, rtol=1e-4, atol=1e-5), name
        assert not torch.allclose(value, make_tiny().trunk.state_dict()[name], atol=1e-2), name


@pytest.mark.parametrize("stages", [("stem",), ("top", "middle"), ()])
def test_stages_of_ones_choice_are_adapted_and_all_else_is_byte_identical(
    splits: Splits, stages: tuple[str, ...]
) -> None:
    trained = fitted(splits, train__batchnorm=dict.fromkeys(stages, "adaptive"))
    before, after = make_tiny().trunk.state_dict(), trained.model.trunk.state_dict()
    for name, value in before.items():
        adapted = name.split(".")[0] in stages and ("running" in name or "tracked" in name)
        assert torch.equal(after[name], value) != adapted, name
    # Frozen: everything but the head, and what was adapted (mean, variance, counter).
    assert trained.frozen_unchanged == len(before) - 3 * len(stages)


def test_afterwards_statistics_stay_and_the_networks_settings_too(splits: Splits) -> None:
    one = fitted(splits, strategy="two-phase", head_init="random", epochs=1)
    many = fitted(splits, strategy="two-phase", head_init="random", epochs=3, train__lr=1e-2)
    for name, value in one.model.trunk.state_dict().items():
        if "running" in name or "tracked" in name:
            assert torch.equal(many.model.trunk.state_dict()[name], value), name
    for module in many.model.trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.momentum == 0.1
            assert not module.training


def test_pictures_pass_once_in_a_run_and_are_told_of(splits: Splits) -> None:
    backbone = make_tiny()
    settings = BASE | {"strategy": "gradual:1", "head_init": "random", "epochs": 2}
    found = list(fit_steps(backbone, splits, make_plan(read_recipe(**settings), backbone, splits)))
    passed = [record for record in found if isinstance(record, records.Extracted)]
    assert passed == [records.Extracted(0, 24, 24)]
    assert [type(record) for record in found[:2]] == [records.Started, records.Extracted]


def test_a_solved_head_rests_on_the_adapted_features(splits: Splits) -> None:
    plain = fitted(splits, strategy="probe", train__batchnorm="frozen").model
    adapted = fitted(splits, strategy="probe").model
    assert not torch.equal(plain.head.state_dict().popitem()[1], adapted.head.state_dict().popitem()[1])


def test_the_backbone_itself_is_left_alone(splits: Splits) -> None:
    backbone = make_tiny()
    fitted(splits, backbone)
    for name, value in make_tiny().trunk.state_dict().items():
        assert torch.equal(backbone.trunk.state_dict()[name], value), name


def test_statistics_of_a_stage_follow_the_batches_where_it_trains(splits: Splits) -> None:
    settings = {"train__batchnorm": {"top": "train"}, "strategy": "partial:2"}
    trained = fitted(replace(splits, val=None), head_init="random", **settings)
    before, after = make_tiny().trunk.state_dict(), trained.model.trunk.state_dict()
    moved = {
        name for name in before if "running_mean" in name and not torch.equal(before[name], after[name])
    }
    assert moved == {"top.1.running_mean"}  # the middle trains, but is not named
