"""Which folders or tables of a data set are for training, validation and test.

This is decided from the listing alone: from names, and from whether folders of classes lie beneath.

* A folder is a part where its name says so (:func:`part_of`) and folders of classes lie in it. A folder
  called train with pictures directly in it, beside car and bus, is a class.
* Where there are parts, what else lies beside them is left out and named, unless it has classes of theirs:
  then it may be a part whose name says nothing, which only the person knows.
* Where no name says anything, two folders with two classes in common are parts as well, not classes.
* Where each class has a folder train in it (crow/train, owl/train), the parts lie below the classes.
* A table is a part where its name says so.

What cannot be known is an error with the listing and the settings that say it: data.train, data.val and
data.test, which come before any name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graft.data.items import display, show
from graft.errors import DataError

PARTS = ("train", "val", "test")
NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(
        ("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation", "holdout"),
        "val",
    ),
    "heldout": "val",
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""What people call the three parts, without case and signs, and which one they mean."""

# No two of these match the same text in two ways, which would make the search exponential.
_PLAIN = r"(?:\d|sets?|splits?|data|images?|imgs?|pictures?|photos?|texts?|tables?|parts?|partition)*"
_LONGEST = 100  # characters of a name that is looked at
_NAMED = re.compile(rf"\d*({'|'.join(sorted(NAMES, key=len, reverse=True))}){_PLAIN}")
_SHARD = re.compile(r"-\d+-of-\d+$")  # how Hugging Face numbers the files of one table

LEFT = {
    "inside": "The parts of the data are taken from a folder below the one that was named:",
    "unlabelled-part": (
        "{count} part{s} of the data left out, without labels; graft predict takes such data. Where there "
        "are labels, they stand in folders named by class or in a table's column:"
    ),
    "beside-parts": (
        "{count} folder{s} or table{s} beside the parts of the data left out; --set data.train=, data.val= "
        "or data.test= takes one in:"
    ),
    "empty-part": "{count} part{s} of the data left out, with nothing in it to learn from:",
    "replaced-part": "{count} part{s} of the data left out, since a setting names another in its place:",
}
"""What a listing says of what it left out, by code."""

# What lies beside data and is no class of it, without case and signs.
_ASIDE = frozenset((
    "docs", "doc", "documentation", "annotations", "annotation", "labels", "label", "masks", "mask",
    "metadata", "meta", "unlabeled", "unlabelled", "unsup", "unsupervised", "unknown", "raw",
    "archive", "backup", "backups", "old", "runs", "run", "logs", "log", "output", "outputs",
    "results", "result", "predictions", "figures", "plots", "scripts", "script", "src", "code",
    "notebooks", "models", "model", "checkpoints", "weights", "bundle", "cache", "tmp", "temp",
    "samples", "examples", "previews", "thumbnails", "licenses",
))  # fmt: skip


_SEVERAL = 'Several are taken together with --set data.train=\'["A", "B"]\'.'
_PURPOSES = {"train": "training", "val": "validation", "test": "test"}
_CLASSES = "If the folders are classes, say so with --set data.train=. (a dot)."


def part_of(name: str) -> str | None:
    """train, val or test, as a folder, table or split of this name says; None where it says none.

    Case, signs between words, numbers and words such as set, split, data, images and part do not count.
    A name of more than 100 characters says nothing.

    >>> [part_of(name) for name in ("01_Training-Set", "valSplit", "HOLD-OUT", "train2017", "bullet train")]
    ['train', 'val', 'val', 'train', None]
    """
    if len(name) > _LONGEST:
        return None
    found = _NAMED.fullmatch(_plain(_SHARD.sub("", name)))
    return NAMES[found[1]] if found else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


@dataclass(frozen=True)
class Sibling:
    """A folder or table beside others, as its listing shows it.

    ``below``: the folder it lies in, relative to the data's, as in "birds/"; "" where that is the data's.
    ``classes``: the names of the folders in it that hold items at some depth. ``loose``: whether items lie
    directly in it. ``table``: it is one, or a folder of tables, whose labels are not known from a listing.
    """

    name: str
    classes: frozenset[str] = frozenset()
    loose: bool = False
    table: bool = False
    below: str = ""

    @property
    def setting(self) -> str:
        """How a setting names it."""
        return self.below + self.name

    @property
    def title(self) -> str:
        """The name, of a table without its suffix."""
        return Path(self.name).stem if self.table else self.name

    @property
    def part(self) -> str | None:
        return part_of(self.title)

    @property
    def labelled(self) -> bool:
        return self.table or bool(self.classes)

    @property
    def full(self) -> bool:
        return self.labelled or self.loose

    @property
    def aside(self) -> bool:
        """Whether its name is one that usually stands beside data, such as docs."""
        return _plain(self.name) in _ASIDE


