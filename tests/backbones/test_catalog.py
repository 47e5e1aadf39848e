from __future__ import annotations

import json

import pytest
import timm

from graft.backbones import catalog, load_backbone
from graft.errors import BackboneError


def test_facts_of_a_model() -> None:
    (info,) = catalog.find_models("torchvision/resnet50")
    assert info.parameters == 25_557_032 and info.gmacs == pytest.approx(4.089)
    assert info.default == "IMAGENET1K_V2" and info.accuracy == pytest.approx(80.858)
    assert info.input_size == (3, 224, 224)


def test_search_by_part_and_pattern() -> None:
    assert {info.library for info in catalog.find_models("resnet18")} == {"graft", "torchvision", "timm"}
    assert all(info.library == "timm" for info in catalog.find_models("timm/vit_*_224"))
    some, every = catalog.find_models("bat_", pretrained=True), catalog.find_models("timm/")
    assert all(info.weights for info in some)
    assert len(every) == len(timm.list_models())


def test_timm_defaults_are_timms() -> None:
    (info,) = catalog.find_models("timm/vit_tiny_patch16_224")
    assert info.default == timm.get_pretrained_cfg("vit_tiny_patch16_224").tag
    assert info.parameters == 5_717_416


def test_nothing_found_suggests() -> None:
    with pytest.raises(BackboneError, match="resnet50"):
        catalog.find_models("resnett50")


def test_description_adds_up() -> None:
    described = catalog.describe(load_backbone("graft/resnet18-half-64"))
    assert sum(part.parameters for part in described.stages) == described.parameters
    assert sum(part.parameters for part in described.children) == described.parameters
    assert described.head == "fc" and described.labels == 200
    json.dumps(described.to_dict())


def test_several_patterns_give_what_any_finds() -> None:
    both = [info.id for info in catalog.find_models("torchvision/resnet18", "timm/vit_tiny_*")]
    one, other = (catalog.find_models(name) for name in ("torchvision/resnet18", "timm/vit_tiny_*"))
    assert sorted(both) == sorted(info.id for info in [*one, *other])
    assert len(catalog.find_models("resnet18", "torchvision/resnet18")) == len(
        catalog.find_models("resnet18")
    )
    with pytest.raises(BackboneError, match="No backbone matches 'resnett50'"):
        catalog.find_models("vit_tiny", "resnett50")
