"""Reading what has no labels, for prediction: every item that is given is answered for, in its place.

What is given twice is read once. What cannot be read is no error: it has its place, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from graft.data.arrays import picture_row, text_row
from graft.data.folder import list_tree
from graft.data.items import (
    Fault,
    Items,
    Listing,
    Modality,
    Problem,
    Row,
    Text,
    display,
    names_file,
)
from graft.data.oddities import list_oddities
from graft.data.scan import Progress, scan_rows
from graft.data.splits import make_items, not_there
from graft.data.table import list_texts
from graft.errors import DataError, quote
from graft.recipe import DataSettings

if TYPE_CHECKING:
    from graft.data.items import Source


@dataclass(frozen=True)
class Given:
    """One item as it was given: its number among those that were read, or in ``fault`` why it has none.

    ``text``: of a text, what it says.
    """

    id: str
    item: int | None = None
    fault: str = ""
    text: str | None = None


class Unlabelled(NamedTuple):
    """What was read. ``items``: each once; ``given``: everything, in the order in which it was given."""

    items: Items
    given: tuple[Given, ...]
    problems: tuple[Problem, ...]

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What cannot be read, each once."""
        return tuple(dict.fromkeys(Fault(each.id, each.fault) for each in self.given if each.fault))


def read_items(
    sources: Source | Sequence[Source],
    settings: DataSettings = DataSettings(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
    modality: Modality = "picture",
    columns: tuple[str, ...] = (),
) -> Unlabelled:
    """Read pictures or texts for prediction; ``columns``: those of a table that usually hold texts.

    Pictures: files, folders (at any depth, in the order of paths) or pictures in memory. Texts: tables and
    files with a text on each line, by their ``Path``; or texts themselves, as strings. A file named here is
    read whatever its suffix. Of a folder, files with the suffix of a picture are taken; where its format is
    none that graft reads, that is the reason given. An empty line has a reason, too.

    Raises:
        DataError: a file or table of texts is missing or cannot be read as one; a folder cannot be listed.
    """
    if modality == "text" and isinstance(sources, str) and names_file(sources):
        raise DataError(
            f"{quote(sources)} is a text, and also the name of a file. For what is in the file give "
            f"pathlib.Path({quote(sources)}), for the text itself [{quote(sources)}]."
        )
    one = isinstance(sources, str | Path) or not isinstance(sources, Sequence)
    several: Sequence[Any] = [sources] if one else sources  # type: ignore[assignment]
    listings = [
        _list_pictures(source, number)
        if modality == "picture"
        else _list_texts(source, number, settings, columns)
        for number, source in enumerate(several)
    ]
    rows = [row for listing in listings for row in listing.rows]
    keys = [_key(row, place) for place, row in enumerate(rows)]
    once: dict[str | int, Row] = {}
    for key, row in zip(keys, rows, strict=True):
        once.setdefault(key, row)
    seen = dict(zip(once, scan_rows(list(once.values()), settings, progress), strict=True))
    good = {key: each for key, each in seen.items() if not each.fault}
    numbers = {key: number for number, key in enumerate(good)}
    given = tuple(
        Given(_shown(row), numbers.get(key), seen[key].fault, _words(row))
        for row, key in zip(rows, keys, strict=True)
    )
    told = [problem for listing in listings for problem in listing.problems]
    problems = (*told, *list_oddities(list(good.values()), settings.full))
    return Unlabelled(make_items(list(good.values()), None, settings), given, problems)


def _key(row: Row, place: int) -> str | int:
    """What is read once: a path; anything else, in its place."""
    return row.id if isinstance(row.source, Path) else place


def _shown(row: Row) -> str:
    """A text that was given by itself is called by its beginning, everything else by its id."""
    direct = isinstance(row.source, Text) and not row.place
    return (display(str(row.source)) if direct else "") or row.id


def _words(row: Row) -> str | None:
    return row.source.words if isinstance(row.source, Text) else None


def _list_pictures(source: Any, number: int) -> Listing:
    if isinstance(source, str | Path) and not str(source).strip():
        return Listing((Row(Path(), f"item {number}", fault="its name is empty"),))
    if not isinstance(source, str | Path) or not Path(source).is_dir():
        return Listing((picture_row(source, number),))
    listing = list_tree(Path(source), Path(source).as_posix())
    if listing.rows:
        return listing
    message = f"No pictures in the folder {display(str(source))}; nothing was read from it."
    return replace(listing, problems=(*listing.problems, Problem("no-pictures", message, 1)))


def _list_texts(source: Any, number: int, settings: DataSettings, columns: tuple[str, ...]) -> Listing:
    """A table or file of texts by its ``Path``, or one text, or a pair of them."""
    if not isinstance(source, Path):
        return Listing((_text_row(source, number),))
    if source.is_dir():
        raise DataError(
            f"{display(str(source))} is a folder; of texts, a table was expected, or a file with a text a "
            "line."
        )
    if not source.is_file():
        raise not_there(source, str(source))
    listing = list_texts(source, settings, columns)
    prefix = f"{display(source.as_posix())}, " if number else ""
    rows = (replace(row, id=f"{prefix}{row.id}", place=row.id) for row in listing.rows)
    return replace(listing, rows=tuple(rows))


def _text_row(source: Any, number: int) -> Row:
    try:
        return text_row(source, number)
    except DataError as error:
        return Row(Text(""), f"item {number}", fault=str(error).rstrip("."))
