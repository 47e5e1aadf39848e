"""Stochastic depth: rates rise evenly to the last block, whichever library the modules are of."""

from __future__ import annotations

import pytest
import torch
from timm.layers import DropPath
from torch import nn
from torchvision.ops import StochasticDepth

from graft.backbones import load_backbone
from graft.stochastic_depth import droppable, set_drop_path


def network(rates: list[float]) -> nn.Module:
    blocks = [
        nn.Sequential(nn.Conv2d(3, 3, 1), DropPath(rate) if number % 2 else StochasticDepth(rate, "row"))
        for number, rate in enumerate(rates)
    ]
    return nn.Sequential(*blocks)


def rates_of(module: nn.Module) -> list[float]:
    return [
        child.drop_prob if isinstance(child, DropPath) else child.p
        for child in module.modules()
        if isinstance(child, DropPath | StochasticDepth)
    ]


@pytest.mark.parametrize(
    ("built", "rate", "expected"),
    [
        ([0.0, 0.1, 0.1, 0.2], 0.4, [0.0, 0.2, 0.2, 0.4]),  # two of a block stay alike
        ([0.0, 0.1, 0.2], None, [0.0, 0.1, 0.2]),
        ([0.0, 0.1, 0.2], 0.0, [0.0, 0.0, 0.0]),
        ([0.0, 0.0], 0.3, [0.3, 0.3]),
        ([], 0.3, []),
    ],
)
def test_rates_are_scaled_to_the_largest(
    built: list[float], rate: float | None, expected: list[float]
) -> None:
    module = network(built)
    set_drop_path(module, 0.9, network(built))  # an earlier phase's
    assert set_drop_path(module, rate, network(built)) == len(droppable(module)) == len(built)
    assert rates_of(module) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["timm/test_vit:none", "timm/test_convnext:none"])
def test_real_networks_are_built_with_it_where_it_is_asked(name: str) -> None:
    assert droppable(load_backbone(name).trunk) == []
    trunk = load_backbone(name, drop_path=0.2).trunk
    before = rates_of(trunk)
    assert before == sorted(before)
    set_drop_path(trunk, 0.4, load_backbone(name, drop_path=0.2).trunk)
    assert rates_of(trunk) == pytest.approx([2 * rate for rate in before])
    assert rates_of(trunk)[-1] == pytest.approx(0.4)


def test_torchvisions_own_rates_are_set_too() -> None:
    trunk = load_backbone("torchvision/convnext_tiny:none").trunk
    own = rates_of(trunk)
    built = load_backbone("torchvision/convnext_tiny:none").trunk
    set_drop_path(trunk, 0.0, built)
    assert set(rates_of(trunk)) == {0.0}
    set_drop_path(trunk, None, built)
    assert rates_of(trunk) == own
    assert len(own) == 18


def test_only_what_trains_is_skipped() -> None:
    block = nn.Sequential(DropPath(0.0))
    set_drop_path(block, 0.5, nn.Sequential(DropPath(0.1)))
    pictures = torch.ones(200, 3, 2, 2)
    torch.manual_seed(0)
    kept = (block.train()(pictures)[:, 0, 0, 0] != 0).float().mean()
    assert 0.35 < float(kept) < 0.65
    assert torch.equal(block.eval()(pictures), pictures)
