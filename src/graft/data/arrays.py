"""Reading arrays: pictures or texts, and labels, that are in memory already.

``(pictures, labels)``, or ``{"train": (pictures, labels), "val": ..., "test": ...}``. Pictures are
one array [N, H, W] or [N, H, W, K], one tensor [N, K, H, W], or a list of arrays, tensors, PIL
images or paths. Texts are strings, or pairs of them. Labels are strings or whole numbers, one for each.

Where a picture may have any number of labels, they are a list of lists of labels, or an array or tensor
[N, C] of zeros and ones whose columns are called "0", "1" and so on, or as a third element says:
``(pictures, labels, ["cat", "dog"])``.

Shapes: N items, K channels, height H, width W, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from graft.data.items import (
    SPLIT_NAMES,
    Listing,
    Modality,
    Row,
    Text,
    display,
    named_classes,
    show,
    whole_text,
)
from graft.data.table import read_label
from graft.errors import DataError, suggest

if TYPE_CHECKING:
    from graft.data.items import Source
    from graft.task import Kind

Labels: TypeAlias = list[tuple[str, ...]]


def list_arrays(data: Mapping[str, Any] | Sequence[Any], modality: Modality = "picture") -> Listing:
    """The items of arrays, in their given order.

    Raises:
        DataError: not of the form above, an unknown split, no train split, as many labels as
            pictures were expected, a label that is neither text nor a whole number, or one label a
            picture in one split and any number in another.
    """
    given = data if isinstance(data, Mapping) else {"": data}
    make = text_row if modality == "text" else picture_row
    parts = [_labelled_rows(pair, _split(name) if name else "", make) for name, pair in given.items()]
    rows = [row for part, _, _ in parts for row in part]
    if not rows:
        raise DataError("The data has no items; at least two with different labels are needed.")
    kinds = {kind for part, kind, _ in parts if part}
    if len(kinds) > 1:
        raise DataError("Some splits have one label for each item, others any number; give all alike.")
    named = [name for _, _, names in parts for name in names]
    classes = dict.fromkeys([*named, *named_classes(rows)])
    return Listing(tuple(rows), (), tuple(classes), kinds.pop())


def picture_row(picture: Source, number: int) -> Row:
    """One picture in memory or at a path, unlabelled, as item ``number``."""
    if isinstance(picture, str | Path):
        return Row(Path(picture), display(Path(picture).as_posix()))
    return Row(picture, f"item {number}")


def text_row(text: Any, number: int) -> Row:
    """One text, or two that belong together, unlabelled, as item ``number``.

    Raises:
        DataError: it is neither.
    """
    parts = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, tuple | list) else ()
    if not 1 <= len(parts) <= 2 or not all(isinstance(part, str) for part in parts):
        raise DataError(
            f"item {number} is {type(text).__name__}; a text, or a pair of texts, was expected."
        )
    return Row(Text(*map(whole_text, parts)), f"item {number}")


def _split(name: Any) -> str:
    known = SPLIT_NAMES.get(str(name).casefold())
    if known is None:
        raise DataError(f"{name!r} is no split; train, val and test are.{suggest(str(name), SPLIT_NAMES)}")
    return known


def _labelled_rows(
    given: Any, split: str, make: Callable[[Any, int], Row]
) -> tuple[list[Row], Kind, tuple[str, ...]]:
    """The rows of one split, whether they have any number of labels, and the names of its columns."""
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
    names, kind, columns = _read_labels(labels, given[2:], shown)
    plain = [make(picture, number) for number, picture in enumerate(pictures)]
    ids = _unique([row.id for row in plain])
    rows = [
        Row(row.source, shown_id, label, split)
        for row, shown_id, label in zip(plain, ids, names, strict=True)
    ]
    return rows, kind, columns


def _unique(ids: list[str]) -> list[str]:
    """A path that is given twice is told apart by its place in the list."""
    seen: set[str] = set()
    unique = []
    for number, name in enumerate(ids):
        unique.append(f"{name} (item {number})" if name in seen else name)
        seen.add(name)
    return unique


def _read_labels(labels: Any, names: Sequence[Any], shown: str) -> tuple[Labels, Kind, tuple[str, ...]]:
    if names or getattr(labels, "ndim", 1) == 2:
        columns, found = _matrix(labels, names, shown)
        return found, "multi-label", columns
    values = np.asarray(labels).tolist() if hasattr(labels, "dtype") else list(labels)
    if any(isinstance(value, list | tuple | set | frozenset) for value in values):
        return _each(values, _several, shown), "multi-label", ()
    return _each(values, lambda value: (_one(value),), shown), "single-label", ()


def _matrix(labels: Any, names: Sequence[Any], shown: str) -> tuple[tuple[str, ...], Labels]:
    """Names of the columns, and of each row those that are 1."""
    try:
        array = np.asarray(labels)
        right = array.ndim == 2 and bool(np.isin(array, (0, 1)).all())
    except (TypeError, ValueError):  # rows of different length
        right = False
    if not right:
        raise DataError(
            f"The labels{shown} are no matrix of zeros and ones with one row for each item; that, lists "
            "of labels, or one label for each item was expected."
        )
    columns = _each(list(names[0]) if names else range(array.shape[1]), lambda name: (_one(name),), shown)
    flat = [name for (name,) in columns]
    if len(flat) != array.shape[1] or len(set(flat)) != len(flat):
        raise DataError(
            f"The labels{shown} have {array.shape[1]} columns and the names {flat}; one name for each "
            "column was expected, no two alike."
        )
    return tuple(flat), [tuple(sorted(flat[index] for index in np.flatnonzero(row))) for row in array]


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


def _one(value: Any) -> str:
    return read_label(value.item() if isinstance(value, np.generic) else value)


def _several(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise ValueError(f"label is {value!r}; a list of labels, as for other items, was expected")
    return tuple(sorted({_one(each) for each in value}))
