from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import Cnn

from graft.backbones import load_backbone, rebuild, state_digest
from graft.backbones.local_weights import load_state, read_weights, strip_prefixes
from graft.errors import BackboneError


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return dict(Cnn().state_dict())


def same(model: Cnn, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "backbone.", "module._orig_mod.", "model.trunk."]
)
def test_prefixes_are_taken_off(prefix: str, state: dict[str, torch.Tensor]) -> None:
    model = Cnn()
    load_state(model, {prefix + name: value for name, value in state.items()}, "test", [])
    assert same(model, state)


def test_prefix_of_the_trunk_beside_a_head_without_one(state: dict[str, torch.Tensor]) -> None:
    mixed = {f"backbone.{name}": value for name, value in state.items()}
    mixed["head.weight"] = torch.zeros(1)
    assert set(strip_prefixes(mixed, state)) == {*state, "head.weight"}


@pytest.mark.parametrize("container", ["state_dict", "model", "model_ema"])
def test_containers_are_opened(container: str, tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    file = tmp_path / "weights.pth"
    torch.save({container: state, "epoch": 3}, file)
    model = Cnn()
    load_state(model, read_weights(file), "test", [])
    assert same(model, state)


def test_keys_left_over_are_listed(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(BackboneError, match=r"(?s)1 left over.*extra.weight"):
        load_state(Cnn(), {**state, "extra.weight": torch.zeros(1)}, "test", ["fc"])


def test_missing_keys_are_listed(state: dict[str, torch.Tensor]) -> None:
    del state["upper.0.conv.weight"]
    with pytest.raises(BackboneError, match=r"(?s)1 missing.*upper.0.conv.weight"):
        load_state(Cnn(), state, "test", [])


def test_other_shapes_are_refused(state: dict[str, torch.Tensor]) -> None:
    state["conv.weight"] = torch.zeros(8, 3, 5, 5)
    with pytest.raises(BackboneError, match=r"conv.weight: 8x3x5x5 in the file, 8x3x3x3"):
        load_state(Cnn(), state, "test", [])


def test_heads_and_batch_counters_are_excused(state: dict[str, torch.Tensor]) -> None:
    from torch import nn

    model = Cnn()
    model.fc = nn.Identity()  # type: ignore[assignment]
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    load_state(model, state, "test", ["fc"])
    assert torch.equal(model.conv.weight, state["conv.weight"])


def test_damaged_files_are_one_clear_error(tmp_path: Path) -> None:
    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"\x10not weights at all")
        with pytest.raises(BackboneError, match="damaged"):
            read_weights(tmp_path / name)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    torch.save({"state_dict": Cnn()}, tmp_path / "model.pth")
    with pytest.raises(BackboneError, match="never loaded"):
        read_weights(tmp_path / "model.pth")


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(BackboneError, match="list"):
        read_weights(tmp_path / "list.pth")
    torch.save({"weight": torch.zeros(1), "epoch": 3}, tmp_path / "odd.pth")
    with pytest.raises(BackboneError, match="epoch"):
        read_weights(tmp_path / "odd.pth")
    with pytest.raises(BackboneError, match=r"\.safetensors"):
        (tmp_path / "weights.h5").touch()
        read_weights(tmp_path / "weights.h5")
    with pytest.raises(BackboneError, match="There is no file"):
        read_weights(tmp_path / "nothing.pth")


@pytest.mark.parametrize("name", ["torchvision/mnasnet0_5", "timm/test_efficientnet"])
def test_a_local_file_stands_in_for_a_download(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    first = load_backbone(f"{name}:none")
    file = tmp_path / "own.safetensors"
    save_file(first.trunk.state_dict(), file)
    backbone = load_backbone(name, weights=file)
    assert backbone.source.weights == "file" and backbone.source.pretrained
    assert backbone.source.sha256 == state_digest(first.trunk)


def test_preprocessing_of_named_weights_is_kept_with_a_local_file(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    save_file(load_backbone("torchvision/mobilenet_v2:none").trunk.state_dict(), file)
    backbone = load_backbone("torchvision/mobilenet_v2:IMAGENET1K_V1", weights=file)
    assert backbone.preprocess.resize == 256
    assert rebuild(backbone.source).preprocess == backbone.preprocess
    save_file(load_backbone("timm/test_vit:none").trunk.state_dict(), file)
    backbone = load_backbone("timm/test_vit.r160_in1k", weights=file)
    assert rebuild(backbone.source).preprocess == backbone.preprocess


def test_a_local_file_of_another_network_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    save_file(Cnn().state_dict(), file)
    with pytest.raises(BackboneError, match="missing"):
        load_backbone("torchvision/resnet18", weights=file)
    with pytest.raises(BackboneError, match="missing"):
        load_backbone("timm/test_resnet", weights=file)
