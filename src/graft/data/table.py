"""Reading a table: CSV, TSV, JSON lines or Parquet, a picture's path or a text, and a label, in each row.

Where a picture may have any number of labels, they stand in one cell with a separator between them
("cat|dog", with ``data.separator``), in cells that are lists (JSON lines, Parquet), or in one column of
zeros and ones for each label (``data.label`` names them all). A cell without labels then means none. Where
such columns hold exactly one 1 in every row, each item has one label.

Values are taken as they stand: "NA" is a label like any other, and an empty cell is an error that
names its row (but see above); of numbers see labels.py. Paths are relative to the table's folder, or else
to the working folder; in Parquet, pictures may also stand in the cells themselves. A picture that does not
exist is a bad item like an unreadable one (scan.py), and so is a text that is empty; whatever makes the
table itself doubtful stops the run here. Of texts, bytes that are not UTF-8 are replaced, with a warning.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.data.columns import Columns, find_columns, find_texts, with_pictures, with_usual
from graft.data.items import (
    REPLACED,
    Listing,
    Modality,
    Notes,
    Problem,
    Row,
    Text,
    display,
    label_name,
    named_classes,
    show,
    show_labels,
    whole_text,
)
from graft.data.labels import (
    ONE_HOT,
    check_numbers,
    is_missing,
    is_one_hot,
    read_label,
    write_whole,
)
from graft.data.parts import NAMES, part_of
from graft.data.raw_table import Record
from graft.data.tabular import TABLES, read_cells, read_lines
from graft.errors import DataError, quote, shorten, suggest
from graft.files import is_there

if TYPE_CHECKING:
    from graft.recipe import DataSettings
    from graft.task import Kind

_MESSAGES = {
    "encoding": (
        "{count} text{s} with bytes that are not UTF-8, which stand as �; save the table as UTF-8 to be "
        "rid of them."
    ),
    "column": "The texts are taken from a column that is not called text; another is named with "
    "--set data.text=NAME. Taken:",
    "joined": (
        "{count} label{s} that look like several in one cell; --set data.separator='SIGN' takes them "
        "apart, and then an item may have any number of labels. Taken as they stand:"
    ),
    "duplicate": (
        "{count} row{s} that repeat an earlier row's picture and label left out; remove them to be "
        "rid of this warning."
    ),
}


@dataclass(frozen=True)
class _Form:
    """How labels are written: the columns, what separates labels in a cell, whether cells are lists."""

    columns: Columns
    separator: str | None
    lists: bool

    @property
    def kind(self) -> Kind:
        several = len(self.columns.labels) > 1 or self.separator is not None or self.lists
        return "multi-label" if several else "single-label"


def list_table(
    path: Path, settings: DataSettings, modality: Modality = "picture", usual: tuple[str, ...] = ()
) -> Listing:
    """The rows of a table: pictures by split and id, each once; texts as they come.

    ``usual``: the columns of texts to take where the settings name none and the table has them.

    Raises:
        DataError: not readable as such a table; a column is missing; a path, label or split is
            empty or not allowed; one picture has other labels in another row. Names the rows.
    """
    cells = read_cells(path, modality)
    settings = with_usual(settings, usual, cells.names)
    if modality == "picture":
        settings = with_pictures(path, settings, cells)
    columns = find_columns(path, cells.names, settings, modality)
    listing = list_records(path, columns, list(cells.records), settings)
    return replace(listing, problems=(*cells.problems, *listing.problems))


def list_records(path: Path, columns: Columns, records: list[Record], settings: DataSettings) -> Listing:
    """The rows of a table that was read from ``path``; the columns as :func:`find_columns` found them.

    Raises:
        DataError: as :func:`list_table`.
    """
    modality = columns.modality
    lists = any(isinstance(record.cells.get(name), list) for record in records for name in columns.labels)
    form = _Form(columns, settings.separator, lists)
    rows, faults = _rows(path, records, form)
    kind = form.kind
    if len(columns.labels) > 1 and is_one_hot(rows):
        kind = "single-label"
    numbered = () if form.kind != "single-label" else check_numbers(rows, settings.task, f" of {path}")
    if faults:
        raise DataError(
            f"{len(faults)} of {len(records)} rows of {path} cannot be used:{show(faults)}\n"
            "Correct these cells or remove the rows."
        )
    if not rows:
        raise DataError(f"The table {path} has no rows; one row for each {modality} was expected.")
    kept, notes = _without_repeats(path, rows, modality)
    if modality == "text":
        _note_texts(notes, kept, columns.items if settings.text is None else ())
    named = columns.labels if len(columns.labels) > 1 else ()
    classes = dict.fromkeys([*map(label_name, named), *named_classes(kept)])
    if form.kind == "single-label":
        for name in _joined(classes):
            notes.add("joined", quote(name))
    if modality == "picture":
        kept.sort(key=lambda row: (row.split, row.id))
    taken = columns.items if modality == "text" else ()
    problems = (*notes.problems(_MESSAGES), *numbered, *((ONE_HOT,) if kind != form.kind else ()))
    return Listing(tuple(kept), problems, tuple(classes), kind, taken)


def _joined(classes: Collection[str]) -> Iterator[str]:
    """Classes that are others with a sign between them, as a cell with several labels would make them."""
    known = set(classes)
    for name in classes:
        if any(sign in name and {each.strip() for each in name.split(sign)} <= known for sign in "|;,"):
            yield name


def list_texts(path: Path, settings: DataSettings, usual: tuple[str, ...] = ()) -> Listing:
    """The texts of a table without looking at labels, or the lines of any other file, blank ones included.

    ``usual``: the columns to take where the settings name none and the table has them.

    Raises:
        DataError: not readable, a cell is no text, or the column of texts is not clear.
    """
    notes, guessed, odd = Notes(), tuple[str, ...](), tuple[Problem, ...]()
    if path.suffix.lower() not in TABLES:
        rows = _said(path)
    else:
        cells = read_cells(path, "text", blanks=True)
        odd = cells.problems
        settings = with_usual(settings, usual, cells.names)
        columns = find_texts(path, cells.names, settings, ())
        guessed = () if settings.text is not None else columns
        rows = [_unlabelled(record, columns) for record in cells.records]
    _note_texts(notes, rows, guessed)
    return Listing(tuple(rows), (*odd, *notes.problems(_MESSAGES)))


def _said(path: Path) -> list[Row]:
    """The lines of a file; those that say nothing have their place, too."""
    return [Row(Text(line), f"line {number}") for number, line in enumerate(read_lines(path), start=1)]


def _unlabelled(record: Record, columns: tuple[str, ...]) -> Row:
    try:
        return Row(Text(*(_text_cell(record.cells.get(name)) for name in columns)), record.place)
    except ValueError as fault:
        return Row(Text(""), record.place, fault=str(fault))


def _note_texts(notes: Notes, rows: Iterable[Row], guessed: tuple[str, ...]) -> None:
    for row in rows:
        assert isinstance(row.source, Text)
        if REPLACED in row.source.first or REPLACED in (row.source.second or ""):
            notes.add("encoding", f"{row.id}: {display(str(row.source))}")
    if guessed not in ((), ("text",)):
        notes.add("column", " and ".join(guessed))


def _text_cell(value: Any) -> str:
    """A cell as text; nothing where it is empty, and numbers as they are written.

    Raises:
        ValueError: in words, where it is neither.
    """
    if not isinstance(value, str | int | float) and not is_missing(value):
        raise ValueError(f"a cell is {type(value).__name__}; a text was expected")
    return "" if is_missing(value) else whole_text(value if isinstance(value, str) else json.dumps(value))


def _rows(path: Path, records: list[Record], form: _Form) -> tuple[list[Row], list[str]]:
    """The rows that can be used, and why others cannot."""
    faults: list[str] = []
    rows: list[Row] = []
    for record in records:
        try:
            rows.append(_row(path.parent, record, form))
        except ValueError as fault:
            faults.append(f"{record.place}: {fault}")
    return rows if len(form.columns.labels) > 1 else write_whole(rows), faults


def _row(folder: Path, record: Record, form: _Form) -> Row:
    """Raises ValueError, in words, for a cell that cannot be used."""
    columns = form.columns
    if columns.modality == "text":
        text = Text(*(_text_cell(record.cells.get(name)) for name in columns.items))
        row = Row(text, record.place)
    else:
        row = _picture(folder, record.cells.get(columns.items[0]), columns.items[0], record.place)
    labels = _labels(record.cells, form)
    split = "" if columns.split is None else _split(record.cells.get(columns.split), columns.split)
    return replace(row, labels=labels, split=split)


def _picture(folder: Path, cell: Any, column: str, place: str) -> Row:
    """A picture by its path, or itself: its file's bytes, or these and a path, of which one may lack."""
    name = cell.get("path") if isinstance(cell, dict) else cell
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(content, bytes):
        shown = display(name.strip()) if isinstance(name, str) else ""
        return Row(content, f"{shown} ({place})" if shown else place)
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{column} is {quote(cell)}; the path of a picture was expected")
    if "\0" in name:
        raise ValueError(f"{column} is {quote(name)}; a path has no zero byte")
    return _locate(folder, name.strip(), place)


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
        raise ValueError(f"{name} is {quote(cell)}; a list of labels, as in other rows, was expected")
    return [part for part in cell.split(separator) if part.strip()] if isinstance(cell, str) else [cell]


