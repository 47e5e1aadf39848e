"""Files are whole or absent, and JSON is read with suspicion."""

import os
from pathlib import Path

import pytest

from graft.errors import RunError
from graft.files import new_folder, read_json, sha256_file, write_json, write_text


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
    with pytest.raises(RunError, match="larger"):
        read_json(path, RunError, most=3)


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a").startswith("ba7816bf8f01cfea")
