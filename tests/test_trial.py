"""What a plan will take: measured on a copy, so that nothing of the run itself is touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graft.backbones.contract import Backbone
from graft.data.items import Splits
from graft.plan import Plan, make_plan
from graft.recipe import read_recipe
from graft.trial import Cost, measure_costs
from small import make_tiny


def plan_for(backbone: Backbone, splits: Splits, **settings: Any) -> Plan:
    base = {"device": "cpu", "train__precision": "fp32", "train__batch_size": 8, "strategy": "two-phase"}
    return make_plan(read_recipe(**(base | settings)), backbone, splits)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"strategy": "probe"},
        {"strategy": "gradual:1", "epochs": 2, "train__ema": 0.9, "train__l2sp": 0.1},
        {"strategy": "progressive", "train__mixup": 0.2, "train__batchnorm": "adaptive"},
        {"strategy": "full", "head_init": "random", "train__batch_size": 64, "train__accumulate": 3},
    ],
    ids=str,
)
def test_every_phase_has_a_cost(splits: Splits, settings: dict[str, Any]) -> None:
    backbone = make_tiny()
    plan = plan_for(backbone, splits, **settings)
    costs = measure_costs(backbone, splits, plan)
    assert list(costs) == list(range(1, len(plan.phases) + 1))
    for number, cost in costs.items():
        assert cost.seconds > 0
        assert cost.bytes >= 4 * plan.parameters
        assert (cost.steps > 0) == (plan.phases[number - 1].kind == "phase")


def test_backbone_data_and_random_numbers_are_left_alone(splits: Splits) -> None:
    backbone = make_tiny()
    before = {name: value.clone() for name, value in backbone.trunk.state_dict().items()}
    modes = [module.training for module in backbone.trunk.modules()]
    gradients = [parameter.requires_grad for parameter in backbone.trunk.parameters()]
    fingerprint, plan = splits.fingerprint, plan_for(backbone, splits, train__batchnorm="train")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    measure_costs(backbone, splits, plan)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[name], value) for name, value in backbone.trunk.state_dict().items())
    assert [module.training for module in backbone.trunk.modules()] == modes
    assert [parameter.requires_grad for parameter in backbone.trunk.parameters()] == gradients
    assert splits.fingerprint == fingerprint
    assert plan_for(backbone, splits, train__batchnorm="train") == plan


def test_longer_phases_take_longer_and_larger_batches_more_memory(splits: Splits) -> None:
    backbone = make_tiny()

    def cost(**settings: Any) -> Cost:
        plan = plan_for(backbone, splits, strategy="full", head_init="random", **settings)
        return measure_costs(backbone, splits, plan)[1]

    assert cost(epochs=40).seconds > 3 * cost(epochs=4).seconds
    assert cost(train__batch_size=24).bytes > 1.5 * cost(train__batch_size=2).bytes
    assert cost(train__optimizer="adamw").bytes > cost(train__optimizer="sgd").bytes


def test_a_phase_is_not_charged_with_the_average_of_the_one_before(splits: Splits) -> None:
    backbone = make_tiny()
    sizes = []
    for ema in (0.0, 0.9):
        plan = plan_for(backbone, splits, head_init="random", phase={"1": {"ema": ema}})
        costs = measure_costs(backbone, splits, plan)
        sizes.append((costs[1].bytes, costs[2].bytes))
    assert sizes[1][0] > sizes[0][0]
    assert sizes[1][1] == sizes[0][1]
