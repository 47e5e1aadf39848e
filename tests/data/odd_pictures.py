"""About thirty odd pictures, each with the pixels that it must decode to; tiny, made in memory."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SIDE = 8
RAMP = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) * 4  # every pixel another value


@dataclass(frozen=True)
class Odd:
    name: str
    data: bytes
    pixels: np.ndarray  # uint8 [H, W, 3], what must come out
    tolerance: int = 0  # for lossy formats

    def __str__(self) -> str:
        return self.name


def colours(seed: int = 0, channels: int = 3, side: int = SIDE) -> np.ndarray:
    """Random pixels, uint8 [side, side, channels]."""
    shape = (side, side, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random pixels, uint8 of any shape."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def waves(height: int, width: int) -> np.ndarray:
    """Smooth colours, uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    each = [np.sin(x / 9 + i) * np.cos(y / 13) for i in range(3)]
    return (np.stack(each, axis=2) * 100 + 128).astype(np.uint8)


def grey3(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, axis=2)


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The definition, in exact arithmetic, rounded to nearest."""
    share = alpha.astype(np.float64)[..., None] / 255
    return np.floor(rgb * share + 255 * (1 - share) + 0.5).astype(np.uint8)


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, kind: int, rows: list[bytes], **chunks: bytes) -> bytes:
    """A PNG written by hand, for what Pillow reads but does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *((k.encode(), v) for k, v in chunks.items()), (b"IDAT", body)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(k, v) for k, v in [*parts, (b"IEND", b"")])


def _chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def write_tree(root: Path, tree: dict[str, Any]) -> Path:
    """Files below ``root``: bytes as they are, an int as a small random PNG with that seed."""
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(content) if isinstance(content, int) else content)
    return root


def picture_bytes(seed: int) -> bytes:
    return encode(Image.fromarray(colours(seed)), "PNG")


def small_tree(classes: tuple[str, ...] = ("crow", "owl"), each: int = 5) -> dict[str, int]:
    return {f"{name}/{i}.png": 100 * number + i for number, name in enumerate(classes) for i in range(each)}


def odd_pictures() -> Iterator[Odd]:
    for make in (_plain, _grey_depths, _transparent, _keys, _palettes, _cmyk, _tiffs, _frames):
        yield from make()


