"""Tables: every value as it stands, and every fault named with its row."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_pictures import write_tree
from pyarrow import parquet

from graft.data.raw_table import check_unique
from graft.data.splits import read_labelled, read_splits
from graft.data.table import list_table
from graft.errors import DataError, RecipeError
from graft.recipe import DataSettings, Recipe, make_recipe, read_recipe
from graft.task import Task

PLAIN = DataSettings()
ROWS = [("a.png", "crow"), ("sub/b.png", "owl"), ("c.png", "NA"), ("d.png", "None")]


def write(path: Path, rows: list[tuple[Any, ...]], names: tuple[str, ...] = ("path", "label")):
    """The same rows in whatever form the suffix of ``path`` says."""
    if path.suffix == ".parquet":
        columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
        parquet.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        path.write_text("\n".join(mark.join(map(str, r)) for r in [names, *rows]), "utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_form_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = list_table(write(tmp_path / f"t{suffix}", ROWS), PLAIN).rows
    assert [(row.id, *row.labels) for row in rows] == sorted(ROWS)
    assert rows[-1].source == tmp_path / "sub" / "b.png"
    number = 3 if suffix in (".csv", ".tsv") else 2
    assert rows[-1].place.endswith(f" {number}")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_table_trains_like_a_folder(tmp_path: Path, suffix: str) -> None:
    tree = {f"p/{name}{i}.png": 10 * i + len(name) for name in ("crow", "wren1") for i in range(4)}
    write_tree(tmp_path, tree)
    rows = [(name, name[2:6], "test" if "3" in name else "train") for name in tree]
    table = write(tmp_path / f"t{suffix}", rows, ("file", "kind", "part"))
    names = DataSettings(image="file", label="kind", split="part", validation=0)
    splits = read_splits(table, names)
    assert splits.task.labels == ("crow", "wren")
    assert (len(splits.train), splits.val, len(splits.test)) == (6, None, 2)
    assert splits.train.ids[0] == "p/crow0.png"


def test_byte_order_mark_quotes_semicolons_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffpath,label\r\n"a,1.png","a ""crow"""\r\n\r\nb.png, owl \r\n'.encode())
    found = [(row.id, *row.labels, row.place) for row in list_table(path, PLAIN).rows]
    assert found == [("a,1.png", 'a "crow"', "line 2"), ("b.png", "owl", "line 4")]
    path.write_text("path;label\na.png;crow\n")
    assert list_table(path, PLAIN).rows[0].labels == ("crow",)


def test_whole_numbers_are_labels(tmp_path: Path) -> None:
    rows = [("a.png", 10), ("b.png", 9)]
    for suffix in (".jsonl", ".parquet"):
        found = list_table(write(tmp_path / f"t{suffix}", rows), PLAIN).rows
        assert [row.labels for row in found] == [("10",), ("9",)]


def test_missing_column_lists_the_present_ones(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", ROWS, ("paths", "label"))
    with pytest.raises(DataError) as caught:
        list_table(table, PLAIN)
    text = str(caught.value)
    assert "no column 'path'; its columns are: 'paths', 'label'." in text
    assert "Did you mean 'paths'?" in text
    assert "--set data.image=NAME" in text
    table.write_text("review,label\ngood,yes\n")
    with pytest.raises(DataError, match=r"has texts, in its column 'review'.*--backbone hf/.*no 'path'"):
        list_table(table, PLAIN)
    with pytest.raises(DataError, match=r"no column 'kind'.*data\.label=NAME"):
        list_table(write(tmp_path / "t.csv", ROWS), DataSettings(label="kind"))
    with pytest.raises(DataError, match=r"no column 'fold'.*data\.split=NAME"):
        list_table(write(tmp_path / "t.csv", ROWS), DataSettings(split="fold"))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"path": "b.png", "label": ""}, "line 2: label is empty"),
        ({"path": "b.png", "label": "  "}, "line 2: label is '  '"),
        ({"path": "b.png", "label": None}, "line 2: label is empty"),
        ({"path": "b.png"}, "line 2: label is empty"),
        ({"path": "b.png", "label": {"a": 1}}, r"line 2: label is \{'a': 1\}; text or a number"),
        ({"path": "b.png", "label": ["x"]}, "line 1: label is 'y'; a list of labels, as in other rows"),
        ({"path": "", "label": "x"}, "line 2: path is ''; the path of a picture"),
        ({"path": {"bytes": ""}, "label": "x"}, "line 2: path is {'bytes'"),
        ({"path": "a\0b", "label": "x"}, "line 2: path is .*zero byte"),
        ({"path": "b", "label": "x", "split": "tset"}, "'tset'; train, val or test.*Did you mean"),
        ({"path": "b", "label": "x", "split": ""}, "split is ''; train, val or test"),
    ],
)
def test_faulty_cell_is_named(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    path = tmp_path / "t.jsonl"
    good = {"path": "a.png", "label": "y"} | ({"split": "train"} if "split" in row else {})
    path.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=words):
        list_table(path, PLAIN)


