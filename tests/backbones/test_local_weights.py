from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import Cnn

from graft.backbones import load_backbone, local_weights, rebuild, state_digest
from graft.backbones.local_weights import load_state, open_weights, read_weights, strip_prefixes
from graft.errors import BackboneError
from small import make_pipe


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


def saved(file: Path, content: object) -> Path:
    torch.save(content, file)
    return file


def test_the_average_is_taken_where_there_is_one(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    average = {name: value + 1 for name, value in state.items()}
    averaged = {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in average.items()}}
    files: dict[str, dict[str, object]] = {
        "state_dict_ema": {"state_dict": state, "state_dict_ema": average},
        "model_ema": {"model": state, "model_ema": average, "args": None},
        "ema": {"model": state, "ema": {"decay": 0.9, "model": average}},
        "swa_model": {"net": state, "swa_model": averaged},
        "teacher": {"student": state, "teacher": {f"backbone.{k}": v for k, v in average.items()}},
        "ema_model": {
            "state_dict": {
                **{f"model.{k}": v for k, v in state.items()},
                **{f"ema_model.module.{k}": v for k, v in average.items()},
            }
        },
    }
    for name, content in files.items():
        found = open_weights(saved(tmp_path / "a.pth", content))
        assert found.average == name
        assert same_values(found.state, average), name
    found = open_weights(saved(tmp_path / "a.pth", averaged))
    assert not found.average and same_values(found.state, average)
    for ema in ({}, None, 0.999, {"shadow_params": [torch.zeros(1)]}):  # none that could be loaded
        found = open_weights(saved(tmp_path / "a.pth", {"model": state, "ema": ema}))
        assert not found.average and same_values(found.state, state)


