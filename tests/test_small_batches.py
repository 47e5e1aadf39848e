"""Batches of one item: none is left over, and where batch-norm cannot take one, the plan says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from graft.backbones import from_module
from graft.backbones.contract import Backbone
from graft.data.items import Splits
from graft.errors import RecipeError
from graft.plan import make_plan
from graft.recipe import read_recipe
from graft.schedule import count_parts, cut_batches
from graft.small_batches import meets_single_items, single_valued
from graft.steps import Rates, Train
from graft.training import fit
from small import SETTINGS, TINY, make_tiny

SMALL = st.integers(1, 12)


class ToOne(nn.Module):
    """[B, 3, 8, 8] -> [B, 2]: its last batch-norm sees maps of one value."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.top = nn.Sequential(nn.Conv2d(4, 8, 8), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, 2)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.fc(self.top(self.stem(pictures)).flatten(1))


def to_one(*, pretrained: bool = True) -> Backbone:
    torch.manual_seed(0)
    return from_module(ToOne(), preprocess=TINY, pretrained=pretrained)


def plan_for(backbone: Backbone, splits: Splits, items: int, **settings: Any) -> Any:
    places = [place % len(splits.train) for place in range(0, 7 * items, 7)]
    few = replace(splits, train=splits.train.select(places), val=None)
    values = {k: v for k, v in SETTINGS.items() if k != "backbone"}
    recipe = read_recipe(**(values | {"strategy": "full", "epochs": 1, "head_init": "random"} | settings))
    return few, make_plan(recipe, backbone, few)


@given(items=st.integers(1, 60), batch=SMALL, accumulate=st.integers(1, 4), processes=st.integers(1, 3))
def test_whether_items_are_alone_is_told_from_the_batches_as_they_are_cut(
    items: int, batch: int, accumulate: int, processes: int
) -> None:
    step = Train(name="x", rates=Rates(head=1.0), epochs=1, batch_size=batch, accumulate=accumulate)
    batches = cut_batches(range(items), batch)
    if batch < accumulate * processes or min(map(len, batches)) < processes:
        return  # refused for other reasons
    sizes = []
    for whole in batches:
        for rank in range(processes):
            share = torch.arange(len(whole[rank::processes]))
            parts = count_parts(len(share), batch, accumulate=accumulate, processes=processes)
            sizes += [len(part) for part in share.tensor_split(parts)]
    assert (min(sizes) == 1) == meets_single_items(step, batch, items, processes)
    if batch >= 2 * accumulate * processes and processes == 1 and items > 1:
        assert min(sizes) > 1  # merged


@pytest.mark.odd_input("Training")
@pytest.mark.parametrize(
    ("items", "settings"),
    [
        (9, {"train__batch_size": 1}),
        (9, {"train__batch_size": 4, "train__accumulate": 4}),
        (9, {"train__batch_size": 3, "train__accumulate": 2}),
    ],
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_what_batch_norm_cannot_take_is_refused_with_a_cure_that_holds(
    splits: Splits, items: int, settings: dict[str, Any], pretrained: bool
) -> None:
    """Batch-norm that trains on one value a channel: the plan is refused with the settings that cure it; a
    last batch of one item is merged into another."""
    backbone = to_one(pretrained=pretrained)
    assert single_valued(backbone) == ["top.1"]
    settings = {"train__batchnorm": "train"} | settings
    with pytest.raises(RecipeError, match=r"top\.1 then has one value a channel") as said:
        plan_for(backbone, splits, items, **settings)
    size = int(str(said.value).partition("train.batch_size=")[2].rstrip("."))
    few, plan = plan_for(backbone, splits, items, **(settings | {"train__batch_size": size}))
    fit(backbone, few, plan)
    other = "frozen" if pretrained else "adaptive"
    assert f"Set train.batchnorm={other}" in str(said.value)
    few, plan = plan_for(backbone, splits, items, **(settings | {"train__batchnorm": other}))
    fit(backbone, few, plan)


def test_what_it_can_take_is_trained(splits: Splits) -> None:
    """A last batch of one is merged; and maps of several values have a variance even of one item."""
    follows = {"train__batchnorm": "train"}
    for backbone, batch in ((to_one(), 2), (make_tiny(), 1)):
        few, plan = plan_for(backbone, splits, 9, train__batch_size=batch, **follows)
        fit(backbone, few, plan)
    _, plan = plan_for(to_one(), splits, 9, train__batch_size=2, **follows)
    assert plan.phases[0].steps_per_epoch == 4