_TRUTH = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def _is_one(value: Any, name: str) -> bool:
    """Whether a column's label applies: 0 or 1, also as 0.0, "1" or False."""
    known = _TRUTH.get(str(value).strip().casefold())
    if known is None:
        raise ValueError(f"{name} is {quote(value)}; 0 or 1 was expected")
    return known


def _split(value: Any, name: str) -> str:
    known = part_of(value) if isinstance(value, str) else None
    if known is None:
        near = suggest(str(value), NAMES)
        raise ValueError(f"{name} is {quote(value)}; train, val or test was expected.{near}")
    return known


def _locate(folder: Path, name: str, place: str) -> Row:
    """The picture, beside the table or else in the working folder; its id is relative to the table's folder
    where it lies below that."""
    beside, here = Path(os.path.normpath(folder / name)), Path(os.path.normpath(name))
    there = next(filter(is_there, (beside, here)), None)
    looked = dict.fromkeys(str(path.absolute()) for path in (beside, here))
    fault = (
        ""
        if there
        else f"there is no such file: {', nor '.join(shorten(display(path)) for path in looked)}"
    )
    there = there or beside
    whole, base = there.absolute(), Path(os.path.normpath(folder.absolute()))
    below = whole.relative_to(base) if whole.is_relative_to(base) else here
    return Row(there, display(below.as_posix()), place=place, fault=fault)


def _without_repeats(path: Path, rows: list[Row], modality: Modality) -> tuple[list[Row], Notes]:
    """Each picture once a split; the same picture with other labels is an error.

    Texts stay: people write the same words, and mean different things by them.
    """
    if modality == "text":
        return list(rows), Notes()
    first: dict[Any, Row] = {}
    labelled: dict[Any, Row] = {}
    notes, conflicts = Notes(), []
    for row in rows:
        if isinstance(row.source, bytes):  # compared by content, as files with other names are
            first[len(first), row.split] = row
            continue
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
