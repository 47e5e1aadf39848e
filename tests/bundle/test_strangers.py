"""Bundles from strangers: every hash in them is right, and what they say costs nothing before it is
checked."""

from __future__ import annotations

import copy
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.modules import module as registration

from graft.backbones import load_backbone
from graft.bundle import load_bundle, make_bundle, read_parts
from graft.errors import BackboneError, BundleError
from graft.model import Head, make_model
from graft.task import Task
from small import make_pipe
from small_text import write_model
from test_bundle import change_tensors, forge, read_manifest

LABELS = ("bad", "good")


def write_bundle(backbone_id: str, folder: Path) -> Path:
    backbone = load_backbone(backbone_id)
    head = Head(backbone.feature_dim, len(LABELS))
    return make_bundle(make_model(backbone, head, seed=1), Task(LABELS), head, backbone).save(folder)


@pytest.fixture(scope="module")
def of_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("texts")
    return write_bundle(f"hf/{write_model(place / 'model', 'bert')}", place / "bundle")


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm

    place = tmp_path_factory.mktemp("pictures")
    network = timm.create_model("test_resnet", num_classes=3)
    save_file(network.state_dict(), place / "model.safetensors")
    names = ("input_size", "mean", "std", "interpolation", "crop_pct", "first_conv", "classifier")
    facts = {name: network.pretrained_cfg[name] for name in names}
    config = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": facts}
    (place / "config.json").write_text(json.dumps(config))
    return write_bundle(f"hf/{place}", place / "bundle")


@pytest.fixture
def texts(of_texts: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(of_texts, tmp_path / "texts"))


@pytest.fixture
def pictures(of_pictures: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(of_pictures, tmp_path / "pictures"))


