"""Reading a folder: which pictures there are, and what their folders say about them.

Two layouts are known. ``photos/CLASS/**/*.jpg``: each visible folder is a class, and folders
further down belong to it. ``photos/train/CLASS/...`` beside ``val`` (or ``valid``, ``validation``)
and ``test``: taken only when *every* visible folder of the root has such a name and ``train`` is
among them, so that a class that happens to be called "test" beside "crow" and "owl" is a class.

Links are followed; a directory that was already seen under the same class is not entered again, so
loops end. Only names and file kinds are looked at here: no file is opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graft.data.image import OTHER_SUFFIXES, SUFFIXES
from graft.data.items import SPLIT_NAMES, Listing, Notes, Row, display, label_name, show
from graft.errors import DataError

_JUNK = frozenset({"__macosx", "thumbs.db", "desktop.ini"})

_MESSAGES = {
    "beside": (
        "{count} picture{s} beside the class folders left out: they have no label; move them "
        "into the folder of their class."
    ),
    "not-a-picture": (
        "{count} file{s} without a picture's suffix left out; graft reads JPEG, PNG, WebP, BMP, "
        "TIFF, GIF and .npy."
    ),
    "format": (
        "{count} picture{s} in a format that graft does not read left out; save what is named as JPEG, PNG "
        "or TIFF."
    ),
    "special": "{count} pipe{s}, socket{s} or device{s} left out, unopened; remove what is named.",
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
        return display(path.relative_to(self.root).as_posix())


@dataclass(frozen=True)
class _Entries:
    """What lies directly in one directory, by name."""

    folders: tuple[Path, ...] = ()
    pictures: tuple[tuple[Path, str], ...] = ()  # with what is wrong with it, or ""


def list_folder(root: Path, *, needs: Sequence[str] = ("train",)) -> Listing:
    """The labelled pictures below ``root``, by split and id.

    ``needs``: the folders are taken for splits when one of these is among them.

    Raises:
        DataError: the folder cannot be listed, holds no class folders or no pictures, or names a
            split twice.
    """
    visit = _Visit(root, Notes())
    visit.seen.add(_identity(root.stat()))
    top = _entries(root, visit)
    _note_beside(top, visit)
    splits = _split_folders(root, top.folders, needs)
    rows: list[Row] = []
    classes: dict[str, None] = {}
    for split, folder in splits.items() if splits else [("", root)]:
        inside = top if not splits else _entries(folder, visit)
        if splits:
            _note_beside(inside, visit)
            visit.seen.add(_identity(folder.stat()))
        found = list(_class_rows(inside.folders, split, visit))
        _check_found(folder, inside, found, visit)
        rows += found
        if split in ("", "train"):
            classes.update((_label(each), None) for each in inside.folders)
    rows.sort(key=lambda row: (row.split, row.id))
    return Listing(tuple(rows), visit.notes.problems(_MESSAGES), tuple(classes))


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


def _class_rows(folders: Iterable[Path], split: str, visit: _Visit) -> Iterator[Row]:
    for folder in folders:
        # each class sees afresh: a link to another class is that class's business, too
        own = _Visit(visit.root, visit.notes, seen=set(visit.seen))
        for path, fault in _walk(folder, own):
            yield Row(path, visit.id_of(path), (_label(folder),), split, fault=fault)


def _label(folder: Path) -> str:
    return label_name(folder.name) or display(folder.name)


def _split_folders(root: Path, folders: Sequence[Path], needs: Sequence[str]) -> dict[str, Path]:
    """Which folder is which split; empty when the folders are classes."""
    meanings = [SPLIT_NAMES.get(folder.name.casefold()) for folder in folders]
    if None in meanings or not any(need in meanings for need in needs):
        return {}
    splits: dict[str, Path] = {}
    for meaning, folder in zip(meanings, folders, strict=True):
        if meaning in splits:
            raise DataError(
                f"{root} has two folders for the split {meaning}: {splits[meaning].name!r} and "
                f"{folder.name!r}; merge them or remove one."
            )
        splits[str(meaning)] = folder
    return splits


def _check_found(folder: Path, inside: _Entries, found: Sequence[Row], visit: _Visit) -> None:
    if found:
        return
    if inside.pictures:
        raise DataError(
            f"{display(str(folder))} has pictures but no folders with pictures, so they have no "
            "labels. Give each class a folder of its own (photos/crow/1.jpg, photos/owl/2.jpg), "
            "or name a table with the columns path and label."
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
    kinds = [(path, _kind(path)) for path in found if not _is_hidden(path.name)]
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


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _JUNK


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
