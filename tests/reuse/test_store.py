"""The store: whatever happens to its files, what it gives is what was put in, or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.reuse import store as module
from graft.reuse.inventory import clear_store, list_uses, store_folder
from graft.reuse.store import Space, Store

SHAPE = (40, 50)


def row(key: str) -> torch.Tensor:
    """What belongs to a key."""
    return torch.full(SHAPE, float(sum(key.encode())))


def space(folder: Path, limit: int = 10**9, **identity: object) -> Space:
    return Store(folder, limit).space({"what": "rows", **identity}, {"backbone": "tiny/net"})


def fill(target: Space, keys: list[str]) -> None:
    target.add({key: row(key) for key in keys})
    target.flush()


def chunks(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


@settings(max_examples=40)
@given(data=st.data())
def test_rows_are_those_that_were_put_in_whatever_happens_to_the_files(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("store")
    keys = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5, unique=True)
    open_spaces = [space(folder), space(folder)]
    for _ in range(data.draw(st.integers(1, 8))):
        one = data.draw(st.sampled_from(open_spaces))
        action = data.draw(
            st.sampled_from(["fill", "read", "damage", "cut", "remove", "reopen", "refresh"])
        )
        # Their names are random: what is drawn must not depend on them.
        files = sorted(chunks(folder), key=lambda path: path.stat().st_size)
        if action == "fill":
            fill(one, data.draw(keys))
        elif action == "refresh":
            one.refresh()
        elif action == "reopen":
            open_spaces[0] = space(folder)
        elif action in ("damage", "cut", "remove") and files:
            path = files[data.draw(st.integers(0, len(files) - 1))]
            content = bytearray(path.read_bytes())
            path.unlink()  # a mapped file must not be changed under its reader
            if action == "damage" and content:
                place = int(data.draw(st.floats(0, 1, exclude_max=True)) * len(content))
                content[place] ^= 1 << data.draw(st.integers(0, 7))
                path.write_bytes(content)
            elif action == "cut":
                path.write_bytes(
                    content[: int(data.draw(st.floats(0, 1, exclude_max=True)) * len(content))]
                )
        found = one.read(list("abcdefgh"))
        for key, value in found.items():
            assert torch.equal(value, row(key))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_another_process_finds_the_rows_in_their_type(tmp_path: Path, dtype: torch.dtype) -> None:
    one = space(tmp_path)
    one.add({key: row(key).to(dtype) for key in "abc"})
    one.flush()
    found = space(tmp_path).read(["a", "c", "z"])
    assert set(found) == {"a", "c"}
    assert all(torch.equal(value, row(key).to(dtype)) for key, value in found.items())


def test_spaces_of_another_identity_share_nothing(tmp_path: Path) -> None:
    fill(space(tmp_path), ["a"])
    assert "a" in space(tmp_path)
    assert "a" not in space(tmp_path, weights="others")


def test_rows_that_wait_are_read_as_well(tmp_path: Path) -> None:
    one = space(tmp_path)
    value = row("a")
    one.add({"a": value})
    value.zero_()  # the caller may use its memory again
    assert torch.equal(one.read(["a"])["a"], row("a"))
    assert not chunks(tmp_path)


def test_a_full_chunk_is_written_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 2 * row("a").nbytes)
    one = space(tmp_path)
    for key in "abc":
        one.add({key: row(key)})
    assert len(chunks(tmp_path)) == 1
    one.flush()
    assert len(chunks(tmp_path)) == 2


def test_the_longest_unused_goes_first_and_never_what_this_process_uses(tmp_path: Path) -> None:
    for number, name in enumerate(("old", "new")):
        fill(space(tmp_path, name=name), ["a"])
        for path in chunks(tmp_path):
            if time.time() - path.stat().st_mtime < 100:
                os.utime(path, (0, 1000 * (number + 1)))
    size = chunks(tmp_path)[0].stat().st_size
    third = space(tmp_path, int(2.5 * size), name="third")
    fill(third, ["a"])
    assert "a" not in space(tmp_path, name="old")
    assert "a" in space(tmp_path, name="new")
    narrow = space(tmp_path, int(1.5 * size), name="fourth")
    fill(narrow, ["a"])
    fill(narrow, ["b"])
    assert narrow.unkept == 1  # its own first chunk is in use
    assert set(narrow.read(["a", "b"])) == {"a"}
    assert sum(path.stat().st_size for path in chunks(tmp_path)) <= 1.5 * size


def test_a_disk_that_cannot_be_written_keeps_nothing_and_harms_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    one = space(blocked / "store")
    fill(one, ["a"])
    assert one.unkept == 1
    assert one.read(["a"]) == {}


def test_a_failed_write_leaves_no_part_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_tensors: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", fail)
    one = space(tmp_path)
    fill(one, ["a"])
    assert one.unkept == 1
    assert not list(tmp_path.rglob("*.part"))


def test_parts_that_a_killed_process_left_are_removed_in_time(tmp_path: Path) -> None:
    fill(space(tmp_path), ["a"])
    old, young = (chunks(tmp_path)[0].with_name(name) for name in ("old.part", "young.part"))
    for part in (old, young):
        part.write_bytes(b"half")
    os.utime(old, (0, time.time() - 2 * 24 * 3600))
    space(tmp_path)
    assert not old.exists()
    assert young.exists()


def test_a_kill_at_any_time_leaves_whole_chunks(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys, torch
        from pathlib import Path
        from graft.reuse.store import Store
        space = Store(Path(sys.argv[1])).space({"what": "rows"}, {"backbone": "tiny/net"})
        print("ready", flush=True)
        for number in range(10_000):
            key = f"key {number}"
            space.add({key: torch.full((200, 300), float(sum(key.encode())))})
            space.flush()
        """
    )
    words = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.3)
        child.send_signal(signal.SIGKILL)
    found = space(tmp_path).read([f"key {number}" for number in range(10_000)])
    assert found
    for key, value in found.items():
        assert value.shape == (200, 300)
        assert (value == sum(key.encode())).all()