def put_socket(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # paths of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(file.name)
    finally:
        os.chdir(here)


@pytest.mark.odd_input("Bundles of strangers")
@pytest.mark.parametrize(
    "name", ["graft.json", "weights.safetensors", "golden.safetensors", "tokenizer.json"]
)
def test_only_regular_files_inside_the_folder_are_read(texts: Path, name: str, tmp_path: Path) -> None:
    """A pipe, a device, a socket, a folder or a link out of the bundle in place of one of its files: it is
    refused at once, unread."""
    file, outside = texts / name, tmp_path / "outside"
    shutil.move(file, outside)
    ways: dict[str, Callable[[], object]] = {
        "pipe": lambda: make_pipe(file),
        "device": lambda: file.symlink_to("/dev/zero"),
        "socket": lambda: put_socket(file),
        "folder": file.mkdir,
        "link": lambda: file.symlink_to(outside),
    }
    for put in ways.values():
        put()
        with pytest.raises(BundleError, match=r"no regular file|link out of|no bundle in"):
            load_bundle(texts)
        file.rmdir() if file.is_dir() else file.unlink()
    file.symlink_to(shutil.move(outside, texts / "inside"))
    assert load_bundle(texts).labels == LABELS


@pytest.mark.odd_input("Bundles of strangers")
def test_files_have_the_size_that_the_manifest_says(texts: Path) -> None:
    """A bundle's file of another size than its manifest says: it is refused before it is read or hashed."""
    with (texts / "weights.safetensors").open("r+b") as file:
        file.truncate(2**40)  # a hole, of which the disk holds nothing
    with pytest.raises(BundleError, match=r"has 1099511627776 bytes and should have \d+"):
        load_bundle(texts)


def set_at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    *places, last = path.split(".")

    def change(values: dict[str, Any]) -> None:
        for place in places:
            values = values[place]
        values[last] = value

    return change


OF_TEXTS = "source.options.config.transformers."
TEXTS = {
    "head.features": [2**28, 0, -1, 10**30],
    "encoding.max_length": [0, -5, 2**40],
    "encoding.vocabulary": [0, 10**9, 25],
    "task.temperature": [1e-300, 1e300],
    f"{OF_TEXTS}num_hidden_layers": [10**7, 10**12, 5000],
    f"{OF_TEXTS}hidden_size": [2**19],
    f"{OF_TEXTS}vocab_size": [2**30],
    f"{OF_TEXTS}max_position_embeddings": [2**31],
    f"{OF_TEXTS}layer_norm_eps": [10**400],
    "source.options.config.pooling": ["all"],
    "source.options.config": [{}, None],
    "plan.data": [[], {"columns": 3}, {"named": {"label": {}}}],
}
PICTURES = {
    "preprocess.size": [[100_000, 100_000], [4096, 4096], [0, 0], [-1, 5]],
    "preprocess.resize": [10**9, 8192],
    "preprocess.mean": [[0.5], []],
    "preprocess.std": [[0.0] * 3, [1e300] * 3],
    "preprocess.max_value": [-1.0, 1e-300],
    "source.options.channels": [10**9, 0, "3", 64],
    "source.options.size": [10**6, 1.5],
    "source.options.config.model_args": [
        {"layers": [10**9] * 4},
        {"layers": [2000] * 4},
        {"channels": [2**13] * 4},
        {"checkpoint_path": "/etc/hostname"},
        {"cache_dir": "/"},
        {"pretrained": True},
    ],
    "source.options.config.pretrained_cfg": [{"crop_pct": 0.0}, {"input_size": [3, 10**9, 10**9]}],
    "source.options.config.architecture": ["vit_giant_patch14_224", "hf-hub:someone/model", "../x"],
}


@pytest.mark.odd_input("Bundles of strangers")
@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_numbers_beyond_the_weights_are_refused_before_anything_is_built(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features, layers, sizes, channels or positions in graft.json that the weights do not hold, or
    settings that a network's shape does not need: one sentence, before anything is allocated."""
    folder: Path = request.getfixturevalue(kind)
    values = read_manifest(folder)
    allocated = 0

    def count(_module: object, _name: str, parameter: Any) -> None:
        nonlocal allocated
        if parameter is not None and not parameter.is_meta:
            allocated += parameter.numel()

    hook = registration.register_module_parameter_registration_hook(count)
    monkeypatch.setattr("graft.backbones.repository.fetch_from_hub", None)
    try:
        for path, odd_ones in {"texts": TEXTS, "pictures": PICTURES}[kind].items():
            for odd in odd_ones:
                changed = copy.deepcopy(values)
                set_at(path, odd)(changed)
                forge(folder, changed)
                with pytest.raises(BundleError):
                    load_bundle(folder)
                    pytest.fail(f"{path} = {odd} loads")
                assert allocated < 10**6, (path, odd)
    finally:
        hook.remove()


def test_files_out_of_the_bundle_are_never_opened(pictures: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "outside.pth")
    opened: list[str] = []
    sound = read_manifest(pictures)
    watching = True
    sys.addaudithook(
        lambda event, given: opened.append(str(given[0])) if watching and event == "open" else None
    )
    for place in ("model_args", "pretrained_cfg"):
        for key in ("checkpoint_path", "file", "url", "state_dict", "hf_hub_id"):
            values = copy.deepcopy(sound)
            values["source"]["options"]["config"][place][key] = str(tmp_path / "outside.pth")
            forge(pictures, values)
            try:
                load_bundle(pictures)
            except BundleError as error:
                assert key in str(error)
    watching = False
    assert not any(name.endswith("outside.pth") for name in opened)


@pytest.mark.odd_input("Bundles of strangers")
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("texts", lambda golden: golden["inputs"].view(-1)[:1].fill_(10**7)),
        ("texts", lambda golden: golden["inputs"].view(-1)[:1].fill_(-2)),
        ("texts", lambda golden: golden["inputs"][0, 1].fill_(9)),
        ("texts", lambda golden: golden.update(inputs=golden["inputs"].repeat(1, 1, 4000))),
        ("texts", lambda golden: golden.update(inputs=golden["inputs"].int())),
        ("pictures", lambda golden: golden["inputs"].view(-1)[:1].fill_(float("nan"))),
        ("pictures", lambda golden: golden.update(inputs=torch.zeros(2, 3, 500, 500))),
        ("pictures", lambda golden: golden.update(more=torch.zeros(1))),
    ],
)
def test_proofs_that_no_network_of_this_kind_can_take(kind: str, change: Any, request: Any) -> None:
    """A proof (golden.safetensors) with tokens that do not exist, or of another shape or type: it is
    refused before the network sees it."""
    folder = request.getfixturevalue(kind)
    change_tensors(folder, "golden.safetensors", change)
    with pytest.raises(BundleError, match=r"does not fit together: (its proof|the inputs of its proof)"):
        load_bundle(folder)


@pytest.mark.odd_input("Bundles of strangers")
def test_a_bundle_is_no_models_folder(texts: Path) -> None:
    """A bundle's or a run's folder given as a model (hf/./run): a sentence says how to use it, or to
    merge an adapter alone."""
    texts.rename(texts.parent / "bundle")
    for folder in (texts.parent, texts.parent / "bundle"):
        with pytest.raises(BackboneError, match=r"bundle of graft.*graft predict.*graft merge"):
            load_backbone(f"hf/{folder}")


def test_a_bundles_tensors_are_read_when_they_are_needed(texts: Path) -> None:
    parts = read_parts(texts)
    assert "tensors" not in vars(parts) and "golden" not in vars(parts)
    assert parts.tensors.keys() == load_file(texts / "weights.safetensors").keys()
    assert set(parts.golden) == {"inputs", "logits"}
