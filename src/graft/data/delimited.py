"""The cells of CSV and TSV files.

What separates cells is taken from the header and the first rows: the sign that the file's suffix says, or
another that fits them better; a first line ``sep=;`` says it outright. In CSV, cells may stand in quotation
marks. In TSV (any file whose cells tabs separate), a quotation mark is text, unless all marks are balanced
within their lines. Columns without a name are left out; that they held something is a problem.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from graft.data.items import Notes, display
from graft.data.labels import read_number
from graft.data.raw_table import Cells, Record, check_unique
from graft.errors import DataError

_SEPARATORS = (",", ";", "\t", "|")
_DECLARED = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # what spreadsheets write, and read, first
_FIRST = 20  # rows that the separator must fit
_MANY = 3  # lines of a cell that are no accident

_TWO_WAYS = (
    'If the mark is part of a text, write the text in quotation marks, and the mark in it twice (""). If a '
    "cell does hold these lines, save the table as JSON lines or Parquet."
)
_MESSAGES = {
    "unnamed": (
        "{count} row{s} with something in a column without a name, which is left out; name the column, or "
        "quote the cells that contain the separator."
    )
}


class _Line(NamedTuple):
    """A row's cells, and the first and the last line of the file that it takes, from 1."""

    first: int
    last: int
    cells: list[str]


class _File(NamedTuple):
    """A file's lines with their ends; rows begin behind ``start`` of them."""

    path: Path
    lines: list[str]
    start: int
    separator: str


def read_delimited(path: Path, usual: str, errors: str, *, blanks: bool = False) -> Cells:
    """The table in ``path``, whose cells ``usual`` should separate; ``errors`` as of ``open``.

    ``blanks``: whether blank lines below the header are records, too, without any cell.

    Raises:
        DataError: a row has more or fewer cells than the header, a quotation mark is not closed or takes
            whole rows into its cell, or a column is named twice. Names the line.
        OSError, UnicodeDecodeError: as of reading.
    """
    csv.field_size_limit(2**31 - 1)  # a text may be a book
    with path.open(encoding="utf-8-sig", newline="", errors=errors) as opened:
        lines = opened.readlines()
    declared = _DECLARED.fullmatch(lines[0]) if lines else None
    file = _File(path, lines, 1 if declared else 0, declared[1] if declared else usual)
    if not declared:
        file = file._replace(separator=_find_separator(file, usual))
    rows = _read_tabs(file) if file.separator == "\t" else _read_quoted(file)
    if not rows:
        return Cells([], [])
    found = _named(path, rows[0].cells, rows[1:])
    return replace(found, records=_with_blanks(file, rows, found.records)) if blanks else found


def _with_blanks(file: _File, rows: Sequence[_Line], records: Iterable[Record]) -> list[Record]:
    taken = {line for row in rows for line in range(row.first, row.last + 1)}
    below = range(rows[0].last + 1, len(file.lines) + 1)
    found = {line: Record(f"line {line}", {}) for line in below if line not in taken}
    found |= {row.first: record for row, record in zip(rows[1:], records, strict=True)}
    return [found[line] for line in sorted(found)]


def _find_separator(file: _File, usual: str) -> str:
    """The first that fits header and rows, ``usual`` before others; else one that the header has."""
    signs = (usual, *(sign for sign in _SEPARATORS if sign != usual))
    header = next(filter(str.strip, file.lines), "")
    fitting = (sign for sign in signs if _fits(file._replace(separator=sign)))
    return next(fitting, None) or next((sign for sign in signs if sign in header), usual)


def _fits(file: _File) -> bool:
    """Whether a header of several cells, and each of the first rows, have equally many."""
    first: list[list[str]] = []
    try:
        rows = itertools.islice(_rows(file, quoted=file.separator != "\t"), _FIRST)
        first.extend(row.cells for row in rows)  # those before a broken one count
    except DataError:
        pass
    if not first or len(first[0]) < 2:
        return False
    return all(_fit(cells, first[0]) is not None for cells in first)