def test_only_ten_faults_are_listed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"14 of 14 rows(.|\n)*and 4 more\nCorrect"):
        list_table(write(tmp_path / "t.csv", [("a.png", "")] * 14), PLAIN)


def test_repeated_rows(tmp_path: Path) -> None:
    rows = [("a.png", "crow"), ("b.png", "owl"), ("./x/../a.png", "crow")]
    listing = list_table(write(tmp_path / "t.csv", rows), PLAIN)
    assert [row.id for row in listing.rows] == ["a.png", "b.png"]
    (problem,) = listing.problems
    assert (problem.code, problem.count) == ("duplicate", 1)
    assert problem.examples == ("line 4: a.png, first in line 2",)


def test_contradicting_rows_are_an_error(tmp_path: Path) -> None:
    rows = [("a.png", "crow"), ("a.png", "owl")]
    with pytest.raises(DataError, match=r"a\.png: 'crow' in line 2, 'owl' in line 3"):
        list_table(write(tmp_path / "t.csv", rows), PLAIN)


def test_missing_files_are_bad_items_with_their_line(tmp_path: Path) -> None:
    write_tree(tmp_path, {f"{i}.png": i for i in range(6)})
    rows = [(f"{i}.png", "crow" if i % 2 else "owl") for i in range(6)]
    splits = read_splits(write(tmp_path / "t.csv", [*rows, ("no.png", "owl")]))
    (problem,) = splits.problems
    assert problem.code == "unreadable"
    assert problem.examples[0].startswith("line 8: no.png: there is no such file")
    wrong = [(f"img/{i}.png", label) for i, (_, label) in enumerate(rows)]
    with pytest.raises(DataError, match=r"6 of 6 pictures cannot be read(.|\n)*line 2: img/0"):
        read_splits(write(tmp_path / "t.csv", wrong))


def test_absolute_paths(tmp_path: Path) -> None:
    rows = [(str(tmp_path / "t" / "a.png"), "x"), (str(tmp_path / "b.png"), "y")]
    (tmp_path / "t").mkdir()
    found = list_table(write(tmp_path / "t" / "t.csv", rows), PLAIN).rows
    assert {row.id for row in found} == {"a.png", (tmp_path / "b.png").as_posix()}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"", "no column 'path'; its columns are: none"),
        ("t.csv", b"path,label\n", "has no rows"),
        ("t.csv", b"path,label\na.png\n", "Line 2 of .* has 1 cells where the header has 2"),
        ("t.csv", b"path,label\na,b,c\n", "quote cells that contain the separator"),
        ("t.csv", b"path,label,label\na,b,c\n", "column twice: 'label'"),
        ("t.csv", b'path,label\n"a,b\n', "broken at line 2"),
        ("t.csv", "path,label\na,caf\u00e9\n".encode("latin-1"), "not UTF-8 text.*CSV UTF-8"),
        ("t.csv", "path,label\na,b\n".encode("utf-16"), "is UTF-16 text.*CSV UTF-8"),
        ("t.jsonl", b'{"path": "a"\n', "Line 1 of .* is not JSON"),
        ("t.jsonl", b'\n["a", "b"]\n', r"Line 2 of .* is list; an object like \{"),
        ("t.jsonl", b"[" * 100_000, "is not JSON"),
        ("t.jsonl", b"", "no column 'path'"),
        ("t.parquet", b"PAR1 not really", "not readable as Parquet"),
        ("t.parquet", b"", "not readable as Parquet"),
    ],
)
def test_broken_table(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        list_table(path, PLAIN)


def test_forbidden_table(tmp_path: Path, monkeypatch) -> None:
    def forbid(_self, *_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbid)
    with pytest.raises(DataError, match=r"Cannot read the table .*: Permission denied"):
        list_table(tmp_path / "t.csv", PLAIN)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=120), suffix=st.sampled_from([".csv", ".jsonl", ".parquet"]))
def test_any_bytes_raise_only_our_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    for start in (b"", b"path,label\n"):
        path.write_bytes(start + content)
        try:
            list_table(path, PLAIN)
        except DataError as error:
            assert str(path) in str(error)


# --- several labels a picture -----------------------------------------------------------------

