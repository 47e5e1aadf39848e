"""What is read for prediction: every item that is given has its place, whatever it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_pictures import colours, write_tree
from PIL import Image

from graft.data import read_items
from graft.data.items import Text, names_file
from graft.data.unlabelled import Unlabelled


def names(read: Unlabelled) -> list[str]:
    return [Path(each.id).name for each in read.given]


def places(read: Unlabelled) -> list[int | None]:
    return [each.item for each in read.given]


def test_files_and_folders_in_a_fixed_order(tmp_path: Path, monkeypatch) -> None:
    write_tree(tmp_path, {"in/z.png": 1, "in/sub/a.png": 2, "in/.hid.png": 3, "upload.bin": 4})
    monkeypatch.chdir(tmp_path)
    read = read_items(["upload.bin", Path("in"), "in/z.png"])
    assert read.items.ids == ("upload.bin", "in/sub/a.png", "in/z.png")
    assert read.items.targets is None
    assert places(read) == [0, 1, 2, 2]
    assert (read.faults, read.problems) == ((), ())
    assert read_items(".").items.ids == ("in/sub/a.png", "in/z.png")
    assert read_items(tmp_path / "in").items.ids[1] == (tmp_path / "in" / "z.png").as_posix()


@pytest.mark.odd_input("Predictions")
@settings(max_examples=25, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    names_of=st.lists(
        st.sampled_from(["a.png", "b.png", "broken.png", "none.png", "", "array"]), max_size=7
    )
)
def test_every_picture_that_is_given_has_its_place(tmp_path: Path, names_of: list[str]) -> None:
    """Pictures given several times, unreadable, missing or without a name: one row for each, in the order
    in which they were given; what is given twice is read once."""
    write_tree(tmp_path, {"a.png": 1, "b.png": 2, "broken.png": b"x"})
    sources = [colours(7) if name == "array" else str(tmp_path / name) if name else "" for name in names_of]
    read = read_items(sources)
    assert len(read.given) == len(names_of)
    for number, (name, found) in enumerate(zip(names_of, read.given, strict=True)):
        assert bool(found.fault) is (name in ("broken.png", "none.png", ""))
        assert (found.item is None) is bool(found.fault)
        assert found.id == (f"item {number}" if name in ("", "array") else (tmp_path / name).as_posix())
    assert len(read.items) == len({name for name in names_of if name[1:] == ".png"}) + names_of.count(
        "array"
    )


@pytest.mark.odd_input("Predictions")
def test_formats_that_are_not_read_have_their_place_in_a_folder(tmp_path: Path) -> None:
    """A folder with pictures in other formats (.HEIC, .svg, .dcm, .CR2 …): one row for each, in the order
    of paths, with the reason. Hidden files, junk of file systems, and files whose suffix is of no picture
    (.txt, .json, .mp4) are no items; the latter are counted."""
    junk = dict.fromkeys([".DS_Store", "Thumbs.db", ".a.png", "__MACOSX/a.png"], b"x")
    others = dict.fromkeys(["a/notes.txt", "b.json", "c.mp4", "d"], b"x")
    unread = dict.fromkeys(["a/2.HEIC", "a/4.svg", "0.dcm", "z.CR2", "m.avif"], b"x")
    write_tree(tmp_path, {"a/1.png": 1, "a/3.gif": 2, "n.jpg": 3, **junk, **others, **unread})
    read = read_items(tmp_path)
    assert names(read) == ["0.dcm", "1.png", "2.HEIC", "3.gif", "4.svg", "m.avif", "n.jpg", "z.CR2"]
    assert [each.fault[:22] for each in read.given if each.item is None] == ["graft does not read .d"] + [
        f"graft does not read .{kind[0]}" for kind in ("heic", "svg", "avif", "cr2")
    ]
    assert [(each.code, each.count) for each in read.problems] == [("not-a-picture", len(others))]


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    read = read_items([tmp_path, colours(1)])
    assert [each.code for each in read.problems] == ["no-pictures"]
    assert names(read) == ["item 1"]


def test_pictures_in_memory() -> None:
    read = read_items([colours(1), Image.fromarray(colours(2)), np.full((2, 2), 2.0), None])
    assert read.items.ids == ("item 0", "item 1")
    assert [fault.id for fault in read.faults] == ["item 2", "item 3"]
    assert len(read_items(colours(1)).items) == 1
    assert len(read_items([]).items) == 0


ENDS = {"unix": "\n", "windows": "\r\n", "old": "\r"}


@pytest.mark.odd_input("Predictions")
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("last", [True, False])
def test_every_line_of_a_text_has_its_place(tmp_path: Path, end: str, mark: str, last: bool) -> None:
    """Blank lines in a file or table of texts to predict: rows with an error, in their place; a line's end
    after the last text adds no row, whatever system wrote it."""
    lines = ["fine", "", "  ", "dull", "fine", ""]
    forms = {
        "new.txt": lines,
        "one.csv": ["text", *lines],
        "two.csv": ["id,text", *(f"7,{line}" if line.strip() else line for line in lines)],
        "two.tsv": ["id\ttext", *(f"7\t{line}" if line.strip() else line for line in lines)],
        "new.jsonl": [json.dumps({"text": line}) if line.strip() else line for line in lines],
    }
    for name, written in forms.items():
        path = tmp_path / name
        path.write_bytes((mark + end.join(written) + end * last).encode())
        read = read_items(path, modality="text")
        count = 6 if last else 5  # the last line is blank, or it is none
        first = 1 + len(written) - len(lines)
        assert [each.id for each in read.given] == [f"line {n}" for n in range(first, first + count)], name
        assert [(each.text or "").strip() for each in read.given] == [
            line.strip() for line in lines[:count]
        ]
        assert places(read) == [0, None, None, 1, 2, None][:count]
        assert {each.fault for each in read.given if each.item is None} == {"it is empty"}


@pytest.mark.odd_input("Predictions")
def test_texts_that_are_given_by_themselves_are_called_by_what_they_say() -> None:
    """A text that is given by itself (`--text`): every form of output shows it."""
    read = read_items(["lovely soup", ("a", "b"), "", None, 7, "x" * 100], modality="text")
    assert [each.id for each in read.given] == [
        "lovely soup",
        "a",
        "item 2",
        "item 3",
        "item 4",
        f"{'x' * 59}…",
    ]
    assert [each.text for each in read.given] == ["lovely soup", "a\nb", "", "", "", "x" * 100]
    assert places(read) == [0, 1, None, None, None, 2]
    assert read.items.sources[1] == Text("a", "b")


@pytest.mark.odd_input("Predictions")
def test_a_short_text_of_many_bytes() -> None:
    """A text of fewer characters than a file's name may have, and more bytes (100 Chinese ones): a text."""
    text = "\u4e2d" * 100
    assert not names_file(text)
    assert read_items(text, modality="text").items.sources == (Text(text),)
