"""A bundle's files by name, and graft.json as plain values."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from graft.errors import BundleError
from graft.files import follow, read_json, regular_file

FORMAT = 3  # 2: temperature, thresholds and views belong to what a prediction is; 3: adapters alone
WHOLE_FORMAT = 2  # of a bundle with the whole model, which older versions read as well
MANIFEST = "graft.json"
WEIGHTS, GOLDEN, TOKENIZER = "weights.safetensors", "golden.safetensors", "tokenizer.json"


def find_bundle(path: Path) -> Path:
    """The bundle's folder, given itself or its run's.

    Raises:
        BundleError: there is none.
    """
    path = follow(path)
    for folder in (path, path / "bundle"):
        if (folder / MANIFEST).is_file():
            return folder
    if (path / "recipe.json").is_file():
        raise BundleError(f"The run {path} has not finished: go on with graft resume {path}.")
    raise BundleError(
        f"There is no bundle in {path}: {MANIFEST} was expected there. graft train makes one, in "
        "the folder given with --out (runs/latest is the last one)."
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """What graft.json says, whole and of a known format.

    Raises:
        BundleError: it cannot be read, is damaged, or of a newer format.
    """
    path = folder / MANIFEST
    regular_file(path, BundleError, within=folder)
    values = read_json(path, BundleError)
    if not isinstance(values, dict) or type(values.get("format")) is not int or values["format"] < 1:
        raise BundleError(f"{path} is damaged: it does not describe a bundle.")
    if values["format"] > FORMAT:
        raise BundleError(
            f"{folder} has format {values['format']}; this graft reads up to {FORMAT}. Update graft."
        )
    try:
        whole = values.pop("digest", None) == manifest_digest(values)
    except ValueError:  # a number beyond all bounds
        whole = False
    if not whole:
        raise BundleError(f"{path} is damaged: its content does not match its digest.")
    return values


def manifest_digest(values: dict[str, Any]) -> str:
    """sha256 (hex) over the values of graft.json, the digest itself left out."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode()).hexdigest()
