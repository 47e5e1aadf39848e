"""What the pages of a TIFF are: the channels of one picture, or pictures of their own.

A TIFF says nothing of its own about several pages. ImageJ, OME and tifffile do, in the first page's
description: how many channels, slices and times there are, and in which order. Pages that they call
channels are the bands of one picture; of slices and times the first counts.

The directories and the description are read here, with suspicion: neither sizes nor offsets in them are
trusted, no other file is opened, and XML that declares entities is not parsed.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from graft.data.unreadable import UnreadableImage

_SUBFILE, _DESCRIPTION, _SAMPLES = 254, 270, 277
_REDUCED_OR_MASK = 0b101  # of a page's kind: a smaller copy, a transparency mask
_MOST_PAGES, _MOST_TAGS, _MOST_TEXT = 100_000, 1_000, 2**22
_MOST_PLACED = 2**20  # times that a description says where a channel lies
_PIECE = 2**16  # characters of XML that are parsed at once


@dataclass(frozen=True)
class Pages:
    """A TIFF's pages.

    ``count``: of all, without reduced copies and masks. ``channels``: the numbers of those that are the
    channels of the picture that is read, where the description names several.
    """

    count: int
    channels: tuple[int, ...] = ()


def read_pages(data: bytes) -> Pages:
    """What the pages of a TIFF are; damaged directories end the list.

    Raises:
        UnreadableImage: the description says that channels lie in other files, or on missing pages.
    """
    found = list(_directories(data))
    count = max(1, sum(not page.kind & _REDUCED_OR_MASK for page in found))
    channels = _channels(found[0].description) if found else ()
    if len(channels) < 2 or (len(found) == 1 and found[0].samples == len(channels)):
        return Pages(count)  # a page may hold all channels itself
    if max(channels) >= len(found):
        raise UnreadableImage(
            f"its description names {len(channels)} channels, and it has {len(found)} page(s); save it "
            "again with every page"
        )
    return Pages(count, channels)


@dataclass(frozen=True)
class _Directory:
    """What matters of one page's tags. ``description``: of the first page alone."""

    kind: int
    samples: int
    description: str


def _directories(data: bytes) -> Iterator[_Directory]:
    """The pages in their order, as long as all together have no more bytes than the file: none overlap."""
    order, big = ("<" if data[:2] == b"II" else ">"), data[2:4] in (b"+\0", b"\0+")
    count, entry, offset, header = ("Q", "HHQ8s", "Q", 8) if big else ("H", "HHI4s", "I", 4)
    seen: set[int] = set()
    left = len(data)
    try:
        (place,) = struct.unpack_from(order + offset, data, header)
        while place and place not in seen and len(seen) < _MOST_PAGES:
            seen.add(place)
            (tags,) = struct.unpack_from(order + count, data, place)
            place += struct.calcsize(order + count)
            size = struct.calcsize(order + entry)
            left -= struct.calcsize(order + count + offset) + size * min(tags, _MOST_TAGS)
            if left < 0:
                return
            entries = {
                tag: (kind, number, value)
                for tag, kind, number, value in (
                    struct.unpack_from(order + entry, data, place + size * each)
                    for each in range(min(tags, _MOST_TAGS))
                )
                if tag in (_SUBFILE, _DESCRIPTION, _SAMPLES)
            }
            text = _text(entries, data, order, offset) if len(seen) == 1 else ""
            kind, samples = (_number(entries, tag, 1, order) for tag in (_SUBFILE, _SAMPLES))
            yield _Directory(kind if _SUBFILE in entries else 0, samples, text)
            (place,) = struct.unpack_from(order + offset, data, place + size * tags)
    except (struct.error, OverflowError):
        return


def _number(entries: dict[int, Any], tag: int, otherwise: int, order: str) -> int:
    if tag not in entries:
        return otherwise
    kind, _, value = entries[tag]
    return int(struct.unpack_from(order + ("H" if kind == 3 else "I"), value)[0])


def _text(entries: dict[int, Any], data: bytes, order: str, offset: str) -> str:
    """The description; short ones stand in place of their offset."""
    _, number, value = entries.get(_DESCRIPTION, (2, 0, b""))
    if number > len(value):
        (start,) = struct.unpack(order + offset, value)
        value = data[start : start + min(number, _MOST_TEXT)]
    return bytes(value[:number]).split(b"\0")[0].decode("utf-8", "replace")


