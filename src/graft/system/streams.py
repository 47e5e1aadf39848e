"""Standard input, output and error as they may be found: closed, full, a pipe that nobody reads any more.

What cannot be shown never ends the work that it reports. Afterwards it is known whether all was written.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO, cast


class _Lasting(io.FileIO):
    """A stream's file. The first write that fails is remembered, and what follows goes nowhere."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]  # any buffer
        size = memoryview(data).nbytes
        if self.failure is not None:
            return size
        try:
            while (written := super().write(data)) is None:  # a full pipe that was set not to wait
                time.sleep(0.01)
        except OSError as error:
            self.failure = error
            return size
        return written


@dataclass(frozen=True)
class Streams:
    """Standard streams while they are guarded; ``out``: None where it is not the system's own."""

    out: _Lasting | None

    def why_incomplete(self) -> str | None:
        """Why not all of standard output was written; empty where its reader had seen enough."""
        with contextlib.suppress(ValueError):
            sys.stdout.flush()
        failure = None if self.out is None else self.out.failure
        if failure is None:
            return None
        return "" if failure.errno == errno.EPIPE else (failure.strerror or str(failure))


@contextlib.contextmanager
def guarded_streams() -> Iterator[Streams]:
    """Inside, standard streams exist, take every character, and never raise."""
    _open_closed_descriptors()
    before = sys.stdin, sys.stdout, sys.stderr
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (lives as long as the process)
    out, sys.stdout = _guard(sys.stdout, 1)
    _, sys.stderr = _guard(sys.stderr, 2)
    try:
        yield Streams(out)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def _open_closed_descriptors() -> None:
    """Let nothing stand for what was closed, or the next file that is opened would take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            found = os.open(os.devnull, os.O_RDWR)
            if found != number:
                os.dup2(found, number)
                os.close(found)
            os.set_inheritable(number, True)


def _guard(stream: TextIO | None, number: int) -> tuple[_Lasting | None, TextIO]:
    """A stream that lasts in place of the interpreter's own; any other is left as it is."""
    if stream is not None:
        try:
            own = stream.fileno() == number
        except (OSError, ValueError):
            own = False
        if not own or _is_windows_console(stream):
            return None, stream
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    file = _Lasting(number)
    shown = file.isatty()
    encoding = stream.encoding if stream is not None and (shown or _told_encoding()) else "utf-8"
    # What is no character of the encoding is escaped: a name from far away never ends a run.
    text = io.TextIOWrapper(
        io.BufferedWriter(cast(io.RawIOBase, file)),
        encoding,
        "backslashreplace",
        line_buffering=shown or number == 2,
    )
    return file, text


def _told_encoding() -> bool:
    return bool(os.environ.get("PYTHONIOENCODING"))


def _is_windows_console(stream: TextIO) -> bool:
    """Where Python writes by calls of its own, in Unicode."""
    return sys.platform == "win32" and stream.isatty()
