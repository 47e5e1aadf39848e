"""The files of a model's repository: of a folder here, or of ORG/NAME on the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graft.backbones.hub import MissingFileError, SizeHint, UncachedFileError, fetch_from_hub
from graft.errors import BackboneError

MOST_BYTES = 64_000_000


def find_file(name: str, filename: str, size: SizeHint = lambda: None) -> Path:
    """The path of a file of the repository ``name``; ``size`` as in :func:`fetch_from_hub`.

    Raises:
        MissingFileError: the folder or repository has no such file.
        BackboneError: there is no such folder, ``name`` names none, or the file cannot be had.
    """
    if is_folder(name):
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise BackboneError(f"There is no folder {folder}, which hf/{name} names.")
        file = folder / filename
        if not file.is_file():
            raise MissingFileError(f"{folder} has no {filename}: a folder with a model was expected.")
        return file
    if not 1 <= name.count("/") + 1 <= 2 or "" in name.split("/"):
        raise BackboneError(
            f"hf/{name}: a repository hf/ORG/NAME, or a folder hf/./path or hf//path, was expected."
        )
    return fetch_from_hub(name, filename, size)


def find_optional(name: str, *filenames: str, cure: str = "") -> dict[str, Path]:
    """Those of these files that the repository has.

    ``cure``: what a person can do where that cannot be known, offline and with a part of it in the cache;
    without one, what is not in the cache is not there.

    Raises:
        BackboneError: it cannot be known.
    """
    found = {}
    for filename in filenames:
        try:
            found[filename] = find_file(name, filename)
        except UncachedFileError as error:
            if cure:
                raise BackboneError(f"{error} Whether it has one decides features: {cure}") from None
        except MissingFileError:
            continue
    return found


def is_folder(name: str) -> bool:
    """Whether ``name`` is the path of a folder, as ./path, /path or ~/path."""
    return name.startswith((".", "/", "~"))


def read_json_object(file: Path) -> dict[str, Any]:
    """Raises BackboneError where the file holds no JSON object, or is too large for a configuration."""
    try:
        text = file.read_text(encoding="utf-8") if file.stat().st_size <= MOST_BYTES else ""
        values = json.loads(text)
    except (OSError, ValueError) as error:
        raise BackboneError(f"{file} is no readable configuration: {error}.") from None
    if not isinstance(values, dict):
        raise BackboneError(f"{file} holds no JSON object; a configuration was expected.")
    return values
