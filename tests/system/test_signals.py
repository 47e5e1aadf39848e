"""What asks a run to stop, what is left alone, and that nothing outlives the process it works for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from graft.errors import Interrupted, TrainingError, WorkersLost
from graft.runs import Run, writing
from graft.system.signals import STOPPING, interrupts
from graft.workflow import drain

unix = pytest.mark.skipif(sys.platform == "win32", reason="signals between processes are needed")


@unix
@pytest.mark.odd_input("Processes")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_every_signal_to_stop_saves_and_exits_with_its_code(name: str) -> None:
    """SIGTERM or SIGHUP (a batch system, a closed terminal) while a run trains: graft finishes the step and
    saves, as after Ctrl-C, and exits with 143 or 129; `graft resume` goes on."""
    number = signal.Signals[name]
    before = [signal.getsignal(each) for each in STOPPING]
    done = []

    def steps():
        try:
            os.kill(os.getpid(), number)
            yield 1
        except Interrupted as stop:
            done.append("saved")
            raise stop

    with pytest.raises(Interrupted) as error:
        drain(steps())
    assert (error.value.exit_code, done) == (128 + number, ["saved"])
    assert [signal.getsignal(each) for each in STOPPING] == before


@unix
def test_ignored_signals_and_handlers_of_the_callers_own_stay() -> None:
    """nohup ignores SIGHUP."""
    called = []
    old = (
        signal.signal(signal.SIGHUP, signal.SIG_IGN),
        signal.signal(signal.SIGTERM, lambda *_: called.append(1)),
    )
    try:
        with interrupts() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            assert not asked.is_set()
        assert called == [1]
    finally:
        signal.signal(signal.SIGHUP, old[0])
        signal.signal(signal.SIGTERM, old[1])
    found = []
    thread = threading.Thread(target=lambda: found.append(interrupts().__enter__().is_set()))
    thread.start()
    thread.join()
    assert found == [False]


@unix
def test_workers_that_die_of_the_same_signal_are_part_of_the_interruption(tmp_path: Path) -> None:
    """Batch systems send one signal to all processes."""

    def steps(asked: bool):
        with writing(Run(tmp_path)):
            if asked:
                os.kill(os.getpid(), signal.SIGTERM)
            raise WorkersLost("A decoding worker ended.")
            yield 1

    with pytest.raises(Interrupted, match=r"graft resume .* --workers 0") as error:
        drain(steps(True))
    assert error.value.exit_code == 143
    with pytest.raises(TrainingError, match=r"graft resume .* --workers 0") as lost:
        drain(steps(False))
    assert lost.value.exit_code == 1


# Prints the process id of a worker, then waits to be killed.
PARENT = """
import multiprocessing, sys, time
from graft.system.signals import serve_parent

def work():
    serve_parent()
    print(multiprocessing.current_process().pid, flush=True)
    time.sleep(60)

if __name__ == "__main__":
    multiprocessing.get_context(sys.argv[1]).Process(target=work, daemon=True).start()
    time.sleep(60)
"""


def descendants(parent: int) -> set[int]:
    """Processes below ``parent``, as /proc tells."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, above = int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if above == parent:
            found |= {number} | descendants(number)
    return found


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.odd_input("Processes")
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is read")
@pytest.mark.parametrize("how", ["forkserver", "spawn"])
def test_no_process_outlives_a_run_that_was_killed(how: str, tmp_path: Path) -> None:
    """A run killed by SIGKILL (or any signal) while workers decode: no worker, fork server or resource
    tracker stays behind."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script), how], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        left = descendants(parent.pid)
        assert worker in left and len(left) >= 2
        parent.kill()
    end = time.monotonic() + 10
    while any(map(alive, left)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not [number for number in left if alive(number)]
