"""Reading a folder: which pictures there are, and what their folders say about them.

Two layouts are known. ``photos/CLASS/**/*.jpg``: each visible folder is a class, and folders
further down belong to it. ``photos/train/CLASS/...`` beside folders for validation and test, or
``photos/CLASS/train/...``: see parts.py, which decides. Both may lie in a folder of their own in the root.

Links are followed; a directory that was already seen under the same class is not entered again, so
loops end. Only names and file kinds are looked at here: no file is opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from graft.data.image import OTHER_SUFFIXES, SUFFIXES
from graft.data.items import Listing, Notes, Row, display, label_name, place_of, show
from graft.data.junk import is_junk
from graft.data.parts import LEFT, NOTHING_CHOSEN, Chosen, Division, Sibling, divide_siblings, part_of
from graft.errors import DataError

_MESSAGES = {
    **LEFT,
    "beside": (
        "{count} picture{s} beside the class folders left out: they have no label; move them "
        "into the folder of their class."
    ),
    "not-a-picture": (
        "{count} file{s} without a picture's suffix left out; graft reads JPEG, PNG, WebP, BMP, "
        "TIFF, GIF and .npy."
    ),
    "format": (
        "{count} picture{s} in a format that graft does not read left out; convert them to JPEG, PNG "
        "or TIFF."
    ),
    "special": "{count} pipe{s}, socket{s} or device{s} left out, unopened; remove them.",
    "closed": (
        "{count} folder{s} that cannot be listed left out with all that may be inside; check the "
        "permissions."
    ),
}


@dataclass(frozen=True)
class _Visit:
    """One walk: ids are relative to ``root``; ``seen`` holds (device, inode) of directories.

    ``tells``: whether pictures in a format that is not read are listed, as such that cannot be.
    """

    root: Path
    notes: Notes
    tells: bool = False
    seen: set[tuple[int, int]] = field(default_factory=set)

    def id_of(self, path: Path) -> str:
        return display(place_of(path, self.root).as_posix())


@dataclass(frozen=True)
class _Entries:
    """What lies directly in one directory, by name."""

    folders: tuple[Path, ...] = ()
    pictures: tuple[tuple[Path, str], ...] = ()  # with what is wrong with it, or ""


def list_folder(
    root: Path, *, needs: Sequence[str] = ("train",), chosen: Chosen = NOTHING_CHOSEN
) -> Listing:
    """The labelled pictures below ``root``, by split and id.

    ``needs`` as of :func:`divide_siblings`. ``chosen``: the parts that settings name, which are listed
    apart (:func:`list_classes`) and left out here.

    Raises:
        DataError: the folder cannot be listed, holds no class folders or no pictures, or which folder is
            which part cannot be known.
    """
    visit = _Visit(root, Notes())
    visit.seen.add(_identity(root.stat()))
    home = _find_home(root, needs, chosen)
    if home.path != root:
        visit.notes.add("inside", visit.id_of(home.path))
    for code, names in home.division.left.items():
        for name in names:
            visit.notes.add(code, visit.id_of(home.path / name))
            if code == "empty-part":
                _entries(home.path / name, visit)  # which notes why
    rows, classes = _list_home(home, chosen, visit)
    rows.sort(key=lambda row: (row.split, row.id))
    return Listing(tuple(rows), visit.notes.problems(_MESSAGES), classes)


def list_classes(folder: Path, root: Path, split: str) -> Listing:
    """The pictures of ``folder``, whose folders are classes, as those of a split.

    Ids are relative to ``root``.

    Raises:
        DataError: the folder cannot be listed, or holds no class folders or no pictures.
    """
    visit = _Visit(root, Notes())
    rows, classes = _list_part(_look(folder)[1], split, visit)
    return Listing(tuple(rows), visit.notes.problems(_MESSAGES), classes)


def class_names(folder: Path) -> frozenset[str]:
    """The names of the folders in ``folder`` that hold pictures at some depth."""
    return _look(folder)[0].classes


def list_tree(root: Path, shown: str) -> Listing:
    """Every picture below ``root``, unlabelled, by id; ids begin with ``shown``.

    Formats that graft does not read are among them, with the reason for it.

    Raises:
        DataError: the folder cannot be listed.
    """
    visit = _Visit(root, Notes(), tells=True)
    prefix = "" if shown in ("", ".") else display(shown.rstrip("/")) + "/"
    rows = [Row(path, prefix + visit.id_of(path), fault=fault) for path, fault in _walk(root, visit)]
    rows.sort(key=lambda row: row.id)
    return Listing(tuple(rows), visit.notes.problems(_MESSAGES))


@dataclass(frozen=True)
class _Home:
    """The folder whose folders are parts or classes, which these are, and where each begins."""

    path: Path
    division: Division
    places: Mapping[str, Path]


def _find_home(root: Path, needs: Sequence[str], chosen: Chosen) -> _Home:
    """``root``; or the folder of chosen parts below it; or one that holds parts and is all that it has."""
    below = [path.parent for paths in chosen.paths.values() for path in paths if _is_below(path, root)]
    path = start = below[0] if below else root
    while True:
        glance = _glance(path)
        looked = [_look(folder) for folder in glance.folders if not _is_chosen(folder, chosen)]
        under = "" if path == root else f"{path.relative_to(root).as_posix()}/"
        siblings = [replace(sibling, below=under) for sibling, _ in looked]
        division = divide_siblings(path, siblings, needs, chosen)
        places = {sibling.name: place for sibling, place in looked}
        if division.parts or division.below or "train" in chosen.paths:
            return _Home(path, division, places)
        inner = [each for each in siblings if each.full and not each.aside]
        if len(inner) != 1 or inner[0].loose or glance.pictures:
            return _Home(start, Division(), {})
        path = places[inner[0].name]


def _is_below(path: Path, root: Path) -> bool:
    return path.is_dir() and root.resolve() in path.resolve().parents


def _is_chosen(folder: Path, chosen: Chosen) -> bool:
    return any(folder.samefile(path) for paths in chosen.paths.values() for path in paths)


def _list_home(home: _Home, chosen: Chosen, visit: _Visit) -> tuple[list[Row], tuple[str, ...]]:
    """The rows in the home's parts or classes, and the classes for training."""
    division = home.division
    inside = _entries(home.path, visit)
    _note_beside(inside, visit)
    if division.below:
        return _list_below(home, visit)
    if not division.parts and "train" not in chosen.paths:
        folders = tuple(folder for folder in inside.folders if not _is_chosen(folder, chosen))
        return _rows_of(home.path, replace(inside, folders=folders), "", visit)
    rows: list[Row] = []
    classes: tuple[str, ...] = ()
    for split, names in division.parts.items():
        for name in names:
            found, named = _list_part(home.places[name], split, visit)
            rows += found
            classes += named
    return rows, classes


