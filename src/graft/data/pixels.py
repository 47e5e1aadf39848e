"""Decoded pictures that stay in memory, so that what is small enough is decoded once.

One store for the process: looking at the data, training, validation and evaluation see the same pictures.
A picture is known by its content (and by how it was decoded), never by its name, so it cannot be stale.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graft.data.image import Decoded

MOST, MOST_SHARE = 2**30, 1 / 8  # bytes, and of the machine's memory; the smaller one holds


class PixelStore:
    """Pictures by key, at most ``limit`` bytes of them; the least recently used go first.

    What it gives must not be changed in place. Safe to use from several threads.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0  # bytes
        self._pictures: OrderedDict[Hashable, Decoded] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], Decoded], *, keep: bool = True) -> Decoded:
        """The picture known by ``key``; the first time, what ``decode`` gives, kept where so asked."""
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
                return self._pictures[key]
        picture = decode()
        if not keep:
            return picture
        size = picture.pixels.nbytes
        with self._lock:
            if key not in self._pictures and size <= self.limit:
                self._pictures[key] = picture
                self.held += size
                self._shrink()
        return picture

    def holds(self, key: Hashable) -> bool:
        """Whether the picture is at hand now."""
        with self._lock:
            return key in self._pictures

    def resize(self, limit: int) -> None:
        """Hold at most ``limit`` bytes from now on."""
        with self._lock:
            self.limit = limit
            self._shrink()

    def _shrink(self) -> None:
        while self.held > self.limit:
            _, oldest = self._pictures.popitem(last=False)
            self.held -= oldest.pixels.nbytes


def _default_limit() -> int:
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not everywhere known
        return MOST
    return min(MOST, int(memory * MOST_SHARE))


pixel_store = PixelStore(_default_limit())
"""That of this process. Workers that decode for another process keep nothing."""
