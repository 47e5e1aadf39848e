from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tiny import classified

from graft.backbones import load_backbone, rebuild
from graft.errors import BackboneError
from small import make_pipe


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
    ("text", "word"), [("{", "damaged"), ("[]", "JSON object"), ("{}", "architecture")]
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


@pytest.mark.odd_input("Weights and models")
def test_an_adapters_folder_says_how_to_merge_it(folder: Path) -> None:
    """A folder of peft (LoRA) given as a model: a sentence says that it is an adapter and how to merge
    it."""
    (folder / "adapter_config.json").write_text("{}")
    for whole in (True, False):
        if not whole:
            (folder / "config.json").unlink()
        with pytest.raises(BackboneError, match=r"is an adapter \(LoRA\) of peft.*merge_and_unload"):
            load_backbone(f"hf/{folder}")


@pytest.mark.odd_input("Bundles of strangers")
def test_a_models_folder_names_only_files_in_it(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A model's folder (hf/./folder) with a pipe, a device or a link out of it: refused at once; links
    inside the hub's own cache are followed."""
    outside = tmp_path_factory.mktemp("outside")
    for name in ("config.json", "model.safetensors"):
        whole = (folder / name).rename(outside / name)
        for put in (lambda f: f.symlink_to(whole), make_pipe, lambda f: f.symlink_to("/dev/zero")):  # noqa: B023
            put(folder / name)
            with pytest.raises(BackboneError, match=r"link out of|no regular file"):
                load_backbone(f"hf/{folder}")
            (folder / name).unlink()
        whole.rename(folder / name)
    snapshot, blobs = outside / "models--a--b" / "snapshots" / "1", outside / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True), blobs.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(blobs / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert load_backbone(f"hf/{snapshot}").feature_dim == 64


@pytest.mark.odd_input("Bundles of strangers")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_args": {"checkpoint_path": "/etc/hostname"}}, "model_args.checkpoint_path"),
        ({"model_args": {"depth": 10**9}}, "depth = 1000000000"),
        ({"model_args": {"depth": 9000}}, "more than .* (tensors|parts)"),
        ({"model_args": {"embed_dim": 2**14}}, "values; the weights beside it hold"),
        ({"pretrained_cfg": {"crop_pct": 0}}, "crop_pct"),
        ({"pretrained_cfg": {"input_size": [3, 10**6, 10**6]}}, "input_size"),
        ({"pretrained_cfg": "x"}, "no table"),
    ],
)
def test_configurations_are_read_by_a_list(folder: Path, settings: dict[str, Any], words: str) -> None:
    """Settings in a model's config.json that are no part of a network's shape, or larger than its
    weights: one sentence, before anything is built."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    with pytest.raises(BackboneError, match=words):
        load_backbone(f"hf/{folder}")


@pytest.mark.parametrize("text", ["[" * 2000, '{"a": NaN}', '{"a": 1, "a": 2}', "\xff"])
def test_hostile_configurations_are_one_error(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BackboneError, match=r"config.json"):
        load_backbone(f"hf/{folder}")
