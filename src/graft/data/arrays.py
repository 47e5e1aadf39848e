"""Reading arrays: pictures and labels that are in memory already.

``(pictures, labels)``, or ``{"train": (pictures, labels), "val": ..., "test": ...}``. Pictures are
one array [N, H, W] or [N, H, W, K], one tensor [N, K, H, W], or a list of arrays, tensors, PIL
images or paths. Labels are strings or whole numbers.

Shapes: N items, K channels, height H, width W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graft.data.items import SPLIT_NAMES, Listing, Row, display, show
from graft.data.table import read_label
from graft.errors import DataError, suggest

if TYPE_CHECKING:
    from graft.data.items import Source


def list_arrays(data: Mapping[str, Any] | Sequence[Any]) -> Listing:
    """The items of arrays, in their given order.

    Raises:
        DataError: not of the form above, an unknown split, no train split, as many labels as
            pictures were expected, or a label that is neither text nor a whole number.
    """
    if not isinstance(data, Mapping):
        rows = _labelled_rows(data, "")
    else:
        rows = [row for name, pair in data.items() for row in _labelled_rows(pair, _split(name))]
    if not rows:
        raise DataError("The data has no pictures; at least two with different labels are needed.")
    classes = {row.label: None for row in rows if row.label and row.split in ("", "train")}
    return Listing(tuple(rows), (), tuple(classes))


def picture_row(picture: Source, number: int) -> Row:
    """One picture in memory or at a path, unlabelled, as item ``number``."""
    if isinstance(picture, str | Path):
        return Row(Path(picture), display(Path(picture).as_posix()))
    return Row(picture, f"item {number}")


def _split(name: Any) -> str:
    known = SPLIT_NAMES.get(str(name).casefold())
    if known is None:
        raise DataError(f"{name!r} is no split; train, val and test are.{suggest(str(name), SPLIT_NAMES)}")
    return known


def _labelled_rows(pair: Any, split: str) -> list[Row]:
    shown = f" of {split}" if split else ""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DataError(
            f"The data{shown} is {type(pair).__name__}; a pair (pictures, labels) was expected."
        )
    pictures, labels = pair
    if not hasattr(pictures, "__len__") or not hasattr(labels, "__len__"):
        raise DataError(f"The pictures and the labels{shown} must each be an array or a list.")
    if len(pictures) != len(labels):
        raise DataError(
            f"There are {len(pictures)} pictures and {len(labels)} labels{shown}; one label for "
            "each picture was expected."
        )
    names = _labels(labels, shown)
    plain = [picture_row(picture, number) for number, picture in enumerate(pictures)]
    ids = _unique([row.id for row in plain])
    return [
        Row(row.source, shown_id, label, split)
        for row, shown_id, label in zip(plain, ids, names, strict=True)
    ]


def _unique(ids: list[str]) -> list[str]:
    """A path that is given twice is told apart by its place in the list."""
    seen: set[str] = set()
    unique = []
    for number, name in enumerate(ids):
        unique.append(f"{name} (item {number})" if name in seen else name)
        seen.add(name)
    return unique


def _labels(labels: Any, shown: str) -> list[str]:
    values = np.asarray(labels).tolist() if hasattr(labels, "dtype") else list(labels)
    names, faults = [], []
    for number, value in enumerate(values):
        try:
            names.append(read_label(value.item() if isinstance(value, np.generic) else value))
        except (ValueError, AttributeError) as fault:
            faults.append(f"item {number}: {fault}")
    if faults:
        raise DataError(f"{len(faults)} labels{shown} cannot be used:{show(faults)}")
    return names
