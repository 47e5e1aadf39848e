"""What verbs share: where they write is checked before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.cli_options import check_out, paths_of
from graft.errors import RecipeError
from small import make_pipe

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


@pytest.mark.odd_input("Predictions")
@pytest.mark.parametrize(
    "name", ["a.xlsx", "a.tsv", "a", "a.", "a.csv.gz", ".csv", "csv", "a.parquet", "é.odt"]
)
def test_a_suffix_that_means_no_format_is_refused(tmp_path: Path, name: str) -> None:
    """`--out` with a suffix that is none of the known formats (.xlsx): refused before any work."""
    with pytest.raises(RecipeError, match=r"does not; expected one of \.csv, \.jsonl, \.ndjson"):
        check_out(tmp_path / name, FORMATS)


@pytest.mark.parametrize(
    ("name", "asked", "meant"),
    [
        ("a.csv", None, "csv"),
        ("a.CSV", "csv", "csv"),
        ("a.b.ndjson", None, "jsonl"),
        ("a.jsonl", "jsonl", "jsonl"),
        ("a", "csv", "csv"),
    ],
)
def test_the_suffix_decides_and_where_there_is_none_the_format_that_is_named(
    tmp_path: Path, name: str, asked: str | None, meant: str
) -> None:
    assert check_out(tmp_path / name, FORMATS, asked) == meant
    assert not list(tmp_path.iterdir())


@pytest.mark.odd_input("Predictions")
@pytest.mark.parametrize(("name", "asked"), [("a.csv", "jsonl"), ("a.jsonl", "csv"), ("a.csv", "table")])
def test_a_suffix_and_a_format_that_contradict_each_other_are_refused(
    tmp_path: Path, name: str, asked: str
) -> None:
    """`--out` and `--format` that contradict each other: refused before any work."""
    with pytest.raises(RecipeError, match=f"--format {asked} was named"):
        check_out(tmp_path / name, FORMATS, asked)


@pytest.mark.odd_input("Predictions")
def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    """`--out` into a folder that does not exist or cannot be written to, onto a folder or a device, or onto
    one of the items: refused before any work."""
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "item.csv").write_text("text\n")
    (tmp_path / "link.csv").symlink_to("item.csv")
    make_pipe(tmp_path / "pipe.csv")
    reasons = {
        "none/a.csv": "there is no folder .*none",
        "item.csv/a.csv": "there is no folder",
        "folder.csv": "it is a folder",
        "pipe.csv": "no regular file",
        "item.csv": "one of the items",
        "link.csv": "one of the items",
        f"{'n' * 260}.csv": "cannot be written",
        "a\0.csv": "cannot be written",
    }
    for name, words in reasons.items():
        with pytest.raises(RecipeError, match=words):
            check_out(tmp_path / name, FORMATS, items=[tmp_path / "item.csv", "no/such"])
    assert (tmp_path / "item.csv").read_text() == "text\n"
    assert check_out(tmp_path / "item.csv", FORMATS) == "csv"  # an old result is replaced


def test_an_empty_name_is_not_the_folder_one_stands_in() -> None:
    assert paths_of(["", " ", "."]) == ["", "", Path()]


def test_an_item_with_too_long_a_name_does_not_stand_in_the_way(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.touch()
    assert check_out(out, {".csv": "csv"}, items=["x" * 5000]) == "csv"
