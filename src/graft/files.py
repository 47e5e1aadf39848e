"""Files that are whole or absent, and JSON that is read with suspicion.

Everything that graft writes goes through here: to a temporary name beside the final one, flushed to
the disk, then renamed, and the folder flushed after the rename. A kill at any instant leaves the old
file or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePath
from typing import Any

from graft.errors import GraftError

MAX_JSON_BYTES = 64 * 1024 * 1024
MAX_JSON_DEPTH = 64
_WINDOWS = os.name == "nt"
_POINTER, _LONGEST_POINTER = "graft-folder: ", 4096
_PAUSES = (0.01, 0.05, 0.2, 0.7)  # seconds between tries


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8; lone surrogates escaped), atomically and durably."""
    with new_file(path) as fresh:
        fresh.write_bytes(text.encode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces ``path``, flushed, when the block ends without error."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        sync_file(temporary)
        _replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, values: Any) -> None:
    """Write plain values as readable JSON, atomically."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes ``path`` when the block ends without error.

    Every file in it is flushed before the rename. ``path`` must not exist yet.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        mask = _umask()
        temporary.chmod(0o777 & ~mask)
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                file.chmod(0o666 & ~mask)  # libraries write for the owner alone
                sync_file(file)
        sync_folder(temporary)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def half_written(name: str, of: Collection[str]) -> bool:
    """Whether it is what a killed :func:`new_file` or :func:`new_folder` left of one of these names."""
    found = re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}", name)  # as tempfile makes names
    return found is not None and found[1] in of


def kept_path(path: PurePath) -> str:
    """A path as it is written into files: with slashes, which every system reads."""
    return path.as_posix()


def point_to(path: Path, target: Path) -> None:
    """Let ``path`` lead to a folder: a symbolic link, or a text file for :func:`follow` where none can be.

    Whatever else has that name is left alone. Raises OSError where nothing can be written.
    """
    if path.exists() and not path.is_symlink() and _pointed(path) is None:
        return
    try:
        way = Path(os.path.relpath(target.absolute(), path.parent.absolute()))
    except ValueError:  # on another drive
        way = target.absolute()
    link = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        link.symlink_to(way, target_is_directory=True)
        _replace(link, path)
    except (OSError, NotImplementedError):
        write_text(path, f"{_POINTER}{kept_path(way)}\n")
    finally:
        link.unlink(missing_ok=True)


def follow(path: Path) -> Path:
    """``path``, or where it leads if it, or a folder that it names, is a text file of :func:`point_to`."""
    for above in (path, *path.parents):
        target = _pointed(above)
        if target is not None:
            return above.parent / target / path.relative_to(above)
    return path


def _pointed(path: Path) -> str | None:
    """Where a pointer leads; None where the path is anything else."""
    try:
        if not path.is_file() or path.stat().st_size > _LONGEST_POINTER:
            return None
        text = path.read_bytes().decode("utf-8")
    except (OSError, ValueError):
        return None
    return text.removeprefix(_POINTER).strip() if text.startswith(_POINTER) else None


def _umask() -> int:
    """What the process keeps from others of the files it makes. It can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _replace(one: Path, other: Path) -> None:
    """Rename over what is there. Windows refuses that while another program, as an indexer, has it open."""
    for pause in (*_PAUSES, None):
        try:
            one.replace(other)
            return
        except PermissionError:
            if not _WINDOWS or pause is None:
                raise
            time.sleep(pause)


def sync_file(path: Path) -> None:
    """Have a file's content on the disk. Windows does so only for a file that is open for writing."""
    with path.open("r+b" if _WINDOWS else "rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Have a folder's entries on the disk. Windows opens no folders, and keeps their order itself."""
    if _WINDOWS:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """The hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def regular_file(
    path: Path, error: type[GraftError], *, within: Path | None = None, most: int | None = None
) -> Path:
    """``path``, where it can be read to its end: a pipe may never have one, nor a device.

    ``within``: the folder that the file must lie in, links followed. ``most``: its largest size in bytes.

    Raises:
        GraftError: of the given type, when it is missing, no regular file, elsewhere, or larger.
    """
    try:
        found = path.stat()
        elsewhere = within is not None and not path.resolve().is_relative_to(within.resolve())
    except (OSError, ValueError, RuntimeError) as problem:  # missing, a NUL in its name, a loop of links
        raise error(f"Cannot read {path}: {getattr(problem, 'strerror', None) or problem}.") from None
    if not stat.S_ISREG(found.st_mode):
        raise error(f"Cannot read {path}: it is no regular file, but a {_kind_of(found.st_mode)}.")
    if elsewhere:
        raise error(f"Cannot read {path}: it is a link out of {within}; put the file itself there.")
    if most is not None and found.st_size > most:
        raise error(f"{path} has {found.st_size} bytes; at most {most} were expected.")
    return path


def _kind_of(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
    return next((name for test, name in kinds if test(mode)), "device")


def read_json(path: Path, error: type[GraftError], *, most: int | None = MAX_JSON_BYTES) -> Any:
    """Plain values from a JSON file that may be damaged or hostile; ``most``: its largest size.

    Raises:
        GraftError: of the given type, when the file is missing, too large, too deep, not UTF-8, not
            JSON, holds a key twice, or holds NaN or infinity.
    """
    try:
        text = regular_file(path, error, most=most).read_bytes().decode("utf-8")
    except OSError as problem:
        raise error(f"Cannot read {path}: {problem.strerror or problem}.") from None
    except UnicodeDecodeError:
        raise error(f"{path} is damaged: it is not UTF-8 text.") from None
    return parse_json(text, error, str(path))


def parse_json(text: str, error: type[GraftError], where: str) -> Any:
    """Plain values from JSON text; ``where`` names it in the error. Raises as :func:`read_json`."""

    def refuse(reason: str) -> Callable[[str], Any]:
        def raise_it(_: str) -> Any:
            raise error(f"{where} is damaged: {reason}.")

        return raise_it

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(found)
        if len(values) != len(found):
            raise error(f"{where} is damaged: a key stands twice.")
        return values

    def number(digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else refuse("it holds NaN or infinity")(digits)

    try:
        values = json.loads(
            text,
            object_pairs_hook=pairs,
            parse_constant=refuse("it holds NaN or infinity"),
            parse_float=number,
        )
    except RecursionError:
        raise error(f"{where} is damaged: it is nested too deeply.") from None
    except ValueError as problem:
        raise error(f"{where} is damaged: {problem}.") from None
    if _depth(values) > MAX_JSON_DEPTH:
        raise error(f"{where} is damaged: it is nested too deeply.")
    return values


def _depth(values: Any) -> int:
    depth, layer = 0, [values]
    while layer and depth <= MAX_JSON_DEPTH:
        depth += 1
        layer = [
            inner
            for outer in layer
            for inner in (
                outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()
            )
            if isinstance(inner, dict | list)
        ]
    return depth


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; not where its name is too long or a folder is closed."""
    try:
        return path.exists()
    except OSError:
        return False
