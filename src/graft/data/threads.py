"""Pictures are read in threads: whoever decodes a file does not hold the interpreter's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST = 8  # threads; disks and memory give no more to further ones


def read_in_threads(read: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``read`` of every item, in their order; what waits to be taken is at most two for each thread.

    The first exception of ``read`` ends it where its item's turn comes; what was not begun by then is not.
    """
    waiting: deque[Future[R]] = deque()
    most, pool = 2 * thread_count(), _pool(os.getpid())
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) == most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def thread_count() -> int:
    """As many as there are processors that this process may use, up to :data:`MOST`."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MOST, usable or 1)


@cache
def _pool(process: int) -> ThreadPoolExecutor:  # noqa: ARG001 - a forked child has none of its parent's
    """Of one process, as long as it lives."""
    return ThreadPoolExecutor(max_workers=thread_count(), thread_name_prefix="read")
