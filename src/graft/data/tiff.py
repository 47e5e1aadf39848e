"""Reading TIFFs of any number of bands and any depth, by tifffile.

Pages that the description calls channels are the bands of one picture (see planes.py). Where nothing says
so, and the network takes neither 1 nor 3 channels, K pages that are alike, with one band each, are one
picture of K bands. Of other TIFFs the first page counts. Files may be hostile: sizes are taken from headers
and checked before anything is allocated.

Shapes: K bands, height H, width W.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from graft.data.bands import Levels, check_size, to_levels
from graft.data.unreadable import UnreadableImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHITE_IS_ZERO, _PALETTE, _INKS, _YCBCR = 0, 3, 5, 6
_ORIENTATION = 274


def is_tiff(data: bytes) -> bool:
    return data.startswith(TIFF)


def read_tiff(
    data: bytes, *, max_pixels: int, channels: int, max_value: float | None, named: Sequence[int] = ()
) -> Levels | None:
    """Pixels [H, W] or [H, W, K], upright; None for a picture that is Pillow's: a palette, inks, 8 bits.

    ``named``: the pages that the description calls channels. Three of them are red, green and blue where
    ``channels`` is 1.

    Raises:
        UnreadableImage: not readable as such a TIFF.
    """
    import tifffile

    try:
        with _quiet(), tifffile.TiffFile(io.BytesIO(data)) as file:
            first = file.pages.first
            if not named and channels in (1, 3) and _is_ordinary(first):
                return None
            pages = [file.pages[each] for each in named] if named else _pages(file, first, channels)
            _check_pages(pages, len(data), 3 if named and channels == 1 else channels, max_pixels)
            values = np.concatenate([_values(page) for page in pages], axis=2)
            turn = getattr(first.tags.get(_ORIENTATION), "value", 1)
    except tifffile.TiffFileError:
        raise UnreadableImage("it is damaged, or no TIFF") from None
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        name = getattr(first.compression, "name", first.compression)
        raise UnreadableImage(
            f"its compression {name} needs the package imagecodecs; install graft-ml[tiff], or save it "
            "uncompressed or with deflate"
        ) from None
    levels, depth = to_levels(values, max_value, bits=first.bitspersample)
    if first.photometric == _WHITE_IS_ZERO and first.samplesperpixel == 1:
        levels = 255 - levels
    levels = _upright(levels, turn)
    return Levels(levels[:, :, 0] if levels.shape[2] == 1 else levels, depth)


def _is_ordinary(page: Any) -> bool:
    """Whether Pillow knows it: colours that are not plain bands, or up to four bands of 8 bits."""
    shallow = page.bitspersample in (1, 2, 4, 8) and page.samplesperpixel <= 4
    return shallow or page.photometric in (_PALETTE, _INKS, _YCBCR)


def _pages(file: Any, first: Any, channels: int) -> list[Any]:
    """The pages that are one picture: one, or as many alike as channels are asked for."""
    if first.samplesperpixel != 1 or channels in (1, 3):
        return [first]
    found = []
    for number in range(channels + 1):
        try:
            found.append(file.pages[number])
        except IndexError:
            break
    return found if len(found) == channels and _are_alike(found) else [first]


def _are_alike(pages: Sequence[Any]) -> bool:
    looks = {(page.imagelength, page.imagewidth, page.samplesperpixel, str(page.dtype)) for page in pages}
    return len(looks) == 1


def _check_pages(pages: Sequence[Any], length: int, channels: int, max_pixels: int) -> None:
    """Raises UnreadableImage where they are not one picture of so many channels."""
    page = pages[0]
    bands = page.samplesperpixel * len(pages)
    if page.dtype is None or page.bitspersample < 8:
        raise UnreadableImage(
            f"its pixels of {page.bitspersample} bits (sample format {page.sampleformat}) are not of a "
            "known kind; save it with 8 or 16 bits or as floating point"
        )
    if getattr(page, "imagedepth", 1) != 1:
        raise UnreadableImage("it is a volume; a picture was expected")
    if not _are_alike(pages):
        raise UnreadableImage("its channels differ in size or kind; save them alike")
    check_size(page.imagelength, page.imagewidth, bands, page.dtype.itemsize, max_pixels)
    if bands != channels and not (bands == 1 and channels == 3):
        raise UnreadableImage(
            f"it has {bands} channels where {channels} are expected; data.channels says how many the "
            "network takes"
        )
    for each in pages:
        _check_whole(each, length)


def _check_whole(page: Any, length: int) -> None:
    """tifffile fills what a truncated file lacks with zeros."""
    ends = (offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True))
    if not page.dataoffsets or max(ends) > length:
        raise UnreadableImage("it is damaged (the file ends before the picture does)")


def _values(page: Any) -> NDArray[Any]:
    """[H, W, S] of one page, whether bands are stored apart or together."""
    values: NDArray[Any] = page.asarray(maxworkers=1)
    if page.axes == "SYX":
        return values.transpose(1, 2, 0)
    return values if page.axes == "YXS" else values.reshape(page.imagelength, page.imagewidth, 1)


def _upright(picture: NDArray[np.uint8], orientation: Any) -> NDArray[np.uint8]:
    """Turned as the tag says; an unknown value means upright."""
    if orientation in (5, 6, 7, 8):
        picture = picture.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return picture


class _Hush(logging.Filter):
    """Drops what tifffile logs of odd files while graft reads one in the same thread."""

    def __init__(self) -> None:
        super().__init__()
        self.here = threading.local()

    def filter(self, _record: logging.LogRecord) -> bool:
        return not getattr(self.here, "inside", False)


_hush = _Hush()


@contextmanager
def _quiet() -> Iterator[None]:
    logging.getLogger("tifffile").addFilter(_hush)  # a second time changes nothing
    _hush.here.inside = True
    try:
        yield
    finally:
        _hush.here.inside = False
