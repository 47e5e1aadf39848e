"""Reading a table: CSV, TSV, JSON lines or Parquet with a picture's path and a label in each row.

Where a picture may have any number of labels, they stand in one cell with a separator between them
("cat|dog", with ``data.separator``), in cells that are lists (JSON lines, Parquet), or in one column of
zeros and ones for each label (``data.label`` names them all). A cell without labels then means none.

Values are taken as they stand: "NA" is a label like any other, and an empty cell is an error that
names its row (but see above). Paths are relative to the table's folder. A picture that does not exist
is a bad item like an unreadable one (scan.py); whatever makes the table itself doubtful stops the run
here.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.data.items import (
    SPLIT_NAMES,
    Listing,
    Notes,
    Row,
    display,
    label_name,
    named_classes,
    show,
    show_labels,
)
from graft.errors import DataError, suggest

if TYPE_CHECKING:
    from graft.recipe import DataSettings
    from graft.task import Kind

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

_MESSAGES = {
    "duplicate": (
        "{count} row{s} that repeat an earlier row's picture and label left out; remove them to be "
        "rid of this warning."
    )
}


@dataclass(frozen=True)
class _Record:
    place: str  # "line 17"
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class _Columns:
    image: str
    labels: tuple[str, ...]  # one, or one for each class
    split: str | None


@dataclass(frozen=True)
class _Form:
    """How labels are written: the columns, what separates labels in a cell, whether cells are lists."""

    columns: _Columns
    separator: str | None
    lists: bool

    @property
    def kind(self) -> Kind:
        several = len(self.columns.labels) > 1 or self.separator is not None or self.lists
        return "multi-label" if several else "single-label"


def list_table(path: Path, settings: DataSettings) -> Listing:
    """The rows of a table, by split and id, each picture once.

    Raises:
        DataError: not readable as such a table; a column is missing; a path, label or split is
            empty or not allowed; one picture has other labels in another row. Names the rows.
    """
    names, records = _read(path)
    columns = _find_columns(path, names, settings)
    found = list(records)
    lists = any(isinstance(record.cells.get(name), list) for record in found for name in columns.labels)
    form = _Form(columns, settings.separator, lists)
    rows = _rows(path, found, form)
    if not rows:
        raise DataError(f"The table {path} has no rows; one row for each picture was expected.")
    kept, notes = _without_repeats(path, rows)
    named = columns.labels if len(columns.labels) > 1 else ()
    classes = dict.fromkeys([*map(label_name, named), *named_classes(kept)])
    kept.sort(key=lambda row: (row.split, row.id))
    return Listing(tuple(kept), notes.problems(_MESSAGES), tuple(classes), form.kind)


def _read(path: Path) -> tuple[list[str], Iterable[_Record]]:
    """The names of the columns, and the records."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return _read_parquet(path)
        if suffix in (".csv", ".tsv"):
            return _read_csv(path, "\t" if suffix == ".tsv" else ",")
        return _read_json_lines(path)
    except UnicodeDecodeError as error:
        raise DataError(
            f"The table {path} is not UTF-8 text (byte {error.start}); save it again as UTF-8 "
            "(in a spreadsheet: 'CSV UTF-8')."
        ) from None
    except OSError as error:
        raise DataError(f"Cannot read the table {path}: {error.strerror or error}.") from None


