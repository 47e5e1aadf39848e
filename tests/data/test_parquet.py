"""Parquet: pictures in cells, texts that are not UTF-8, and numbers as they are written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from graft.data.splits import read_splits
from graft.data.table import list_table
from graft.errors import MOST_SHOWN, DataError
from graft.recipe import DataSettings
from small import make_pictures

LABELS = ["red", "blue"] * 4
WHOLE = DataSettings(validation=0)


def files() -> list[bytes]:
    found = []
    for number, label in enumerate(LABELS):
        buffer = io.BytesIO()
        Image.fromarray(make_pictures(label, 1, number)[0]).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def write(file: Path, **columns: Any) -> Path:
    parquet.write_table(pa.table(columns), file)
    return file


def not_utf8(texts: list[str], place: int) -> pa.Array:
    """Strings, one of them with bytes that are none."""
    raw = pa.array([t.encode() + b"\xff\xfe" * (n == place) for n, t in enumerate(texts)], pa.binary())
    return pa.StringArray.from_buffers(len(raw), raw.buffers()[1], raw.buffers()[2])


@pytest.mark.odd_input("Cells and labels")
def test_pictures_in_cells(tmp_path: Path) -> None:
    """Pictures in the cells of a Parquet file, as bytes or as `{bytes, path}`: they are read, from the one
    column that holds them or the one that `data.image` names."""
    content = files()
    for number, each in enumerate(content):
        (tmp_path / f"{number}.png").write_bytes(each)
    paths = [f"{number}.png" for number in range(8)]
    by_path = read_splits(write(tmp_path / "p.parquet", path=paths, label=LABELS), WHOLE)
    both = [{"bytes": each, "path": "image.png"} for each in content]
    fields = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for name, cells in {
        "struct": both,
        "no paths": pa.array([{"bytes": each, "path": None} for each in content], fields),
        "no bytes": pa.array([{"bytes": None, "path": each} for each in paths], fields),
        "bytes": content,
        "large": pa.array(content, pa.large_binary()),
    }.items():
        splits = read_splits(write(tmp_path / "t.parquet", path=["x"] * 8, seen=cells, label=LABELS), WHOLE)
        assert splits.train.digests == by_path.train.digests, name
        assert len(set(splits.train.ids)) == 8
    two = write(tmp_path / "two.parquet", a=content, b=content, label=LABELS)
    with pytest.raises(DataError, match=r"in the columns 'a', 'b'; name one with --set data\.image=NAME"):
        list_table(two, WHOLE)
    assert len(list_table(two, DataSettings(image="b")).rows) == 8


def test_a_message_shows_little_of_a_picture(tmp_path: Path) -> None:
    table = write(tmp_path / "t.parquet", seen=files(), label=[[{"a": "x" * 9999}]] * 8)
    with pytest.raises(DataError) as caught:
        list_table(table, WHOLE)
    assert max(map(len, str(caught.value).splitlines())) < 2 * MOST_SHOWN


@pytest.mark.odd_input("Cells and labels")
def test_texts_that_are_not_utf8(tmp_path: Path) -> None:
    """Parquet strings that are not UTF-8: in texts the bytes become �, with a warning; in labels and paths,
    exit 2 with the row."""
    texts, path = [f"text {n}" for n in range(8)], tmp_path / "t.parquet"
    for cells in (not_utf8(texts, 3), not_utf8(texts, 3).dictionary_encode()):
        listing = list_table(write(path, text=cells, label=LABELS), WHOLE, "text")
        assert [each.code for each in listing.problems] == ["encoding"]
        assert str(listing.rows[3].source) == "text 3\ufffd\ufffd"
    with pytest.raises(DataError, match=r"row 3: label is 'red.*not UTF-8"):
        list_table(write(path, text=texts, label=not_utf8(LABELS, 2)), WHOLE, "text")
    with pytest.raises(DataError, match=r"row 3 of .* column 'path' is not UTF-8"):
        list_table(write(path, path=not_utf8(texts, 2), label=LABELS), WHOLE)
    lists = pa.ListArray.from_arrays(list(range(9)), not_utf8(LABELS, 2))
    with pytest.raises(DataError, match=r"column 'label' .*not UTF-8, inside list"):
        list_table(write(path, text=texts, label=lists), WHOLE, "text")


def test_numbers_and_missing_cells(tmp_path: Path) -> None:
    texts, path = [f"text {n}" for n in range(8)], tmp_path / "t.parquet"
    narrow = pa.array([0.1, 0.2] * 4, pa.float32())
    assert list_table(write(path, text=texts, label=narrow), WHOLE, "text").classes == ("0.1", "0.2")
    index = {"text": texts, "label": [0, 1] * 4, "__index_level_0__": texts}
    assert list_table(write(path, **index), WHOLE, "text").columns == ("text",)
    missing = [None if n == 3 else float(n % 2) for n in range(8)]
    with pytest.raises(DataError, match=r"1 of 8 rows(.|\n)*row 4: label is empty"):
        list_table(write(path, text=texts, label=missing), WHOLE, "text")
