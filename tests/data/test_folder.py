"""Folders as people have them: layouts, litter, links, pipes, and names in any bytes."""

from __future__ import annotations

import inspect
import json
import os
import socket
import sys
from pathlib import Path

import pytest
from odd_pictures import picture_bytes, small_tree, write_tree

from graft.data.folder import list_folder
from graft.data.splits import read_splits
from graft.errors import DataError
from small import make_pipe


def codes(listing) -> dict[str, int]:
    return {problem.code: problem.count for problem in listing.problems}


def test_folders_are_classes_at_any_depth(tmp_path: Path) -> None:
    write_tree(tmp_path, {"crow/a.png": 1, "crow/old/b/c.JPG": 2, "owl/d.webp": 3})
    rows = list_folder(tmp_path).rows
    assert [(row.id, *row.labels, row.split) for row in rows] == [
        ("crow/a.png", "crow", ""),
        ("crow/old/b/c.JPG", "crow", ""),
        ("owl/d.webp", "owl", ""),
    ]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_folders_named_like_splits_are_splits(tmp_path: Path, val: str) -> None:
    write_tree(tmp_path, {f"{part}/crow/a.png": 1 for part in ("train", val, "test")})
    found = [(row.split, row.id) for row in list_folder(tmp_path).rows]
    assert found == [
        ("test", "test/crow/a.png"),
        ("train", "train/crow/a.png"),
        ("val", f"{val}/crow/a.png"),
    ]


@pytest.mark.parametrize("others", [("test", "crow"), ("train", "test", "crow"), ("val", "test")])
def test_class_that_is_called_like_a_split(tmp_path: Path, others: tuple[str, ...]) -> None:
    write_tree(tmp_path, {f"{name}/a.png": 1 for name in others})
    listing = list_folder(tmp_path)
    assert {label for row in listing.rows for label in row.labels} == set(others)
    assert {row.split for row in listing.rows} == {""}


def test_hidden_folder_does_not_hide_the_splits(tmp_path: Path) -> None:
    tree = {".cache/x.png": 1, "__MACOSX/train/._a.png": 1, "train/crow/a.png": 1}
    write_tree(tmp_path, tree)
    assert [row.id for row in list_folder(tmp_path).rows] == ["train/crow/a.png"]


def test_litter_is_ignored_silently_and_the_rest_counted(tmp_path: Path) -> None:
    tree = dict.fromkeys(
        ["crow/.DS_Store", "crow/Thumbs.db", "crow/._a.png", "owl/desktop.ini", "__MACOSX/b.png"],
        b"x",
    )
    write_tree(tmp_path, {**tree, "crow/a.png": 1, "owl/b.png": 2})
    assert codes(list_folder(tmp_path)) == {}
    write_tree(tmp_path, {"README.md": b"x", "crow/a.txt": b"x", "c.png": 3, "owl/film.mp4": b"x"})
    listing = list_folder(tmp_path)
    assert codes(listing) == {"beside": 1, "not-a-picture": 3}
    assert "c.png" in str(listing.problems[0])
    assert "move them into the folder of their class" in str(listing.problems[0])


def test_pictures_beside_classes_of_a_split(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train/crow/a.png": 1, "train/b.png": 2})
    listing = list_folder(tmp_path)
    assert codes(listing) == {"beside": 1}
    assert listing.problems[0].examples == ("train/b.png",)


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    far = write_tree(tmp_path / "far", {"x.png": 5})
    root = write_tree(tmp_path / "photos", {"crow/a.png": 1, "owl/b.png": 2})
    (root / "crow" / "far").symlink_to(far)
    (root / "crow" / "self").symlink_to(root / "crow")
    (root / "crow" / "up").symlink_to(root)
    (root / "owl" / "c.png").symlink_to(root / "owl" / "b.png")
    ids = [row.id for row in list_folder(root).rows]
    assert ids == ["crow/a.png", "crow/far/x.png", "owl/b.png", "owl/c.png"]


def test_link_to_another_class_counts_for_both(tmp_path: Path) -> None:
    write_tree(tmp_path, {"crow/a.png": 1, "owl/b.png": 2})
    (tmp_path / "crow" / "owls").symlink_to(tmp_path / "owl")
    found = [(row.id, *row.labels) for row in list_folder(tmp_path).rows]
    assert found == [("crow/a.png", "crow"), ("crow/owls/b.png", "crow"), ("owl/b.png", "owl")]


def test_links_between_folders_do_not_multiply(tmp_path: Path) -> None:
    """Thirty levels with two links each are a billion paths but thirty-one folders."""
    root = write_tree(tmp_path, {"owl/a.png": 1, "crow/0/a.png": 2})
    for level in range(1, 31):
        folder = root / "levels" / str(level)
        folder.mkdir(parents=True)
        below = folder.parent / str(level - 1) if level > 1 else root / "crow" / "0"
        (folder / "x").symlink_to(below)
        (folder / "y").symlink_to(below)
    (root / "levels").rename(tmp_path / ".levels")
    for level in range(2, 31):
        for name in "xy":
            link = tmp_path / ".levels" / str(level) / name
            link.unlink()
            link.symlink_to(tmp_path / ".levels" / str(level - 1))
    (root / "crow" / "top").symlink_to(tmp_path / ".levels" / "30")
    assert len(list_folder(root).rows) == 2


def test_folder_deeper_than_the_stack(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 200)
    write_tree(tmp_path, {"owl/a.png": 1, f"owl/{deep}/b.png": 2})
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        assert len(list_folder(tmp_path).rows) == 2
    finally:
        sys.setrecursionlimit(limit)


def test_pipes_and_sockets_are_a_problem_and_never_opened(tmp_path: Path) -> None:
    write_tree(tmp_path, small_tree())
    make_pipe(tmp_path / "crow" / "pipe.png")
    (tmp_path / "crow" / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "owl" / "s.png"))
        splits = read_splits(tmp_path)
    (problem,) = splits.problems
    assert (problem.code, problem.count) == ("special", 3)
    assert "crow/pipe.png" in problem.examples


