from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny import classified

from graft.backbones import load_backbone
from graft.backbones import timm as adapter
from graft.errors import BackboneError


def test_tag_after_dot_or_colon() -> None:
    assert adapter.split_name("resnet18.a1_in1k", None) == ("resnet18", "a1_in1k")
    assert adapter.split_name("resnet18", "a1_in1k") == ("resnet18", "a1_in1k")
    assert adapter.split_name("resnet18.a1_in1k", "none") == ("resnet18", "none")
    with pytest.raises(BackboneError, match="two different weights"):
        adapter.split_name("resnet18.a1_in1k", "a2_in1k")


def test_preprocessing_is_timms() -> None:
    config = timm.get_pretrained_cfg("resnet18.a1_in1k")
    preprocess = adapter.read_preprocess(config)
    assert (preprocess.size, preprocess.resize) == ((224, 224), 235)
    squash = adapter.find_config("coat_lite_medium_384", None)
    assert adapter.read_preprocess(squash).resize == (384, 384)


@pytest.mark.parametrize("channels", [3, 1, 5])
def test_fetched_weights_go_through_timms_conversion(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = timm.create_model("test_efficientnet")
    file = tmp_path / "model.safetensors"
    save_file(reference.state_dict(), file)
    monkeypatch.setattr(adapter, "fetch_weights", lambda _name, _config: file)
    backbone = load_backbone("timm/test_efficientnet", channels=channels)
    assert backbone.source.id == "timm/test_efficientnet:r160_in1k"
    assert len(backbone.source.labels) == 1000
    reference.reset_classifier(0)
    pictures = backbone.preprocess.noise(1)[:, :1]
    wanted = reference.eval()(pictures.expand(-1, 3, -1, -1))
    if channels == 5:  # repeated in turn: the sum keeps its size on average only
        assert backbone.trunk(pictures.expand(-1, 5, -1, -1)).shape == wanted.shape
    else:
        found = backbone.trunk(pictures.expand(-1, channels, -1, -1))
        assert torch.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_the_pretrainings_own_classifier_is_kept(suffix: str, tmp_path: Path) -> None:
    reference, file = timm.create_model("test_efficientnet").eval(), tmp_path / f"model.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(reference.state_dict(), file)
    backbone = load_backbone("timm/test_efficientnet", weights=file)
    pictures = backbone.preprocess.noise(2)
    with torch.no_grad():
        assert torch.allclose(classified(backbone, pictures), reference(pictures), atol=1e-4)
    assert load_backbone("timm/test_efficientnet:none").classifier is None
    save_file(
        {n: v for n, v in reference.state_dict().items() if "classifier" not in n},
        tmp_path / "b.safetensors",
    )
    assert load_backbone("timm/test_efficientnet", weights=tmp_path / "b.safetensors").classifier is None


def test_damaged_download_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"short")
    monkeypatch.setattr(adapter, "fetch_weights", lambda _name, _config: file)
    with pytest.raises(BackboneError, match="damaged"):
        load_backbone("timm/test_efficientnet")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("timm/resent18", "'resnet18'"),
        ("timm/resnet18.a9_in1k", "a1_in1k"),
        ("timm/eca_resnext26ts.none_such", "no weights"),
    ],
)
def test_unknown_names(name: str, word: str) -> None:
    with pytest.raises(BackboneError, match=word):
        load_backbone(name)


def test_a_layer_before_the_classifier_is_counted_in_the_features() -> None:
    assert load_backbone("timm/mobilenetv3_small_050:none", size=64).feature_dim == 1024


def test_colour_only_networks_refuse_other_channels() -> None:
    with pytest.raises(BackboneError, match="2 channels"):
        load_backbone("timm/csatv2:none", channels=2)
