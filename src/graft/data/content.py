"""The content of items: the bytes that are hashed are the bytes that are decoded.

An item is known by the digest of its content: splits, random views and cached features go by it. A file, or
an array that is mapped into memory, can change after the data was scanned. So a source is read once into
memory of our own, and both its digest and its pixels come from there; where the digest is not that of the
scan any more, the run stops.

Shapes: height H, width W, K channels.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from graft.data.image import (
    Decoded,
    as_unreadable,
    check_size,
    copy_picture,
    decode_reduced,
    orientation_of,
    raw_mode,
    read_bytes,
)
from graft.data.unreadable import UnreadableImage
from graft.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from graft.data.items import Items

Content: TypeAlias = "bytes | NDArray[Any] | torch.Tensor | Image.Image"
"""A picture in memory that nobody else changes: a file's bytes, or pixels."""

_PLAIN = ("L", "RGB")  # modes whose pixels say all that there is to say


def read_content(source: Any, *, max_pixels: int) -> tuple[Content, str]:
    """The content of a source (as of ``image.decode``), and its sha256 in hex.

    The digest is of a file's bytes, or of the shape and values of pixels: arrays [H, W] or [H, W, K],
    tensors [H, W] or [K, H, W] and PIL images of the same values are alike.

    Raises:
        UnreadableImage: as ``image.read_bytes``, or a PIL image that cannot be loaded.
    """
    with as_unreadable(source):
        if isinstance(source, str | Path):
            source = read_bytes(source, max_pixels=max_pixels)
        if isinstance(source, bytes):
            return source, hashlib.sha256(source).hexdigest()
        if isinstance(source, np.ndarray):
            array = np.array(source)
            return array, _digest(array)
        if isinstance(source, torch.Tensor):
            tensor = source.detach().cpu().clone()
            return tensor, _digest(tensor.movedim(0, -1).numpy() if tensor.ndim == 3 else tensor.numpy())
        check_size(source, max_pixels)
        picture = copy_picture(source)
        return picture, _digest(np.asarray(picture), _beside_pixels(picture, raw_mode(picture)))


def read_picture(items: Items, number: int, *, channels: int, least_side: int | None = None) -> Decoded:
    """An item's pixels, uint8 [channels, H, W], reduced as by ``image.decode_reduced``.

    Raises:
        DataError: the item cannot be read any more, or has changed since the scan; the message names it.
    """
    try:
        content, digest = read_content(items.sources[number], max_pixels=items.max_pixels)
        if digest != items.digests[number]:
            raise DataError(
                f"{items.ids[number]} has changed since the data was scanned. Run again, so that it is "
                "scanned as it is now."
            )
        return decode_reduced(
            content,
            least_side,
            max_pixels=items.max_pixels,
            channels=channels,
            max_value=items.max_value,
            background=items.background,
        )
    except UnreadableImage as error:
        raise DataError(
            f"{items.ids[number]} cannot be read any more: {error.reason}. It could be "
            "when the data was scanned; restore the file, or run again without it."
        ) from None


def _digest(pixels: NDArray[Any], beside: str = "") -> str:
    shape = "x".join(map(str, (*pixels.shape, *[1] * (pixels.ndim == 2))))
    found = hashlib.sha256(f"{shape} {pixels.dtype.str} {beside}:".encode())
    values = np.ascontiguousarray(pixels)
    found.update(values.data if values.dtype.kind in "biufc" else values.tobytes())  # dates have no buffer
    return found.hexdigest()


def _beside_pixels(picture: Image.Image, raw: str) -> str:
    """What decides a PIL image's colours beside its values, such as a palette or an orientation.

    Nothing where it is grey or RGB and upright, as an array would be.
    """
    transparency, orientation = picture.info.get("transparency"), orientation_of(picture)
    if picture.mode in _PLAIN and transparency is None and orientation == 1:
        return ""
    palette = None if picture.palette is None else picture.getpalette("RGBA")
    return f"{picture.mode} {raw} {palette} {transparency!r} {orientation}"
