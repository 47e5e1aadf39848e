"""Reading arrays: pictures or texts, and labels, that are in memory already.

``(pictures, labels)``, or ``{"train": (pictures, labels), "val": ..., "test": ...}``. Pictures are
one array [N, H, W] or [N, H, W, K], one tensor [N, K, H, W], or a list of arrays, tensors, PIL
images or paths. Texts are strings, or pairs of them. Labels are strings or numbers, one for each; see
labels.py. Either may be a column, or a data frame of one, of pandas or polars.

Where a picture may have any number of labels, they are a list of lists of labels, or an array, tensor or
frame [N, C] of zeros and ones whose columns are called "0", "1" and so on, as the frame calls them, or as a
third element says: ``(pictures, labels, ["cat", "dog"])``. Where every row has exactly one 1, each item has
one label.

A text or picture that is missing (None, NaN, pandas' NA) is a bad item; a missing label is an error.

Shapes: N items, K channels, height H, width W, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from graft.data.items import (
    Listing,
    Modality,
    Row,
    Text,
    display,
    named_classes,
    show,
    whole_text,
)
from graft.data.labels import (
    ONE_HOT,
    alike_kinds,
    check_numbers,
    is_missing,
    is_one_hot,
    read_label,
    write_whole,
)
from graft.data.parts import NAMES, part_of
from graft.errors import DataError, quote, quote_some, suggest
from graft.recipe import DataSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graft.data.items import Source

Labels: TypeAlias = list[tuple[str, ...]]


def list_arrays(
    data: Mapping[str, Any] | Sequence[Any],
    modality: Modality = "picture",
    settings: DataSettings = DataSettings(),  # noqa: B008 (frozen)
) -> Listing:
    """The items of arrays, in their given order.

    Raises:
        DataError: not of the form above, an unknown split, no train split, as many labels as
            pictures were expected, a label that is missing or neither text nor a number, numbers that are
            no classes, or one label a picture in one split and any number in another.
    """
    given = data if isinstance(data, Mapping) else {"": data}
    make = text_row if modality == "text" else picture_row
    listed = {
        str(name): _list_part(pair, _split(name) if name else "", make) for name, pair in given.items()
    }
    parts = alike_kinds({name: part for name, part in listed.items() if part.rows})
    rows = [row for part in parts.values() for row in part.rows]
    if not rows:
        raise DataError("The data has no items; at least two with different labels are needed.")
    kinds = {part.kind for part in parts.values()}
    if len(kinds) > 1:
        raise DataError("Some splits have one label for each item, others any number; give all alike.")
    (kind,) = kinds
    problems = dict.fromkeys(problem for part in parts.values() for problem in part.problems)
    numbered = check_numbers(rows, settings.task, "") if kind == "single-label" else ()
    named = [name for part in listed.values() for name in part.classes]
    rows = rows if named else write_whole(rows)
    classes = dict.fromkeys([*named, *named_classes(rows)])
    return Listing(tuple(rows), (*problems, *numbered), tuple(classes), kind)


def picture_row(picture: Source, number: int) -> Row:
    """One picture in memory or at a path, unlabelled, as item ``number``."""
    if is_missing(picture):
        return Row("", f"item {number}", fault="it is missing")
    if isinstance(picture, str | Path):
        return Row(Path(picture), display(Path(picture).as_posix()))
    return Row(picture, f"item {number}")


def text_row(text: Any, number: int) -> Row:
    """One text, or two that belong together, unlabelled, as item ``number``; a missing one is empty.

    Raises:
        DataError: it is neither.
    """
    given = tuple(text) if isinstance(text, tuple | list) else (text,)
    parts = ["" if is_missing(part) else part for part in given]
    if not 1 <= len(parts) <= 2 or not all(isinstance(part, str) for part in parts):
        raise DataError(
            f"item {number} is {type(text).__name__}; a text, or a pair of texts, was expected."
        )
    return Row(Text(*map(whole_text, parts)), f"item {number}")


def _split(name: Any) -> str:
    known = part_of(str(name))
    if known is None:
        near = suggest(str(name), NAMES)
        raise DataError(f"{quote(name)} is not a split; expected train, val or test.{near}")
    return known


def _list_part(given: Any, split: str, make: Callable[[Any, int], Row]) -> Listing:
    """The items of one split; ``classes``: the names of columns of zeros and ones."""
    shown = f" of {split}" if split else ""
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise DataError(
            f"The data{shown} is {type(given).__name__}; a pair (pictures or texts, labels) was expected."
        )
    pictures, labels = given[:2]
    if not hasattr(pictures, "__len__") or not hasattr(labels, "__len__"):
        raise DataError(f"The items and the labels{shown} must each be an array or a list.")
    if len(pictures) != len(labels):
        raise DataError(
            f"There are {len(pictures)} items and {len(labels)} labels{shown}; one label for "
            "each was expected."
        )
    found = _read_labels(labels, given[2:], shown)
    plain = [make(picture, number) for number, picture in enumerate(_items_of(pictures, shown))]
    ids = _unique([row.id for row in plain])
    rows = [
        replace(row, id=own_id, labels=row_labels, split=split)
        for row, own_id, row_labels in zip(plain, ids, found.labels, strict=True)
    ]
    several = found.several and not (found.columns and is_one_hot(rows))
    return Listing(
        tuple(rows),
        (ONE_HOT,) if several != found.several else (),
        found.columns,
        "multi-label" if several else "single-label",
    )


def _items_of(given: Any, shown: str) -> Any:
    """Items one by one: the cells of a frame's one column, or pairs of its two."""
    if not hasattr(given, "columns"):
        return given
    columns = [list(given[name]) for name in given.columns]
    if not 1 <= len(columns) <= 2:
        raise DataError(
            f"The items{shown} are a frame of {len(columns)} columns; one, or two of texts that belong "
            "together, was expected."
        )
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _unique(ids: list[str]) -> list[str]:
    """A path that is given twice is told apart by its place in the list."""
    seen: set[str] = set()
    unique = []
    for number, name in enumerate(ids):
        unique.append(f"{name} (item {number})" if name in seen else name)
        seen.add(name)
    return unique