def _list_part(folder: Path, split: str, visit: _Visit) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of a part, and its classes where it is for training."""
    inside = _entries(folder, visit)
    _note_beside(inside, visit)
    visit.seen.add(_identity(folder.stat()))
    return _rows_of(folder, inside, split, visit)


def _list_below(home: _Home, visit: _Visit) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of classes that have parts in them."""
    rows: list[Row] = []
    for name, folder in home.places.items():
        for part in _entries(folder, visit).folders:
            split = part_of(part.name)
            if split is not None:
                rows += _class_rows([part], split, visit, label=_label(Path(name)))
    return rows, tuple(dict.fromkeys(label for row in rows for label in row.labels or ()))


def _rows_of(
    folder: Path, inside: _Entries, split: str, visit: _Visit
) -> tuple[list[Row], tuple[str, ...]]:
    rows = list(_class_rows(inside.folders, split, visit))
    _check_found(folder, inside, rows, visit, split)
    classes = (_label(each) for each in inside.folders) if split in ("", "train") else ()
    return rows, tuple(dict.fromkeys(classes))


def _class_rows(
    folders: Iterable[Path], split: str, visit: _Visit, label: str | None = None
) -> Iterator[Row]:
    """The pictures in each of ``folders``, labelled by its name or by ``label``."""
    for folder in folders:
        # each class sees afresh: a link to another class is that class's business, too
        own = _Visit(visit.root, visit.notes, seen=set(visit.seen))
        for path, fault in _walk(folder, own):
            yield Row(path, visit.id_of(path), (label or _label(folder),), split, fault=fault)


def _label(folder: Path) -> str:
    return label_name(folder.name) or display(folder.name)


@dataclass(frozen=True)
class _Glance:
    """What a folder has, from its names alone: no file is looked at."""

    folders: tuple[Path, ...] = ()
    pictures: bool = False


