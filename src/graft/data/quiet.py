"""Keeping Pillow's warnings about odd files from the user, in any number of threads.

``warnings.catch_warnings`` is not safe in threads: two that overlap restore each other's state.
Here
the first thread in adds one filter for Pillow's modules, and the last one out takes it away.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_PILLOW = r"PIL\b(?#quiet while graft decodes)"  # the comment makes the filter ours alone
_lock = threading.Lock()
_inside: list[int] = []  # one entry for each thread that decodes now


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Ignore warnings raised in Pillow's modules while any thread is inside."""
    with _lock:
        _inside.append(threading.get_ident())
        # each time: a filter that the user sets meanwhile must not come before ours
        warnings.filterwarnings("ignore", module=_PILLOW)
        ours = warnings.filters[0]
    try:
        yield
    finally:
        with _lock:
            _inside.pop()
            if not _inside:
                _remove(ours)


def _remove(ours: Any) -> None:
    remove: Callable[[Any], None] = warnings.filters.remove  # type: ignore[attr-defined] # it is a list
    try:
        remove(ours)
    except ValueError:
        return  # somebody else reset the filters meanwhile