class _Found(NamedTuple):
    """The labels of each item, whether there may be several, and the names of columns of zeros and ones."""

    labels: Labels
    several: bool
    columns: tuple[str, ...] = ()


def _read_labels(labels: Any, names: Sequence[Any], shown: str) -> _Found:
    columns = list(names[0]) if names else list(getattr(labels, "columns", ()))
    if len(columns) == 1 and not names:  # a frame of one column
        labels, columns = labels[columns[0]], []
    if getattr(labels, "ndim", 1) == 2 and labels.shape[1] == 1 and not columns and not names:
        column = np.asarray(labels)[:, 0]
        labels = labels if all(map(_is_bit, column)) else column
    if columns or getattr(labels, "ndim", 1) == 2 or _is_nested_matrix(labels):
        return _matrix(labels, columns, shown)
    array = np.asarray(labels if hasattr(labels, "dtype") else None)
    kept = array.ndim == 1 and array.dtype.kind in "fmM"  # what Python's own values would say less of
    values = list(array) if kept else array.tolist() if array.ndim else list(labels)
    if any(isinstance(value, list | tuple | set | frozenset) for value in values):
        return _Found(_each(values, _several, shown), several=True)
    return _Found(_each(values, lambda value: (read_label(value),), shown), several=False)


def _is_nested_matrix(labels: Any) -> bool:
    """Whether lists of labels are all as long as each other, two or more, of nothing but 0 and 1."""
    if not isinstance(labels, list | tuple) or not all(isinstance(row, list | tuple) for row in labels):
        return False
    widths = {len(row) for row in labels}
    cells = (cell for row in labels for cell in row)
    return len(widths) == 1 and min(widths) > 1 and all(map(_is_bit, cells))


def _is_bit(cell: Any) -> bool:
    return isinstance(cell, int | float | np.generic) and cell in (0, 1)


def _matrix(labels: Any, names: Sequence[Any], shown: str) -> _Found:
    """Names of the columns, and of each row those that are 1."""
    try:
        array = np.asarray(labels)
    except ValueError:  # rows of different length
        array = np.zeros(())
    other = "" if array.ndim != 2 else _other_than_bits(array)
    if array.ndim != 2 or other:
        raise DataError(
            f"The labels{shown} are no matrix of zeros and ones with one row for each item{other}; that, "
            "lists of labels, or one label for each item was expected."
        )
    columns = _each(names or range(array.shape[1]), lambda name: (read_label(name),), shown)
    flat = [name for (name,) in columns]
    if len(flat) != array.shape[1] or len(set(flat)) != len(flat):
        raise DataError(
            f"The labels{shown} have {array.shape[1]} columns and the names {quote_some(flat)}; one name "
            "for each column was expected, no two alike."
        )
    found: Labels = [tuple(sorted(flat[index] for index in np.flatnonzero(row))) for row in array]
    return _Found(found, several=True, columns=tuple(flat))


def _other_than_bits(array: NDArray[Any]) -> str:
    """The first value of a matrix that is neither 0 nor 1, in words; "" where there is none."""
    if array.dtype.kind in "biuf" and np.isin(array, (0, 1)).all():
        return ""
    for number, row in enumerate(array.tolist()):
        wrong = [cell for cell in row if not _is_bit(cell)]
        if wrong:
            return f" (item {number}: {quote(wrong[0])})"
    return ""


def _each(values: Any, read: Any, shown: str) -> Labels:
    names, faults = [], []
    for number, value in enumerate(values):
        try:
            names.append(read(value))
        except (ValueError, AttributeError) as fault:
            faults.append(f"item {number}: {fault}")
    if faults:
        raise DataError(f"{len(faults)} labels{shown} cannot be used:{show(faults)}")
    return names


def _several(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise ValueError(f"label is {quote(value)}; a list of labels, as for other items, was expected")
    return tuple(sorted({read_label(each) for each in value}))
