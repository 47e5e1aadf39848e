"""Signals that ask a run to stop, and processes that must not outlive the one that they work for."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from graft.system.launch import find_launch

# Ctrl-C; from a batch system, a container or the system as it goes down; from a terminal that closes.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # not every system has all of them
STOPPING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


class Stop(threading.Event):
    """Set when a signal asked to stop; ``number`` is the signal's."""

    number: int = signal.SIGINT


@contextlib.contextmanager
def interrupts() -> Iterator[Stop]:
    """An event that the first signal to stop sets; the second one ends the process as usual.

    What is ignored stays so (nohup, a shell's background job), and handlers of the caller's own for other
    signals than Ctrl-C stay in place. Outside the main thread, which alone gets signals, nothing is done.
    """
    asked = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    taken = [number for number, handler in before.items() if _to_be_taken(number, handler)]

    def ask(number: int, _: FrameType | None) -> None:
        if not asked.is_set():
            asked.number = number
        asked.set()
        if find_launch().world_size == 1:  # torchrun passes one on several times, and kills after a while
            for each in taken:
                signal.signal(each, _usual(each))

    for number in taken:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number in taken:
            signal.signal(number, before[number])


def _to_be_taken(number: int, handler: object) -> bool:
    if number == signal.SIGINT:
        return handler is not None and handler != signal.SIG_IGN
    return handler == signal.SIG_DFL


def _usual(number: int) -> signal._HANDLER:
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


def serve_parent() -> None:
    """For a worker process: leave signals to the parent, and end when it ends, however it does.

    The parent holds one end of a pipe (on Windows, is a handle), which the system closes with it. A worker
    that was started by a fork server would not see its parent's end otherwise, nor would the server.
    """
    for number in STOPPING:
        if number != signal.SIGTERM:  # by which the parent ends it
            signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
