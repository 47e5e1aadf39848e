"""Pixels of every kind as bytes, and reading .npy files (TIFFs: tiff.py).

A .npy file holds [H, W], [H, W, K] or [K, H, W]; which of the two it is says K, the number of channels that
are asked for, and [H, W, K] where both could be. Files may be hostile: sizes are taken from headers and
checked before anything is allocated, and nothing is unpickled.

``to_bytes`` gives every kind of pixel one meaning, see there.

Shapes: K bands, height H, width W.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from graft.data.unreadable import UnreadableImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

NPY = b"\x93NUMPY"


class Depth(NamedTuple):
    """The values of a picture of more than 8 bits.

    ``full``: what counts as full by the kind of pixel alone; ``fixed``: nothing else can.
    """

    lowest: float
    highest: float
    full: float
    fixed: bool = False


class Levels(NamedTuple):
    """A picture as bytes, uint8 [H, W] or [H, W, K], and what it was where it had more than 8 bits."""

    pixels: NDArray[np.uint8]
    depth: Depth | None = None


def to_levels(values: NDArray[Any], max_value: float | None = None, *, bits: int = 0) -> Levels:
    """Pixels as :func:`to_bytes` gives them, with their depth.

    ``bits``: of a file's pixels, where they are fewer than those of the type (12 of uint16).

    Raises:
        UnreadableImage: as :func:`to_bytes`.
    """
    kind, size = values.dtype.kind, 8 * values.dtype.itemsize
    narrow = 2.0**bits - 1 if kind == "u" and 8 < bits < size else None
    pixels = to_bytes(values, narrow if max_value is None else max_value)
    if kind == "b" or (kind, size) == ("u", 8) or not values.size:
        return Levels(pixels)
    full = narrow or (1.0 if kind == "f" else 2.0**size - 1)
    return Levels(pixels, Depth(float(values.min()), float(values.max()), full))


def to_bytes(values: NDArray[Any], max_value: float | None = None) -> NDArray[np.uint8]:
    """Pixels of any kind as uint8, 0-255.

    uint8 stays as it is, and truth values become 0 and 255. With ``max_value`` all others become
    255 * value / max_value, rounded and cut off at both ends. Without it, uint16 is rescaled by depth
    (value >> 8), floating-point values lie in 0..1 and become 255 * value, rounded, and other kinds have no
    fixed range.

    Raises:
        UnreadableImage: a value that is not a finite number, outside 0..1, or of a kind without a range.
    """
    kind, size = values.dtype.kind, values.dtype.itemsize
    if (kind, size) == ("u", 1):
        return values.astype(np.uint8, copy=False)
    if kind == "b":
        return np.where(values, 255, 0).astype(np.uint8)
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
