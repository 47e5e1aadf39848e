"""Another size than that of the weights: every kind of network trains on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from graft.backbones import load_backbone
from graft.errors import BackboneError
from graft.recipe import make_recipe

NAMES = [
    "timm/test_vit:none",
    "timm/test_resnet:none",
    "torchvision/vit_b_16:none",
    "torchvision/swin_t:none",
    "torchvision/resnet18:none",
    "graft/resnet18-half-64:none",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_network_trains_at_another_size(name: str) -> None:
    backbone = load_backbone(make_recipe({"backbone": name, "data": {"size": 96}}))
    assert backbone.preprocess.size == (96, 96)
    features = backbone.trunk.train()(torch.rand(2, 3, 96, 96))
    assert features.shape == (2, backbone.feature_dim)
    features.sum().backward()
    unused = set(backbone.unused)
    assert all(p.grad is not None for n, p in backbone.trunk.named_parameters() if n not in unused)


def test_weights_of_another_size_are_fitted(tmp_path: Path) -> None:
    """Position embeddings are resampled, and everything else stays."""
    usual = load_backbone("timm/test_vit:none")
    file = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in usual.trunk.state_dict().items()}, file)
    other = load_backbone("timm/test_vit", weights=file, size=96)
    before, after = usual.trunk.state_dict(), other.trunk.state_dict()
    changed = [name for name in before if before[name].shape != after[name].shape]
    assert [name.rpartition(".")[2] for name in changed] == ["pos_embed"]
    assert all(torch.equal(before[name], after[name]) for name in before if name not in changed)


@pytest.mark.parametrize("name", ["torchvision/vit_b_16:none", "timm/test_vit:none"])
def test_a_size_that_no_patches_fill_is_refused_or_fits(name: str) -> None:
    try:
        backbone = load_backbone(name, size=100)
    except BackboneError as error:
        assert "100" in str(error)
    else:
        backbone.trunk(torch.rand(1, 3, 100, 100))
