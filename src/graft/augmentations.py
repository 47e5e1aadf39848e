"""A list of one's own random changes to training pictures: ``["flip", "crop:0.08-1"]``.

Each has a name, and after a colon how much of it: a share, a chance, or degrees, that it goes up to. Only
``crop`` has two ends. See :mod:`graft.data.own_views` for what each does to pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from graft.errors import quote, suggest


class Kind(NamedTuple):
    """What a change may be: the range of its parameter, its default, and what it does."""

    least: float
    most: float
    default: float
    meaning: str


class Change(NamedTuple):
    """One random change: ``amount`` is how far it goes; ``most``: the other end of a crop."""

    name: str
    amount: float
    most: float = 1.0


KINDS: dict[str, Kind] = {
    "crop": Kind(0.01, 1.0, 0.35, "a rectangle with this share of the area, as crop:0.08-1"),
    "flip": Kind(0.0, 1.0, 0.5, "chance to be mirrored left to right"),
    "vflip": Kind(0.0, 1.0, 0.5, "chance to be mirrored upside down"),
    "rotate": Kind(0.0, 180.0, 15.0, "degrees to either side"),
    "shift": Kind(0.0, 0.5, 0.1, "share of each side, to either side"),
    "brightness": Kind(0.0, 1.0, 0.2, "share more or less"),
    "contrast": Kind(0.0, 1.0, 0.2, "share more or less"),
    "saturation": Kind(0.0, 1.0, 0.2, "share more or less; of colours"),
    "hue": Kind(0.0, 0.5, 0.1, "share of the circle of hues, to either side; of colours"),
    "grey": Kind(0.0, 1.0, 0.1, "chance to lose its colours"),
    "erase": Kind(0.0, 1.0, 0.25, "chance that a rectangle is blanked, of 2 to 33 % of the area"),
}


def parse_changes(texts: Sequence[str]) -> tuple[Change, ...]:
    """The changes in the order of the list; a crop comes first wherever it stands.

    >>> parse_changes(["flip", "crop:0.08-1"])
    (Change(name='crop', amount=0.08, most=1.0), Change(name='flip', amount=0.5, most=1.0))

    Raises:
        ValueError: an unknown or repeated name, or a parameter out of range; with all names and ranges.
    """
    if not texts:
        raise ValueError("an empty list changes nothing; write none")
    changes = [_parse(text) for text in texts]
    names = [change.name for change in changes]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} stands there twice")
    return tuple(sorted(changes, key=lambda change: change.name != "crop"))


def known_changes() -> str:
    """Every name with the range of its parameter, in one line."""
    return ", ".join(f"{name} ({kind.least:g} to {kind.most:g})" for name, kind in KINDS.items())


def _parse(text: str) -> Change:
    name, colon, parameter = (part.strip() for part in text.partition(":"))
    if name not in KINDS:
        near = suggest(name, KINDS)
        raise ValueError(
            f"there is no change {quote(name)}.{near} The names and their ranges: {known_changes()}"
        )
    kind = KINDS[name]
    if not colon:
        return Change(name, kind.default)
    found = re.fullmatch(r"(\d*\.?\d+)(?:\s*-\s*(\d*\.?\d+))?", parameter)
    change = Change(name, float(found[1]), float(found[2] or 1)) if found else None
    two_ends = found is not None and found[2] is not None
    if change is None or (two_ends and name != "crop") or not _within(change, kind):
        form = f"{name}:{kind.default:g}" + ("-1" if name == "crop" else "")
        raise ValueError(
            f"{quote(text)}: a number from {kind.least:g} to {kind.most:g} was expected ({kind.meaning}), "
            f"as in {form}"
        )
    return change


def _within(change: Change, kind: Kind) -> bool:
    ends = change.amount <= change.most <= kind.most if change.name == "crop" else True
    return kind.least <= change.amount <= kind.most and ends
