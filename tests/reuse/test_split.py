"""Split networks: both parts together are the whole, and whatever would not be is not split there."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from graft.backbones import from_module, load_backbone
from graft.backbones.contract import Backbone
from graft.recipe import read_recipe
from graft.reuse.split import find_split, noting_states, split_trunk
from small import TINY, make_tiny

FAMILIES = (
    "torchvision/resnet18:none",
    "torchvision/densenet121:none",
    "torchvision/mobilenet_v3_small:none",
    "torchvision/swin_t:none",
    "timm/vit_tiny_patch16_224:none",
    "timm/convnext_atto:none",
    "timm/efficientnet_b0:none",
)


def pictures(backbone: Backbone, count: int = 2) -> torch.Tensor:
    how = backbone.preprocess
    return torch.randn(count, how.channels, *how.size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", FAMILIES)
def test_both_parts_are_the_whole_network_at_every_stage(name: str) -> None:
    backbone = load_backbone(read_recipe(backbone=name, data__size=64))
    trunk, given = backbone.trunk.eval(), pictures(backbone)
    places = {min(3, len(backbone.stages) - 1), len(backbone.stages) - 1}
    with torch.no_grad():
        whole = trunk(given)
        for place in places:
            split = find_split(backbone, place)
            assert split is not None and split.place == place
            with split_trunk(trunk, split, backbone.preprocess) as lower:
                state = lower(given)
                assert tuple(state.shape[1:]) == split.row
                assert torch.allclose(trunk(state), whole, rtol=1e-5, atol=1e-5)
                assert torch.allclose(trunk(state[:1]), whole[:1], rtol=1e-4, atol=1e-5)
        assert torch.equal(trunk(given), whole)  # and nothing of it stays


def test_nothing_below_the_split_computes() -> None:
    backbone = make_tiny()
    split = find_split(backbone, 2)
    assert split is not None and split.above == "top"
    called: list[str] = []
    for name, module in backbone.trunk.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    with split_trunk(backbone.trunk, split, backbone.preprocess) as lower:
        state = lower(pictures(backbone))
        assert called == ["stem.0", "middle.0"]
        called.clear()
        backbone.trunk(state)
        assert called == ["top.0"]


def test_gradients_reach_what_lies_above_alone() -> None:
    backbone = make_tiny()
    trunk = backbone.trunk.eval()
    split = find_split(backbone, 1)
    with split_trunk(trunk, split, TINY) as lower, torch.no_grad():
        state = lower(pictures(backbone))
    whole = {}
    for apart in (False, True):
        trunk.zero_grad()
        if apart:
            with split_trunk(trunk, split, TINY):
                trunk(state).square().sum().backward()
        else:
            trunk(pictures(backbone)).square().sum().backward()
        whole[apart] = {name: value.grad for name, value in trunk.named_parameters()}
    for name in whole[True]:
        if name.startswith("stem."):
            assert whole[True][name] is None or not whole[True][name].any()
        else:
            assert torch.allclose(whole[True][name], whole[False][name], atol=1e-6)


def test_without_a_split_states_are_features() -> None:
    backbone = make_tiny()
    trunk, given = backbone.trunk.eval(), pictures(backbone)
    whole = trunk(given)
    with split_trunk(trunk, None, TINY) as lower:
        features = lower(given)
        assert torch.equal(features, whole)
        assert trunk(features) is features
    assert torch.equal(trunk(given), whole)


class Leaky(nn.Module):
    """What the middle hands up is used beside the top as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, stride=2), nn.ReLU())
        self.top = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, stride=2), nn.ReLU())
        self.fc = nn.Linear(4, 2)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        state = self.middle(self.stem(given))
        return self.fc((self.top(state) + avg_pool2d(state, 2)).mean((2, 3)))


def test_a_network_is_split_lower_where_more_than_a_state_is_handed_up() -> None:
    backbone = from_module(Leaky(), preprocess=TINY, pretrained=True)
    assert backbone.stage_names == ("stem", "middle", "top")
    split = find_split(backbone, 2)
    assert split is not None and split.above == "middle"  # its input is the stem's outcome, whole
    given = pictures(backbone)
    with (
        torch.no_grad(),
        split_trunk(backbone.trunk.eval(), split, backbone.preprocess, blank=math.nan) as lower,
    ):
        assert torch.isfinite(backbone.trunk(lower(given))).all()


def test_a_module_that_serves_below_and_above_is_not_skipped_above() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.act, self.two = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)
            self.fc = nn.Linear(4, 2)

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return self.fc(self.act(self.two(self.act(self.one(given)))).mean((2, 3)))

    backbone = from_module(Shared(), preprocess=TINY, pretrained=True)
    split = find_split(backbone, 1)
    assert split is not None and [name for name, _ in split.skipped] == ["one", "act"]
    trunk, given = backbone.trunk.eval(), pictures(backbone)
    with torch.no_grad(), split_trunk(trunk, split, TINY) as lower:
        state = lower(given)
        apart = trunk(state)
    with torch.no_grad():
        assert torch.equal(trunk(given), apart)


def test_no_stage_below_is_no_split() -> None:
    assert find_split(make_tiny(), 0) is None


def test_a_network_is_tried_once_and_anew_where_its_stages_or_inputs_differ() -> None:
    backbone = make_tiny()
    calls: list[int] = []
    backbone.trunk.stem[0].register_forward_hook(lambda *_: calls.append(1))

    def tries(one: Backbone) -> bool:
        calls.clear()
        assert find_split(one, 2) is not None
        return bool(calls)

    larger = replace(backbone, preprocess=replace(backbone.preprocess, size=(12, 12)))
    *below, last, top = backbone.stages
    named = replace(backbone, stages=(*below, replace(last, name="other"), top))
    found = [tries(one) for one in (backbone, backbone, larger, named, named)]
    assert found == [True, False, True, True, False]


def test_lists_in_a_preprocessing_are_as_good_as_tuples() -> None:
    backbone = make_tiny()
    how = replace(TINY, mean=list(TINY.mean), std=list(TINY.std), size=list(TINY.size))  # type: ignore[arg-type]
    assert how == TINY
    assert find_split(replace(backbone, preprocess=how), 2) is not None


def test_states_are_noted_as_they_were_handed_up_first() -> None:
    """Whatever their stage does to them, and where it is called again."""
    entry = nn.ReLU(inplace=True)
    first = torch.tensor([-1.0, 2.0])
    with torch.no_grad(), noting_states([entry]) as noted:
        entry(first)
        entry(torch.tensor([5.0]))
    assert noted[entry].tolist() == [-1.0, 2.0]
    entry(torch.tensor([7.0]))
    assert noted[entry].tolist() == [-1.0, 2.0]
