from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from graft.backbones import bundled, load_backbone
from graft.errors import BackboneError


def test_bundled_backbone_knows_its_facts() -> None:
    backbone = load_backbone("graft/resnet18-half-64")
    assert backbone.feature_dim == 256
    assert backbone.stage_names == ("stem", "layer1", "layer2", "layer3", "layer4")
    assert backbone.preprocess.size == (64, 64) and backbone.preprocess.resize == 64
    assert len(backbone.source.labels) == 200 and "goldfish" in backbone.source.labels
    assert backbone.source.accuracy == 44.26
    assert all(p.dtype == torch.float32 for p in backbone.trunk.parameters())
    assert backbone.unused == ()


def test_one_channel_sees_grey_as_three_did() -> None:
    colour, grey = (load_backbone("graft/resnet18-half-64", channels=k) for k in (3, 1))
    picture = grey.preprocess.noise(2)
    assert torch.allclose(colour.trunk(picture.expand(-1, 3, -1, -1)), grey.trunk(picture), atol=1e-4)
    many = load_backbone("graft/resnet18-half-64", channels=6)
    twice = many.trunk(picture.expand(-1, 6, -1, -1))
    assert torch.allclose(colour.trunk(picture.expand(-1, 3, -1, -1)), twice, atol=1e-4)


def test_unknown_name_and_weights() -> None:
    with pytest.raises(BackboneError, match="'resnet18-half-64'"):
        load_backbone("graft/resnet18-half")
    with pytest.raises(BackboneError, match="tiny-imagenet"):
        load_backbone("graft/resnet18-half-64:imagenet")


def test_damaged_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(bundled._folder("resnet18-half-64"), folder)
    monkeypatch.setattr(bundled, "_folder", lambda _name: folder)
    (folder / "weights.safetensors").write_bytes(b"short")
    with pytest.raises(BackboneError, match="install graft anew"):
        load_backbone("graft/resnet18-half-64")
    (folder / "weights.safetensors").unlink()
    with pytest.raises(BackboneError, match="cannot be read"):
        load_backbone("graft/resnet18-half-64")
