"""What a plan will take: measured on a copy, so that nothing of the run itself is touched."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graft import costs as module
from graft.backbones import from_module
from graft.backbones.contract import Backbone
from graft.costs import Cost, Reading, measure_costs
from graft.data import read_splits
from graft.data.content import read_picture
from graft.data.image import Decoded
from graft.data.items import Splits
from graft.data.pixels import pixel_store
from graft.data.threads import thread_count
from graft.inference import count_views, views_of
from graft.plan import Phase, Plan, make_plan
from graft.recipe import DataSettings, read_recipe
from graft.reuse.store import LIMIT
from graft.state import State
from small import TINY, TinyNet, make_tiny


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


SLOW = 0.1


class Slow(nn.Module):
    """A frozen stage that takes its time, whatever it is given."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        time.sleep(SLOW)
        return pictures


def slow_below() -> Backbone:
    network = TinyNet()
    network.stem.append(Slow())
    return from_module(network, preprocess=TINY, pretrained=True)


def test_a_phase_that_reuses_is_charged_with_what_is_frozen_once_for_each_view(splits: Splits) -> None:
    backbone = slow_below()

    def seconds(**settings: Any) -> float:
        plan = plan_for(backbone, splits, strategy="partial:1", epochs=20, head_init="random", **settings)
        number = next(i for i, phase in enumerate(plan.phases, start=1) if phase.kind == "phase")
        return measure_costs(backbone, splits, plan)[number].seconds

    one, ten = seconds(reuse__views=1), seconds(reuse__views=10)
    assert one > (3 + 1) * SLOW  # three batches to train on, and one to validate with
    assert ten - one > 0.7 * 9 * 3 * SLOW
    assert seconds(reuse__store=False) - ten > 0.7 * 10 * 3 * SLOW


def test_phases_that_thaw_one_after_the_other_are_charged_with_one_pass(splits: Splits) -> None:
    backbone = slow_below()
    settings = {"strategy": "gradual:1", "head_init": "random", "epochs": 2}

    def seconds(limit: int = LIMIT, **more: Any) -> list[float]:
        plan = plan_for(backbone, splits, **settings | more)
        return [cost.seconds for cost in measure_costs(backbone, splits, plan, limit=limit).values()]

    first, *others = seconds(reuse__views=1)[:3]
    assert first > (3 + 1) * SLOW  # three batches to train on, and one to validate with
    assert len(others) == 2 and max(others) < SLOW
    first, *others = seconds(reuse__views=20)[:3]
    assert min(others) > 3 * SLOW, "they see other views"
    assert min(seconds(reuse__views=1, limit=1)[:3]) > 3 * SLOW, "there is no room for theirs"
    assert min(seconds(reuse__views=1, phase={"2": {"batch_size": 4}})[:2]) > 3 * SLOW


def test_states_are_charged_again_where_what_lies_below_has_moved(splits: Splits) -> None:
    backbone = slow_below()
    plan = plan_for(backbone, splits, strategy="gradual:1", head_init="random", epochs=2, reuse__views=1)
    head, top, *_ = (phase for phase in plan.phases if isinstance(phase, Phase))
    again = plan.model_copy(update={"phases": (head, top, head)})
    costs = [cost.seconds for cost in measure_costs(backbone, splits, again).values()]
    assert costs[1] < SLOW
    assert costs[2] > 3 * SLOW


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> float:
    """Decoding takes at least so many seconds a picture, where it is measured."""
    seconds = 0.05

    def decode(*given: Any, **how: Any) -> Decoded:
        time.sleep(seconds)
        return read_picture(*given, **how)

    monkeypatch.setattr(module, "read_picture", decode)
    return seconds


def test_what_stays_in_memory_is_decoded_once_and_else_in_every_epoch(
    photos: Path, slowly: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, splits, epochs = make_tiny(), read_splits(photos, DataSettings(), seed=0), 20

    def seconds(**settings: Any) -> float:
        plan = plan_for(backbone, splits, strategy="full", head_init="random", epochs=epochs, **settings)
        costs = measure_costs(backbone, splits, plan)
        return sum(cost.seconds for cost in costs.values())

    once, in_turn = 30 * slowly / thread_count(), 30 * epochs * slowly
    every = epochs * once
    assert once < seconds() < every / 3
    assert seconds(train__workers=1) > in_turn
    monkeypatch.setattr(pixel_store, "limit", 30 * 3 * 8 * 8 - 1)
    assert seconds() > every


def test_decoding_is_measured_though_the_pictures_are_in_memory(photos: Path, slowly: float) -> None:
    backbone, splits = make_tiny(), read_splits(photos, DataSettings(), seed=0)
    run = State(backbone, splits, plan_for(backbone, splits), None)
    for item in range(len(splits.train)):
        run.inputs(splits.train)[item]
    assert pixel_store.held > 0
    reading = Reading.measured(run)
    assert reading.stays
    assert reading.decode >= slowly / thread_count()


def test_arrays_are_made_pictures_of_in_every_epoch(splits: Splits) -> None:
    backbone = make_tiny()
    reading = Reading.measured(State(backbone, splits, plan_for(backbone, splits), None))
    assert not reading.stays
    assert reading.seconds("train", 24, 10) == pytest.approx(10 * reading.seconds("train", 24, 1))


def test_statistics_are_adapted_once(splits: Splits) -> None:
    backbone = slow_below()
    plan = plan_for(backbone, splits, train__batchnorm="adaptive")
    course = module._Course(run := State(backbone, splits, plan, None), Reading.measured(run))
    assert course._adaptation(("stem", "top")) > 0
    assert course._adaptation(("top",)) == 0


@pytest.mark.parametrize("tta", ["none", "flip", "zoom", "flip+zoom"])
def test_views_are_counted_as_they_are_made(tta: str) -> None:
    assert count_views(tta) == len(views_of(torch.zeros(1, 1, 8, 8), tta))
