"""Bundles: what was saved is what is loaded, and whatever is damaged or forged is refused."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graft.backbones import from_module, load_backbone
from graft.backbones.contract import Backbone
from graft.bundle import FORMAT, Bundle, find_bundle, load_bundle, make_bundle, manifest_digest
from graft.errors import BundleError, GraftError
from graft.files import sha256_file
from graft.model import Head, make_model
from graft.task import Task
from small import TINY, TinyNet, make_pictures, make_pipe, make_tiny

LABELS = ("blue", "green", "red")


def bundle_of(backbone: Backbone, kind: Any = "linear", seed: int = 1) -> Bundle:
    head = Head(backbone.feature_dim, len(LABELS), kind, hidden=6, dropout=0.5)
    return make_bundle(make_model(backbone, head, seed=seed), Task(LABELS), head, backbone)


def registered_tiny() -> Backbone:
    return load_backbone("tiny/net")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(registered_tiny()).save(tmp_path_factory.mktemp("kept") / "bundle")


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    """A bundle of one's own to damage."""
    return Path(shutil.copytree(kept, tmp_path / "bundle"))


def read_manifest(folder: Path) -> dict[str, Any]:
    values = json.loads((folder / "graft.json").read_text())
    assert isinstance(values, dict)
    return values


def forge(folder: Path, values: dict[str, Any] | None = None) -> None:
    """Write the manifest with hashes that are right again, as whoever knows graft could."""
    values = read_manifest(folder) if values is None else values
    values.pop("digest", None)
    if isinstance(values.get("files"), dict):
        for name in values["files"]:
            values["files"][name] = sha256_file(folder / name)
            values["sizes"][name] = (folder / name).stat().st_size
    (folder / "graft.json").write_text(json.dumps(values | {"digest": manifest_digest(values)}))


def change_tensors(folder: Path, name: str, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = {key: value.clone() for key, value in load_file(folder / name).items()}
    change(tensors)
    save_file(tensors, folder / name)
    forge(folder)


# ---------------------------------------------------------------------------------------------
# Round trips.


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("backbone", ["tiny/net", "graft/resnet18-half-64"])
def test_what_is_loaded_computes_what_was_saved(tmp_path: Path, backbone: str, kind: str) -> None:
    bundle = bundle_of(load_backbone(backbone), kind)
    size = bundle.preprocess.size
    pictures = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(1))
    bundle.model.eval()
    again = load_bundle(bundle.save(tmp_path / "bundle"))
    with torch.inference_mode():
        assert torch.equal(again.model(pictures), bundle.model(pictures))
    for field in ("task", "head", "preprocess", "source", "plan", "metrics"):
        assert getattr(again, field) == getattr(bundle, field), field
    assert not any(module.training for module in again.model.modules())
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == {
        "graft.json",
        "weights.safetensors",
        "golden.safetensors",
    }


def test_a_module_of_ones_own_is_loaded_with_its_factory(tmp_path: Path) -> None:
    bundle = bundle_of(make_tiny())
    path = bundle.save(tmp_path / "bundle")
    with pytest.raises(BundleError, match=r"no code is stored.*factory="):
        load_bundle(path)
    again = load_bundle(path, factory=TinyNet)
    pictures = torch.randn(3, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(again.model(pictures), bundle.model(pictures))
    with pytest.raises(GraftError):
        load_bundle(path, factory=lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))


