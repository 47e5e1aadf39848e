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
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from graft.errors import GraftError

MAX_JSON_BYTES = 64 * 1024 * 1024
MAX_JSON_DEPTH = 64


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
        sync_file(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
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
        temporary.chmod(0o755)
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                sync_file(file)
        sync_folder(temporary)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
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