SETS = [("a.png", ("cat", "dog")), ("b.png", ()), ("c.png", ("dog",)), ("d.png", ("cat",))]


def labels_of(path: Path, asked: DataSettings) -> list[tuple[str, tuple[str, ...]]]:
    listing = list_table(path, asked)
    assert listing.kind == "multi-label"
    return [(row.id, row.labels) for row in listing.rows]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_labels_in_one_cell(tmp_path: Path, suffix: str) -> None:
    rows = [(name, " | ".join(reversed(labels))) for name, labels in SETS]
    table = write(tmp_path / f"t{suffix}", rows)
    assert labels_of(table, DataSettings(separator="|")) == SETS
    odd = write(tmp_path / f"u{suffix}", [("a.png", "||dog|cat|dog|"), ("b.png", "  ")])
    assert labels_of(odd, DataSettings(separator="|")) == [("a.png", ("cat", "dog")), ("b.png", ())]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_cells_that_are_lists(tmp_path: Path, suffix: str) -> None:
    table = write(tmp_path / f"t{suffix}", [(name, list(labels)) for name, labels in SETS])
    assert labels_of(table, PLAIN) == SETS
    table = write(tmp_path / f"n{suffix}", [("a.png", [2, 10]), ("b.png", None)])
    assert labels_of(table, PLAIN) == [("a.png", ("10", "2")), ("b.png", ())]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("kind", [int, bool, float, str])
def test_one_column_for_each_label(tmp_path: Path, suffix: str, kind) -> None:
    rows = [(name, *(kind(int(each in labels)) for each in ("cat", "dog"))) for name, labels in SETS]
    table = write(tmp_path / f"t{suffix}", rows, ("path", "cat", "dog"))
    asked = DataSettings(label=("cat", "dog"))
    assert labels_of(table, asked) == SETS
    assert list_table(table, asked).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("settings", "row", "words"),
    [
        ({"label": ("x", "y")}, {"path": "b", "x": 1, "y": 2}, "line 2: y is 2; 0 or 1"),
        ({"label": ("x", "y")}, {"path": "b", "x": 1, "y": ""}, "line 2: y is ''; 0 or 1"),
        ({"label": ("x", "y")}, {"path": "b", "x": 1}, "line 2: y is None; 0 or 1"),
        ({}, {"path": "b", "label": ["x", ""]}, "line 2: label is empty"),
        ({}, {"path": "b", "label": [["x"]]}, r"line 2: label is \['x'\]"),
        ({}, {"path": "b", "label": "x"}, "line 2: label is 'x'; a list of labels, as in other rows"),
        ({}, {"path": "b"}, "line 2: label is missing; a list of labels"),
        ({"separator": ";"}, {"path": "b", "label": {}}, r"line 2: label is \{\}; text or a number"),
        ({"separator": ";"}, {"path": "a.png", "label": "z"}, r"a\.png: 'x' in line 1, 'z' in line 2"),
        ({"separator": ";"}, {"path": "a.png", "label": ""}, r"'x' in line 1, no label in line 2"),
    ],
)
def test_faulty_cells_of_several_labels(tmp_path: Path, settings, row, words: str) -> None:
    path = tmp_path / "t.jsonl"
    good = {"path": "a.png", "x": 0, "y": 1, "label": "x" if "separator" in settings else ["x"]}
    path.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=words):
        list_table(path, DataSettings(**settings))


def test_labels_are_asked_for_in_one_way() -> None:
    for asked in ({"label": ["a", "b"], "separator": "|"}, {"label": ["a", "a"]}, {"label": ["a"]}):
        with pytest.raises(RecipeError, match=r"data"):
            make_recipe({"data": asked})
    recipe = read_recipe(settings=['data.label=["cat", "dog"]'])
    assert recipe.data.label == ("cat", "dog")
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert read_recipe(settings=["data.separator=|"]).data.separator == "|"