def _read_csv(path: Path, delimiter: str) -> tuple[list[str], list[_Record]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
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


def _csv_record(path: Path, names: list[str], cells: list[str], line: int) -> _Record:
    if len(cells) != len(names):
        raise DataError(
            f"Line {line} of {path} has {len(cells)} cells where the header has {len(names)}; "
            "quote cells that contain the separator."
        )
    return _Record(f"line {line}", dict(zip(names, cells, strict=True)))


def _check_unique(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"The table {path} names a column twice: {twice}; rename one of them.")


def _read_json_lines(path: Path) -> tuple[list[str], list[_Record]]:
    records = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                records.append(_Record(f"line {number}", _json_object(path, number, line)))
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


def _read_parquet(path: Path) -> tuple[list[str], Iterator[_Record]]:
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
    return names, (_Record(f"row {number}", row) for number, row in rows)


def _parquet_rows(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches():
        yield from batch.to_pylist()


def _find_columns(path: Path, names: list[str], settings: DataSettings) -> _Columns:
    labels = (settings.label,) if isinstance(settings.label, str) else settings.label
    for key, name in (("image", settings.image), *(("label", label) for label in labels)):
        if name not in names:
            raise _missing_column(path, key, name, names)
    if settings.split in names:
        return _Columns(settings.image, labels, settings.split)
    if settings.split != type(settings)().split:  # asked for by name
        raise _missing_column(path, "split", settings.split, names)
    return _Columns(settings.image, labels, None)


def _missing_column(path: Path, key: str, name: str, names: list[str]) -> DataError:
    present = ", ".join(repr(each) for each in names) or "none"
    return DataError(
        f"The table {path} has no column {name!r}; its columns are: {present}."
        f"{suggest(name, names)} Name the right one with --set data.{key}=NAME."
    )


def _rows(path: Path, records: list[_Record], form: _Form) -> list[Row]:
    faults: list[str] = []
    rows: list[Row] = []
    for record in records:
        try:
            rows.append(_row(path.parent, record, form))
        except ValueError as fault:
            faults.append(f"{record.place}: {fault}")
    if faults:
        raise DataError(
            f"{len(faults)} of {len(records)} rows of {path} cannot be used:{show(faults)}\n"
            "Correct these cells or remove the rows."
        )
    return rows


def _row(folder: Path, record: _Record, form: _Form) -> Row:
    """Raises ValueError, in words, for a cell that cannot be used."""
    columns = form.columns
    name = record.cells.get(columns.image)
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{columns.image} is {name!r}; the path of a picture was expected")
    if "\0" in name:
        raise ValueError(f"{columns.image} is {name!r}; a path has no zero byte")
    source, shown = _locate(folder, name.strip())
    labels = _labels(record.cells, form)
    split = "" if columns.split is None else _split(record.cells.get(columns.split), columns.split)
    return Row(source, shown, labels, split, record.place)


def _labels(cells: Mapping[str, Any], form: _Form) -> tuple[str, ...]:
    names = form.columns.labels
    if len(names) > 1:
        return tuple(sorted(label_name(name) for name in names if _is_one(cells.get(name), name)))
    cell = cells.get(names[0])
    if form.kind == "single-label":
        return (read_label(cell, names[0]),)
    if names[0] not in cells:
        raise ValueError(f"{names[0]} is missing; a list of labels, empty for none, was expected")
    return tuple(sorted({read_label(part, names[0]) for part in _parts(cell, form.separator, names[0])}))


def _parts(cell: Any, separator: str | None, name: str) -> list[Any]:
    """The labels of one cell that may hold several, as they are written."""
    if cell is None:
        return []
    if isinstance(cell, list):
        return cell
    if separator is None:
        raise ValueError(f"{name} is {cell!r}; a list of labels, as in other rows, was expected")
    return [part for part in cell.split(separator) if part.strip()] if isinstance(cell, str) else [cell]


_TRUTH = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def _is_one(value: Any, name: str) -> bool:
    """Whether a column's label applies: 0 or 1, also as 0.0, "1" or False."""
    known = _TRUTH.get(str(value).strip().casefold())
    if known is None:
        raise ValueError(f"{name} is {value!r}; 0 or 1 was expected")
    return known


def read_label(value: Any, name: str = "label") -> str:
    """A cell's label as text; ValueError, in words, where there is none or it is no label."""
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, str) and label_name(value):
        return label_name(value)
    if isinstance(value, float):
        raise ValueError(f"{name} is {value!r}; text or a whole number was expected")
    raise ValueError(f"{name} is {'empty' if value in (None, '') else repr(value)}")


def _split(value: Any, name: str) -> str:
    known = SPLIT_NAMES.get(value.strip().casefold()) if isinstance(value, str) else None
    if known is None:
        near = suggest(str(value), SPLIT_NAMES)
        raise ValueError(f"{name} is {value!r}; train, val or test was expected.{near}")
    return known


def _locate(folder: Path, name: str) -> tuple[Path, str]:
    """Where the picture is, and its id: relative to the table's folder if it lies below it."""
    whole = Path(os.path.normpath(folder / name))
    base = Path(os.path.normpath(folder))
    below = whole.relative_to(base) if whole.is_relative_to(base) else Path(os.path.normpath(name))
    return whole, display(below.as_posix())


def _without_repeats(path: Path, rows: list[Row]) -> tuple[list[Row], Notes]:
    """Each picture once a split; the same picture with other labels is an error."""
    first: dict[Any, Row] = {}
    labelled: dict[Any, Row] = {}
    notes, conflicts = Notes(), []
    for row in rows:
        known = labelled.setdefault(row.source, row)
        if known.labels != row.labels:
            one, other = (show_labels(each.labels or ()) for each in (known, row))
            conflicts.append(f"{row.id}: {one} in {known.place}, {other} in {row.place}")
        elif (row.source, row.split) in first:
            again = first[row.source, row.split]
            notes.add("duplicate", f"{row.place}: {row.id}, first in {again.place}")
        first.setdefault((row.source, row.split), row)
    if conflicts:
        raise DataError(
            f"{len(conflicts)} rows of {path} give a picture another label than an earlier row:"
            f"{show(conflicts)}\nKeep the right row of each."
        )
    return list(first.values()), notes