def _plain() -> Iterator[Odd]:
    rgb = colours()
    picture = Image.fromarray(rgb)
    for kind in ("PNG", "BMP", "TIFF"):
        yield Odd(f"rgb-{kind}", encode(picture, kind), rgb)
    yield Odd("rgb-webp-lossless", encode(picture, "WEBP", lossless=True), rgb)
    smooth = np.stack([RAMP // 4 + 90] * 3, axis=2)
    jpeg = encode(Image.fromarray(smooth), "JPEG", quality=98)
    yield Odd("rgb-jpeg", jpeg, smooth, tolerance=3)
    yield Odd("grey-jpeg", encode(Image.fromarray(RAMP), "JPEG", quality=98), grey3(RAMP), 4)
    mpo = encode(Image.fromarray(smooth), "MPO", quality=98, save_all=True, append_images=[picture])
    yield Odd("mpo", mpo, smooth, tolerance=3)


def _grey_depths() -> Iterator[Odd]:
    yield Odd("grey", encode(Image.fromarray(RAMP), "PNG"), grey3(RAMP))
    bits = (RAMP > 100).astype(np.uint8) * 255
    yield Odd("bilevel-png", encode(Image.fromarray(bits).convert("1"), "PNG"), grey3(bits))
    yield Odd("bilevel-tiff", encode(Image.fromarray(bits).convert("1"), "TIFF"), grey3(bits))
    deep = RAMP.astype(np.uint16) * 257 - (RAMP > 0)  # low bytes that rounding would notice
    want = grey3((deep >> 8).astype(np.uint8))
    yield Odd("grey16-png", encode(Image.fromarray(deep), "PNG"), want)
    yield Odd("grey16-tiff", encode(Image.fromarray(deep), "TIFF"), want)
    yield Odd("grey16-big-endian-tiff", tiff16(deep, order=">"), want)
    yield Odd("grey16-white-is-zero", tiff16(deep, photometric=0), 255 - want)
    rows = [row.astype(">u2").tobytes() for row in np.repeat(deep, 3, axis=1)]
    yield Odd("rgb16-png", png(SIDE, SIDE, 16, 2, rows), want)


def _transparent() -> Iterator[Odd]:
    rgba = colours(1, 4)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    want = over_white(rgba[:, :, :3], rgba[:, :, 3])
    for kind in ("PNG", "TIFF"):
        yield Odd(f"rgba-{kind}", encode(Image.fromarray(rgba), kind), want)
    webp = encode(Image.fromarray(rgba), "WEBP", lossless=True, exact=True)
    yield Odd("rgba-webp", webp, want)
    grey = Image.merge("LA", [Image.fromarray(rgba[:, :, i]) for i in (0, 3)])
    yield Odd("la-png", encode(grey, "PNG"), over_white(grey3(rgba[:, :, 0]), rgba[:, :, 3]))
    deep = [(row.astype(">u2") * 257).tobytes() for row in rgba]
    yield Odd("rgba16-png", png(SIDE, SIDE, 16, 6, deep), want)


def _keys() -> Iterator[Odd]:
    """PNG's other transparency: one colour that stands for none, given at the file's depth."""
    want = np.where(RAMP == 40, 255, RAMP)
    rows = [row.tobytes() for row in RAMP]
    yield Odd("key-grey8", png(SIDE, SIDE, 8, 0, rows, tRNS=struct.pack(">H", 40)), grey3(want))
    for depth, scale in ((2, 85), (4, 17)):
        values = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % (1 << depth)
        packed = [_pack(row, depth) for row in values]
        shown = np.where(values == 2, 255, values * scale).astype(np.uint8)
        data = png(SIDE, SIDE, depth, 0, packed, tRNS=struct.pack(">H", 2))
        yield Odd(f"key-grey{depth}", data, grey3(shown))
    deep = RAMP.astype(">u2") * 256 + 7
    rows16 = [row.astype(">u2").tobytes() for row in deep]
    key = struct.pack(">H", 40 * 256 + 7)
    yield Odd("key-grey16", png(SIDE, SIDE, 16, 0, rows16, tRNS=key), grey3(want))
    rgb = colours(2)
    shown = rgb.copy()
    shown[0, 0] = 255
    rows = [row.tobytes() for row in rgb]
    key = struct.pack(">HHH", *map(int, rgb[0, 0]))
    yield Odd("key-rgb8", png(SIDE, SIDE, 8, 2, rows, tRNS=key), shown)
    rows = [(row.astype(">u2") * 256 + 9).astype(">u2").tobytes() for row in rgb]
    key = struct.pack(">HHH", *(int(value) * 256 + 9 for value in rgb[0, 0]))
    yield Odd("key-rgb16", png(SIDE, SIDE, 16, 2, rows, tRNS=key), shown)


def _palettes() -> Iterator[Odd]:
    numbers = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 16
    table = colours(3)[:2].reshape(16, 3)
    picture = Image.fromarray(numbers)
    picture.putpalette(table.tobytes())
    want = table[numbers]
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        yield Odd(f"palette-{kind}", encode(picture, kind), want)
    holes = want.copy()
    holes[numbers == 5] = 255
    yield Odd("palette-png-hole", encode(picture, "PNG", transparency=5), holes)
    yield Odd("palette-gif-hole", encode(picture, "GIF", transparency=5), holes)
    alpha = np.arange(16, dtype=np.uint8) * 17
    veiled = encode(picture, "PNG", transparency=alpha.tobytes())
    yield Odd("palette-png-alpha", veiled, over_white(want, alpha[numbers]))


def _cmyk() -> Iterator[Odd]:
    ink = Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0))
    red = np.zeros((SIDE, SIDE, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    yield Odd("cmyk-tiff", encode(ink, "TIFF"), red)
    yield Odd("cmyk-jpeg-adobe", encode(ink, "JPEG", quality=100), red, tolerance=4)


def _tiffs() -> Iterator[Odd]:
    rgb = colours(4)
    for how in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield Odd(how, encode(Image.fromarray(rgb), "TIFF", compression=how), rgb)


def _frames() -> Iterator[Odd]:
    first, second = colours(5), colours(6)
    rest: dict[str, Any] = {"save_all": True, "append_images": [Image.fromarray(second)]}
    picture = Image.fromarray(first)
    yield Odd("frames-tiff", encode(picture, "TIFF", **rest), first)
    yield Odd("frames-png", encode(picture, "PNG", **rest), first)
    yield Odd("frames-webp", encode(picture, "WEBP", lossless=True, **rest), first)
    grey = Image.fromarray(RAMP)
    gif = encode(grey, "GIF", save_all=True, append_images=[Image.fromarray(255 - RAMP)])
    yield Odd("frames-gif", gif, grey3(RAMP))


def _pack(values: np.ndarray, depth: int) -> bytes:
    bits = "".join(format(int(value), f"0{depth}b") for value in values)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def tiff16(values: np.ndarray, order: str = "<", photometric: int = 1) -> bytes:
    """An uncompressed 16-bit grey TIFF written by hand."""
    height, width = values.shape
    data = values.astype(f"{order}u2").tobytes()
    tags = [
        (256, width), (257, height), (258, 16), (259, 1), (262, photometric),
        (273, 8), (277, 1), (278, height), (279, len(data)),
    ]  # fmt: skip
    directory = struct.pack(f"{order}H", len(tags)) + b"".join(
        struct.pack(f"{order}HHI", tag, 4, 1) + struct.pack(f"{order}I", value) for tag, value in tags
    )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}I", 8 + len(data)) + data + directory + b"\0\0\0\0"
