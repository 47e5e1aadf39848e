"""The colours of a Pillow picture of any mode, as grey or red, green and blue of 8 bits.

What is transparent is laid over white, or over black where what can be seen is bright itself: a white
shape on nothing would be white on white. The rule looks at one picture alone, so it is the same in training
and in prediction.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from graft.data.bands import Depth, to_bytes
from graft.data.unreadable import UnreadableImage
from graft.options import Background

BRIGHT = 191.25
"""Mean brightness, of 255, of what can be seen, above which a transparent picture is laid over black."""
_HAS_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_OPAQUE = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_WITHOUT_RANGE = ("I;16S", "I;16BS", "I;32")  # as TIFFs store integers
_KEY_SCALE = {"L;2": 85, "L;4": 17}  # a PNG's transparent grey is given at the file's own depth


class NotPillows(UnreadableImage):
    """A picture of a kind that Pillow does not know or that has no range there."""


def to_colours(
    picture: Image.Image, raw: str, max_value: float | None, background: Background
) -> tuple[Image.Image, Depth | None]:
    """The picture in mode L or RGB, with what is transparent laid over the background; and its depth.

    ``raw``: how its file stores pixels ("I;12", "L;2"). The other arguments are those of ``image.decode``.

    Raises:
        NotPillows: its pixels have no fixed range.
        UnreadableImage: as ``bands.to_bytes``.
    """
    if picture.mode.startswith("I"):
        grey, depth = _rescaled(picture, raw, max_value)
        if "transparency" not in picture.info:
            return grey, depth
        alpha = np.where(np.asarray(picture) == picture.info["transparency"], 0, 255).astype(np.uint8)
        layered = Image.merge("LA", (grey, Image.fromarray(alpha))).convert("RGBA")
        return _laid_over(layered, background), depth
    if _has_key(picture):
        picture = _with_scaled_key(picture, raw)
    if picture.mode in _HAS_ALPHA or picture.has_transparency_data:
        # La -> RGBA has no direct conversion
        whole = picture.convert("LA") if picture.mode == "La" else picture
        return _laid_over(whole.convert("RGBA"), background), None
    if picture.mode not in _OPAQUE:
        raise NotPillows(
            f"its pixels are of kind {picture.mode!r}, which is neither grey nor RGB of a fixed range; "
            "save it as grey or RGB with 8 or 16 bits a channel"
        )
    return (picture if picture.mode == "L" else picture.convert("RGB")), None


def _has_key(picture: Image.Image) -> bool:
    return picture.mode in ("1", "L", "RGB") and "transparency" in picture.info


def _with_scaled_key(picture: Image.Image, raw: str) -> Image.Image:
    """The transparent colour brought from the file's depth to the 8 bits of the pixels."""
    key = picture.info["transparency"]
    scaled = picture.copy()
    if raw.startswith("RGB;16"):
        scaled.info["transparency"] = tuple(value >> 8 for value in key)
    elif raw in _KEY_SCALE:
        scaled.info["transparency"] = key * _KEY_SCALE[raw]
    return scaled


def _laid_over(picture: Image.Image, background: Background) -> Image.Image:
    """An RGBA picture as RGB."""
    alpha = picture.getchannel("A")
    if background == "auto":
        background = "black" if _brightness(picture, alpha) > BRIGHT else "white"
    canvas = Image.new("RGB", picture.size, background)
    canvas.paste(picture.convert("RGB"), mask=alpha)
    return canvas


def _brightness(picture: Image.Image, alpha: Image.Image) -> float:
    """The mean luma of what can be seen, each pixel by its opacity; 0 where nothing can."""
    weights = np.asarray(alpha, dtype=np.float64)
    seen = weights.sum()
    return float((np.asarray(picture.convert("RGB").convert("L")) * weights).sum() / seen) if seen else 0.0


def _rescaled(picture: Image.Image, raw: str, max_value: float | None) -> tuple[Image.Image, Depth]:
    """16-bit (or 12-bit) grey to 8 bits by depth or ``max_value``, never by the range in this picture."""
    if raw.startswith(_WITHOUT_RANGE):
        raise NotPillows(
            "its values are signed or have 32 bits, so they have no fixed range; say with data.max_value "
            "what counts as full"
        )
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise NotPillows("its integer pixels lie outside 0..65535; save it with 8 or 16 bits a channel")
    narrow = raw == "I;12"
    depth = Depth(float(values.min()), float(values.max()), 4095.0 if narrow else 65535.0)
    if max_value is None:
        grey = (values >> (4 if narrow else 8)).astype(np.uint8)
    else:
        grey = to_bytes(values.astype(np.uint16), max_value)
    if getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    return Image.fromarray(grey), depth
