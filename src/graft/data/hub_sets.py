"""Reading labelled texts of Hugging Face ``datasets``: of a repository on the hub, or of a folder.

``hf/ORG/NAME`` and ``hf/ORG/NAME:config`` are repositories; ``hf/./folder`` and ``hf//folder`` were written
by ``save_to_disk``. Columns are found as in a table (table.py); labels that are numbers with names go by
their names. Splits go by theirs, or by a column where data.split is set, or where all is one split and a
column divides it. Unlabelled rows (no label, or the number -1) are left out and reported, and so are
splits called otherwise. Rows count from 0, as ``datasets`` does: "train, row 17" is ``data["train"][17]``.

The library is an extra and takes seconds to import, so only :func:`_load` does. It never runs code of a
repository: from version 4 on it cannot. Where the hub gives no answer within seconds, what was loaded
before is taken from the library's cache.

Below, a part is a ``datasets.Dataset``: one split, or all of data that has none, which is then called "".
"""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from graft.backbones.hub import PROBE_SECONDS, is_switched_off
from graft.data.columns import Columns, find_columns
from graft.data.items import Listing, Modality, Notes, display, label_name
from graft.data.parts import part_of
from graft.data.raw_table import Record
from graft.data.table import list_records
from graft.errors import DataError, first_line, quote, quote_some

if TYPE_CHECKING:
    from graft.recipe import DataSettings

PREFIX = "hf/"

_SPLIT = "the split's name"  # stands beside a row's cells, as a column would
_PLAIN = re.compile(r"(large_)?string|u?int|float|bool|null")  # types of cells that can be read as a text

_MESSAGES = {
    "other-split": "{count} split{s} left out, called neither train, validation nor test:",
    "unlabelled-split": "{count} split{s} without labels left out:",
    "unlabelled": "{count} row{s} without a label left out:",
}


def list_hub(name: str, settings: DataSettings, modality: Modality) -> Listing:
    """The labelled texts of the data set ``name``, in its order.

    Raises:
        DataError: pictures are asked for; ``datasets`` is not installed; there is no such data set, or it
            cannot be had or read; no split or row can be used; or as :func:`list_table`.
    """
    if modality == "picture":
        raise DataError(
            f"{display(name)}: of Hugging Face data sets graft reads texts only; sets of pictures are "
            "given as a folder of class folders or as a table."
        )
    folder = _folder(name)
    where = folder or Path(name)  # what messages name
    notes = Notes()
    parts = _choose_parts(where, _load(name, folder), settings, notes)
    columns = _find_columns(where, parts, settings)
    records = [
        record
        for title, part in parts.items()
        for record in _labelled(where, title, part, columns, settings, notes)
    ]
    if not records:
        raise DataError(
            f"{display(str(where))} has no row with a label in {quote_some(columns.labels)}; "
            "name another column with --set data.label=NAME."
        )
    listing = list_records(where, columns, records, settings)
    classes = dict.fromkeys([*_named_classes(parts, columns), *listing.classes])
    return replace(
        listing, problems=(*notes.problems(_MESSAGES), *listing.problems), classes=tuple(classes)
    )


def _folder(name: str) -> Path | None:
    """The folder that ``name`` means, which is there; None for a repository."""
    rest = name.removeprefix(PREFIX)
    if not rest.startswith((".", "/", "~")):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+(:[^/]+)?", rest):
            raise DataError(
                f"{display(name)}: a data set hf/ORG/NAME or hf/ORG/NAME:config of the hub, or a folder "
                "hf/./path or hf//path, was expected."
            )
        return None
    folder = Path(rest).expanduser()
    if not folder.is_dir():
        raise DataError(f"There is no folder {display(str(folder))}, which {display(name)} names.")
    return folder


