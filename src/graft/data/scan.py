"""The scan: every listed picture is read once, before anything is trained on it.

A picture's file is hashed and decoded to the last pixel, which is the only way to find a truncated
one. What cannot be read is listed, counted and set aside; more of it than allowed stops the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from graft.data.content import read_content
from graft.data.image import Facts, examine
from graft.data.items import Problem, Row, Text, make_problem, modality_of, show
from graft.data.threads import read_in_threads
from graft.data.unreadable import UnreadableImage
from graft.errors import DataError

if TYPE_CHECKING:
    from graft.recipe import DataSettings

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (pictures read so far, all of them)."""


_PLAIN = Facts()


@dataclass(frozen=True)
class Scanned:
    """A row with what reading it found: the digest and facts, or in ``fault`` why there are none."""

    row: Row
    digest: str
    fault: str = ""
    facts: Facts = _PLAIN


def scan_rows(
    rows: Sequence[Row], settings: DataSettings, progress: Progress | None = None
) -> list[Scanned]:
    """Read every row's picture, in the order of the rows; never raises for a bad picture."""
    max_pixels = max_pixels_of(settings)

    def look(row: Row) -> Scanned:
        return _look(row, max_pixels, settings)

    seen: list[Scanned] = []
    for scanned in read_in_threads(look, rows):
        seen.append(scanned)
        if progress is not None:
            progress(len(seen), len(rows))
    return seen


def max_pixels_of(settings: DataSettings) -> int:
    """The largest allowed H · W of a picture."""
    return int(settings.max_megapixels * 1_000_000)


def set_aside(scanned: Sequence[Scanned], bad_share: float) -> tuple[list[Scanned], tuple[Problem, ...]]:
    """The readable ones, and the problem "unreadable" if there are others.

    ``bad_share`` of all items may be bad, and one in any case, so that a single damaged file does
    not stop a run on a small folder; 0 means none at all.

    Raises:
        DataError: more are bad than that; lists the first ten with their reasons.
    """
    bad = [each for each in scanned if each.fault]
    good = [each for each in scanned if not each.fault]
    allowed = max(1, int(bad_share * len(scanned))) if bad_share > 0 else 0
    if len(bad) > allowed:
        raise DataError(_too_many(bad, len(scanned), allowed, bad_share))
    return good, list_unreadable(bad)


def list_unreadable(bad: Sequence[Scanned]) -> tuple[Problem, ...]:
    """The problem that lists what cannot be read, or nothing."""
    if not bad:
        return ()
    noun = modality_of([each.row for each in bad])
    message = (
        f"{{count}} unreadable {noun}{{s}} left out; repair or remove what is named to be rid of this "
        "warning."
    )
    return (make_problem("unreadable", message, _lines(bad)),)


def _too_many(bad: Sequence[Scanned], count: int, allowed: int, bad_share: float) -> str:
    noun = modality_of([each.row for each in bad])
    return (
        f"{len(bad)} of {count} {noun}s cannot be read, more than the {allowed} that "
        f"data.bad_share = {bad_share:g} allows:{show(_lines(bad))}\n"
        f"Repair or remove them, or set them aside with --set data.bad_share="
        f"{_share_for(len(bad), count):g}."
    )


def _share_for(bad: int, count: int) -> float:
    """The smallest share in thousandths that lets ``bad`` pass."""
    thousandths = -(-bad * 1000 // count)
    return min(1.0, thousandths / 1000)


def _lines(bad: Sequence[Scanned]) -> list[str]:
    return [f"{each.row.where}: {each.fault}" for each in bad]


def _look(row: Row, max_pixels: int, settings: DataSettings) -> Scanned:
    if row.fault:
        return Scanned(row, "", row.fault)
    if isinstance(row.source, Text):
        empty = not row.source.first.strip() and not (row.source.second or "").strip()
        return Scanned(row, row.source.digest, "it is empty" if empty else "")
    try:
        return _examined(row, max_pixels, settings)
    except UnreadableImage as error:
        return Scanned(row, "", error.reason)


def _examined(row: Row, max_pixels: int, settings: DataSettings) -> Scanned:
    """The picture decoded to the last pixel."""
    content, digest = read_content(row.source, max_pixels=max_pixels)
    facts = examine(
        content,
        max_pixels=max_pixels,
        channels=settings.channels,
        max_value=settings.full,
        background=settings.background,
    )
    return Scanned(row, digest, facts=facts)
