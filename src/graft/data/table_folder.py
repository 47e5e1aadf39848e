"""Reading a folder of tables: train.csv, dev.csv and test.csv, a folder of tables for each part, or the
numbered files of one table, as Hugging Face writes them. Which table is which part is decided in parts.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graft.data.items import Listing, Modality, Notes, display, place_of, show
from graft.data.junk import is_junk
from graft.data.labels import is_missing, join_listings
from graft.data.parts import LEFT, NOTHING_CHOSEN, Chosen, Division, Sibling, divide_siblings
from graft.data.table import list_table
from graft.data.tabular import TABLES, read_cells
from graft.errors import DataError

if TYPE_CHECKING:
    from graft.recipe import DataSettings


def list_tables(
    folder: Path,
    settings: DataSettings,
    modality: Modality = "text",
    usual: tuple[str, ...] = (),
    *,
    needs: Sequence[str] = ("train",),
    chosen: Chosen = NOTHING_CHOSEN,
) -> Listing:
    """The rows of a folder's tables that are parts of the data.

    ``usual`` as of :func:`list_table`, ``needs`` and ``chosen`` as of :func:`list_folder`. A table for
    validation or test in which no row has a label is left out and noted.

    Raises:
        DataError: there is no table for training, two are for one part, or as :func:`list_table`.
    """
    home, tables, division = _find_home(folder, needs, chosen)
    if not division.parts and "train" not in chosen.paths:
        raise DataError(_no_parts(folder, tables))
    notes = Notes()
    if home != folder:
        notes.add("inside", display(home.relative_to(folder).as_posix()))
    for code, names in division.left.items():
        for name in names:
            notes.add(code, _shown(tables[name], home))
    listings = []
    for split, names in division.parts.items():
        for path in (path for name in names for path in tables[name]):
            fault = "" if split == "train" else why_unlabelled(path, settings, modality)
            if fault:
                notes.add(fault, display(path.relative_to(home).as_posix()))
                continue
            listings.append(list_part(path, split, folder, settings, modality, usual))
    if not listings and not chosen.paths:
        raise DataError(f"No table in {display(str(folder))} has a label:{show(_all(notes))}")
    joined = join_listings(listings, display(str(folder)))
    return replace(joined, problems=(*notes.problems(LEFT), *joined.problems))


def list_part(
    path: Path,
    split: str,
    root: Path,
    settings: DataSettings,
    modality: Modality,
    usual: tuple[str, ...] = (),
) -> Listing:
    """The rows of one table as those of a split; ids of texts name the table, relative to ``root``."""
    if split != "train":  # of few items, numbers say little
        settings = settings.model_copy(update={"task": "classes"})
    listing = list_table(path, settings, modality, usual)
    prefix = f"{display(place_of(path, root).as_posix())}, " if modality == "text" else ""
    rows = tuple(replace(row, split=split, id=f"{prefix}{row.id}") for row in listing.rows)
    return replace(listing, rows=rows)


def tables_in(folder: Path) -> tuple[Path, ...]:
    """The tables directly in a folder, by name."""
    return tuple(
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in TABLES and not is_junk(path.name) and path.is_file()
    )


def why_unlabelled(path: Path, settings: DataSettings, modality: Modality) -> str:
    """The code of LEFT that says why a table has nothing to be compared with, or ""."""
    table = read_cells(path, modality)
    labels = (settings.label,) if isinstance(settings.label, str) else settings.label
    if table.names and not set(labels) & set(table.names):
        return "unlabelled-part"
    cells = [record.cells.get(name) for record in table.records for name in labels]
    if not cells:
        return "empty-part"
    several = settings.separator is not None  # where an empty cell says that there is none of the labels
    missing = all(is_missing(cell) or not str(cell).strip() for cell in cells)
    return "unlabelled-part" if missing and not several else ""


def _find_home(
    folder: Path, needs: Sequence[str], chosen: Chosen
) -> tuple[Path, Mapping[str, tuple[Path, ...]], Division]:
    """The folder whose tables are parts: ``folder``, or the only one in it that has tables."""
    tables = _siblings(folder, chosen)
    siblings = [Sibling(name, table=True) for name in tables]
    division = divide_siblings(folder, siblings, needs, chosen)
    inner = [path for path in _folders(folder) if tables_in(path)]
    if division.parts or len(inner) != 1 or tables_in(folder) or chosen.paths:
        return folder, tables, division
    return _find_home(inner[0], needs, chosen)


def _siblings(folder: Path, chosen: Chosen) -> dict[str, tuple[Path, ...]]:
    """Tables, and folders of tables, by the name that may say which part they are."""
    found: dict[str, tuple[Path, ...]] = {}
    taken = {path.resolve() for paths in chosen.paths.values() for path in paths}
    for path in tables_in(folder):
        if path.resolve() not in taken:
            found[path.name] = (path,)
    for inner in _folders(folder):
        if inner.resolve() not in taken and tables_in(inner):
            found[inner.name] = tables_in(inner)
    return found


def _folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not is_junk(path.name)]


def _all(notes: Notes) -> list[str]:
    return [example for examples in notes.found.values() for example in examples]


def _shown(paths: Sequence[Path], home: Path) -> str:
    whole = paths[0] if len(paths) == 1 else paths[0].parent
    return display(whole.relative_to(home).as_posix())


def _no_parts(folder: Path, tables: Mapping[str, tuple[Path, ...]]) -> str:
    expected = (
        f"Expected: a folder with such tables ({', '.join(TABLES)}), or one table by its path. If it holds "
        "pictures, take a backbone that sees: without --backbone it is the one that ships with graft."
    )
    start = f"{display(str(folder))} has no table of texts that is called as a split, as train.csv is"
    if not tables:
        return f"{start}. {expected}"
    first = display(next(iter(tables)))
    return f"{start}:{show([*map(display, tables)])}\nSay it with --set data.train={first}. {expected}"
