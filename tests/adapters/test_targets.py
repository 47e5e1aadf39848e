"""Which layers get an adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from graft.adapters import adapt
from graft.adapters.targets import find_targets
from graft.backbones import Backbone, from_module, load_backbone
from graft.errors import RecipeError
from graft.recipe import AdapterSettings
from small import TINY, make_tiny
from small_text import write_model


def names(backbone: Backbone, wanted: str = "all", **settings: int) -> list[str]:
    asked = {"rank": 2, "shifts": False} | settings
    found, _ = find_targets(backbone, backbone.stage_names, wanted, **asked)
    return [target.name for target in found]


class Reading(nn.Module):
    """Calls one of its layers, reads the weight of the other, and has ones that change on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.called, self.read = nn.Linear(6, 6), nn.Linear(6, 6)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.fc = nn.Linear(6, 2)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        mean = self.stem(pictures).mean(dim=(2, 3))
        mean = linear(self.called(mean), self.read.weight)
        return self.fc(self.normed(mean))


@pytest.mark.parametrize(("size", "added", "fewer"), [(512, 8192, 32), (4096, 65536, 256)])
def test_parameters_of_a_square_layer(size: int, added: int, fewer: int) -> None:
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.wide = nn.Conv2d(3, size, 1), nn.Linear(size, size, bias=False)
            self.fc = nn.Linear(size, 2)

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return self.fc(self.wide(self.stem(pictures).mean(dim=(2, 3))))

    backbone = from_module(Square(), preprocess=TINY)
    found, _ = find_targets(backbone, backbone.stage_names, "wide", rank=8, shifts=False)
    assert (found[0].parameters, found[0].fewer) == (added, fewer)


def test_convolutions_of_a_convolutional_network() -> None:
    backbone = make_tiny()
    found, _ = find_targets(backbone, backbone.stage_names, "all", rank=4, shifts=False)
    assert [target.name for target in found] == ["stem.0", "middle.0", "top.0"]
    assert [target.stage for target in found] == list(backbone.stage_names)
    assert found[1].parameters == 4 * (8 * 9 + 12)  # a convolution of 3 x 3, then one of 1 x 1
    assert found[1].shape == (12, 8, 3, 3)


def test_grouped_convolutions_are_left_alone() -> None:
    backbone = load_backbone("torchvision/mobilenet_v3_small:none", size=32)
    modules = dict(backbone.trunk.named_modules())
    found = names(backbone)
    assert found and all(modules[name].groups == 1 for name in found if hasattr(modules[name], "groups"))


class Dilated(nn.Module):
    """Two convolutions, one of which looks at every second place."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 4, 3, padding=1)
        self.wide = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.fc = nn.Linear(4, 2)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.fc(self.wide(self.plain(pictures)).mean((2, 3)))


def test_dilated_convolutions_are_left_alone() -> None:
    backbone = from_module(Dilated(), preprocess=TINY)
    assert names(backbone) == ["plain"]
    adapted = adapt(backbone, AdapterSettings(), backbone.stage_names)
    inputs = TINY.noise(2)
    assert torch.allclose(adapted.trunk.eval()(inputs), backbone.trunk.eval()(inputs))


def test_linear_layers_alone_where_they_are_most_of_the_network() -> None:
    backbone = load_backbone("torchvision/convnext_tiny:none", size=32)
    modules = dict(backbone.trunk.named_modules())
    assert {type(modules[name]) for name in names(backbone)} == {nn.Linear}
    assert names(backbone, r"features\.0\.0") == ["features.0.0"]  # a convolution, by name


@pytest.mark.parametrize(
    ("kind", "attention", "others"),
    [
        ("bert", ["query", "key", "value", "dense"], ["dense"]),
        ("distilbert", ["q_lin", "k_lin", "v_lin", "out_lin"], ["lin1", "lin2"]),
        ("gpt2", ["c_attn", "c_proj"], ["c_fc", "c_proj"]),
        ("llama", ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]),
        ("modernbert", ["Wqkv", "Wo"], ["Wi", "Wo"]),
        ("mpnet", ["q", "k", "v", "o"], ["dense"]),
    ],
)
def test_projections_of_text_networks(tmp_path: Path, kind: str, attention: list, others: list) -> None:
    backbone = load_backbone(f"hf/{write_model(tmp_path, kind)}")
    every, attending = names(backbone), names(backbone, "attention")
    assert {name.rpartition(".")[2] for name in attending} == set(attention)
    assert {name.rpartition(".")[2] for name in every if name not in attending} == set(others)
    layers = {part for name in every for part in name.split(".") if part.isdecimal()}
    assert layers == {"0", "1", "2"}


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224:none", "torchvision/vit_b_16:none"])
def test_projections_of_vision_transformers(name: str) -> None:
    backbone = load_backbone(name, size=32 if name.startswith("timm") else None)
    adapted = adapt(backbone, AdapterSettings(targets="attention"), backbone.stage_names)
    assert adapted.adapters is not None
    assert len(adapted.adapters.targets) == 24  # 12 layers: fused queries, keys and values; and out
    assert [target.shape[0] // target.shape[1] for target in adapted.adapters.targets[:2]] == [3, 1]


def test_layers_that_are_read_and_not_called_are_told() -> None:
    backbone = from_module(Reading(), preprocess=TINY)
    found, unread = find_targets(backbone, backbone.stage_names, "all", rank=2, shifts=False)
    assert [target.name for target in found] == ["stem", "called"]
    assert unread == ("read",)
    with pytest.raises(RecipeError, match=r"reads the weights .* never calls them.*: read"):
        names(backbone, "read")


def test_stages_bound_what_is_found() -> None:
    backbone = make_tiny()
    found, _ = find_targets(backbone, ["top"], "all", rank=2, shifts=False)
    assert [target.name for target in found] == ["top.0"]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("attention", "matches no layer"), ("nowhere", "matches no layer"), ("(", "no regular expression")],
)
def test_targets_that_are_none_are_refused(wanted: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        names(make_tiny(), wanted)


def test_a_stage_without_layers_is_refused() -> None:
    backbone = make_tiny()
    with pytest.raises(RecipeError, match="no layer in the stages"):
        find_targets(backbone, (), "all", rank=2, shifts=False)


@pytest.mark.odd_input("Building blocks and advice")
def test_targets_by_the_ends_of_their_names(tmp_path: Path) -> None:
    """`--targets query,value`, or a list: the layers whose names end so; an ending of none is refused."""
    backbone = load_backbone(f"hf/{write_model(tmp_path, 'bert')}")
    every = names(backbone)
    found = names(backbone, AdapterSettings.model_validate({"targets": ["query", "value"]}).targets)
    assert found == [name for name in every if name.endswith((".query", ".value"))] != []
    assert names(backbone, "query, value,") == found
    assert names(backbone, "self.query") == [name for name in found if name.endswith("query")]
    assert set(names(backbone, "attention,dense")) > set(found)
    with pytest.raises(RecipeError, match=r"ends with 'quary'. Did you mean 'query'"):
        names(backbone, "quary,value")
    with pytest.raises(RecipeError, match="matches no layer"):
        names(backbone, "uery")