def test_tied_weights_are_saved_as_copies(tmp_path: Path) -> None:
    class Tied(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.again = nn.Conv2d(3, 8, 3, padding=1)
            self.again.weight = self.stem[0].weight

        def forward(self, pictures: Tensor) -> Tensor:
            return super().forward(pictures) + self.again(pictures).mean()

    bundle = bundle_of(from_module(Tied(), preprocess=TINY))
    again = load_bundle(bundle.save(tmp_path / "bundle"), factory=Tied)
    assert torch.equal(again.model.trunk.again.weight, bundle.model.trunk.stem[0].weight)


def test_saving_over_anything_is_refused(folder: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    bundle = bundle_of(registered_tiny())
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for taken in (folder, tmp_path / "empty", tmp_path / "file"):
        with pytest.raises(BundleError, match="exists; a bundle is only written to a new folder"):
            bundle.save(taken)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(BundleError, match="could not be written: No space left"):
        bundle_of(registered_tiny()).save(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------
# Missing and damaged.


def test_nothing_there_says_what_was_expected(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BundleError, match=r"no bundle in .*graft\.json was expected.*graft train"):
            load_bundle(path)


def test_an_unfinished_run_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(BundleError) as error:
        find_bundle(tmp_path)
    assert str(error.value) == f"The run {tmp_path} has not finished: go on with graft resume {tmp_path}."


def test_a_run_stands_for_its_bundle(finished_run: Path) -> None:
    assert find_bundle(finished_run) == finished_run / "bundle"
    assert load_bundle(finished_run).labels == LABELS


@pytest.mark.parametrize("name", ["weights.safetensors", "golden.safetensors", "graft.json"])
def test_one_flipped_byte_is_found_wherever_it_is(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    for place in range(0, len(data), max(1, len(data) // 40)):
        damaged = bytearray(data)
        damaged[place] ^= 0x04
        (folder / name).write_bytes(damaged)
        try:
            load_bundle(folder)
        except BundleError:
            continue
        # A letter that JSON does not heed (white space) is no damage.
        assert json.loads(damaged) == json.loads(data)


@pytest.mark.parametrize("name", ["weights.safetensors", "golden.safetensors", "graft.json"])
@pytest.mark.parametrize("how", ["missing", "cut", "empty", "pickle", "folder", "pipe"])
def test_a_file_that_is_not_what_it_was(folder: Path, name: str, how: str) -> None:
    file = folder / name
    data = file.read_bytes()
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "pipe":
        make_pipe(file)
    elif how != "missing":
        file.write_bytes({"cut": data[:-20], "empty": b"", "pickle": pickle.dumps({"a": 1})}[how])
    with pytest.raises(BundleError, match=r"damaged|Cannot read|no bundle"):
        load_bundle(folder)


class Bomb:
    """Whoever unpickles it writes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("name", ["weights.safetensors", "golden.safetensors", "graft.json"])
@pytest.mark.parametrize("save", ["pickle", "torch"])
def test_nothing_is_ever_unpickled(folder: Path, tmp_path: Path, name: str, save: str) -> None:
    trace = tmp_path / "trace"
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists(), "the bomb is no bomb"
    trace.unlink()
    if save == "pickle":
        (folder / name).write_bytes(pickle.dumps(Bomb(trace)))
    else:
        torch.save(Bomb(trace), folder / name)
    if name != "graft.json":
        forge(folder)
    with pytest.raises(BundleError):
        load_bundle(folder)
    assert not trace.exists()


# ---------------------------------------------------------------------------------------------
# Forged: every hash is right, and still nothing but what fits is loaded.


def drop(tensors: dict[str, Tensor]) -> None:
    del tensors[next(name for name in tensors if name.startswith("head."))]


def add(tensors: dict[str, Tensor]) -> None:
    tensors["more"] = torch.zeros(1)


def reshape(tensors: dict[str, Tensor]) -> None:
    tensors["trunk.stem.0.weight"] = tensors["trunk.stem.0.weight"].flatten()


def narrow(tensors: dict[str, Tensor]) -> None:
    tensors["trunk.stem.0.weight"] = tensors["trunk.stem.0.weight"].half()


def spoil(tensors: dict[str, Tensor]) -> None:
    tensors["trunk.top.0.weight"][0, 0, 0, 0] = float("nan")


def overflow(tensors: dict[str, Tensor]) -> None:
    tensors["trunk.top.0.weight"][0, 0, 0, 0] = float("inf")


def shift(tensors: dict[str, Tensor]) -> None:
    for value in tensors.values():
        if value.is_floating_point():
            value += 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop, r"need 51 values; its weights hold \d+ for the head"),
        (add, r"unknown \['more'\]"),
        (reshape, r"trunk.stem.0.weight is torch.float32 \(216,\); the network has"),
        (narrow, "is torch.float16"),
        (spoil, "holds values that are not finite"),
        (overflow, "holds values that are not finite"),
        (shift, "does not compute what it did when it was saved"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_forged_weights_are_refused(folder: Path, change: Any, words: str) -> None:
    change_tensors(folder, "weights.safetensors", change)
    with pytest.raises(BundleError, match=words):
        load_bundle(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda golden: golden["logits"].add_(0.01),
        lambda golden: golden["logits"].fill_(float("nan")),
        lambda golden: golden.pop("logits"),
        lambda golden: golden.pop("inputs"),
        lambda golden: golden.update(inputs=torch.zeros(2, 1, 8, 8)),
        lambda golden: golden.update(inputs=torch.zeros(0)),
        lambda golden: golden.update(logits=torch.zeros(1)),
        lambda golden: golden.update(inputs=golden["inputs"].double()),
        lambda golden: golden.update(logits=golden["logits"].double()),
    ],
    ids=["shifted", "nan", "no-logits", "no-inputs", "grey", "none", "short", "double", "double-logits"],
)
def test_forged_proofs_are_refused(folder: Path, change: Any) -> None:
    change_tensors(folder, "golden.safetensors", change)
    with pytest.raises(BundleError):
        load_bundle(folder)


def test_a_newer_format_says_to_update(folder: Path) -> None:
    forge(folder, read_manifest(folder) | {"format": FORMAT + 1, "more": 1})
    with pytest.raises(BundleError, match=f"has format {FORMAT + 1}.*Update graft"):
        load_bundle(folder)


def test_labels_that_do_not_match_the_head_are_refused(folder: Path) -> None:
    for labels in (["a", "b"], ["a", "b", "c", "d"], ["a", "b", "b"], ["a"], [], [1, 2, 3], "abc", None):
        values = read_manifest(folder)
        values["task"]["labels"] = labels
        forge(folder, values)
        with pytest.raises(BundleError):
            load_bundle(folder)


def paths_in(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inner = values.items() if isinstance(values, dict) else []
    for key, value in inner:
        yield from paths_in(value, (*path, key))


ODD: list[Any] = [None, True, -1, 0, 10**6, 10**30, 0.5, "", "x", "../../x", [], [None], {}, {"a": 1}]


def loads_or_refuses(folder: Path, factory: Any = None) -> bool:
    """Whether a bundle loads (and then predicts); only errors of ours may say that it does not."""
    try:
        bundle = load_bundle(folder, factory=factory)
        bundle.predict([make_pictures("red", 1, 0)[0]], device="cpu")
    except GraftError:
        return False
    return True


def test_whatever_stands_in_the_manifest_only_our_error_escapes(folder: Path) -> None:
    """Every value taken out, and replaced by every odd one, under hashes that are right."""
    values = read_manifest(folder)
    values.pop("digest")
    needed = {"format", "task", "head", "preprocess", "source", "files"}
    for path in paths_in(values):
        if path[0] in ("provenance", "plan", "metrics") and len(path) > 1:
            continue
        for odd in ["out", *ODD]:
            changed = copy.deepcopy(values)
            place = changed
            for key in path[:-1]:
                place = place[key]
            if odd == "out":
                del place[path[-1]]
            else:
                place[path[-1]] = odd
            text = json.dumps(changed | {"digest": manifest_digest(changed)})
            (folder / "graft.json").write_text(text)
            loaded = loads_or_refuses(folder)
            if path[0] in needed and len(path) == 1 and odd in ("out", None):
                assert not loaded, path


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200 + "]" * 200,
        '{"a":' * 200 + "1" + "}" * 200,
        '{"format": 1, "format": 1}',
        '{"format": NaN}',
        '{"format": 1, "x": 1e999}',
        '{"format": 1, "x": ' + "9" * 5000 + "}",
        "[]",
        "1",
        '"graft"',
        "null",
        "{}",
        '{"format": "1"}',
        '{"format": 1}',
        '{"format": 0}',
    ],
    ids=lambda text: text[:24],
)
def test_odd_json_is_one_error(folder: Path, text: str) -> None:
    (folder / "graft.json").write_text(text)
    with pytest.raises(BundleError, match=r"graft\.json is damaged"):
        load_bundle(folder)


FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(data=st.data())
def test_fuzzed_bytes_of_the_manifest(kept: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = copy_of(kept, tmp_path)
    whole = (kept / "graft.json").read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 40)))
    (folder / "graft.json").write_bytes(whole[:start] + data.draw(st.binary(max_size=20)) + whole[end:])
    loads_or_refuses(folder)


@FUZZ
@given(data=st.data())
def test_fuzzed_headers_of_the_tensors(kept: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = copy_of(kept, tmp_path)
    name = data.draw(st.sampled_from(["weights.safetensors", "golden.safetensors"]))
    whole = (kept / name).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    start = data.draw(st.integers(0, header))
    end = data.draw(st.integers(start, min(header, start + 12)))
    middle = data.draw(st.binary(max_size=12) | st.sampled_from([b"F64", b"F4", b"BF16", b"9" * 12, b"-1"]))
    (folder / name).write_bytes(whole[:start] + middle + whole[end:])
    forge(folder)
    loads_or_refuses(folder)


def copy_of(kept: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "fuzzed"
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(kept, folder))


def test_a_bundle_that_moves_is_the_same_bundle(folder: Path, tmp_path: Path) -> None:
    before = load_bundle(folder)
    after = load_bundle(folder.rename(tmp_path / "moved"))
    assert replace(before, model=None, path=None) == replace(after, model=None, path=None)  # type: ignore[arg-type]