def test_several_processes_fill_one_space(tmp_path: Path) -> None:
    """The same rows from each, in small chunks and at the same time; a limit makes them remove some."""
    program = textwrap.dedent(
        """
        import sys, torch
        from pathlib import Path
        from graft.reuse.store import Store
        space = Store(Path(sys.argv[1]), 400_000).space({"what": "rows"}, {"backbone": "tiny/net"})
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(60):
            key = f"key {number}"
            found = space.read([key]).get(key)
            assert found is None or (found == sum(key.encode())).all()
            space.add({key: torch.full((40, 50), float(sum(key.encode())))})
            space.flush()
            space.refresh()
        """
    )
    words = [sys.executable, "-c", program, str(tmp_path)]
    pipe = subprocess.PIPE
    children = [subprocess.Popen(words, stdin=pipe, stdout=pipe) for _ in range(2)]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:  # both are ready: now
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=120)
        assert child.returncode == 0
    keys = [f"key {number}" for number in range(60)]
    found = space(tmp_path, 400_000).read(keys)
    assert found
    assert all(torch.equal(value, row(key)) for key, value in found.items())


def test_what_is_in_the_store_is_told_and_cleared(tmp_path: Path) -> None:
    assert list_uses(tmp_path) == []
    fill(space(tmp_path), ["a", "b"])
    (use,) = list_uses(tmp_path)
    assert (use.about["backbone"], use.rows) == ("tiny/net", 2)
    assert use.bytes == sum(path.stat().st_size for path in chunks(tmp_path))
    assert clear_store(tmp_path) == use.bytes
    assert list_uses(tmp_path) == []


def test_what_others_keep_in_the_same_folder_is_neither_told_nor_removed(tmp_path: Path) -> None:
    theirs = tmp_path / "photos" / "weights.safetensors"
    theirs.parent.mkdir()
    theirs.write_bytes(b"dear")
    fill(space(tmp_path, limit=1), ["a"])
    assert list_uses(tmp_path) == []
    assert clear_store(tmp_path) == 0
    assert theirs.read_bytes() == b"dear"


def test_a_space_that_does_not_say_what_it_is_is_told_all_the_same(tmp_path: Path) -> None:
    fill(space(tmp_path), ["a"])
    (chunks(tmp_path)[0].parent / "about.json").write_text("{")
    (use,) = list_uses(tmp_path)
    assert (use.about, use.rows) == ({}, 1)


def test_the_store_lives_where_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAFT_STORE", str(tmp_path))
    assert store_folder() == tmp_path
    monkeypatch.delenv("GRAFT_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store_folder() == tmp_path / "graft" / "store"


def test_what_is_used_stays_though_another_space_wants_its_room(tmp_path: Path) -> None:
    store = Store(tmp_path, 3 * row("a").nbytes)
    one, other = (store.space({"what": name}, {}) for name in ("one", "other"))
    fill(one, ["a", "b"])
    fill(other, ["c", "d"])
    assert set(one.read(["a", "b"])) == {"a", "b"}
    assert other.unkept == 2
    del one
    fill(other, ["c", "d"])
    assert set(other.read(["c", "d"])) == {"c", "d"}