def _load(name: str, folder: Path | None) -> dict[str, Any]:
    """Every part by its name, "" where the data has no splits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own, which say nothing about the data
        try:
            from datasets import Dataset, load_dataset, load_from_disk
        except ImportError:
            raise DataError(
                f"{display(name)} needs the library datasets: install it with "
                'pip install "graft-ml[datasets]".'
            ) from None
        if folder is None:
            loaded = _load_from_hub(name, load_dataset)
        else:
            loaded = _load_from_folder(folder, load_from_disk)
    return {"": loaded} if isinstance(loaded, Dataset) else dict(loaded)


def _load_from_folder(folder: Path, load: Any) -> Any:
    if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        raise DataError(
            f"{display(str(folder))} holds no data set that save_to_disk of the library datasets wrote; "
            "name a folder of tables, or one table, without hf/."
        )
    try:
        return load(str(folder))
    except Exception as error:  # of Arrow, JSON, the file system and the library, with no common base
        raise _unreadable(folder, error) from None


def _unreadable(where: Path, error: Exception) -> DataError:
    return DataError(
        f"The data set {display(str(where))} cannot be read: {first_line(error, lines=2)}. Write or load "
        "it again."
    )


def _load_from_hub(name: str, load: Any) -> Any:
    repository, _, config = name.removeprefix(PREFIX).partition(":")
    if Path(repository).exists():
        raise DataError(
            f"{name} names a data set of the hub, but {repository} is a path here as well, which the "
            f"library would read instead. Name the folder as hf/./{repository}, or start in another folder."
        )
    with _online_or_not() as missing:
        try:
            return load(repository, config or None)
        except Exception as error:  # httpx, OS, Arrow and hub errors have no common base
            reason = first_line(error, lines=2)  # the second often says what there is
            if missing:
                cause = "and its cache does not have it" if isinstance(error, OSError) else reason
                raise DataError(
                    f"Cannot load {name}: {missing}, {cause}. Load it once with the library datasets "
                    "where there is a network, or write it there with save_to_disk and name the folder as "
                    "hf/./folder."
                ) from None
            raise DataError(
                f"Cannot load {name}: {reason}. Check the name, and the configuration where the "
                "data set has several (hf/ORG/NAME:config)."
            ) from None


@contextmanager
def _online_or_not() -> Iterator[str]:
    """Why the hub is not asked, or ""; meanwhile the library knows, so that it does not try for long."""
    from datasets import config
    from datasets.utils import logging

    if is_switched_off() or config.HF_HUB_OFFLINE:
        missing = "HF_HUB_OFFLINE is set"
    else:
        missing = _why_unreachable(config.HF_ENDPOINT)
    offline, verbosity = config.HF_HUB_OFFLINE, logging.get_verbosity()
    config.HF_HUB_OFFLINE = bool(missing)
    logging.set_verbosity_error()
    try:
        yield missing
    finally:
        config.HF_HUB_OFFLINE = offline
        logging.set_verbosity(verbosity)


def _why_unreachable(address: str) -> str:
    """Why a server gives no answer, told within seconds; "" where it does, whatever it says."""
    answers: list[str] = []

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "graft"})
        try:
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
            answers.append("")
        except urllib.error.HTTPError as answer:
            answer.close()
            answers.append("")
        except (OSError, ValueError) as error:
            answers.append(first_line(error))

    # In a thread, since looking a name up has no timeout of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 1.0)
    reason = answers[0] if answers else f"no answer within {PROBE_SECONDS:.0f} seconds"
    return f"{urlparse(address).netloc} cannot be reached: {reason}" if reason else ""


def _choose_parts(
    where: Path, found: Mapping[str, Any], settings: DataSettings, notes: Notes
) -> dict[str, Any]:
    """The parts that are train, validation or test; or one part that a column divides."""
    if "" in found:
        return dict(found)
    parts: dict[str, Any] = {}
    chosen: dict[str, str] = {}
    for title, part in found.items():
        split = part_of(title)
        if split is None:
            notes.add("other-split", display(title))
        elif split in chosen:
            raise DataError(f"{chosen[split]} and {title} of {where} are both of the split {split}.")
        else:
            parts[title], chosen[split] = part, title
    if not parts:
        raise DataError(
            f"{display(str(where))} has the splits {quote_some(list(found)) or 'none'}; train, "
            "validation or test was expected. Write the right one with save_to_disk, and name its folder "
            "as hf/./folder."
        )
    first = next(iter(parts.values()))
    if len(found) == 1 and _says_splits(first, settings.split):
        return {"": first}  # the hub calls a single file train, whatever stands in it
    return parts


def _says_splits(part: Any, column: str) -> bool:
    """Whether a column holds nothing but names of splits."""
    if _type_of(part, column) not in ("string", "large_string"):
        return False
    values = part.unique(column)
    return bool(values) and all(value and part_of(value) for value in values)


def _find_columns(where: Path, parts: Mapping[str, Any], settings: DataSettings) -> Columns:
    """The columns of the first part that has labels, which are then those of all."""
    labels = (settings.label,) if isinstance(settings.label, str) else settings.label
    labelled = [part for part in parts.values() if set(labels) <= set(part.column_names)]
    first = (labelled or list(parts.values()))[0]
    columns = find_columns(where, first.column_names, settings, "text")
    for part in labelled:
        for name in columns.items:
            if name in part.column_names and not _PLAIN.match(_type_of(part, name)):
                raise DataError(
                    f"The column {quote(name)} of {display(str(where))} holds "
                    f"{quote(part.features[name])}, no texts; name another with --set data.text=NAME."
                )
        find_columns(where, part.column_names, settings.model_copy(update={"text": columns.items}), "text")
    if "" in parts or settings.split != type(settings)().split:  # asked for by name
        return columns
    return replace(columns, split=_SPLIT)


def _type_of(part: Any, column: str) -> str:
    """What cells are, as "int64"; "" where they are lists or the like, or there is no such column."""
    return str(getattr(part.features.get(column), "dtype", ""))


def _labelled(
    where: Path, title: str, part: Any, columns: Columns, settings: DataSettings, notes: Notes
) -> list[Record]:
    """The rows of a part that have labels, those said by name; what has none is noted."""
    if not set(columns.labels) <= set(part.column_names):
        notes.add("unlabelled-split", display(title))
        return []
    cells = _cells(where, part, columns)
    rows = list(zip(*(cells[name] for name in columns.labels), strict=True))
    if rows and all(_is_none(label, True) for row in rows for label in row):
        notes.add("unlabelled-split", display(title) or "all")
        return []
    names = _label_names(part, columns)
    numbered = names is not None or len(columns.labels) > 1  # where -1 can be no label
    records = []
    for number, row in enumerate(rows):
        place = f"{display(title)}, row {number}" if title else f"row {number}"
        # Of cells that a separator divides, an empty one says that there are none of the labels.
        if settings.separator is None and any(_is_none(label, numbered) for label in row):
            notes.add("unlabelled", place)
            continue
        values = {name: column[number] for name, column in cells.items()}
        if names is not None:
            values[columns.labels[0]] = _name_of(row[0], names, f"{place} of {where}")
        records.append(Record(place, {_SPLIT: title, **values}))
    return records


def _cells(where: Path, part: Any, columns: Columns) -> dict[str, list[Any]]:
    """The cells of the columns that are needed, as plain values; a part may be written with a format."""
    names = dict.fromkeys([*columns.items, *columns.labels, columns.split])
    taken = part.with_format(None).select_columns([name for name in names if name in part.column_names])
    try:
        cells: dict[str, list[Any]] = taken[:]
    except (OSError, ValueError) as error:  # a file's bytes are read only now
        raise _unreadable(where, error) from None
    return cells


def _is_none(label: Any, numbered: bool) -> bool:
    """Whether nobody has said the label: nothing stands there, or -1 where labels are numbered from 0."""
    if isinstance(label, list):
        return numbered and -1 in label
    if isinstance(label, str):
        return not label.strip()
    return label is None or (numbered and label == -1)


def _label_names(part: Any, columns: Columns) -> list[str] | None:
    """The names of a column whose labels, or lists of labels, are numbers with names (``ClassLabel``)."""
    if len(columns.labels) > 1:  # of zeros and ones
        return None
    feature = part.features.get(columns.labels[0])
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return None if names is None else [str(name) for name in names]


def _name_of(value: Any, names: list[str], place: str) -> Any:
    if isinstance(value, list):
        return [_name_of(each, names, place) for each in value]
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise DataError(f"The label {quote(value)} in {place} is none of the {len(names)} that have names.")
    return names[value]


def _named_classes(parts: Mapping[str, Any], columns: Columns) -> list[str]:
    """The labels that the data names for training, whether or not a row has them."""
    return [
        label_name(name)
        for title, part in parts.items()
        if title == "" or part_of(title) == "train"
        for name in _label_names(part, columns) or ()
    ]