def test_a_missing_column_of_several_is_named(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", [("a.png", 1)], ("path", "cat"))
    with pytest.raises(DataError, match=r"no column 'dog'"):
        list_table(table, DataSettings(label=("cat", "dog")))


# --- numbers, one-hot columns and paths -------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_floats_are_read_alike(tmp_path: Path, suffix: str) -> None:
    for values, labels in (([0.0, 1.0], ("0", "1")), ([0.5, 1.0], ("0.5", "1.0"))):
        table = write(tmp_path / f"t{suffix}", [(f"{n}.png", value) for n, value in enumerate(values)])
        assert list_table(table, PLAIN).classes == labels


def test_measurements_stop_only_what_trains(tmp_path: Path) -> None:
    rows = [(f"{number}.png", f"{number * 0.37:.2f}") for number in range(20)]
    table = write(tmp_path / "t.csv", [*rows[:-1], ("19.png", "")])
    with pytest.raises(
        DataError, match=r"19 different ones of 19 items: 0\.00, 0\.37, 0\.74, 1\.11, 1\.48, …"
    ):
        list_table(table, PLAIN)  # which says more than that a cell is empty
    with pytest.raises(DataError, match="line 21: label is empty"):
        list_table(table, DataSettings(task="classes"))
    write_tree(tmp_path, {f"{number}.png": number for number in range(20)})
    write(table, rows)
    task = Task(tuple(label for _, label in rows))
    assert len(read_labelled(table, PLAIN, task)[0]) == 20
    with pytest.raises(RecipeError, match=r"data\.task = 'number': .*classes"):
        read_recipe(settings=["data.task=number"])


def test_one_hot_columns(tmp_path: Path) -> None:
    asked = DataSettings(label=("cat", "dog"))
    table = write(tmp_path / "t.csv", [("a.png", 1, 0), ("b.png", 0, 1)], ("path", "cat", "dog"))
    listing = list_table(table, asked)
    assert (listing.kind, [each.code for each in listing.problems]) == ("single-label", ["one-hot"])
    assert [row.labels for row in listing.rows] == [("cat",), ("dog",)]


@pytest.mark.odd_input("Cells and labels")
def test_paths_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in a table that are relative to the working folder, not to the table's: both are tried, the
    table's first; the message shows both full paths. A path in a recipe may be relative to the recipe's."""
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "data", {f"img/{number}.png": number for number in range(4)})
    for start, folder in (("data/", "data"), ("", "data"), ("./data/", "."), (f"{tmp_path}/data/", "data")):
        rows = [(f"{start}img/{number}.png", "ab"[number % 2]) for number in range(4)]
        splits = read_splits(write(Path(folder) / "t.csv", rows), DataSettings(validation=0))
        assert splits.train.ids[0] == ("img/0.png" if folder == "data" else "data/img/0.png")
    rows[0] = ("no/0.png", "a")
    problem = read_splits(write(Path("data/t.csv"), rows), DataSettings(validation=0)).problems[0]
    assert f"{tmp_path}/data/no/0.png, nor {tmp_path}/no/0.png" in problem.examples[0]
    with pytest.raises(DataError, match=f"no folder or table pics.*looked for {tmp_path}/pics"):
        read_splits("pics")
    Path("data/r.toml").write_text('weights = "w.pth"\n[data]\npath = "img"\n')
    assert read_recipe("data/r.toml").data.path == "data/img"
    assert read_recipe("data/r.toml").weights == "w.pth"
    Path("img").mkdir()
    assert read_recipe("data/r.toml").data.path == "img"


@pytest.mark.odd_input("Cells and labels")
def test_long_values_in_messages(tmp_path: Path) -> None:
    """A value of any length that a message shows: at most 200 characters of it."""
    long = "x" * 5000
    for cells in (
        {"path": {"bytes": long}},
        {"path": "a", "label": {"a": long}},
        {"path": "a", "split": long},
    ):
        table = tmp_path / "t.jsonl"
        table.write_text(json.dumps({"path": "a.png", "label": "b", "split": "train"} | cells) + "\n")
        with pytest.raises(DataError) as caught:
            list_table(table, PLAIN)
        assert "x" * 50 in str(caught.value)
        assert max(map(len, str(caught.value).splitlines())) < 300
    for asked in (long, f"{long}/{long}"):
        with pytest.raises(DataError) as caught:
            read_splits(asked)
        assert len(str(caught.value)) < 500
    for setting in (f"data.label={long}", f"{long}=1", f"data.size={long}", long):
        try:
            list_table(write(tmp_path / "t.csv", ROWS), read_recipe(settings=[setting]).data)
        except (DataError, RecipeError) as error:
            assert len(str(error).split(" The keys are")[0]) < 500
        else:
            pytest.fail(setting[:20])


def test_a_table_of_many_columns_is_checked_in_an_instant(tmp_path: Path) -> None:
    names = [*map(str, range(20_000)), "7"]
    began = time.process_time()
    with pytest.raises(DataError, match="names a column twice: '7'"):
        check_unique(tmp_path / "t.csv", names)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("name", ["x" * 2000, "\x01" * 300])
def test_long_names_of_missing_pictures_are_cut(tmp_path: Path, name: str) -> None:
    (row,) = list_table(write(tmp_path / "t.csv", [(name, "a")]), PLAIN).rows
    assert len(row.where) < 250
    assert len(row.fault) < 500
