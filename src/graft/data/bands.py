"""Reading pictures that Pillow does not: .npy files, and TIFFs of any number of bands and any depth.

A .npy file holds [H, W], [H, W, K] or [K, H, W]; which of the two it is says K, the number of channels that
are asked for, and [H, W, K] where both could be. A TIFF of K pages that are alike, with one band each, is
one picture of K bands; of other TIFFs the first page counts. Files may be hostile: sizes are taken from
headers and checked before anything is allocated, and nothing is unpickled.

``to_bytes`` gives every kind of pixel one meaning, see there.

Shapes: K bands, height H, width W.
"""

from __future__ import annotations

import io
import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from graft.data.unreadable import UnreadableImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

NPY = b"\x93NUMPY"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHITE_IS_ZERO, _PALETTE, _INKS, _YCBCR = 0, 3, 5, 6
_ORIENTATION = 274


def to_bytes(values: NDArray[Any], max_value: float | None = None) -> NDArray[np.uint8]:
    """Pixels of any kind as uint8, 0-255.

    uint8 stays as it is. With ``max_value`` all others become 255 * value / max_value, rounded and cut off
    at both ends. Without it, uint16 is rescaled by depth (value >> 8), floating-point values lie in 0..1
    and become 255 * value, rounded, and other kinds have no fixed range.

    Raises:
        UnreadableImage: a value that is not a finite number, outside 0..1, or of a kind without a range.
    """
    kind, size = values.dtype.kind, values.dtype.itemsize
    if (kind, size) == ("u", 1):
        return values.astype(np.uint8, copy=False)
    if kind == "f" and not np.isfinite(values).all():
        raise UnreadableImage("it has pixels that are infinite or not a number (NaN); fill them in first")
    if kind in "iuf" and max_value is not None:
        return _scaled(values, max_value)
    if (kind, size) == ("u", 2):
        return (values >> 8).astype(np.uint8)
    if kind == "f" and values.size:
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 1:
            raise UnreadableImage(
                f"its {values.dtype.name} values lie in {low:g}..{high:g}; 0..1 was expected, or say with "
                "data.max_value what counts as full"
            )
        return _scaled(values, 1.0)
    raise UnreadableImage(
        f"its values are {values.dtype.name}; uint8, uint16 or floating point in 0..1 was expected, or say "
        "with data.max_value what counts as full"
    )


def _scaled(values: NDArray[Any], full: float) -> NDArray[np.uint8]:
    # Single precision is exact enough for 16 bits, and half as large.
    wide: NDArray[Any] = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    with np.errstate(over="ignore"):
        levels = np.rint(np.multiply(wide, 255 / full, dtype=wide.dtype))
    clipped: NDArray[np.uint8] = np.clip(levels, 0, 255).astype(np.uint8)
    return clipped


def read_npy(data: bytes, *, max_pixels: int, channels: int) -> NDArray[Any]:
    """The values [H, W] or [H, W, K] of a .npy file, as they are stored.

    Raises:
        UnreadableImage: damaged, of objects, of another shape, or too large.
    """
    shape, by_columns, dtype, start = _npy_header(data)
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        raise UnreadableImage("it is an array of objects or records; an array of numbers was expected")
    if len(shape) not in (2, 3) or 0 in shape:
        raise UnreadableImage(
            f"an array of shape {list(shape)} is no picture; [H, W], [H, W, {channels}] or "
            f"[{channels}, H, W] was expected"
        )
    first = len(shape) == 3 and shape[0] == channels and shape[2] != channels
    height, width = shape[1:] if first else shape[:2]
    check_size(height, width, math.prod(shape) // (height * width), dtype.itemsize, max_pixels)
    if math.prod(shape) * dtype.itemsize > len(data) - start:
        raise UnreadableImage("it is damaged (the file ends before the array does)")
    flat = np.frombuffer(data, dtype, count=math.prod(shape), offset=start)
    values = flat.reshape(shape, order="F" if by_columns else "C")
    return values.transpose(1, 2, 0) if first else values


def _npy_header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether it is stored by columns, type, and where the values begin."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):  # later ones are for names of fields
            raise UnreadableImage(f"it is an array file of version {version}; 1.0 or 2.0 was expected")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
        read = read or np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file)
    except (ValueError, SyntaxError, TypeError, EOFError, RecursionError, MemoryError) as error:
        raise UnreadableImage(f"it is damaged ({' '.join(str(error).split())[:100]})") from None
    return tuple(map(int, shape)), by_columns, dtype, file.tell()