@dataclass(frozen=True)
class Division:
    """What siblings are: ``parts`` by train, val and test, or classes where there are none.

    ``below``: the parts lie in each sibling, which is a class. ``left``: what was left out, by
    codes of LEFT.
    """

    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    below: bool = False
    left: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Chosen:
    """The parts that settings name: paths by train, val and test, and the classes in their folders."""

    paths: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    classes: frozenset[str] = frozenset()


NOTHING_CHOSEN = Chosen()


def divide_siblings(
    where: Path,
    siblings: Sequence[Sibling],
    needs: Sequence[str] = ("train",),
    chosen: Chosen = NOTHING_CHOSEN,
) -> Division:
    """What the siblings in the folder ``where`` are; the chosen ones are not among them.

    ``needs``: there are parts only where one of these is among them, or chosen.

    Raises:
        DataError: two are one part, or what one is cannot be known from the listing.
    """
    named = [each for each in siblings if each.part]
    parts = {each.part for each in named if each.labelled} | set(chosen.paths)
    if "train" in chosen.paths or any(need in parts for need in needs):
        return _divide(where, siblings, named, chosen)
    full = [each for each in siblings if each.full]
    others = [each for each in full if not each.aside]
    if chosen.paths and len(others) == 1 and _folded(others[0].classes) & _folded(chosen.classes):
        return Division({"train": (others[0].name,)})
    if others and all(each.part for each in others) and _are_parts(others, named, needs):
        return Division({part: _names(named, part) for part in PARTS if _names(named, part)})
    if _parts_below(others):
        return Division(below=True)
    _check_repeats(where, siblings, full)
    _check_classes_again(where, siblings, full)
    return Division()


def _are_parts(others: Sequence[Sibling], named: Sequence[Sibling], needs: Sequence[str]) -> bool:
    """Of siblings that are all called as parts: whether they are, though none has what is needed."""
    return any(each.part in needs for each in named) or all(each.labelled for each in others)


def _names(siblings: Iterable[Sibling], part: str) -> tuple[str, ...]:
    return tuple(each.name for each in siblings if each.part == part)


def _divide(where: Path, siblings: Sequence[Sibling], named: Sequence[Sibling], chosen: Chosen) -> Division:
    taken = [each for each in named if each.labelled and each.part not in chosen.paths]
    trained = frozenset().union(*(each.classes for each in taken if each.part == "train"))
    strange = [each for each in taken if each.part != "train" and _is_strange(each, trained)]
    taken = [each for each in taken if each not in strange]
    parts = {part: _names(taken, part) for part in PARTS if _names(taken, part)}
    for part in parts:
        alike = [each for each in taken if each.part == part]
        if len(alike) > 1 and not all(_SHARD.search(each.title) for each in alike):
            raise DataError(_twice(where, part, alike))
    beside = [each for each in siblings if not each.part]
    if not chosen.paths:
        _check_beside(where, siblings, taken, beside, certain=len(named) > 1)
    left = {
        "beside-parts": [each.name for each in beside],
        "unlabelled-part": [
            each.name for each in named if (each.loose and not each.labelled) or each in strange
        ],
        "empty-part": [each.name for each in named if not each.full],
        "replaced-part": [each.name for each in named if each.labelled and each.part in chosen.paths],
    }
    return Division(parts, left={reason: tuple(names) for reason, names in left.items() if names})


def _is_strange(each: Sibling, trained: frozenset[str]) -> bool:
    """Whether its only folder is no class: pictures without labels are often put into test/unknown."""
    return len(each.classes) == 1 and bool(trained) and not _folded(each.classes) & _folded(trained)


