"""Ids, options and rebuilding: what is the same for every library."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graft import backbones
from graft.backbones import load_backbone, parse_id, rebuild, state_digest
from graft.backbones.assembly import Request, resized
from graft.errors import BackboneError
from graft.recipe import make_recipe


def test_ids_have_three_parts() -> None:
    assert parse_id("torchvision/resnet50:IMAGENET1K_V2") == ("torchvision", "resnet50", "IMAGENET1K_V2")
    assert parse_id("timm/vit_tiny.augreg") == ("timm", "vit_tiny.augreg", None)
    assert parse_id("hf/org/name") == ("hf", "org/name", None)
    assert parse_id("hf//abs/folder:none") == ("hf", "/abs/folder", "none")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("resnet50", "library/name"),
        ("timn/resnet50", "'timm'"),
        ("nothing/resnet50", "torchvision"),
        ("torchvision/resnet50:", "after"),
        ("torchvision/", "library/name"),
    ],
)
def test_wrong_ids_are_refused(text: str, word: str) -> None:
    with pytest.raises(BackboneError, match=word):
        parse_id(text)


def test_a_backbone_is_returned_as_it_is_and_a_recipe_is_followed() -> None:
    recipe = make_recipe({"backbone": "graft/resnet18-half-64:none", "data": {"channels": 1}})
    backbone = load_backbone(recipe)
    assert backbone.preprocess.channels == 1
    assert load_backbone(backbone) is backbone


def test_numbers_out_of_range_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="channels"):
        load_backbone("graft/resnet18-half-64", channels=0)
    with pytest.raises(BackboneError, match="size"):
        load_backbone("graft/resnet18-half-64", size=1)
    with pytest.raises(BackboneError, match=r"nothing.pth"):
        load_backbone("graft/resnet18-half-64", weights=tmp_path / "nothing.pth")


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [
        ("graft/resnet18-half-64", 3, None),
        ("timm/test_vit:none", 2, 64),
        ("torchvision/swin_t:none", 3, 64),
    ],
)
def test_rebuilt_network_takes_the_weights(name: str, channels: int, size: int | None) -> None:
    backbone = load_backbone(name, channels=channels, size=size)
    other = rebuild(backbone.source)
    assert other.stages == backbone.stages and other.preprocess == backbone.preprocess
    assert other.source == backbone.source
    other.trunk.load_state_dict(backbone.trunk.state_dict())
    pictures = backbone.preprocess.noise(2)
    assert torch.equal(other.trunk(pictures), backbone.trunk(pictures))


def test_own_modules_are_not_rebuilt() -> None:
    source = load_backbone("graft/resnet18-half-64:none").source
    with pytest.raises(BackboneError, match="module of your own"):
        rebuild(replace(source, library="plain"))


def test_a_folder_without_its_library_is_told_how_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=f"write hf/{tmp_path}, for one of timm timm/{tmp_path}"):
        load_backbone(str(tmp_path))


def test_a_library_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "_registered", {})

    def load(request: Request) -> backbones.Backbone:
        return load_backbone(f"graft/{request.name}:none")

    backbones.register_library("mine", load)
    assert load_backbone("mine/resnet18-half-64").source.library == "graft"
    with pytest.raises(BackboneError, match="taken"):
        backbones.register_library("timm", load)


def test_digest_sees_names_values_and_types() -> None:
    layer = torch.nn.Linear(2, 2)
    digest = state_digest(layer)
    assert digest == state_digest(layer) and len(digest) == 64
    with torch.no_grad():
        layer.weight[0, 0] += 1
    assert state_digest(layer) != digest
    assert state_digest(layer.half()) != digest


def test_another_size_scales_the_resize() -> None:
    preprocess = load_backbone("torchvision/resnet18:none").preprocess
    assert resized(preprocess, 112).resize == 128
    assert resized(preprocess, None) == preprocess
    assert resized(replace(preprocess, resize=(224, 224)), 64).resize == (64, 64)
