"""CSV and TSV: separators, quotation marks and columns without a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.data.tabular import read_cells
from graft.errors import DataError

ROWS = [(f"It was fine, number {number}", "good" if number % 2 else "bad") for number in range(30)]
PLAIN = [(text.replace(",", ""), label) for text, label in ROWS]


def write(path: Path, rows: list[tuple[str, ...]], separator: str = ",", start: str = "") -> Path:
    lines = [separator.join(row) for row in [("text", "label"), *rows]]
    path.write_bytes((start + "\n".join(lines) + "\n").encode())
    return path


def cells_of(path: Path) -> list[tuple[str, ...]]:
    return [tuple(record.cells.values()) for record in read_cells(path, "text").records]


def quoted(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [('"' + text.replace('"', '""') + '"', label) for text, label in rows]


def marked(rows: list[tuple[str, str]], first: int, last: int | None = None) -> list[tuple[str, str]]:
    """With a quotation mark before the text of one row, and one behind that of another."""
    changed = list(rows)
    changed[first] = ('"' + changed[first][0], changed[first][1])
    if last is not None:
        changed[last] = (changed[last][0] + '"', changed[last][1])
    return changed


@pytest.mark.odd_input("Cells and labels")
def test_separators_are_found(tmp_path: Path) -> None:
    """A `.csv` or `.tsv` file with semicolons, tabs, bars or commas, or a first line `sep=;`: the separator
    is taken from the header and the first rows."""
    for name in ("t.csv", "t.tsv"):
        for separator in (";", "\t", "|"):
            assert cells_of(write(tmp_path / name, ROWS, separator)) == ROWS
            for start in (f"sep={separator}\r\n", f'"SEP={separator}"\n', f"\ufeffsep={separator}\n"):
                assert cells_of(write(tmp_path / name, ROWS, separator, start)) == ROWS
        assert cells_of(write(tmp_path / name, quoted(ROWS))) == ROWS
        assert cells_of(write(tmp_path / name, PLAIN, start="\n\n")) == PLAIN
    declared = read_cells(write(tmp_path / "t.csv", ROWS, ";", "sep=;\n"), "text").records
    assert next(iter(declared)).place == "line 3"


@pytest.mark.odd_input("Cells and labels")
def test_marks_in_a_tsv(tmp_path: Path) -> None:
    """Quotation marks in a TSV file: text, unless all marks of the file are balanced within their lines; no
    row is swallowed."""
    path = tmp_path / "t.tsv"
    for first, last in ((3, None), (3, 20), (0, 29), (3, 4)):
        rows = marked(ROWS, first, last)
        assert cells_of(write(path, rows, "\t")) == rows
    assert cells_of(write(path, quoted(ROWS), "\t")) == ROWS
    both = [*quoted(ROWS)[:5], *marked(ROWS[5:], 2)]
    assert cells_of(write(path, both, "\t")) == both
    several = [('"one\nand two"', "good"), ('"three\n\nand four"', "bad")]
    assert cells_of(write(path, several, "\t"))[1] == ("three\n\nand four", "bad")
    path.write_text("text\tlabel\nalone\nb\tc\n")
    with pytest.raises(DataError, match=r"Line 2 of .* has 1 cells"):
        cells_of(path)


@pytest.mark.odd_input("Cells and labels")
def test_marks_that_swallow_rows_of_a_csv(tmp_path: Path) -> None:
    """A quotation mark in a CSV file that takes the next rows into its cell, or is never closed: exit 2
    with the line and both ways on; a text of several lines is read as it is."""
    path = tmp_path / "t.csv"
    for first, last in ((3, 20), (0, 29), (3, 4), (28, 29)):
        with pytest.raises(DataError, match=f"at line {first + 2} that ends at line {last + 2}.*Parquet"):
            cells_of(write(path, marked(PLAIN, first, last)))
        turned = [(label, text) for text, label in PLAIN]
        turned[first] = (turned[first][0], f'"{turned[first][1]}')
        turned[last] = (turned[last][0], f'{turned[last][1]}"')
        with pytest.raises(DataError, match=f"at line {first + 2} that"):
            cells_of(write(path, turned))
    with pytest.raises(DataError, match=r"broken at line 5: .* never ends.*\(\"\"\)"):
        cells_of(write(path, marked(PLAIN, 3)))
    with pytest.raises(DataError, match=r"broken at line 4: .*\(\"\"\)"):
        cells_of(write(path, [*PLAIN[:2], ('"Great" film', "good")]))
    prices = [(f"id{n}", text, f"{n * 1.37:.2f}") for n, (text, _) in enumerate(marked(PLAIN, 3, 9))]
    path.write_text("id,text,label\n" + "".join(",".join(row) + "\n" for row in prices))
    with pytest.raises(DataError, match="at line 5 that ends at line 11"):
        cells_of(path)


def test_texts_of_several_lines_are_read(tmp_path: Path) -> None:
    texts = [f"Dear all, {n}\nfirst, second\n\nthird, and\nbye" for n in range(30)]
    rows = [(text, "good" if n % 2 else "bad") for n, text in enumerate(texts)]
    path = write(tmp_path / "t.csv", quoted(rows))
    assert cells_of(path) == rows
    assert [each.place for each in read_cells(path, "text").records][:2] == ["line 2", "line 7"]
    turned = [(label, f'"{label}, I say\n{text}"') for text, label in rows]
    assert len(cells_of(write(path, turned))) == 30


@pytest.mark.odd_input("Cells and labels")
def test_columns_without_a_name(tmp_path: Path) -> None:
    """Columns of a CSV file without a name (`v1,v2,,,`): none, in any encoding; what one holds is left out
    with a warning, but for the row numbers of a data frame."""
    path = tmp_path / "t.csv"
    for header, row in (("v1,v2,,,", "{0},£{1},,,"), ("v1,v2,,", "{0},£{1}"), ("v1,v2", "{0},£{1},, ")):
        lines = [header, *(row.format(label, text) for text, label in PLAIN)]
        path.write_bytes("\n".join(lines).encode("latin-1"))
        table = read_cells(path, "text")
        assert (table.names, table.problems) == (["v1", "v2"], ())
        assert next(iter(table.records)).cells["v1"] == "bad"
    path.write_text("v1,v2,,\n" + "".join(f"{label},{text},,\n" for text, label in ROWS[:3]))
    (problem,) = read_cells(path, "text").problems
    assert (problem.code, problem.count) == ("unnamed", 3)
    path.write_text(",v1,v2\n" + "".join(f"{n},{label},{text}\n" for n, (text, label) in enumerate(PLAIN)))
    table = read_cells(path, "text")
    assert (table.names, table.problems) == (["v1", "v2"], ())
