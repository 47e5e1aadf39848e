from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tiny import classified

from graft.backbones import load_backbone, rebuild
from graft.errors import BackboneError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = timm.create_model("test_vit", num_classes=5)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "test_vit",
        "num_classes": 5,
        "label_names": ["a", "b", "c", "d", "e"],
        "pretrained_cfg": {
            "input_size": [3, 160, 160], "fixed_input_size": True, "crop_pct": 0.8, "mean": [0.1] * 3,
            "std": [0.2] * 3, "interpolation": "bicubic", "classifier": "head", "license": "mit",
            "first_conv": "patch_embed.proj",
        },
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_folder_with_a_timm_model(folder: Path) -> None:
    backbone = load_backbone(f"hf/{folder}")
    assert backbone.preprocess.resize == 200 and backbone.preprocess.mean == (0.1, 0.1, 0.1)
    assert backbone.source.labels == ("a", "b", "c", "d", "e") and backbone.source.licence == "mit"
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    other = rebuild(backbone.source)
    other.trunk.load_state_dict(backbone.trunk.state_dict())
    pictures = backbone.preprocess.noise(1)
    assert torch.equal(other.trunk(pictures), backbone.trunk(pictures))


def test_the_pretrainings_own_classifier_is_kept(folder: Path) -> None:
    reference = timm.create_model("test_vit", num_classes=5).eval()
    reference.load_state_dict(load_file(folder / "model.safetensors"))
    backbone = load_backbone(f"hf/{folder}")
    pictures = backbone.preprocess.noise(2)
    with torch.no_grad():
        assert torch.allclose(classified(backbone, pictures), reference(pictures), atol=1e-4)
    assert load_backbone(f"hf/{folder}:none").classifier is None


def test_options_survive_json(folder: Path) -> None:
    options = load_backbone(f"hf/{folder}", channels=1, size=64).source.options
    assert json.loads(json.dumps(options)) == options


@pytest.mark.parametrize(
    ("text", "word"), [("{", "readable"), ("[]", "JSON object"), ("{}", "architecture")]
)
def test_broken_configurations(text: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BackboneError, match=word):
        load_backbone(f"hf/{tmp_path}")


@pytest.mark.parametrize("name", ["./no-such-folder", "/no/such/folder", "a//c", "a/b/c"])
def test_wrong_places_are_refused_before_any_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from graft.backbones import repository

    monkeypatch.setattr(repository, "fetch_from_hub", None)
    with pytest.raises(BackboneError, match="folder"):
        load_backbone(f"hf/{name}")
