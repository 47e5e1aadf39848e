"""Reading a picture: the one place where bytes become pixels.

Every picture in graft, whether in training, evaluation or prediction, goes through ``decode``, so
that it means the same everywhere:

- the EXIF orientation is applied, also to a PIL image that still carries one;
- grey becomes RGB by replication; 16-bit values are rescaled by depth (value >> 8), floating-point
  ones of arrays, .npy and TIFF files lie in 0..1, unless ``max_value`` says what counts as full;
- palettes become their colours; whatever is transparent is laid over white, or over black where what can be
  seen is bright itself (see colours.py), so that the shape stays visible;
- CMYK becomes RGB as Pillow does it, without colour profiles; profiles are ignored throughout;
- of several frames the first counts, of a TIFF whose pages are channels all of these (see planes.py);
- a JPEG much larger than the network's input is reduced while it is decoded (``decode_reduced``);
- Lab colours and integers that are signed or have 32 bits are refused, whatever their values are: they have
  no fixed range, unless ``max_value`` says it.

Pictures of other than 1 or 3 channels come from arrays, .npy files and TIFFs alone (see bands.py).

Files may be hostile. Only regular files of the formats in ``FORMATS`` are read; the number of
pixels is checked in the header before anything is decoded; truncated files are errors; and whatever
goes wrong inside Pillow comes out as ``UnreadableImage``. Safe to call from several threads.

Shapes: K channels, height H, width W.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from graft.data.bands import NPY, Depth, Levels, read_npy, to_levels
from graft.data.colours import NotPillows, to_colours
from graft.data.items import display
from graft.data.planes import read_pages
from graft.data.quiet import quiet_pillow
from graft.data.tiff import is_tiff, read_tiff
from graft.data.unreadable import UnreadableImage
from graft.errors import shorten
from graft.options import Background

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graft.data.items import Source

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # Pillow finds MPO through JPEG
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng"}
    | {".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".npy"}
)
OTHER_SUFFIXES = frozenset(
    {".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".jxr", ".svg", ".svgz"}
    | {".psd", ".psb", ".xcf", ".eps", ".ico", ".icns", ".tga", ".pcx", ".dds", ".emf", ".wmf", ".qoi"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".exr", ".hdr", ".xbm", ".xpm", ".djvu"}
    | {".dcm", ".dicom", ".nii", ".mha", ".mhd", ".nrrd", ".fits", ".fit", ".fts"}
    | {".svs", ".ndpi", ".czi", ".nd2", ".lif", ".lsm", ".oib", ".oif", ".mrxs", ".scn", ".vsi"}
    | {".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf"}
    | {".pef", ".srw", ".x3f", ".3fr", ".iiq", ".rwl"}
)
"""Of pictures in formats that are not read: drawings, medicine, astronomy, microscopes, cameras."""
MAX_PIXELS = 80_000_000

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_JPEG = b"\xff\xd8\xff"
_ORIENTATION = 0x0112
_RAW_MODE = "graft raw mode"


class _How(NamedTuple):
    """As of ``decode``."""

    max_pixels: int
    channels: int
    max_value: float | None
    background: Background


def decode(
    source: Source,
    *,
    max_pixels: int = MAX_PIXELS,
    channels: int = 3,
    max_value: float | None = None,
    background: Background = "auto",
) -> torch.Tensor:
    """The pixels of one picture: uint8 [channels, H, W].

    ``source``: a path, a file's bytes, a PIL image, an array [H, W] (grey) or [H, W, K], or a tensor
    [H, W] or [K, H, W]. Pictures have 3 channels, or 1 (grey by Pillow's luma) where ``channels`` is 1;
    arrays, .npy files and TIFFs of more bands must have K = ``channels``. ``max_value``: what counts as
    255 in their pixels of more than 8 bits (see bands.to_bytes); a PNG
    of 16-bit colours is refused beside it, for Pillow reads the upper 8 bits alone.
    ``max_pixels`` bounds H · W of what is decoded; above about 179 million pixels a process must
    also raise ``PIL.Image.MAX_IMAGE_PIXELS``. ``background``: what transparent pictures are laid over.

    Raises:
        UnreadableImage: for whatever reason the source is not such a picture.
    """
    with as_unreadable(source):
        how = _How(max_pixels, channels, max_value, background)
        return _as_tensor(_levels(source, how).pixels, channels)


class Decoded(NamedTuple):
    """A picture that may have been reduced while it was decoded."""

    pixels: torch.Tensor
    """uint8 [channels, H, W]."""
    size: tuple[int, int]
    """Height and width of the whole picture."""


def decode_reduced(
    source: Source,
    least_side: int | None,
    *,
    max_pixels: int = MAX_PIXELS,
    channels: int = 3,
    max_value: float | None = None,
    background: Background = "auto",
) -> Decoded:
    """As ``decode``, but a JPEG at the smallest of 1, 1/2, 1/4 and 1/8 of its size that suffices.

    That is the smallest whose shorter side has ``least_side`` pixels; None: never reduced. Several times
    faster on large photographs. When the result is resized to half of ``least_side`` or less, it differs
    from that of ``decode`` by one grey level in the mean (of 135 photographs; four in the worst one).

    Raises:
        UnreadableImage: as ``decode``.
    """
    with as_unreadable(source):
        how = _How(max_pixels, channels, max_value, background)
        data = read_bytes(source, max_pixels=max_pixels) if isinstance(source, str | Path) else source
        if least_side is None or not _is_jpeg(data):
            pixels = _as_tensor(_levels(data, how).pixels, channels)
            return Decoded(pixels, (pixels.shape[1], pixels.shape[2]))
        with _open(data) as picture:
            turned = orientation_of(picture) in (5, 6, 7, 8)  # those that swap the sides
            height, width = picture.size if turned else picture.size[::-1]
            pixels = _as_tensor(_flat(picture, how, least_side=least_side).pixels, channels)
            return Decoded(pixels, (height, width))


@dataclass(frozen=True)
class Facts:
    """What matters of a picture beside its pixels.

    ``depth``: of more than 8 bits. ``pages``: which of several were read, or nothing. ``uniform``: whether
    every pixel that was read is the same.
    """

    depth: Depth | None = None
    pages: str = ""
    uniform: bool = False


def examine(
    source: Source,
    *,
    max_pixels: int = MAX_PIXELS,
    channels: int = 3,
    max_value: float | None = None,
    background: Background = "auto",
) -> Facts:
    """Decode a picture to its last pixel, as ``decode`` does, and keep what matters beside these.

    Raises:
        UnreadableImage: as ``decode``.
    """
    with as_unreadable(source):
        how = _How(max_pixels, channels, max_value, background)
        data = read_bytes(source, max_pixels=max_pixels) if isinstance(source, str | Path) else source
        levels = _quick_levels(data, how)
        _as_tensor(levels.pixels, channels)  # raises where it has another number of channels
        pages = _pages_read(data, channels) if isinstance(data, bytes) else ""
        return Facts(levels.depth, pages, _is_uniform(levels.pixels))


def _quick_levels(data: Any, how: _How) -> Levels:
    """A JPEG is read to its end also where only every eighth pixel is made of it."""
    if _is_jpeg(data):
        with _open(data) as picture:
            levels = _flat(picture, how, least_side=1)
        if not _is_uniform(levels.pixels):  # a fine pattern is uniform only when it is reduced
            return levels
    return _levels(data, how)


def _is_jpeg(data: Any) -> TypeGuard[bytes]:
    return isinstance(data, bytes) and data.startswith(_JPEG)


def _is_uniform(pixels: NDArray[np.uint8]) -> bool:
    first = pixels[:1, :1]
    return bool((pixels[:1] == first).all() and (pixels == first).all())


def _pages_read(data: bytes, channels: int) -> str:
    """Which of a file's pages or frames were read, where there are others."""
    if not is_tiff(data):
        count = _frames(data)
        return f"the first of {count} frames" if count > 1 else ""
    pages = read_pages(data)
    if len(pages.channels) == pages.count:
        return ""
    if pages.channels:
        return f"{len(pages.channels)} of {pages.count} pages: the channels of the first slice and time"
    bands = channels not in (1, 3) and pages.count == channels
    return "" if bands or pages.count == 1 else f"the first of {pages.count} pages"


def _frames(data: bytes) -> int:
    if data.startswith(NPY) or _is_jpeg(data):  # other frames of a JPEG, as of MPO, are the camera's own
        return 1
    with _open(data) as picture:
        return int(getattr(picture, "n_frames", 1))


class Shape(NamedTuple):
    """Of a picture: its sides in pixels, its colours (1 where it is grey), and the pages of its file."""

    width: int
    height: int
    colours: int
    pages: int = 1


def shape_of(source: Source) -> Shape | None:
    """Read off a file's head, or off an array; None where it cannot be, as of .npy and damaged files."""
    if isinstance(source, np.ndarray) and source.ndim in (2, 3):
        return Shape(source.shape[1], source.shape[0], 1 if source.ndim == 2 else source.shape[2])
    if not isinstance(source, Path | str | bytes):
        return None
    with contextlib.suppress(UnreadableImage), as_unreadable(source):
        data = source if isinstance(source, bytes) else read_bytes(source)
        pages = read_pages(data).count if is_tiff(data) else _frames(data)
        with _open(data) as picture:
            return Shape(*picture.size, 1 if Image.getmodebase(picture.mode) == "L" else 3, pages)
    return None


@contextlib.contextmanager
def as_unreadable(source: Source) -> Iterator[None]:
    """Silence Pillow's warnings, and raise whatever goes wrong in the block as ``UnreadableImage``."""
    where = display(str(source)) if isinstance(source, str | Path) else ""
    try:
        with quiet_pillow():
            yield
    except UnreadableImage as error:
        raise UnreadableImage(error.reason, where) from None
    except Exception as error:  # Pillow raises two dozen kinds on damaged files
        raise UnreadableImage(_words(error), where) from None


def read_bytes(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """A regular file's content; pipes, devices and sockets are never opened.

    Raises:
        UnreadableImage: no such file, not a regular file, no permission, or larger than any
            picture of ``max_pixels`` can be.
    """
    try:
        _check_file(Path(path).stat(), max_pixels)
        # Without O_NONBLOCK a pipe put in the file's place since the check would hang us here.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 (a descriptor)
            _check_file(os.fstat(file.fileno()), max_pixels)
            return file.read()
    except (OSError, ValueError) as error:
        raise UnreadableImage(_words(error)) from None


def _check_file(status: os.stat_result, max_pixels: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImage("it is not a regular file")
    if status.st_size == 0:
        raise UnreadableImage("the file is empty")
    if status.st_size > 8 * max_pixels + 2**26:  # 16-bit RGBA takes 8 bytes a pixel
        raise UnreadableImage(
            f"the file has {status.st_size / 1e6:.0f} MB, more than a picture of the largest "
            f"allowed size ({max_pixels / 1e6:g} megapixels) needs"
        )


def _levels(source: Any, how: _How) -> Levels:
    """uint8 [H, W] or [H, W, K], with its depth."""
    if isinstance(source, np.ndarray | torch.Tensor):
        return _from_array(source, how.max_value)
    if isinstance(source, Image.Image):
        return _flat(source, how)
    data = source if isinstance(source, bytes) else read_bytes(source, max_pixels=how.max_pixels)
    if data.startswith(NPY):
        values = read_npy(data, max_pixels=how.max_pixels, channels=how.channels)
        return to_levels(values, how.max_value)
    return _tiff_levels(data, how) if is_tiff(data) else _pillow_levels(data, how)


def _tiff_levels(data: bytes, how: _How) -> Levels:
    """By Pillow where it knows the kind of picture and its range, else band by band."""
    refused, named = None, read_pages(data).channels
    if not named and how.channels in (1, 3) and how.max_value is None:
        try:
            levels, depth = _pillow_levels(data, how)
        except NotPillows as error:
            refused = error
        else:  # with a value for full, all bits are read
            return Levels(levels, None if depth is None else depth._replace(fixed=False))
    try:
        found = read_tiff(
            data, max_pixels=how.max_pixels, channels=how.channels, max_value=how.max_value, named=named
        )
    except Exception as error:  # tifffile raises many kinds on damaged files
        raise error if refused is None or isinstance(error, UnreadableImage) else refused from None
    if found is not None:
        return _as_grey(found) if named and how.channels == 1 else found
    if refused is not None:
        raise refused
    return _pillow_levels(data, how._replace(max_value=None))


def _as_grey(found: Levels) -> Levels:
    """Red, green and blue as Pillow's luma."""
    return found._replace(pixels=np.asarray(Image.fromarray(found.pixels).convert("L")))


def _pillow_levels(data: bytes, how: _How) -> Levels:
    with _open(data) as picture:
        return _flat(picture, how)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise UnreadableImage("the file is empty")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise NotPillows("it is damaged, or no JPEG, PNG, WebP, BMP, TIFF, GIF or .npy") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(
            "it has more pixels than Pillow opens (twice PIL.Image.MAX_IMAGE_PIXELS)"
        ) from None


def _flat(picture: Image.Image, how: _How, *, least_side: int | None = None) -> Levels:
    """Decode, resolve the mode, lay over the background, turn upright."""
    check_size(picture, how.max_pixels)
    raw = raw_mode(picture)
    halved = ";16" in raw and not picture.mode.startswith("I")  # the lower 8 bits of colours are lost
    if how.max_value is not None and halved:
        raise UnreadableImage(
            "its colours have 16 bits, of which only the upper 8 can be read here, so data.max_value "
            "cannot say what counts as full; save it as TIFF or .npy"
        )
    if least_side is not None:
        picture.draft("", (least_side, least_side))  # the mode stays, the size is the next that suffices
    picture.load()
    colours, depth = to_colours(picture, raw, how.max_value, how.background)
    turn = _TRANSPOSE.get(orientation_of(picture))
    colours = colours.transpose(turn) if turn is not None else colours
    array = np.array(colours.convert("L" if how.channels == 1 else "RGB"))
    if halved:
        depth = Depth(256.0 * array.min(), 256.0 * array.max() + 255, 65535.0, fixed=True)
    return Levels(array[:, :, None] if array.ndim == 2 else array, depth)


def check_size(picture: Image.Image, max_pixels: int) -> None:
    """Raises UnreadableImage where a picture, not decoded yet, has no pixels or too many."""
    width, height = picture.size
    if width * height > max_pixels:
        raise UnreadableImage(
            f"it has {width} x {height} pixels, more than data.max_megapixels = {max_pixels / 1e6:g} allows"
        )
    if width * height == 0:
        raise UnreadableImage("it has no pixels")


def raw_mode(picture: Image.Image) -> str:
    """How the file stores its pixels ("I;12", "L;2"): the depth is lost in the loaded mode.

    Pillow forgets it when it loads the pixels, so it is noted with the picture, which may be read again.
    """
    tiles = getattr(picture, "tile", None) or [()]
    last = tiles[0][3] if len(tiles[0]) > 3 else picture.info.get(_RAW_MODE, "")
    text = last[0] if isinstance(last, tuple) and last else last
    if isinstance(text, str) and text:
        picture.info[_RAW_MODE] = text
        return text
    return ""


def copy_picture(picture: Image.Image) -> Image.Image:
    """A loaded copy that decodes alike: with its depth and orientation, which Pillow does not copy."""
    raw_mode(picture)  # notes it in ``info``, which is copied
    copied = picture.copy()
    orientation = orientation_of(picture)
    if orientation_of(copied) != orientation:
        copied.getexif()[_ORIENTATION] = orientation
    return copied


def orientation_of(picture: Image.Image) -> int:
    """The EXIF orientation, 1-8; damaged EXIF data means upright, as picture viewers take it."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken tag raises struct.error, SyntaxError, ValueError and more
        return 1


def _from_array(source: Any, max_value: float | None) -> Levels:
    """An array [H, W] or [H, W, K], or a tensor [H, W] or [K, H, W], as uint8 [H, W] or [H, W, K]."""
    is_tensor = isinstance(source, torch.Tensor)
    array = source.detach().cpu().numpy() if is_tensor else source
    if array.ndim not in (2, 3) or array.size == 0:
        layout = "[K, H, W]" if is_tensor else "[H, W, K]"
        raise UnreadableImage(
            f"an array of shape {list(source.shape)} is no picture; [H, W] or {layout} was expected"
        )
    if is_tensor and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    return to_levels(array, max_value)


def _as_tensor(pixels: NDArray[np.uint8], channels: int) -> torch.Tensor:
    """[H, W] or [H, W, K] as [channels, H, W]; grey is repeated where colours are expected."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 1 if channels == 1 else 3, axis=2)
    # a copy: the caller's array may be read-only or change later
    return _checked(torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C")), channels)


def _checked(picture: torch.Tensor, channels: int) -> torch.Tensor:
    if picture.shape[0] != channels:
        raise UnreadableImage(
            f"it has {picture.shape[0]} channels where {channels} are expected; arrays are "
            "[H, W, K], tensors [K, H, W], and data.channels says how many the network takes"
        )
    return picture


def _words(error: Exception) -> str:
    """The reason in a few words, on one line, without a memory address or a path."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file, or the link points nowhere"
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = " ".join(str(error).split()) or type(error).__name__
    return f"it is damaged ({shorten(display(text))})"
