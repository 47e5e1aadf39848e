"""What was computed once, on disk: rows of tensors by key, bounded, whole or absent, and never stale.

A *space* is a folder that is named by the hash of everything that decides its rows, but for the item and
its view, which are the key of a row (see reuse.states). It holds *chunks*: safetensors files of up to
``CHUNK`` bytes of rows, each with its keys and a checksum in the header. A chunk is written under another
name and renamed, so it is whole or absent whenever a process is killed; it is checked when a process first
opens it, and what is damaged is removed and counts as absent. Several processes may fill one space: each
writes chunks of its own, and a row that two of them wrote is there twice, alike.

The store as a whole holds at most ``limit`` bytes; the chunks that were used the longest ago go first, but
never one that this process uses. Chunks are mapped into memory, so one that another process removes stays
readable until it is let go. Where a row cannot be written (the limit, a full disk) it is simply not kept:
nothing that reads the store may rely on more than that what it gives is right.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from graft.files import write_json
from graft.reuse.inventory import ABOUT, CHUNK_ENDING, FORMAT, PART_ENDING, chunks_of, keys_of, spaces_in

CHUNK = 32 * 2**20  # bytes of rows, at most about
LIMIT = 10 * 10**9  # bytes of the whole store, unless told otherwise
_ABANDONED = 24 * 3600  # seconds after which a half-written file is nobody's any more
_HEADER = 512  # bytes of a chunk beside its rows and keys, about


@dataclass(frozen=True)
class Store:
    """The spaces under one folder, which need not exist yet."""

    folder: Path
    limit: int = LIMIT
    used: WeakSet[Space] = field(default_factory=WeakSet, repr=False, compare=False)
    """The spaces that are read from or written to now."""

    def space(self, identity: Mapping[str, Any], about: Mapping[str, Any]) -> Space:
        """The space of this ``identity`` (plain values); ``about`` is kept for those who look."""
        text = json.dumps({"format": FORMAT, **identity}, sort_keys=True)
        folder = self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]
        found = Space(self, folder, dict(about))
        self.used.add(found)
        return found

    def make_room(self, size: int) -> bool:
        """Remove the longest unused chunks, but none that is used, until ``size`` more bytes fit."""
        keep = {path for space in self.used for path in space.chunks}
        chunks = sorted(self._chunks(), key=lambda chunk: chunk[2])
        held = sum(each for _, each, _ in chunks)
        for path, each, _ in chunks:
            if held + size <= self.limit:
                break
            if path not in keep:
                with contextlib.suppress(OSError):
                    path.unlink()
                    held -= each
        return held + size <= self.limit

    def _chunks(self) -> Iterator[tuple[Path, int, float]]:
        """Every chunk with its size and when it was last used."""
        for space in spaces_in(self.folder):
            yield from chunks_of(space)


NOWHERE = Store(Path(os.devnull), 0)
"""Keeps nothing: what is asked of it is computed."""


@dataclass(eq=False)
class Space:
    """Rows that were made in one way. Not for use by several threads."""

    store: Store
    folder: Path
    about: dict[str, Any]
    unkept: int = 0
    """How many rows could not be kept."""
    _rows: dict[str, tuple[Path, int]] = field(default_factory=dict)
    _chunks: dict[Path, _Chunk | None] = field(default_factory=dict)
    _waiting: dict[str, tuple[Tensor, int, int]] = field(default_factory=dict)
    """Rows to be written, as parts of blocks: a tensor of its own would take more memory than a row."""
    _unwritten: int = 0
    """Bytes of them."""

    def __post_init__(self) -> None:
        self.refresh()

    @property
    def chunks(self) -> Iterable[Path]:
        """The files of rows that were met or written here."""
        return self._chunks.keys()

    def __contains__(self, key: str) -> bool:
        return key in self._rows or key in self._waiting

    def refresh(self) -> None:
        """See what other processes wrote meanwhile."""
        for path, _, _used in chunks_of(self.folder):
            if path not in self._chunks:
                self._open(path)
        for part in self.folder.glob(f"*{PART_ENDING}"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > _ABANDONED:
                    part.unlink()

    def read(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """The rows that are there and sound, by key."""
        found = {}
        for key in keys:
            row = None
            if key in self._waiting:
                block, start, stop = self._waiting[key]
                row = block[start:stop]
            elif key in self._rows:
                path, number = self._rows[key]
                chunk = self._chunk(path)
                row = None if chunk is None else chunk.row(number)
            if row is not None:
                found[key] = row
        return found

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Keep rows, on the CPU; they are written when a chunk is full.

        All are of one type and, but for their first dimension, of one shape.
        """
        new = {key: row for key, row in rows.items() if key not in self}
        if not new:
            return
        block = torch.cat(list(new.values())).detach()
        ends = list(accumulate(map(len, new.values())))
        for key, start, stop in zip(new, [0, *ends], ends, strict=False):
            self._waiting[key] = block, start, stop
        self._unwritten += block.nbytes
        if self._unwritten >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what waits; what cannot be written is forgotten, and counted."""
        if not self._waiting:
            return
        keys, sizes = list(self._waiting), [stop - start for _, start, stop in self._waiting.values()]
        blocks = list({id(block): block for block, *_ in self._waiting.values()}.values())
        self._waiting, self._unwritten = {}, 0
        path = self._write(keys, torch.cat(blocks), sizes)
        if path is None:
            self.unkept += len(keys)
            return
        self._chunks[path] = _mapped(path)  # not the rows themselves: memory is not for keeping them
        self._rows |= {key: (path, number) for number, key in enumerate(keys)}

    def _write(self, keys: list[str], rows: Tensor, sizes: list[int]) -> Path | None:
        listed, cuts = json.dumps(keys), json.dumps(sizes)
        if not self.store.make_room(rows.nbytes + len(listed) + len(cuts) + _HEADER):
            return None
        name = uuid.uuid4().hex
        part, path = self.folder / f"{name}{PART_ENDING}", self.folder / f"{name}{CHUNK_ENDING}"
        header = {
            "format": str(FORMAT),
            "keys": listed,
            "sizes": cuts,
            "sha256": _digest(listed, cuts, rows),
        }
        try:
            self._begin()
            save_file({"rows": rows}, part, metadata=header)
            part.replace(path)
        except (OSError, SafetensorError):
            with contextlib.suppress(OSError):
                part.unlink()
            return None
        return path

    def _begin(self) -> None:
        if not (self.folder / ABOUT).exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / ABOUT, self.about)

    def _open(self, path: Path) -> None:
        """Learn which rows a chunk has; what they are is read, and checked, when one is wanted."""
        keys = keys_of(path)
        if keys is None:
            _remove(path)
            return
        self._chunks[path] = None
        self._rows |= {key: (path, number) for number, key in enumerate(keys)}

    def _chunk(self, path: Path) -> _Chunk | None:
        """A chunk, mapped into memory; None, and forgotten, where it is gone or damaged."""
        chunk = self._chunks.get(path)
        if chunk is None:
            chunk = _sound(path)
            if chunk is None:
                self._rows = {key: place for key, place in self._rows.items() if place[0] != path}
                del self._chunks[path]
                _remove(path)
                return None
            self._chunks[path] = chunk
            with contextlib.suppress(OSError):
                os.utime(path)  # used now
        return chunk


@dataclass(frozen=True)
class _Chunk:
    """Rows one behind the other along their first dimension, in which they may differ."""

    rows: Tensor
    ends: list[int]
    header: dict[str, str]

    def row(self, number: int) -> Tensor:
        return self.rows[self.ends[number - 1] if number else 0 : self.ends[number]]


def _mapped(path: Path) -> _Chunk | None:
    """A chunk in its file, its rows not read yet; None where it is gone or no such chunk."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            rows: Tensor = file.get_tensor("rows")
        ends = list(accumulate(json.loads(header["sizes"])))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    return _Chunk(rows, ends, header)


def _sound(path: Path) -> _Chunk | None:
    """A chunk, if it is what was written."""
    chunk = _mapped(path)
    if chunk is None:
        return None
    header = chunk.header
    found = _digest(header.get("keys", ""), header["sizes"], chunk.rows)
    return chunk if header.get("sha256") == found else None


def _digest(keys: str, sizes: str, rows: Tensor) -> str:
    """sha256 of the keys and the sizes of rows as they are listed, and of their shape, type and bytes."""
    found = hashlib.sha256(f"{keys} {sizes} {list(rows.shape)} {rows.dtype}".encode())
    found.update(rows.contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
