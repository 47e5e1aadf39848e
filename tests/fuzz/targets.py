"""What is fuzzed: graft's ways to take a stranger's file, each with sound files to damage.

A target is given bytes and an empty folder. It may refuse them with an error of ours; whatever else comes
out of it is a fault. Every sound file is made here, from the tiny networks of the tests.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
import torch
from mutations import Mutation, damage_bytes, damage_json, damage_text
from PIL import Image
from safetensors.torch import save

import graft
from graft.backbones.local_weights import read_weights
from graft.bundle.manifest import manifest_digest
from graft.checkpoint import Checkpoint, Checkpoints, Position
from graft.data import read_splits
from graft.data.image import decode, decode_reduced
from graft.recipe import DataSettings, read_recipe
from graft.runs import Run
from small import COLOURS, SETTINGS, make_pictures, make_tiny, write_pictures
from small_text import write_model

SAID = [
    (f"the film was {word} number {number}", mark)
    for number in range(6)
    for word, mark in (("good", "yes"), ("bad", "no"))
]
WHOLE = DataSettings(validation=0)


@dataclass(frozen=True)
class Target:
    """``run`` takes bytes and an empty folder; ``sound`` are contents that it accepts."""

    name: str
    run: Callable[[bytes, Path], Any]
    sound: Sequence[bytes]
    damages: tuple[Mutation, ...]


def make_targets(folder: Path) -> dict[str, Target]:
    """Every target by name; runs that some of them need are made below ``folder``."""
    pictures, texts = _picture_run(folder), _text_run(folder)
    found = [
        Target("picture", _decode, _pictures(), (damage_bytes,)),
        Target("table", _read_table, _tables(), (damage_text, damage_bytes)),
        Target("jsonl", _read_jsonl, [_jsonl()], (damage_json, damage_text)),
        Target("parquet", _read_parquet, _parquets(), (damage_bytes,)),
        Target("names", _read_names, [_NAMES], (damage_text,)),
        Target("weights", _read_weights, _weights(), (damage_bytes,)),
        Target("recipe", _read_recipe, _recipes(), (damage_text,)),
        Target("settings", _read_settings, [_SETTINGS], (damage_text,)),
        Target("log", _read_log, [(pictures / "metrics.jsonl").read_bytes()], (damage_text, damage_bytes)),
        Target("plan", _read_plan, [(pictures / "plan.json").read_bytes()], (damage_json,)),
        Target("checkpoint", _read_checkpoint, _checkpoint_parts(folder), (damage_json, damage_bytes)),
        *(_bundle_target(kind, run) for kind, run in (("pictures", pictures), ("texts", texts))),
        Target("texts", _predict_with(texts), [_LINES, _tables()[0]], (damage_text, damage_bytes)),
    ]
    return {target.name: target for target in found}


# Pictures.


def _pictures() -> list[bytes]:
    colours = make_pictures("red", 1, seed=0)[0]
    grey, five = colours[:, :, 0], np.concatenate([colours, colours], axis=2)[:, :, :5]
    saved = []
    for mode, format_ in (("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "JPEG"), ("CMYK", "JPEG")):
        saved.append(_saved(Image.fromarray(colours).convert(mode), format_))
    saved += [_saved(Image.fromarray(colours), format_) for format_ in ("GIF", "BMP", "WEBP", "TIFF")]
    saved.append(_saved(Image.fromarray(grey.astype(np.uint16) * 200), "PNG"))
    for array in (colours, five, grey.astype(np.uint16), grey.astype(np.float32) / 255):
        saved.append(_written(lambda file, array=array: np.save(file, array)))
        saved.append(_written(lambda file, array=array: tifffile.imwrite(file, array)))
    stack = np.stack([grey] * 3).astype(np.uint16)
    saved.append(
        _written(lambda file: tifffile.imwrite(file, stack, imagej=True, metadata={"axes": "CYX"}))
    )
    saved.append(_written(lambda file: tifffile.imwrite(file, stack, ome=True, metadata={"axes": "CYX"})))
    return saved


def _saved(picture: Image.Image, format_: str) -> bytes:
    return _written(lambda file: picture.save(file, format_))


def _written(write: Callable[[io.BytesIO], Any]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _decode(content: bytes, _folder: Path) -> None:
    channels = 5 if len(content) % 3 == 0 else 1 if len(content) % 3 == 1 else 3
    decode(content, channels=channels)
    decode_reduced(content, 4)


# Tables, texts, folders.


def _tables() -> list[bytes]:
    found = []
    for separator in (",", "\t", ";"):
        rows = [separator.join(("text", "label")), *(separator.join(row) for row in SAID)]
        found.append("\n".join(rows).encode())
    found.append(b'path,label,split\n"a,b.png",cat,train\nb.png,dog,train\nc.png,cat,val\nd.png,dog,val\n')
    quoted = "".join(f'"{text}, é",{number % 3}\r\n' for number, (text, _) in enumerate(SAID))
    found.append(f"text,label\r\n{quoted}".encode())
    return found


def _read_table(content: bytes, folder: Path) -> None:
    suffix = "tsv" if content.count(b"\t") > content.count(b",") else "csv"
    _read(content, folder / f"table.{suffix}")


def _jsonl() -> bytes:
    return "\n".join(json.dumps({"text": text, "label": mark}) for text, mark in SAID).encode()


def _read_jsonl(content: bytes, folder: Path) -> None:
    _read(content, folder / "table.jsonl")


def _parquets() -> list[bytes]:
    text = pa.table({"text": [text for text, _ in SAID], "label": [mark for _, mark in SAID]})
    several = pa.table({"text": [text for text, _ in SAID], "label": [[mark] for _, mark in SAID]})
    pictures = [{"bytes": _pictures()[0], "path": f"{n}.png"} for n in range(4)]
    held = pa.table({"image": pictures, "label": [0, 1, 0, 1]})
    return [
        _written(lambda file, table=table: pq.write_table(table, file)) for table in (text, several, held)
    ]


def _read_parquet(content: bytes, folder: Path) -> None:
    _read(content, folder / "table.parquet")


def _read(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    for modality in ("text", "picture"):
        try:
            read_splits(file, WHOLE, modality=modality)
        except graft.GraftError as error:
            str(error).encode("utf-8", "backslashreplace")


_NAMES = b"cat/a.png\ncat/b.png\ndog/c.png\ndog/d.png\ntrain/x.png"
_LINES = b"the film was good\nbad film\n"


def _read_names(content: bytes, folder: Path) -> None:
    picture = _pictures()[0]
    for name in content.split(b"\n")[:40]:
        try:
            path = folder / name.decode("utf-8", "surrogateescape").lstrip("/")
            if ".." not in path.parts:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture)
        except (OSError, ValueError):  # not a name that a file can have
            continue
    splits = read_splits(folder, WHOLE)
    json.dumps(splits.train.ids).encode()
    str(splits.problems).encode()


# Weights, recipes, runs.


def _weights() -> list[bytes]:
    state = {name: value.contiguous() for name, value in make_tiny().trunk.state_dict().items()}
    nested = {"state_dict": state, "epoch": 3, "args": {"lr": 0.1}}
    return [
        save(state),
        *(_written(lambda file, one=one: torch.save(one, file)) for one in (state, nested)),
    ]


def _read_weights(content: bytes, folder: Path) -> None:
    suffix = "pt" if content[:2] == b"PK" else "safetensors"
    (folder / f"weights.{suffix}").write_bytes(content)
    read_weights(folder / f"weights.{suffix}")


_SETTINGS = (
    b"train.lr=1e-3\nepochs=3\nstrategy=partial:2\ndata.size=64\n"
    b"thaw={'0': ['layer4']}\nphase.2.batch_size=8"
)


def _recipes() -> list[bytes]:
    lines = (
        b'strategy = "probe"\nepochs = 3\n[train]\nlr = 3e-5\nbatch_size = 8\n[data]\nvalidation = 0.2\n'
    )
    return [
        lines,
        b'backbone = "graft/resnet18-half-64"\n[phase.2]\nbatch_size = 4\n[thaw]\n"0" = ["layer4"]\n',
    ]


def _read_recipe(content: bytes, folder: Path) -> None:
    (folder / "recipe.toml").write_bytes(content)
    recipe = read_recipe(folder / "recipe.toml")
    recipe.to_toml()


def _read_settings(content: bytes, _folder: Path) -> None:
    read_recipe(settings=content.decode("utf-8", "replace").split("\n"))


def _read_log(content: bytes, folder: Path) -> None:
    (folder / "metrics.jsonl").write_bytes(content)
    run = Run(folder)
    run.read_log()
    _ = run.findings


def _read_plan(content: bytes, folder: Path) -> None:
    (folder / "plan.json").write_bytes(content)
    _ = Run(folder).plan


def _checkpoint_parts(folder: Path) -> list[bytes]:
    optimizer = {"step::a": torch.ones(1)}
    Checkpoints(folder / "sound", "run").save(Checkpoint(Position(), {"a": torch.zeros(2)}, optimizer))
    state = next((folder / "sound").glob("*/state.json")).read_bytes()
    return [b"state.json\n" + state, b"model.safetensors\n" + save({"a": torch.zeros(2)})]


def _read_checkpoint(content: bytes, folder: Path) -> None:
    name, _, data = content.partition(b"\n")
    Checkpoints(folder, "run").save(Checkpoint(Position(), {"a": torch.zeros(2)}))
    made = next(folder.glob("*/state.json")).parent
    part = "state.json" if name == b"state.json" else "model.safetensors"
    (made / part).write_bytes(data)
    values = _document(made / "state.json")
    if values is not None:
        values.pop("digest", None)
        if isinstance(values.get("files"), dict) and part != "state.json":
            values["files"][part] = sha256(data).hexdigest()
        values["digest"] = sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        (made / "state.json").write_text(json.dumps(values))
    Checkpoints(folder, "run").newest()


# Bundles, and what is given to them.


def _picture_run(folder: Path) -> Path:
    photos = write_pictures(folder / "photos", dict.fromkeys(COLOURS, 6))
    graft.train(photos, out=folder / "pictures", quiet=True, **SETTINGS | {"epochs": 1})
    return folder / "pictures"


def _text_run(folder: Path) -> Path:
    model = write_model(folder / "model", "bert")
    (folder / "said.csv").write_bytes(_tables()[0])
    given = {"backbone": f"hf/{model}", "strategy": "probe", "device": "cpu", "data__validation": 0}
    graft.train(folder / "said.csv", out=folder / "texts", quiet=True, **given)
    return folder / "texts"


def _bundle_target(kind: str, run: Path) -> Target:
    bundle = run / "bundle"
    files = [file for file in sorted(bundle.iterdir()) if file.suffix in (".json", ".safetensors")]
    sound = [file.name.encode() + b"\n" + file.read_bytes() for file in files]
    asked: Any = ["the film was good"] if kind == "texts" else [make_pictures("red", 1, seed=1)[0]]

    def load(content: bytes, folder: Path) -> None:
        name, _, data = content.partition(b"\n")
        if name.decode("utf-8", "replace") not in {file.name for file in files}:
            return
        forged = shutil.copytree(bundle, folder / "bundle")
        (forged / name.decode()).write_bytes(data)
        _forge(forged)
        graft.load_bundle(forged).predict(asked)

    return Target(f"bundle of {kind}", load, sound, (_damage_part,))


def _damage_part(content: bytes, random: Any, others: Sequence[bytes]) -> bytes:
    """The part's content, after the line with its name, damaged as its kind is."""
    name, newline, data = content.partition(b"\n")
    of_json = (damage_json, damage_json, damage_text)
    damage = random.choice(of_json) if name.endswith(b".json") else damage_bytes
    return name + newline + damage(data, random, [each.partition(b"\n")[2] for each in others])


def _forge(bundle: Path) -> None:
    """Make every hash right again, as whoever damages a bundle on purpose would."""
    values = _document(bundle / "graft.json")
    if values is None or not isinstance(values.get("files"), dict):
        return
    sizes = values.get("sizes")
    for name in values["files"]:
        if (bundle / name).is_file():
            data = (bundle / name).read_bytes()
            values["files"][name] = sha256(data).hexdigest()
            if isinstance(sizes, dict) and name in sizes:
                sizes[name] = len(data)
    values.pop("digest", None)
    try:
        values["digest"] = manifest_digest(values)
    except (ValueError, UnicodeError):
        return
    (bundle / "graft.json").write_text(json.dumps(values), encoding="utf-8", errors="surrogatepass")


def _document(file: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _predict_with(run: Path) -> Callable[[bytes, Path], None]:
    bundle = graft.load_bundle(run)

    def predict(content: bytes, folder: Path) -> None:
        file = folder / ("new.csv" if b"," in content[:40] else "new.txt")
        file.write_bytes(content)
        rows = bundle.predict(file)
        assert all(row.error or row.label in bundle.labels for row in rows)

    return predict
