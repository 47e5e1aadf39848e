"""The cells of a file: CSV, TSV, JSON lines or Parquet, or the lines of a text, as they stand.

What they mean is found in table.py.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.data.items import Modality
from graft.errors import DataError

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


@dataclass(frozen=True)
class Record:
    """One row as it was read."""

    place: str  # "line 17"
    cells: Mapping[str, Any]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; bytes that are no UTF-8 are replaced.

    Raises:
        DataError: it cannot be read, or is no text.
    """
    try:
        _check_is_text(path)
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return [line.rstrip("\n") for line in file]
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from None


def read_cells(path: Path, modality: Modality) -> tuple[list[str], Iterable[Record]]:
    """The names of a table's columns, and its records; bytes of texts that are no UTF-8 are replaced.

    Raises:
        DataError: it cannot be read, is no text or no such table, or names a column twice.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return _read_parquet(path)
        _check_is_text(path)
        if suffix in (".csv", ".tsv"):
            return _read_csv(path, "\t" if suffix == ".tsv" else ",", _ERRORS[modality])
        return _read_json_lines(path, _ERRORS[modality])
    except UnicodeDecodeError as error:
        raise DataError(
            f"The table {path} is not UTF-8 text (byte {error.start}); save it again as UTF-8 "
            "(in a spreadsheet: 'CSV UTF-8')."
        ) from None
    except OSError as error:
        raise DataError(f"Cannot read the table {path}: {error.strerror or error}.") from None


def _check_is_text(path: Path) -> None:
    """Raises DataError where the first bytes are of UTF-16, or of no text at all; OSError as of reading."""
    with path.open("rb") as file:
        start = file.read(8192)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(
            f"{path} is UTF-16 text (what spreadsheets call Unicode text); save it again as UTF-8 "
            "(in a spreadsheet: 'CSV UTF-8')."
        )
    if b"\0" in start:
        raise DataError(
            f"{path} holds no text: there are zero bytes in it, as in pictures, documents and archives. "
            f"A text file was expected, or a table ({', '.join(TABLES)})."
        )


_ERRORS: dict[Modality, str] = {"picture": "strict", "text": "replace"}


def _read_csv(path: Path, delimiter: str, errors: str) -> tuple[list[str], list[Record]]:
    csv.field_size_limit(2**31 - 1)  # a text may be a book
    with path.open(encoding="utf-8-sig", newline="", errors=errors) as file:
        header = file.readline()
        if delimiter == "," and "," not in header and ";" in header:
            delimiter = ";"  # what spreadsheets write where the comma is a decimal point
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            names = next(reader, [])
            records = [_csv_record(path, names, cells, reader.line_num) for cells in reader if cells]
        except csv.Error as error:
            raise DataError(f"The table {path} is broken at line {reader.line_num}: {error}.") from None
    _check_unique(path, names)
    return names, records


def _csv_record(path: Path, names: list[str], cells: list[str], line: int) -> Record:
    if len(cells) != len(names):
        raise DataError(
            f"Line {line} of {path} has {len(cells)} cells where the header has {len(names)}; "
            "quote cells that contain the separator."
        )
    return Record(f"line {line}", dict(zip(names, cells, strict=True)))


def _check_unique(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"The table {path} names a column twice: {twice}; rename one of them.")


def _read_json_lines(path: Path, errors: str) -> tuple[list[str], list[Record]]:
    records = []
    with path.open(encoding="utf-8-sig", errors=errors) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                records.append(Record(f"line {number}", _json_object(path, number, line)))
    names = dict.fromkeys(name for record in records for name in record.cells)
    return list(names), records


def _json_object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"Line {number} of {path} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise DataError(
            f'Line {number} of {path} is {type(value).__name__}; an object like {{"path": "a.jpg", '
            '"label": "crow"}} was expected.'
        )
    return value


def _read_parquet(path: Path) -> tuple[list[str], Iterator[Record]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, ValueError) as error:
        first = str(error).split("\n")[0]
        raise DataError(f"The table {path} is not readable as Parquet: {first}.") from None
    names = list(table.column_names)
    _check_unique(path, names)
    rows = enumerate(_parquet_rows(table), start=1)
    return names, (Record(f"row {number}", row) for number, row in rows)


def _parquet_rows(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches():
        yield from batch.to_pylist()