def _rows(file: _File, *, quoted: bool) -> Iterator[_Line]:
    """The rows that are not blank; with ``quoted``, quotation marks keep cells together."""
    lines = file.lines[file.start :]
    how: Any = {"delimiter": file.separator, "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE}
    reader = csv.reader(lines, strict=True, **how)
    first = file.start + 1
    try:
        for cells in reader:
            last = file.start + reader.line_num
            if len(cells) > 1 or any(map(str.strip, cells)):
                yield _Line(first, last, cells)
            first = last + 1
    except csv.Error as error:
        raise _broken(file, first, error) from None


def _broken(file: _File, line: int, error: csv.Error) -> DataError:
    open_end = "unexpected end" in str(error)
    what = "a quotation mark opens a cell that never ends" if open_end else str(error)
    return DataError(f"The table {file.path} is broken at line {line}: {what}. {_TWO_WAYS}")


def _read_quoted(file: _File) -> list[_Line]:
    rows = list(_rows(file, quoted=True))
    _check_swallowed(file, rows)
    return rows


def _read_tabs(file: _File) -> list[_Line]:
    """Rows in which marks are text, unless all are balanced, or only so every row has its cells."""
    if all(map(_is_balanced, (line for line in file.lines if '"' in line))):
        return list(_rows(file, quoted=True))
    plain = list(_rows(file, quoted=False))
    if not plain or all(_fit(row.cells, plain[0].cells) is not None for row in plain):
        return plain
    try:  # cells of several lines
        rows = _read_quoted(file)
    except DataError:
        return plain
    return rows if all(_fit(row.cells, rows[0].cells) is not None for row in rows) else plain


def _is_balanced(line: str) -> bool:
    """Whether a line's cells are the same number with marks that keep them together as without."""
    try:
        (cells,) = csv.reader([line], delimiter="\t", strict=True)
    except csv.Error:
        return False
    return len(cells) == line.count("\t") + 1


def _check_swallowed(file: _File, rows: Sequence[_Line]) -> None:
    """Raises DataError where a cell of several lines holds what look like rows."""
    if all(row.first == row.last for row in rows):
        return
    known = _known_cells(rows)
    for row in rows:
        inside = [_cut(line, file.separator) for line in file.lines[row.first - 1 : row.last]]
        whole = [cells for cells in inside if len(cells) == len(known)]
        alike = sum(any(knows(cell) for knows, cell in zip(known, cells, strict=True)) for cells in whole)
        regular = len(known) > 2 and len(whole) == len(inside) >= _MANY
        if row.first < row.last and (alike > 1 or regular):
            raise DataError(
                f"In {file.path} a quotation mark opens a cell at line {row.first} that ends at line "
                f"{row.last}, over {len(inside) - 1} line breaks with what look like rows of their own. "
                f"{_TWO_WAYS}"
            )


def _cut(line: str, separator: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split(separator)]


def _known_cells(rows: Sequence[_Line]) -> list[Callable[[str], bool]]:
    """For each column a test whether a cell is like its others: one of a few values, or a number."""
    return [
        _like([row.cells[place].strip() for row in rows[1:] if len(row.cells) == len(rows[0].cells)])
        for place in range(len(rows[0].cells))
    ]


def _like(values: Sequence[str]) -> Callable[[str], bool]:
    present = {value for value in values if value and "\n" not in value and "\r" not in value}
    if present and all(read_number(value) is not None for value in present):
        return lambda cell: read_number(cell) is not None
    few = len(values) < _FIRST or len(present) <= len(values) / 2
    return (present if few else set[str]()).__contains__


def _fit(cells: list[str], names: Sequence[str]) -> list[str] | None:
    """As many cells as names, where those too many are blank, or those too few have no name; else None."""
    width = len(names)
    if any(map(str.strip, cells[width:])) or any(map(str.strip, names[len(cells) :])):
        return None
    return [*cells[:width], *([""] * (width - len(cells)))]


def _named(path: Path, header: list[str], rows: Sequence[_Line]) -> Cells:
    """The columns that have a name, and the problem that others held something."""
    names = [name.strip() for name in header]
    table = [(row.first, _fitted(path, row, header)) for row in rows]
    kept = [place for place, name in enumerate(names) if name]
    unnamed = [place for place, name in enumerate(names) if not name]
    if unnamed[:1] == [0] and _is_index([cells[0] for _, cells in table]):
        unnamed = unnamed[1:]
    notes = Notes()
    for line, cells in table:
        held = next((cells[place] for place in unnamed if cells[place].strip()), None)
        if held is not None:
            notes.add("unnamed", f"line {line}: {display(held[:60])}")
    check_unique(path, [names[place] for place in kept])
    records = [
        Record(f"line {line}", {names[place]: cells[place] for place in kept}) for line, cells in table
    ]
    return Cells([names[place] for place in kept], records, notes.problems(_MESSAGES))


def _is_index(cells: Sequence[str]) -> bool:
    """Whether a column counts the rows from 0, as that of a data frame does."""
    return all(cell == str(number) for number, cell in enumerate(cells))


def _fitted(path: Path, row: _Line, header: list[str]) -> list[str]:
    cells = _fit(row.cells, header)
    if cells is None:
        raise DataError(
            f"Line {row.first} of {path} has {len(row.cells)} cells where the header has {len(header)}; "
            "quote cells that contain the separator."
        )
    return cells
