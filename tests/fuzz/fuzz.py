"""Damaged files for every way into graft, until the time is over; what fails is kept as a small file.

    python tests/fuzz/fuzz.py [--seed 0] [--seconds 60] [--targets picture,table] [--keep tests/fuzz/cases]

A case is a function of (seed, target, number). Cases run in a forked process, which a hang, a crash of a
library or too much memory ends without ending the search. A fault is anything but an error of ours: it is
made small and saved as TARGET-DIGEST.bin, and test_fuzz.py runs it from then on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ |= {"GRAFT_REPORT": "0", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
from targets import Target, make_targets

import graft

CASES = HERE / "cases"
LONGEST = 10  # seconds of one case
MEMORY = 1_500_000_000  # bytes that a case may take beside what the process has
TOGETHER = 50  # cases of a process


@dataclass(frozen=True)
class Fault:
    """What a case did in place of refusing or accepting; ``kind`` is the same for all that are alike."""

    target: str
    kind: str
    content: bytes
    words: str

    @property
    def name(self) -> str:
        """Of the file it is saved as."""
        return f"{self.target.replace(' ', '_')}-{sha256(self.content).hexdigest()[:10]}.bin"


@dataclass
class Found:
    """The course of a search: cases by target, and a fault of each kind."""

    cases: Counter[str] = field(default_factory=Counter)
    faults: dict[str, Fault] = field(default_factory=dict)
    seconds: float = 0.0


class TooLong(BaseException):
    """A case has taken LONGEST seconds; no handler for ordinary errors may swallow it."""


def search(targets: dict[str, Target], seed: int, seconds: float) -> Found:
    """Run cases of all targets in turn until ``seconds`` are over."""
    found, start, batch = Found(), time.monotonic(), 0
    names = list(targets)
    while time.monotonic() - start < seconds:
        target = targets[names[batch % len(names)]]
        first = batch // len(names) * TOGETHER
        end = start + seconds
        for number, fault in _run_batch(target, seed, range(first, first + TOGETHER), end):
            found.cases[target.name] += number
            if fault is not None and fault.kind not in found.faults:
                found.faults[fault.kind] = make_small(target, fault)
        batch += 1
    found.seconds = time.monotonic() - start
    return found


def make_case(target: Target, seed: int, number: int) -> bytes:
    """The content of a case."""
    random = Random(f"{seed}/{target.name}/{number}")
    return random.choice(target.damages)(random.choice(target.sound), random, target.sound)


def fault_of(target: Target, content: bytes) -> Fault | None:
    """What goes wrong with this content, in this process; None where it is accepted or refused in words."""
    with tempfile.TemporaryDirectory(prefix="graft-fuzz-") as folder, _silent():
        before = _limit(LONGEST)
        try:
            target.run(content, Path(folder))
        except graft.GraftError:
            return None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of Rust code is no Exception
            return Fault(target.name, _kind(target, error), content, _words(error))
        finally:
            _limit(0, before)
    return None


def make_small(target: Target, fault: Fault) -> Fault:
    """The same fault with less content, as far as a hundred tries make it smaller."""
    size, tries, best = len(fault.content) // 2, 0, fault
    while size and tries < 100:
        for start in range(0, len(best.content), size):
            shorter = best.content[:start] + best.content[start + size :]
            ((_, again),) = list(_run_contents(target, [shorter]))
            tries += 1
            if again is not None and again.kind == fault.kind:
                best = again
                break
            if tries >= 100:
                break
        else:
            size //= 2
    return best


def _run_batch(target: Target, seed: int, numbers: range, end: float) -> Iterator[tuple[int, Fault | None]]:
    """(1, its fault or None) for each case; after one that ended its process, in a new one."""
    contents = (make_case(target, seed, number) for number in numbers)
    yield from _run_contents(target, contents, end)


def _run_contents(
    target: Target, contents: Iterable[bytes], end: float = math.inf
) -> Iterator[tuple[int, Fault | None]]:
    waiting = iter(contents)
    running = True
    while running:
        todo = [content for _, content in zip(range(TOGETHER), waiting, strict=False)]
        running = bool(todo)
        while todo and time.monotonic() < end:
            done, last = yield from _in_process(target, todo, end)
            todo = todo[done:]
            if last is not None:
                yield 1, last
                todo = todo[1:]


def _in_process(target: Target, contents: list[bytes], end: float) -> Any:
    """Yield (1, fault) for each case that a forked process did; return their number, and what ended it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(target, contents, writer, end)
    os.close(writer)
    done = 0
    for line in _lines(reader, LONGEST + 20):
        values = json.loads(line)
        fault = values and Fault(target.name, values["kind"], contents[done], values["words"])
        yield 1, fault
        done += 1
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reader)
    code = os.waitstatus_to_exitcode(status)
    if code == 0 or done == len(contents):
        return len(contents), None
    what = "hang" if code == -signal.SIGKILL else f"the process ended with {code}"
    return done, Fault(target.name, f"{target.name}: {what}", contents[done], what)


def _work(target: Target, contents: list[bytes], writer: int, end: float) -> None:
    code = 1
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 (not a file of ours)
            now = int(file.read().split()[0]) * resource.getpagesize()
        for stream in (1, 2):  # libraries print, too
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
        for content in contents:
            if time.monotonic() > end:
                break
            fault = fault_of(target, content)
            told = None if fault is None else {"kind": fault.kind, "words": fault.words}
            os.write(writer, json.dumps(told).encode() + b"\n")
        code = 0
    finally:
        os._exit(code)


def _lines(reader: int, longest: float) -> Iterator[bytes]:
    """Lines as they come, until there are no more or none comes for ``longest`` seconds."""
    rest = b""
    while select.select([reader], [], [], longest)[0]:
        data = os.read(reader, 2**16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def _limit(seconds: int, handler: Any = None) -> Any:
    """Let TooLong be raised after so many seconds; 0: no more. Returns the handler before."""

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop if handler is None else handler)
    signal.alarm(seconds)
    return before


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _kind(target: Target, error: BaseException) -> str:
    """The error's type, and where in graft it came from."""
    places = [
        f"{Path(frame.filename).name}:{frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "/graft/" in frame.filename
    ]
    return f"{target.name}: {type(error).__name__} at {places[-1] if places else 'the target'}"


def _words(error: BaseException) -> str:
    return re.sub(r"[^ -~]", "?", "".join(traceback.format_exception(error))[-1500:].replace("\n", " | "))


def main() -> int:
    """Search, keep what was found, and say it; 1 where there is a fault."""
    parser = argparse.ArgumentParser(description="Damage files and give them to graft.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--targets", default="", help="names with commas between them; all by default")
    parser.add_argument("--keep", type=Path, default=CASES, help="the folder that faults are saved in")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="graft-fuzz-sound-"))
    os.environ["GRAFT_STORE"] = str(folder / "store")
    try:
        with _silent():
            targets = make_targets(folder)
        chosen = {name: targets[name] for name in filter(None, asked.targets.split(","))} or targets
        found = search(chosen, asked.seed, asked.seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for fault in found.faults.values():
        asked.keep.mkdir(parents=True, exist_ok=True)
        (asked.keep / fault.name).write_bytes(fault.content)
        print(f"FAULT {fault.kind}\n  saved as {fault.name} ({len(fault.content)} bytes)\n  {fault.words}")
    cases = ", ".join(f"{name} {count}" for name, count in sorted(found.cases.items()))
    total = f"{found.cases.total()} cases ({cases}), {len(found.faults)} faults"
    print(f"seed {asked.seed}, {found.seconds:.0f} s, {total}")
    return 1 if found.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
