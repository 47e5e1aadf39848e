"""What lies in the store: its folder, its spaces and their chunks, told from their headers alone.

For whoever looks at the store or empties it, without torch; what fills and reads it is in reuse.store.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from graft.errors import StoreError
from graft.files import read_json

FORMAT = 2
CHUNK_ENDING, PART_ENDING, ABOUT = ".safetensors", ".part", "about.json"
VARIABLE = "GRAFT_STORE"
_SPACE = re.compile("[0-9a-f]{32}")  # nothing else in the folder is ours


@dataclass(frozen=True)
class Use:
    """What a space is, and what it takes."""

    name: str
    about: dict[str, Any]
    rows: int
    bytes: int
    used: float
    """When it was last read or written, in seconds since 1970."""


def store_folder() -> Path:
    """Where the store lives: GRAFT_STORE, or ``graft/store`` in the user's cache folder."""
    told = os.environ.get(VARIABLE)
    if told:
        return Path(told).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "graft" / "store"


def list_uses(folder: Path) -> list[Use]:
    """What is in the store, the most recently used first."""
    found = [_use_of(space) for space in spaces_in(folder)]
    return sorted(found, key=lambda use: use.used, reverse=True)


def clear_store(folder: Path) -> int:
    """Remove every space; the bytes of rows that this freed.

    Raises:
        StoreError: something cannot be removed.
    """
    freed = 0
    try:
        for space in list(spaces_in(folder)):
            size = sum(size for _, size, _ in chunks_of(space))
            shutil.rmtree(space)
            freed += size
    except OSError as error:
        raise StoreError(f"The store {folder} cannot be cleared: {error.strerror}.") from None
    return freed


def spaces_in(folder: Path) -> Iterator[Path]:
    """The spaces' folders. Whatever else lies in the store's folder was not put there by it."""
    with contextlib.suppress(OSError):
        yield from (path for path in folder.iterdir() if _SPACE.fullmatch(path.name) and path.is_dir())


def chunks_of(space: Path) -> Iterator[tuple[Path, int, float]]:
    """Every chunk of a space with its bytes and when it was last used."""
    for path in sorted(space.glob(f"*{CHUNK_ENDING}")):
        with contextlib.suppress(OSError):  # removed meanwhile
            status = path.stat()
            yield path, status.st_size, status.st_mtime


def keys_of(chunk: Path) -> list[str] | None:
    """The keys in a chunk's header; None where it is gone or no chunk of this format."""
    try:
        with safe_open(chunk, framework="numpy") as file:
            header = file.metadata() or {}
            length = file.get_slice("rows").get_shape()[0]
        keys, sizes = json.loads(header["keys"]), json.loads(header["sizes"])
        fits = len(keys) == len(sizes) and sum(sizes) == length
    except (OSError, SafetensorError, KeyError, ValueError, IndexError, TypeError):
        return None
    sound = header.get("format") == str(FORMAT) and isinstance(keys, list) and fits
    return [str(key) for key in keys] if sound else None


def _use_of(space: Path) -> Use:
    chunks = list(chunks_of(space))
    try:
        about = read_json(space / ABOUT, StoreError)
    except StoreError:
        about = {}  # it is there, and takes its room, all the same
    rows = sum(len(keys_of(path) or ()) for path, _, _ in chunks)
    used = max((when for _, _, when in chunks), default=0.0)
    return Use(space.name, about, rows, sum(size for _, size, _ in chunks), used)