def test_closed_folder_is_a_problem(tmp_path: Path, monkeypatch) -> None:
    write_tree(tmp_path, {**small_tree(), "crow/locked/a.png": 7})
    genuine = Path.iterdir

    def guarded(self):
        if self.name == "locked":
            raise PermissionError(13, "Permission denied")
        return genuine(self)

    monkeypatch.setattr(Path, "iterdir", guarded)
    listing = list_folder(tmp_path)
    assert listing.problems[0].examples == ("crow/locked: Permission denied",)
    assert "check the permissions" in listing.problems[0].message


def test_closed_root_is_an_error(tmp_path: Path, monkeypatch) -> None:
    def forbid(_self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbid)
    with pytest.raises(DataError, match=r"Cannot list the folder .*Permission denied"):
        list_folder(tmp_path)


def test_dangling_link_is_an_unreadable_picture(tmp_path: Path) -> None:
    write_tree(tmp_path, small_tree())
    (tmp_path / "crow" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "crow" / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    splits = read_splits(tmp_path)
    assert {p.code: p.examples for p in splits.problems} == {
        "not-a-picture": ("crow/gone.txt",),
        "unreadable": ("crow/gone.png: the link points nowhere",),
    }


@pytest.mark.skipif(os.name == "nt", reason="names are bytes on POSIX only")
def test_names_in_any_bytes_can_be_printed_and_written(tmp_path: Path) -> None:
    write_tree(tmp_path, small_tree(("crow", "owl"), 2))
    root = os.fsencode(tmp_path) + b"/"
    Path(os.fsdecode(root + b"e\xe9")).mkdir()
    names = [b"e\xe9/a\xff.png", b"e\xe9/b\n\x1b[31m.png", b"e\xe9/b\\n.png", b"e\xe9/\\udcff.png"]
    for number, name in enumerate(names):
        Path(os.fsdecode(root + name)).write_bytes(picture_bytes(40 + number))
    splits = read_splits(tmp_path)
    ids = [name for _, items in splits.parts() for name in items.ids]
    assert len(set(ids)) == len(ids) == 8
    for text in [*ids, *splits.task.labels]:
        text.encode("utf-8")
        assert text.isprintable()
        assert json.loads(json.dumps(text)) == text


def test_accents_are_one_class_however_they_are_written(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train/\u00e9t\u00e9/a.png": 1, "val/e\u0301te\u0301/b.png": 2})
    assert {label for row in list_folder(tmp_path).rows for label in row.labels} == {"\u00e9t\u00e9"}


# --- folders that cannot be used --------------------------------------------------------------


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no pictures in .*expected folders named by class"):
        list_folder(tmp_path)


def test_folder_of_other_things_says_what_there_is(tmp_path: Path) -> None:
    write_tree(tmp_path, {"crow/a.heic": b"x", "owl/b.heic": b"x"})
    with pytest.raises(DataError, match=r"no pictures(.|\n)*format(.|\n)*crow/a\.heic"):
        list_folder(tmp_path)


def test_pictures_without_class_folders(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.png": 1, "b.png": 2})
    with pytest.raises(DataError, match=r"they have no labels.*folder of its own"):
        list_folder(tmp_path)
    write_tree(tmp_path, {"s/train/a.png": 1, "s/train/b.png": 2})
    with pytest.raises(DataError, match="train has pictures but no folders"):
        list_folder(tmp_path / "s")


def test_two_folders_for_one_split(tmp_path: Path) -> None:
    write_tree(tmp_path, {f"{part}/crow/a.png": 1 for part in ("train", "val", "valid")})
    with pytest.raises(
        DataError, match=r"2 candidates for the validation part: val, valid.*--set data.val=val"
    ):
        list_folder(tmp_path)


@pytest.mark.odd_input("Parts of the data")
def test_a_link_to_itself_beside_the_parts(tmp_path: Path) -> None:
    """A link to itself beside train and val: the parts are found as without it."""
    write_tree(
        tmp_path, {f"{part}/{name}/a.png": 1 for part in ("train", "val") for name in ("crow", "owl")}
    )
    (tmp_path / "loop").symlink_to("loop")
    listing = list_folder(tmp_path)
    assert set(listing.classes) == {"crow", "owl"}
    assert {row.split for row in listing.rows} == {"train", "val"}