def check_size(height: int, width: int, bands: int, itemsize: int, max_pixels: int) -> None:
    """Refuse more pixels than allowed, or more bytes than the largest ordinary picture takes.

    Raises:
        UnreadableImage: with what is too large.
    """
    if height < 1 or width < 1:
        raise UnreadableImage("it has no pixels")
    # 8 bytes a pixel are those of 16-bit RGBA.
    if height * width > max_pixels or height * width * bands * itemsize > 8 * max_pixels + 2**26:
        raise UnreadableImage(
            f"it has {width} x {height} pixels of {bands} bands, more than data.max_megapixels = "
            f"{max_pixels / 1e6:g} allows"
        )


def is_tiff(data: bytes) -> bool:
    return data.startswith(TIFF)


def read_tiff(
    data: bytes, *, max_pixels: int, channels: int, max_value: float | None
) -> NDArray[np.uint8] | None:
    """uint8 [H, W] or [H, W, K], upright; None for a picture that is Pillow's: a palette, inks, 8 bits.

    Raises:
        UnreadableImage: not readable as such a TIFF.
    """
    import tifffile

    try:
        with _quiet(), tifffile.TiffFile(io.BytesIO(data)) as file:
            first = file.pages.first
            if channels in (1, 3) and _is_ordinary(first):
                return None
            pages = _pages(file, first, channels)
            _check_page(first, len(pages), len(data), channels, max_pixels)
            for page in pages[1:]:
                _check_whole(page, len(data))
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
    levels = to_bytes(values, max_value)
    if first.photometric == _WHITE_IS_ZERO and levels.shape[2] == 1:
        levels = 255 - levels
    levels = _upright(levels, turn)
    return levels[:, :, 0] if levels.shape[2] == 1 else levels


def _is_ordinary(page: Any) -> bool:
    """Whether Pillow knows it: colours that are not plain bands, or up to four bands of 8 bits."""
    shallow = page.bitspersample in (1, 2, 4, 8) and page.samplesperpixel <= 4
    return shallow or page.photometric in (_PALETTE, _INKS, _YCBCR)


def _pages(file: Any, first: Any, channels: int) -> list[Any]:
    """The pages that are one picture: one, or as many alike as channels are asked for."""
    if first.samplesperpixel != 1 or channels == 1:
        return [first]
    found = []
    for number in range(channels + 1):
        try:
            found.append(file.pages[number])
        except IndexError:
            break
    looks = {(page.imagelength, page.imagewidth, page.samplesperpixel, str(page.dtype)) for page in found}
    return found if len(found) == channels and len(looks) == 1 else [first]


def _check_page(page: Any, pages: int, length: int, channels: int, max_pixels: int) -> None:
    bands = page.samplesperpixel * pages
    if page.dtype is None:
        raise UnreadableImage(
            f"its pixels of {page.bitspersample} bits (sample format {page.sampleformat}) are not of a "
            "known kind; save it with 8 or 16 bits or as floating point"
        )
    if getattr(page, "imagedepth", 1) != 1:
        raise UnreadableImage("it is a volume; a picture was expected")
    check_size(page.imagelength, page.imagewidth, bands, page.dtype.itemsize, max_pixels)
    if bands != channels and not (bands == 1 and channels == 3):
        raise UnreadableImage(
            f"it has {bands} channels where {channels} are expected; data.channels says how many the "
            "network takes"
        )
    _check_whole(page, length)


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
