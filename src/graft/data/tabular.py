"""The cells of a file: CSV, TSV, JSON lines or Parquet, or the lines of a text, as they stand.

What they mean is found in table.py; the forms beside JSON lines have modules of their own.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from graft.data.delimited import read_delimited
from graft.data.items import Modality
from graft.data.parquet import read_parquet
from graft.data.raw_table import Cells, Record
from graft.errors import DataError

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


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


def read_cells(path: Path, modality: Modality, *, blanks: bool = False) -> Cells:
    """A table's columns and records; bytes of texts that are no UTF-8 are replaced.

    ``blanks``: whether blank lines are records, too, without any cell.

    Raises:
        DataError: it cannot be read, is no text or no such table, or names a column twice.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return read_parquet(path, _ERRORS[modality])
        _check_is_text(path)
        if suffix in (".csv", ".tsv"):
            return read_delimited(path, "\t" if suffix == ".tsv" else ",", _ERRORS[modality], blanks=blanks)
        return _read_json_lines(path, _ERRORS[modality], blanks=blanks)
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


def _read_json_lines(path: Path, errors: str, *, blanks: bool) -> Cells:
    records = []
    with path.open(encoding="utf-8-sig", errors=errors) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                records.append(Record(f"line {number}", _json_object(path, number, line)))
            elif blanks:
                records.append(Record(f"line {number}", {}))
    names = dict.fromkeys(name for record in records for name in record.cells)
    return Cells(list(names), records)


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
