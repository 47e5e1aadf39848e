from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from graft.backbones import load_backbone
from graft.errors import BackboneError


@pytest.fixture
def cached(tmp_path: Path) -> object:
    """torch.hub's cache, with the weights of one model in it."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    weights = torchvision.models.MNASNet0_5_Weights.DEFAULT
    model = torchvision.models.mnasnet0_5(weights=None)
    (tmp_path / "checkpoints").mkdir()
    torch.save(model.state_dict(), tmp_path / "checkpoints" / Path(weights.url).name)
    yield model.eval()
    torch.hub.set_dir(before)


def test_cached_weights_are_loaded_with_their_facts(cached: torch.nn.Module) -> None:
    backbone = load_backbone("torchvision/mnasnet0_5")
    assert backbone.source.id == "torchvision/mnasnet0_5:IMAGENET1K_V1"
    assert backbone.source.accuracy == pytest.approx(67.734)
    assert len(backbone.source.labels) == 1000 and len(backbone.source.sha256) == 64
    cached.classifier = torch.nn.Identity()
    pictures = backbone.preprocess.noise(1)
    assert torch.equal(cached(pictures), backbone.trunk(pictures))


def test_preprocessing_is_that_of_the_weights() -> None:
    preset = load_backbone("torchvision/efficientnet_b1:none").preprocess
    assert (preset.size, preset.resize, preset.interpolation) == ((240, 240), 255, "bilinear")
    assert load_backbone("torchvision/googlenet:none").preprocess.mean == (0.5, 0.5, 0.5)


def test_shift_of_inception_is_that_of_its_preprocessing() -> None:
    kwargs = {"aux_logits": False, "init_weights": False}
    inside = torchvision.models.googlenet(weights=None, transform_input=True, **kwargs).eval()
    plain = torchvision.models.googlenet(weights=None, transform_input=False, **kwargs).eval()
    plain.load_state_dict(inside.state_dict())
    picture = torch.rand(1, 3, 64, 64)
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    normalised = (picture - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.allclose(inside(normalised), plain((picture - 0.5) / 0.5), atol=1e-4)


def test_size_of_a_vit_is_that_of_its_weights_and_can_be_changed() -> None:
    backbone = load_backbone("torchvision/vit_b_32:none", size=64)
    assert backbone.trunk.image_size == 64 and backbone.preprocess.size == (64, 64)
    with pytest.raises(BackboneError, match="65 pixels"):
        load_backbone("torchvision/vit_b_32:none", size=65)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("torchvision/renset18", "'resnet18'"),
        ("torchvision/resnet50:IMAGENET1K_V3", "IMAGENET1K_V2"),
        ("torchvision/fcn_resnet50", "no classification model"),
    ],
)
def test_unknown_names(name: str, word: str) -> None:
    with pytest.raises(BackboneError, match=word):
        load_backbone(name)


def test_weights_that_are_no_numbers_are_refused(cached: torch.nn.Module, tmp_path: Path) -> None:
    state = cached.state_dict()
    state["layers.0.weight"][0] = torch.nan
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(BackboneError, match=r"layers.0.weight"):
        load_backbone("torchvision/mnasnet0_5", weights=tmp_path / "bad.pth")
