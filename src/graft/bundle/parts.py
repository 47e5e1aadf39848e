"""What a bundle's folder holds, each file checked before it is used: regular, of its size, of its hash."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from torch import Tensor, nn

from graft.backbones.contract import Adapters, Encoding, Preprocess, Source
from graft.backbones.stored import Layout, load_tensors, read_layout
from graft.backbones.tokenizer_limits import check_tokenizer
from graft.bundle.bounds import check_numbers, check_proof
from graft.bundle.manifest import GOLDEN, MANIFEST, TOKENIZER, WEIGHTS, find_bundle, read_manifest
from graft.bundle.value import Bundle
from graft.errors import BundleError, GraftError
from graft.files import MAX_JSON_BYTES, regular_file, sha256_file
from graft.model import Head, Model
from graft.options import Views
from graft.task import Task


@dataclass(frozen=True)
class Parts:
    """``stored`` is the bundle with no model; ``layout`` says what ``tensors``, which go into one, will be.

    ``files``: sha256 (hex) of each file. Tensors are read, and checked, when they are first asked for.
    """

    folder: Path
    stored: Bundle
    layout: Layout
    files: dict[str, str]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """What goes into the model; raises BundleError as :func:`graft.load_bundle`."""
        return self._read(WEIGHTS)

    @cached_property
    def golden(self) -> dict[str, Tensor]:
        """Two inputs, and the logits that the model must give; raises BundleError."""
        return self._read(GOLDEN)

    def _read(self, name: str) -> dict[str, Tensor]:
        check_hash(self.folder / name, self.files[name])
        return load_tensors(self.folder / name, BundleError, within=self.folder)


def read_parts(path: str | Path) -> Parts:
    """A bundle's parts; what is wrong in its manifest and in its files' headers is refused here.

    Raises:
        BundleError: as :func:`graft.load_bundle`.
    """
    folder = find_bundle(Path(path))
    values = read_manifest(folder)
    files = _check_files(values, folder)
    stored = _describe(values, folder)
    layout, golden = (read_layout(folder / name, BundleError, within=folder) for name in (WEIGHTS, GOLDEN))
    try:
        check_numbers(stored, layout)
        check_proof(stored, golden)
    except BundleError as error:
        raise BundleError(f"{folder} does not fit together: {error}") from None
    return Parts(
        folder, replace(stored, stored=tuple(layout.tensors) if stored.adapters else ()), layout, files
    )


def check_hash(file: Path, expected: str) -> None:
    """Raises BundleError where a file's content is not what the manifest says."""
    try:
        found = sha256_file(file)
    except OSError as error:
        raise BundleError(f"Cannot read {file}: {error.strerror or error}.") from None
    if found != expected:
        raise BundleError(f"{file} is damaged: its content does not match its hash.")


def _check_files(values: dict[str, Any], folder: Path) -> dict[str, str]:
    """The hashes of a bundle's files; each is regular, inside the folder, of the manifest's size."""
    names = (WEIGHTS, GOLDEN, *([TOKENIZER] if "encoding" in values else []))
    try:
        hashes = TypeAdapter(dict[str, str]).validate_python(values["files"])
        sizes = TypeAdapter(dict[str, int]).validate_python(values.get("sizes", {}))
        found = {name: hashes[name] for name in names}
    except (KeyError, ValueError) as error:
        raise _damaged(folder, error) from None
    for name in names:
        size = regular_file(folder / name, BundleError, within=folder).stat().st_size
        if size != sizes.get(name, size):  # bundles of older versions name none
            raise BundleError(
                f"{folder / name} is damaged: it has {size} bytes and should have {sizes[name]}."
            )
    return found


def _describe(values: dict[str, Any], folder: Path) -> Bundle:
    """The bundle without its model; every value of the type that it must have."""
    try:
        stored = Bundle(
            model=Model(nn.Identity(), nn.Identity()),
            task=TypeAdapter(Task).validate_python(values["task"]),
            head=TypeAdapter(Head).validate_python(values["head"]),
            preprocess=_read_encoding(values, folder)
            if "encoding" in values
            else Preprocess.from_dict(values["preprocess"]),
            source=TypeAdapter(Source).validate_python(values["source"]),
            plan=TypeAdapter(dict[str, Any]).validate_python(values["plan"]),
            metrics=TypeAdapter(dict[str, Any]).validate_python(values["metrics"]),
            path=folder,
            tta=TypeAdapter(Views).validate_python(values.get("tta", "none")),
            adapters=TypeAdapter(Adapters | None).validate_python(values.get("adapters")),
        )
    except BundleError:
        raise
    except (GraftError, KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from None
    if stored.head.classes != stored.task.classes:
        raise BundleError(
            f"{folder / MANIFEST} is damaged: {stored.task.classes} labels for a head of "
            f"{stored.head.classes} classes."
        )
    return stored


def _read_encoding(values: dict[str, Any], folder: Path) -> Encoding:
    """The tokenizer beside the manifest, which is what the manifest says."""
    file, told = folder / TOKENIZER, dict(values["encoding"])
    regular_file(file, BundleError, within=folder, most=MAX_JSON_BYTES)
    check_hash(file, values["files"][TOKENIZER])
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BundleError(f"{file} is damaged: it is not UTF-8 text.") from None
    del told["tokenizer"]
    encoding = TypeAdapter(Encoding).validate_python({**told, "tokenizer": text})
    check_tokenizer(text, encoding.vocabulary, str(folder))
    return encoding


def _damaged(folder: Path, error: Exception) -> BundleError:
    return BundleError(f"{folder / MANIFEST} is damaged: {error}")