def _check_beside(
    where: Path,
    siblings: Sequence[Sibling],
    taken: Sequence[Sibling],
    beside: Sequence[Sibling],
    *,
    certain: bool,
) -> None:
    """Raises DataError where one of ``beside`` may be a part, or all of them classes."""
    known = _folded(frozenset().union(*(each.classes for each in taken)))
    for each in beside:
        if _folded(each.classes) & known:
            raise DataError(
                f"{display(each.name)} in {display(str(where))} has the same class folders as "
                f"{_list(taken)}, but its name does not say which part of the data it is:"
                f"{_show(siblings)}\n"
                f"{_advice('data.val', each)} {_CLASSES}"
            )
        if not certain and each.loose and not each.table and not each.aside:
            raise DataError(
                f"{_list(taken)} in {display(str(where))} has folders in it as a part of the data has, but "
                f"{display(each.name)} beside it has pictures as a class has:{_show(siblings)}\n"
                f"{_advice('data.train', taken[0])} {_CLASSES}"
            )


def _check_repeats(where: Path, siblings: Sequence[Sibling], others: Sequence[Sibling]) -> None:
    """Raises DataError where two siblings have two classes in common, so that they seem to be parts."""
    nested = [each for each in others if each.classes and not each.loose]
    for number, one in enumerate(nested):
        for other in nested[:number]:
            if len(_folded(one.classes) & _folded(other.classes)) > 1:
                raise DataError(
                    f"{display(other.name)} and {display(one.name)} in {display(str(where))} have the same "
                    "class folders. They seem to be parts of the data, but their names do not say which:"
                    f"{_show(siblings)}\n{_advice('data.train', other, 'data.val', one)} "
                    f"{_SEVERAL} {_CLASSES}"
                )


def _check_classes_again(where: Path, siblings: Sequence[Sibling], full: Sequence[Sibling]) -> None:
    """Raises DataError where a folder beside the classes has these in it again, as a part would."""
    for each in full:
        again = _folded(each.classes) & _folded(other.name for other in full if other is not each)
        if len(again) > (0 if each.part else 1):
            raise DataError(
                f"{display(each.name)} in {display(str(where))} has folders of the same names as those "
                f"beside it. It seems to be a part of the data, and these the classes:{_show(siblings)}\n"
                f"{_advice('data.' + (each.part or 'val'), each)} {_CLASSES}"
            )


def _parts_below(siblings: Sequence[Sibling]) -> bool:
    """Whether each of several siblings is a class with nothing but parts in it."""
    inside = [{part_of(name) for name in each.classes} for each in siblings]
    return (
        len(siblings) > 1
        and all(each.classes and not each.loose for each in siblings)
        and all("train" in parts and None not in parts for parts in inside)
        and all(len(parts) == len(each.classes) for parts, each in zip(inside, siblings, strict=True))
    )


def _twice(where: Path, part: str, alike: Sequence[Sibling]) -> str:
    return (
        f"{display(str(where))} has {len(alike)} candidates for the {_PURPOSES[part]} part: "
        f"{', '.join(display(each.name) for each in alike)}. Merge them, remove one, or say which it is. "
        f"{_advice(f'data.{part}', alike[0])} {_SEVERAL}"
    )


def _advice(key: str, one: Sibling, other_key: str = "", other: Sibling | None = None) -> str:
    said = f"--set {shlex.quote(f'{key}={display(one.setting)}')}"
    if other is None:
        return f"Say it with {said} (data.train, data.val or data.test, as it is)."
    return f"Say it with {said} --set {shlex.quote(f'{other_key}={display(other.setting)}')}."


def _list(siblings: Iterable[Sibling]) -> str:
    return " and ".join(display(each.name) for each in siblings)


def _show(siblings: Sequence[Sibling]) -> str:
    return show([f"{display(each.name)}/: {_contents(each)}" for each in siblings])


def _contents(each: Sibling) -> str:
    if not each.full:
        return "nothing to learn from"
    folders = f"folders {', '.join(map(display, sorted(each.classes)[:5]))}" if each.classes else ""
    more = f" and {len(each.classes) - 5} more" if len(each.classes) > 5 else ""
    return " and ".join(filter(None, ("pictures" if each.loose else "", folders + more)))


def _folded(names: Iterable[str]) -> set[str]:
    return {name.casefold() for name in names}
