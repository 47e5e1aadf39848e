"""Decoded pictures in memory: bounded, and never those of another content."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.data.image import Decoded
from graft.data.pixels import PixelStore


def picture(size: int) -> Decoded:
    return Decoded(torch.zeros(3, 1, size, dtype=torch.uint8), (1, size))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=60), st.integers(0, 60))
def test_a_store_gives_what_was_decoded_and_holds_no_more_than_its_limit(
    asked: list[tuple[int, int]], limit: int
) -> None:
    store = PixelStore(limit)
    for key, size in asked:
        found = store.get((key, size), lambda size=size: picture(size))
        assert found.size == (1, size)
        assert store.held <= limit


def test_the_least_recently_used_goes_first() -> None:
    store, decoded = PixelStore(6), []  # two pictures

    def get(key: str) -> None:
        def decode() -> Decoded:
            decoded.append(key)
            return picture(1)

        store.get(key, decode)

    for key in ("a", "b", "a", "c", "a", "b"):  # c pushes b out, for a was used after it
        get(key)
    assert decoded == ["a", "b", "c", "b"]


def test_a_smaller_limit_frees_memory_at_once() -> None:
    store = PixelStore(100)
    store.get("a", lambda: picture(3))
    assert store.held == 9
    store.resize(0)
    assert store.held == 0
    store.get("a", lambda: picture(3))
    assert store.held == 0


def test_what_is_not_to_be_kept_is_given_and_forgotten() -> None:
    store = PixelStore(100)
    assert store.get("a", lambda: picture(3), keep=False).size == (1, 3)
    assert store.held == 0
    kept = store.get("a", lambda: picture(4))
    assert store.get("a", lambda: picture(5), keep=False) is kept