def _glance(folder: Path) -> _Glance:
    """What is in a folder; nothing where it cannot be listed, which is noted when it is read."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, _is_folder(entry)) for entry in entries if not is_junk(entry.name))
    except OSError:
        return _Glance()
    suffixes = (Path(name).suffix.lower() for name, is_folder in found if not is_folder)
    return _Glance(
        folders=tuple(folder / name for name, is_folder in found if is_folder),
        pictures=any(suffix in SUFFIXES for suffix in suffixes),
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder; not where that cannot be known, as of a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _look(folder: Path) -> tuple[Sibling, Path]:
    """A folder as :func:`divide_siblings` sees it, and where it begins: train/train is one folder."""
    name = folder.name
    while True:
        glance = _glance(folder)
        inner = [each for each in glance.folders if _holds_pictures(each)]
        if glance.pictures or len(inner) != 1 or inner[0].name.casefold() != name.casefold():
            return Sibling(name, frozenset(_label(each) for each in inner), glance.pictures), folder
        folder = inner[0]


def _holds_pictures(top: Path) -> bool:
    """Whether there is a picture in a folder, at any depth; without recursion, as of :func:`_walk`."""
    waiting, seen = [top], set()
    while waiting:
        folder = waiting.pop()
        glance = _glance(folder)
        if glance.pictures:
            return True
        identity = _identity(folder.stat())
        if identity not in seen:
            seen.add(identity)
            waiting += glance.folders
    return False


def _check_found(folder: Path, inside: _Entries, found: Sequence[Row], visit: _Visit, split: str) -> None:
    if found:
        return
    if inside.pictures:
        classes = f" If {display(folder.name)} is a class itself, say so with --set data.train=. (a dot)."
        raise DataError(
            f"{display(str(folder))} has pictures but no folders with pictures, so they have no "
            "labels. Give each class a folder of its own (photos/crow/1.jpg, photos/owl/2.jpg), "
            f"or name a table with the columns path and label.{classes if split else ''}"
        )
    others = visit.notes.found
    hint = "".join(f"\nFound instead, {code}:{show(others[code])}" for code in _MESSAGES if code in others)
    raise DataError(
        f"There are no pictures in {display(str(folder))}; expected folders named by class with "
        f"JPEG, PNG, WebP, BMP, TIFF, GIF or .npy files in them.{hint}"
    )


def _note_beside(entries: _Entries, visit: _Visit) -> None:
    for path, _fault in entries.pictures:
        visit.notes.add("beside", visit.id_of(path))


def _walk(top: Path, visit: _Visit) -> Iterator[tuple[Path, str]]:
    """Every picture at any depth; without recursion, since a tree may be deeper than the stack."""
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        identity = _identity(folder.stat())
        if identity in visit.seen:
            continue
        visit.seen.add(identity)
        entries = _entries(folder, visit)
        yield from entries.pictures
        waiting += reversed(entries.folders)


def _entries(folder: Path, visit: _Visit) -> _Entries:
    """What is visible in a directory; notes down what is neither a folder nor a picture."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        if folder == visit.root:
            raise DataError(f"Cannot list the folder {display(str(folder))}: {error.strerror}.") from None
        visit.notes.add("closed", f"{visit.id_of(folder)}: {error.strerror}")
        return _Entries()
    kinds = [(path, _kind(path)) for path in found if not is_junk(path.name)]
    if visit.tells:
        kinds = [(path, _reason(path) if kind == "format" else kind) for path, kind in kinds]
    for path, kind in kinds:
        if kind in ("format", "not-a-picture", "special"):
            visit.notes.add(kind, visit.id_of(path))
    return _Entries(
        folders=tuple(path for path, kind in kinds if kind == "folder"),
        pictures=tuple((path, kind[8:]) for path, kind in kinds if kind.startswith("picture")),
    )


def _reason(path: Path) -> str:
    return f"picture:graft does not read {path.suffix.lower()}; save it as JPEG, PNG or TIFF"


def _kind(path: Path) -> str:
    """folder, special, format, not-a-picture, or "picture:" and what is wrong with it."""
    is_picture = path.suffix.lower() in SUFFIXES
    try:
        mode = path.stat().st_mode
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        reason = "the link points nowhere" if gone else str(error.strerror).lower()
        return f"picture:{reason}" if is_picture else "not-a-picture"
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        return "special"
    if path.suffix.lower() in OTHER_SUFFIXES:
        return "format"
    return "picture:" if is_picture else "not-a-picture"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