def same_values(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    model = Cnn()
    load_state(model, found, "test", [])
    return same(model, expected)


@pytest.mark.odd_input("Weights and models")
def test_inspect_and_the_plan_say_that_it_is_the_average(tmp_path: Path) -> None:
    """A file with raw weights and their average (state_dict_ema, ema, swa_model …): the average is
    loaded, as timm does, and `inspect` and the plan say so."""
    from graft.backbones.catalog import describe
    from graft.notes import notes_on_backbone

    raw = load_backbone("timm/test_resnet:none").trunk.state_dict()
    average, name = {name: value + 1 for name, value in raw.items()}, next(iter(raw))
    file = saved(tmp_path / "a.pth", {"state_dict": raw, "state_dict_ema": average})
    backbone = load_backbone("timm/test_resnet", weights=file)
    assert torch.equal(backbone.trunk.state_dict()[name], average[name])
    assert describe(backbone).average == "state_dict_ema"
    assert "the average that the file calls state_dict_ema" in next(notes_on_backbone(backbone))


@pytest.mark.odd_input("Weights and models")
@pytest.mark.parametrize(
    "name",
    [
        "model_state_dict",
        "net",
        "state",
        "weights",
        "model_state",
        "network",
        "params",
        "foreseen_by_nobody",
    ],
)
def test_weights_are_found_under_any_name(
    name: str, tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    """Weights under a name of the script's own (model_state_dict, net, weights …), beside an
    optimizer's state and plain settings, in a file called .PTH or .pt: they are read, and the rest left
    out."""
    import argparse
    from types import SimpleNamespace

    import numpy as np

    beside = {
        "epoch": 3,
        "best": np.float64(0.5),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
        "args": argparse.Namespace(lr=1, out=Path("runs"), more=SimpleNamespace(a=1)),
    }
    for suffix in (".pth", ".PTH", ".Pt", ".bin", ".ckpt"):
        content = {name: {f"module.model.{k}": v for k, v in state.items()}, **beside}
        assert same_values(read_weights(saved(tmp_path / f"a{suffix}", content)), state)
    save_file(state, tmp_path / "a.SafeTensors")
    assert same_values(read_weights(tmp_path / "a.SafeTensors"), state)


class Foreign:
    """What a script of somebody else's may have saved with its weights."""


@pytest.mark.odd_input("Weights and models")
def test_files_that_hold_code_or_bombs_are_one_sentence(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    """A file of weights with Python objects, or that unpacks to more than it holds: refused in one sentence
    that names the objects; nothing in it is run."""
    with pytest.raises(BackboneError) as error:
        read_weights(saved(tmp_path / "a.pth", {"state_dict": state, "model": Foreign()}))
    assert "Foreign) besides tensors, which are never loaded" in str(error.value)
    assert "weights_only" not in str(error.value) and "\n" not in str(error.value)
    expanded = torch.zeros(1).expand(2**20, 2**20)
    with pytest.raises(BackboneError, match="more values than the file holds"):
        read_weights(saved(tmp_path / "b.pth", {"a": expanded}))
    for name in ("a.pth", "c.pth"):
        saved(tmp_path / name, {"a": torch.zeros(10**5)})
    pack(tmp_path / "a.pth", tmp_path / "packed.pth")
    with pytest.raises(BackboneError, match="larger in memory"):
        read_weights(tmp_path / "packed.pth")


def test_a_pickle_that_takes_memory_by_a_number_is_refused(tmp_path: Path) -> None:
    """As one pickle, whatever archive lies behind, and as an archive."""
    bomb = b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x10\x85R."
    archive = saved(tmp_path / "sound.pth", {"a": torch.zeros(4)}).read_bytes()
    for content in (bomb, bomb + archive):
        (tmp_path / "bomb.pth").write_bytes(content)
        with pytest.raises(BackboneError, match="larger in memory"):
            read_weights(tmp_path / "bomb.pth")
    torch.save({"a": torch.ones(4)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path / "old.pth")["a"].tolist() == [1] * 4


def test_names_with_endless_prefixes_cost_no_more_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    without = local_weights._without
    monkeypatch.setattr(local_weights, "_without", lambda *given: passes.append(given) or without(*given))
    names = [f"{'module.' * n}{other}w{n}" for n in range(99) for other in ("net.", "ema.", "model.")]
    strip_prefixes(dict.fromkeys(names, torch.zeros(1)), ["w1"])
    assert len(passes) <= 1 + 8 * 8


def pack(file: Path, packed: Path) -> None:
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for each in old.infolist():
            new.writestr(each.filename, old.read(each))


@pytest.mark.odd_input("Weights and models")
def test_headers_that_no_file_has_are_refused(tmp_path: Path) -> None:
    """A safetensors file whose header is too long, or promises more than the file holds: it is refused
    by its header alone."""
    sound = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    odd: list[object] = [
        {"a": sound | {"shape": [2**40]}},
        {"a": sound | {"shape": [-4]}},
        {"a": sound | {"data_offsets": [0, 2**50]}},
        {"a": sound | {"data_offsets": [16, 0]}},
        {"a": sound | {"shape": "x"}},
        {"a": 3},
        [],
        {"a": {}},
    ]
    for header in odd:
        text = json.dumps(header).encode()
        (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
        with pytest.raises(BackboneError, match="damaged"):
            read_weights(tmp_path / "a.safetensors")
    with (tmp_path / "a.safetensors").open("wb") as file:
        file.write((10**11).to_bytes(8, "little"))
        file.truncate(2 * 10**11)
    with pytest.raises(BackboneError, match="header has 100000000000 bytes"):
        read_weights(tmp_path / "a.safetensors")


def test_pipes_are_no_weights(tmp_path: Path) -> None:
    for name in ("a.pth", "a.safetensors"):
        make_pipe(tmp_path / name)
        with pytest.raises(BackboneError, match=r"There is no file|no regular file"):
            load_backbone("timm/test_resnet", weights=tmp_path / name)


def test_low_rank_adapters_are_no_weights(tmp_path: Path) -> None:
    save_file({"base_model.model.conv.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "adapter.safetensors")
    with pytest.raises(BackboneError, match=r"low-rank adapters \(LoRA\): merge"):
        load_backbone("timm/test_resnet", weights=tmp_path / "adapter.safetensors")