def _channels(description: str) -> tuple[int, ...]:
    """Numbers of the pages that are channels of the first slice at the first time; nothing if unsaid."""
    text = description.lstrip("\ufeff \t\r\n")
    if text.startswith("ImageJ="):
        return _of_imagej(text)
    if text.startswith("{"):
        return _of_tifffile(text)
    return _of_ome(text) if text.startswith("<") and "<OME" in text[:4096] else ()


def _of_imagej(text: str) -> tuple[int, ...]:
    """Pages follow each other by channel, then slice, then time."""
    values = dict(line.strip().split("=", 1) for line in text.splitlines() if "=" in line)
    return tuple(range(min(_whole(values.get("channels")), _MOST_PAGES)))


def _of_tifffile(text: str) -> tuple[int, ...]:
    """Axes and shape as tifffile notes them: pages follow each other with the last axis first."""
    try:
        values = json.loads(text)
        axes, shape = str(values["axes"]), [int(size) for size in values["shape"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    place, inner = axes.find("C"), axes.find("Y")
    if len(axes) != len(shape) or not 0 <= place < inner or min(shape) < 1:
        return ()
    step = math.prod(shape[place + 1 : inner])
    return tuple(step * number for number in range(min(shape[place], _MOST_PAGES)))


def _of_ome(text: str) -> tuple[int, ...]:
    """By the first image's pixels: their order, and which page each plane lies in."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return ()
    pixels = _first_pixels(text)
    if pixels is None:
        return ()
    samples = [_whole(each.get("SamplesPerPixel")) for each in pixels if _name(each) == "Channel"]
    sizes = {axis: max(1, _whole(pixels.get(f"Size{axis}"))) for axis in "CZT"}
    # Channels of several samples share a page: three of them may be one page of red, green and blue.
    sizes["C"] = len(samples) if samples and sum(samples) == sizes["C"] else sizes["C"]
    if not 1 < sizes["C"] <= _MOST_PAGES:
        return ()
    order = [axis for axis in pixels.get("DimensionOrder", "XYCZT") if axis in sizes]
    placed = _placed([each for each in pixels if _name(each) == "TiffData"], order, sizes)
    return tuple(placed.get(number, number) for number in range(sizes["C"]))


def _first_pixels(text: str) -> ElementTree.Element | None:
    """What comes behind it is not parsed."""
    parser: Any = ElementTree.XMLPullParser(["end"])
    try:
        for start in range(0, len(text), _PIECE):
            parser.feed(text[start : start + _PIECE])
            ended: Iterator[ElementTree.Element] = (each for _, each in parser.read_events())
            if (found := next((each for each in ended if _name(each) == "Pixels"), None)) is not None:
                return found
    except (ElementTree.ParseError, RecursionError):
        pass
    return None


def _placed(parts: list[ElementTree.Element], order: list[str], sizes: dict[str, int]) -> dict[int, int]:
    """The page of each channel at the first slice and time, as far as it is said."""
    files = {name for part in parts for uuid in part if (name := uuid.get("FileName"))}
    if len(files) > 1:
        raise UnreadableImage(
            f"its channels lie in {len(files)} files, says its OME description; save it as one file"
        )
    found: dict[int, int] = {}
    left = _MOST_PLACED
    for part in parts or [ElementTree.Element("TiffData")]:
        place = {axis: _whole(part.get(f"First{axis}")) for axis in sizes}
        page = _whole(part.get("IFD"))
        most = 1 if part.get("IFD") is not None else math.prod(sizes.values())
        planes = _whole(part.get("PlaneCount"), most)
        step = math.prod(sizes[axis] for axis in order[: order.index("C")]) if "C" in order else 1
        start = _plane(place, order, sizes)
        # Of the planes from start on, those at the first slice and time: every step-th one.
        inside = range(-(-start // step), min(sizes["C"], -(-(start + planes) // step)))
        left -= len(inside)
        if left < 0:
            raise UnreadableImage("its OME description says again and again where a channel lies")
        found |= {channel: page + step * channel - start for channel in inside}
    return found


def _plane(place: dict[str, int], order: list[str], sizes: dict[str, int]) -> int:
    """A plane's number among all, where the first axis of ``order`` goes fastest."""
    number, step = 0, 1
    for axis in order:
        number += step * place[axis]
        step *= sizes[axis]
    return number


def _name(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _whole(text: str | None, otherwise: int = 0) -> int:
    """A whole number as it is written; ``otherwise`` where there is none."""
    return int(text) if text and text.strip().isdecimal() and len(text) < 10 else otherwise
