"""From what a person has (a folder, a table, arrays) to splits that can be trained on.

``read_splits`` is the way in for training and ``read_labelled`` for evaluation (for prediction:
unlabelled.py). Both list first, then read every picture once (scan.py), and give back plain values with the
problems that were found; what makes a result meaningless is an error.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from graft.data.arrays import list_arrays
from graft.data.duplicates import find_contradictions, find_leaks
from graft.data.hub_sets import PREFIX, list_hub
from graft.data.items import (
    SPLITS,
    Items,
    Listing,
    Modality,
    Problem,
    Row,
    Splits,
    display,
    make_fingerprint,
    make_problem,
    modality_of,
    order_labels,
    show,
)
from graft.data.junk import is_junk
from graft.data.labels import find_alike, write_as_known
from graft.data.oddities import list_oddities, settle_range
from graft.data.paths import list_path
from graft.data.scan import Progress, Scanned, max_pixels_of, scan_rows, set_aside
from graft.data.validation import share_by_size, split_off
from graft.errors import DataError, quote, quote_some, shorten, suggest
from graft.files import is_there
from graft.recipe import DataSettings
from graft.task import Kind, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray


Data: TypeAlias = str | Path | Mapping[str, Any] | Sequence[Any]
"""A folder or a table by its path, texts of Hugging Face datasets as hf/ORG/NAME or hf/./folder,
(pictures or texts, labels), or a dict of such pairs by split."""


def read_splits(
    data: Data,
    settings: DataSettings = DataSettings(),  # noqa: B008 (frozen)
    seed: int = 0,
    progress: Progress | None = None,
    modality: Modality = "picture",
) -> Splits:
    """Read labelled data for training; see folder.py, table.py, hub_sets.py and arrays.py for its
    forms.

    Where the data brings no validation split and ``settings.validation`` > 0, that share of each
    class is set aside by ``seed``. The data makes the task: see table.py and arrays.py for data with any
    number of labels a picture. ``progress`` is called with (pictures read, all of them).

    Raises:
        DataError: no such data, no pictures, fewer than two classes, a class in val or test that
            train lacks, more unreadable pictures than ``settings.bad_share``, and what the readers
            refuse.
    """
    listing = _list_labelled(data, settings, ("train",), modality)
    given = {row.split for row in listing.rows} - {""}
    if given and "train" not in given:
        raise DataError(f"The data has {_and(given)} but no train split; name the training items train.")
    scanned, settings = settle_range(scan_rows(listing.rows, settings, progress), settings)
    good, bad = set_aside(scanned, settings.bad_share)
    task, empty = _make_task(data, listing, good)
    parts = {
        split: make_items([each for each in good if each.row.split in names], task, settings)
        for split, names in (("train", ("", "train")), ("val", ("val",)), ("test", ("test",)))
    }
    parts, single = _with_validation(parts, task, settings.validation, seed)
    problems = (
        *listing.problems,
        *bad,
        *list_oddities(good, settings.full),
        *empty,
        *single,
        *find_alike(task.labels),
        *find_leaks(parts, modality),
        *find_contradictions(parts, task, modality),
    )
    return Splits(
        train=parts["train"],
        val=parts["val"] if len(parts["val"]) else None,
        test=parts["test"] if len(parts["test"]) else None,
        task=task,
        problems=problems,
        fingerprint=make_fingerprint(parts.items(), task),
        columns=listing.columns,
    )


def read_labelled(
    data: Data,
    settings: DataSettings,
    task: Task,
    progress: Progress | None = None,
    modality: Modality = "picture",
    columns: tuple[str, ...] = (),
) -> tuple[Items, tuple[Problem, ...]]:
    """Read labelled data for evaluation, its labels looked up in ``task``.

    ``columns``: those of a table that usually hold texts.
    Where the data has splits, the test split is taken, or val where there is no test.

    Raises:
        DataError: as ``read_splits``, and for a label that the task does not know; for data with
            splits of which only train is there.
    """
    needs = () if _are_classes(data, task) else ("test", "val", "train")
    settings = settings.model_copy(update={"task": "classes"})  # as the model took its labels
    listing = _held_out(_list_labelled(data, settings, needs, modality, columns), data)
    listing = replace(listing, rows=tuple(write_as_known(listing.rows, task.labels)))
    _check_kind(listing, task)
    good, bad = set_aside(scan_rows(listing.rows, settings, progress), settings.bad_share)
    _check_known([each.row for each in good], task, "the model")
    items = make_items(good, task, settings)
    odd = (*bad, *list_oddities(good, settings.full))
    return items, (*listing.problems, *odd, *find_contradictions({"test": items}, task, modality))


def _list_labelled(
    data: Data,
    settings: DataSettings,
    needs: Sequence[str],
    modality: Modality,
    columns: tuple[str, ...] = (),
) -> Listing:
    if not isinstance(data, str | Path):
        _check_no_parts(settings)
        return list_arrays(data, modality, settings)
    if isinstance(data, str) and data.startswith(PREFIX) and not is_there(Path(data)):
        _check_no_parts(settings)
        return list_hub(data, settings, modality)
    path = Path(data)
    if not str(data) or not is_there(path):
        raise not_there(path, str(data))
    return list_path(path, settings, needs, modality, columns)


def _check_no_parts(settings: DataSettings) -> None:
    """Raises DataError where settings name parts of data that has no folders or tables."""
    for part in SPLITS:
        if getattr(settings, part) is not None:
            raise DataError(f"data.{part}: of folders and tables alone; leave it out.")


def not_there(path: Path, text: str) -> DataError:
    """The error that nothing is at ``path``, with the nearest name beside it."""
    if not text:
        return DataError("No data was named; give a folder of class folders or a table.")
    parent = path.parent
    near = (
        suggest(path.name, [each.name for each in parent.iterdir()])
        if is_there(parent) and parent.is_dir()
        else ""
    )
    full = str(path.absolute())
    where = "" if full == text else f" (looked for {shorten(display(full))})"
    return DataError(f"There is no folder or table {shorten(display(text))}{where}.{near}")


def _make_task(data: Data, listing: Listing, good: Sequence[Scanned]) -> tuple[Task, tuple[Problem, ...]]:
    """The task from the classes that have a readable picture in train; the others are a problem."""
    train = [each.row for each in good if each.row.split in ("", "train")]
    labels = order_labels(label for row in train for label in row.labels or ())
    noun = modality_of(listing.rows)
    if len(labels) < (1 if listing.kind == "multi-label" else 2):
        raise DataError(_too_few(data, labels, listing.kind, noun))
    task = Task(labels, listing.kind)
    others = [each.row for each in good if each.row.split in ("val", "test")]
    _check_known(others, task, "the train split")
    where = "folder" if task.kind == "single-label" and noun == "picture" else "label"
    message = f"{{count}} class(es) without a readable {noun} left out; add {noun}s or remove the {where}."
    empty = sorted(set(listing.classes) - set(labels))
    return task, (make_problem("empty-class", message, empty),) if empty else ()


def _too_few(data: Data, labels: Sequence[str], kind: Kind, noun: Modality) -> str:
    where = f" in {display(str(data))}" if isinstance(data, str | Path) else ""
    if kind == "multi-label":
        return f"No readable training {noun}{where} has a label; at least one with a label is needed."
    found = f"There is one class{where}, {quote(labels[0])}" if labels else f"There is no class{where}"
    how = "each in a folder of its own or " if noun == "picture" else ""
    return (
        f"{found}; at least two classes with readable training {noun}s are needed, {how}"
        "named in the label column."
    )


def _check_kind(listing: Listing, task: Task) -> None:
    """Several labels for a model that tells one; one label for a model that tells several is a set."""
    if listing.kind == "multi-label" and not task.multi_label:
        raise DataError(
            "The data gives each item any number of labels, but the model tells exactly one; name data "
            "with one label an item, or train a model on data of this kind."
        )


def _check_known(rows: Sequence[Row], task: Task, whose: str) -> None:
    known = set(task.labels)
    unknown: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for label in row.labels or ():
            if label not in known:
                unknown[label].append(row)
    if unknown:
        lines = [f"{quote(label)}: {len(of)} items, {of[0].where}" for label, of in unknown.items()]
        near = suggest(next(iter(unknown)), task.labels)
        raise DataError(
            f"{_count(unknown)} not known to {whose}:{show(lines)}\n"
            f"Known: {quote_some(task.labels)}.{near} Rename or remove these items, or "
            f"train with them.{_separator_hint(unknown, task)}"
        )


def _separator_hint(unknown: Iterable[str], task: Task) -> str:
    """For cells like "cat|dog" that were read as one label."""
    parts = (part.strip() for label in unknown for part in re.split(r"[|;,/+]", label))
    if not task.multi_label or not set(task.labels) & set(parts):
        return ""
    return (
        " Where a cell names several labels, say what stands between them, as in --set data.separator='|'."
    )


def make_items(scanned: Sequence[Scanned], task: Task | None, settings: DataSettings) -> Items:
    """What was read, labelled by a task; without one, unlabelled."""
    return Items(
        max_pixels=max_pixels_of(settings),
        max_value=settings.full,
        background=settings.background,
        sources=tuple(each.row.source for each in scanned),
        ids=tuple(each.row.id for each in scanned),
        targets=None if task is None else _targets([each.row for each in scanned], task),
        digests=tuple(each.digest for each in scanned),
    )


def _targets(rows: Sequence[Row], task: Task) -> NDArray[np.integer[Any]]:
    """int64 [N], or uint8 [N, C] of a multi-label task."""
    number = {label: index for index, label in enumerate(task.labels)}
    if not task.multi_label:
        return np.array([number[label] for row in rows for label in row.labels or ()], dtype=np.int64)
    targets = np.zeros((len(rows), task.classes), dtype=np.uint8)
    for index, row in enumerate(rows):
        targets[index, [number[label] for label in row.labels or ()]] = 1
    return targets


def _with_validation(
    parts: dict[str, Items], task: Task, share: float | Literal["auto"], seed: int
) -> tuple[dict[str, Items], tuple[Problem, ...]]:
    train = parts["train"]
    if share == "auto":
        share = share_by_size(train, task.classes)
    if len(parts["val"]) or share == 0:
        return parts, ()
    kept, taken, problems = split_off(train, task.labels, share, seed)
    return {**parts, "train": train.select(kept), "val": train.select(taken)}, problems


def divide(
    pool: Splits, train: Items, test: Items | None, share: float | Literal["auto"], seed: int
) -> Splits:
    """Splits of the same task with other training and test items; ``share`` of the former validates.

    Where the pool brings a validation part, that is kept.
    """
    nothing = pool.train.select(())
    parts = {"train": train, "val": pool.val or nothing, "test": test or nothing}
    parts, problems = _with_validation(parts, pool.task, share, seed)
    return replace(
        pool,
        train=parts["train"],
        val=parts["val"] if len(parts["val"]) else None,
        test=test,
        problems=problems,
        fingerprint=make_fingerprint(parts.items(), pool.task),
    )


def _are_classes(data: Data, task: Task) -> bool:
    """Whether a folder's folders are named by classes of the task, even if like splits."""
    if not isinstance(data, str | Path) or not Path(data).is_dir():
        return False
    names = [path.name for path in Path(data).iterdir() if path.is_dir() and not is_junk(path.name)]
    return bool(names) and set(names) <= set(task.labels)


def _held_out(listing: Listing, data: Data) -> Listing:
    counts = Counter(row.split for row in listing.rows)
    if set(counts) <= {""}:
        return listing
    for split in ("test", "val"):
        if counts[split]:
            return listing.only(split)
    where = display(str(data)) if isinstance(data, str | Path) else "The data"
    left = show([str(problem) for problem in listing.problems])
    raise DataError(
        f"{where} has a train split only; to evaluate, name a folder of class folders, a table "
        f"without a split column, or data with a test split.{left}"
    )


def _count(classes: Mapping[str, Any]) -> str:
    return "1 class is" if len(classes) == 1 else f"{len(classes)} classes are"


def _and(names: set[str]) -> str:
    return " and ".join(sorted(names))
