"""What is odd about pictures that can be read: counted, so that none of it passes in silence.

Pictures of a single value, pages that are left out, and pixels of more than 8 bits that use little of their
range. Where all pictures agree on a smaller range (12 of 16 bits, say), ``data.max_value = auto`` takes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from graft.data.bands import Depth
from graft.data.items import Problem, make_problem
from graft.data.scan import Scanned, scan_rows

if TYPE_CHECKING:
    from graft.recipe import DataSettings

LITTLE = 16  # a picture that uses a 16th of its range or less keeps 16 of 256 levels
_DEPTHS = (8, 10, 12, 14)  # bits that cameras and scanners deliver in 16


def settle_range(scanned: Sequence[Scanned], settings: DataSettings) -> tuple[list[Scanned], DataSettings]:
    """The scanned items, read again where needed, and the settings with ``max_value`` as a number or None.

    Where ``settings.max_value`` is "auto", it is found by :func:`agreed_full`.
    """
    if settings.max_value != "auto":
        return list(scanned), settings
    deep = [each for each in scanned if each.facts.depth is not None]
    full = agreed_full([each.facts.depth for each in deep if each.facts.depth is not None])
    by_depth = settings.model_copy(update={"max_value": None})
    if full is None:
        return list(scanned), by_depth
    settled = settings.model_copy(update={"max_value": full})
    again = scan_rows([each.row for each in deep], settled)
    if any(each.fault for each in again):  # tifffile lacks a compression that Pillow has
        return list(scanned), by_depth
    read = iter(again)
    return [each if each.facts.depth is None else next(read) for each in scanned], settled


def agreed_full(depths: Sequence[Depth]) -> float | None:
    """The largest value of the smallest usual depth that holds all pictures; None where they disagree.

    They disagree where one uses a 16th of it or less, or has another kind of range (floating point, colours
    of 16 bits in PNG). Pictures of a single value have no say. None, too, where it counts as full anyway.
    """
    if any(each.fixed or each.full <= 1 for each in depths):
        return None
    highest = max((each.highest for each in depths), default=0)
    full = next((2.0**bits - 1 for bits in _DEPTHS if highest < 2**bits), None)
    if full is None or all(each.full == full for each in depths):
        return None
    varied = [each.highest for each in depths if each.lowest < each.highest]
    return full if varied and min(varied) > full / LITTLE else None


def list_oddities(scanned: Sequence[Scanned], max_value: float | None) -> tuple[Problem, ...]:
    """What is odd about pictures that could be read; ``max_value``: what counted as full."""
    return tuple(
        problem
        for find in (_uniform, _little, _beyond, _pages)
        for problem in find([each for each in scanned if not each.fault], max_value)
    )


def _uniform(scanned: Sequence[Scanned], _: float | None) -> Iterator[Problem]:
    names = [each.row.where for each in scanned if each.facts.uniform]
    if names:
        yield make_problem(
            "uniform",
            f"{{count}} of {len(scanned)} picture(s) of a single value: every pixel is the same, so there "
            "is nothing to be seen. Look at the pictures below.",
            names,
        )


def _little(scanned: Sequence[Scanned], max_value: float | None) -> Iterator[Problem]:
    deep = [(each, each.facts.depth) for each in scanned if each.facts.depth is not None]
    shares = [(each, depth, depth.highest / (max_value or depth.full)) for each, depth in deep]
    few = [(each, depth, share) for each, depth, share in shares if 0 < share <= 1 / LITTLE]
    if not few:
        return
    highest = max(depth.highest for _, depth in deep)
    cure = f"data.max_value={_usual(highest):g} counts that as full, in training and with graft embed."
    if any(depth.fixed for _, depth in deep):
        cure = f"Of 16-bit colours in PNG the upper 8 are read: save them as TIFF or .npy. Then {cure}"
    yield make_problem(
        "range",
        f"{{count}} of {len(deep)} picture(s) of more than 8 bits use a {LITTLE}th of their range or less, "
        f"so that they are nearly black. The highest value of all is {highest:g}. {cure}",
        [
            f"{each.row.where}: {depth.highest:g} of {max_value or depth.full:g}, {100 * share:.2g} %"
            for each, depth, share in few
        ],
    )


def _usual(highest: float) -> float:
    """What to count as full: the largest value of a usual depth, unless that were dark, too."""
    usual = next((2.0**bits - 1 for bits in _DEPTHS if highest < 2**bits), highest)
    return usual if highest * LITTLE > usual else highest


def _beyond(scanned: Sequence[Scanned], max_value: float | None) -> Iterator[Problem]:
    names = [
        f"{each.row.where}: {each.facts.depth.highest:g}"
        for each in scanned
        if max_value is not None and each.facts.depth is not None and each.facts.depth.highest > max_value
    ]
    if names:
        yield make_problem(
            "beyond",
            f"{{count}} picture{{s}} with values above data.max_value = {max_value:g}, which are cut off:",
            names,
        )


def _pages(scanned: Sequence[Scanned], _: float | None) -> Iterator[Problem]:
    names = [f"{each.row.where}: {each.facts.pages}" for each in scanned if each.facts.pages]
    if names:
        yield make_problem(
            "pages",
            "{count} picture{s} with several pages or frames, of which some are left out; save each page "
            "that matters as a file of its own. Read:",
            names,
        )
