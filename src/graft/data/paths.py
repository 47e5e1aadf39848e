"""From the path that a person names, a folder or a table, to the listing of what is in it.

Parts that settings name (data.train, data.val, data.test) come before what names of folders and tables say;
they may lie anywhere, and a folder of pictures may be validated on a table.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graft.data.folder import class_names, list_classes, list_folder
from graft.data.items import Listing, Modality, display, make_problem
from graft.data.labels import join_listings
from graft.data.parts import LEFT, NOTHING_CHOSEN, PARTS, Chosen, part_of
from graft.data.table import list_table
from graft.data.table_folder import list_part, list_tables, tables_in
from graft.data.tabular import TABLES
from graft.errors import DataError, quote, shorten
from graft.files import is_there

if TYPE_CHECKING:
    from graft.recipe import DataSettings


def list_path(
    path: Path,
    settings: DataSettings,
    needs: Sequence[str],
    modality: Modality,
    usual: tuple[str, ...] = (),
) -> Listing:
    """The labelled items in a folder or table that exists; ``needs`` and ``usual`` as of the readers.

    Raises:
        DataError: it is neither; a part that settings name is not there or is named twice; or as
            :func:`list_folder`, :func:`list_tables` and :func:`list_table`.
    """
    root = path if path.is_dir() else path.parent
    paths = find_chosen(root, settings)
    if not paths:
        return _list_whole(path, settings, needs, modality, usual, NOTHING_CHOSEN)
    parts = [
        _list_chosen(each, split, root, settings, modality, usual)
        for split, named in paths.items()
        for each in named
    ]
    folders = [each for named in paths.values() for each in named if each.is_dir()]
    classes = [class_names(each) for each in folders if modality == "picture"]
    whole = Chosen(paths, frozenset().union(*classes))
    if not any(each.samefile(path) for each in folders):
        parts.insert(0, _list_rest(path, settings, needs, modality, usual, whole))
    return join_listings([part for part in parts if part.rows or part.problems], display(str(path)))


def find_chosen(root: Path, settings: DataSettings) -> dict[str, tuple[Path, ...]]:
    """The folders or tables that data.train, data.val and data.test name, by part.

    Each is looked for in ``root`` (the folder of the data, or its table's), then in the working folder.

    Raises:
        DataError: there is none of such a name, or one is named twice.
    """
    found: dict[str, tuple[Path, ...]] = {}
    for part in PARTS:
        names = getattr(settings, part)
        if names is not None:
            several = (names,) if isinstance(names, str) else names
            found[part] = tuple(_locate(root, part, name) for name in several)
    counts = Counter(path.resolve() for paths in found.values() for path in paths)
    for path, count in counts.items():
        if count > 1:
            raise DataError(f"data.train, data.val and data.test name {display(str(path))} twice.")
    return found


def _locate(root: Path, part: str, name: str) -> Path:
    places = (root / name, Path(name))
    for place in places:
        if is_there(place):
            return place
    looked = " nor ".join(dict.fromkeys(shorten(display(str(place.absolute()))) for place in places))
    raise DataError(
        f"data.{part} = {quote(display(name))}: there is neither {looked}; name a folder or a table."
    )


def _list_chosen(
    path: Path,
    split: str,
    root: Path,
    settings: DataSettings,
    modality: Modality,
    usual: tuple[str, ...],
) -> Listing:
    if path.is_file() and path.suffix.lower() in TABLES:
        return list_part(path, split, root, settings, modality, usual)
    if not path.is_dir():
        raise _neither(path)
    tables = tables_in(path)
    if modality == "picture" and not (tables and not class_names(path)):
        return list_classes(path, root, split)
    if not tables:
        raise DataError(f"data.{split}: there is no table in {display(str(path))} ({', '.join(TABLES)}).")
    listings = [list_part(table, split, root, settings, modality, usual) for table in tables]
    return join_listings(listings, display(str(path)))


def _list_rest(
    path: Path,
    settings: DataSettings,
    needs: Sequence[str],
    modality: Modality,
    usual: tuple[str, ...],
    chosen: Chosen,
) -> Listing:
    """What the data itself has beside the parts that are chosen; what bears no name is for training."""
    if path.is_file() and "train" in chosen.paths:
        raise DataError(
            f"data.train: {display(str(path))} is a table, which holds the training items itself; name the "
            "other as the data, or leave data.train out."
        )
    listing = _list_whole(path, settings, needs, modality, usual, chosen)
    named = [replace(row, split=row.split or "train") for row in listing.rows]
    kept = tuple(row for row in named if row.split not in chosen.paths)
    replaced = {row.split for row in named} & set(chosen.paths)
    problems = listing.problems
    if replaced:
        problem = make_problem("replaced-part", LEFT["replaced-part"], sorted(replaced))
        problems = (problem, *problems)
    return replace(listing, rows=kept, problems=problems)


def _list_whole(
    path: Path,
    settings: DataSettings,
    needs: Sequence[str],
    modality: Modality,
    usual: tuple[str, ...],
    chosen: Chosen,
) -> Listing:
    if path.is_file() and path.suffix.lower() in TABLES:
        return list_table(path, settings, modality, usual)
    if not path.is_dir():
        raise _neither(path)
    if modality == "text":
        return list_tables(path, settings, modality, usual, needs=needs, chosen=chosen)
    listing = list_folder(path, needs=needs, chosen=chosen)
    if "train" in needs and len(needs) == 1 and {row.split for row in listing.rows} == {""}:
        _check_no_tables(path)
    return listing


def _check_no_tables(folder: Path) -> None:
    """Raises DataError where a table called train lies beside folders that would be taken for classes."""
    named = {part_of(each.stem): each.name for each in reversed(tables_in(folder))}
    if "train" not in named:
        return
    found = {part: display(named[part]) for part in PARTS if part in named}
    settings = " ".join(f"--set {shlex.quote(f'data.{part}={name}')}" for part, name in found.items())
    raise DataError(
        f"{display(str(folder))} has {' and '.join(found.values())} beside folders of pictures: either may "
        f"hold the labels. If the table does, say so with {settings}. If the folders are classes, say so "
        "with --set data.train=. (a dot)."
    )


def _neither(path: Path) -> DataError:
    return DataError(
        f"{display(str(path))} is neither a folder nor a table that graft reads; expected a folder "
        f"of class folders, or a file ending in {', '.join(TABLES)}."
    )
