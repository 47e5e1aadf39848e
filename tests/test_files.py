"""Files are whole or absent, and JSON is read with suspicion."""

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
from safetensors.numpy import save_file

from graft.errors import RunError
from graft.files import (
    follow,
    kept_path,
    new_file,
    new_folder,
    point_to,
    read_json,
    sha256_file,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.odd_input("Files and streams")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
def test_modes_follow_the_umask(tmp_path: Path, mask: int) -> None:
    """A umask: every file that graft writes follows it, weights too."""
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "x")
        with new_folder(tmp_path / "b") as fresh:
            save_file({"w": np.zeros(2)}, fresh / "weights.safetensors")  # made for the owner alone
            (fresh / "below").mkdir()
            (fresh / "below" / "file").write_text("x")
        with new_file(tmp_path / "c") as part:
            save_file({"w": np.zeros(2)}, part)
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask}
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o777 & ~mask


def test_windows_takes_no_folders_and_may_refuse_a_rename_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders cannot be opened there, and who reads a file holds it."""
    tries, real_open, real_replace = [], os.open, Path.replace

    def open_file(path: str, flags: int, *rest: int, **more: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied")
        return real_open(path, flags, *rest, **more)

    def replace(self: Path, target: Path) -> Path:
        tries.append(target)
        if len(tries) < 3:
            raise PermissionError(13, "Access is denied")
        return real_replace(self, target)

    monkeypatch.setattr("graft.files._WINDOWS", True)
    monkeypatch.setattr("graft.files._PAUSES", (0, 0, 0))
    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(Path, "replace", replace)
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new" and len(tries) == 3
    with new_folder(tmp_path / "b") as fresh:
        write_text(fresh / "x", "y")
    assert (tmp_path / "b" / "x").read_text() == "y"


def test_paths_are_kept_with_slashes() -> None:
    assert kept_path(PureWindowsPath("C:\\photos\\red")) == "C:/photos/red"
    assert kept_path(PurePosixPath("/photos/red")) == "/photos/red"


@pytest.mark.parametrize("text", ["mine", "graft-folder", "x" * 5000, "\udcff"])
def test_a_file_that_is_no_pointer_leads_nowhere_and_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "latest"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert follow(path / "bundle") == path / "bundle"
    point_to(path, tmp_path)
    assert path.read_bytes() == text.encode("utf-8", "surrogateescape")


def test_text_is_written_whatever_is_in_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "name \udcff.jpg")
    assert (tmp_path / "a.txt").read_text() == "name \\udcff.jpg"


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_folder(tmp_path / "b") as fresh:
        (fresh / "half").write_text("x")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "b") as fresh:
        (fresh / "whole").write_text("x")
        assert not (tmp_path / "b").exists()
    assert (tmp_path / "b" / "whole").read_text() == "x"


def test_every_file_is_flushed_before_its_folder_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_sync, real_rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), real_sync(fd))[1])
    monkeypatch.setattr(
        Path, "rename", lambda self, to: (events.append("rename"), real_rename(self, to))[1]
    )
    with new_folder(tmp_path / "b") as fresh:
        (fresh / "one").write_text("x")
        (fresh / "two").write_text("x")
    assert events == ["sync", "sync", "sync", "rename", "sync"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1e999}', "infinity"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 100 + "]" * 100, "deeply"),
        ("[" * 100_000, "deeply"),
    ],
)
def test_damaged_json_is_one_error(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(RunError, match=reason) as error:
        read_json(path, RunError)
    assert str(path) in str(error.value)


def test_json_that_is_no_text_missing_or_huge(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(RunError, match="No such file"):
        read_json(path, RunError)
    path.write_bytes(b"\xff")
    with pytest.raises(RunError, match="not UTF-8"):
        read_json(path, RunError)
    write_json(path, {"a": [1, None]})
    assert read_json(path, RunError) == {"a": [1, None]}
    with pytest.raises(RunError, match="at most 3"):
        read_json(path, RunError, most=3)


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a").startswith("ba7816bf8f01cfea")
