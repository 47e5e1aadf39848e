"""The decoder: one meaning for every picture, one kind of error for everything else."""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_pictures import Odd, colours, encode, grey3, odd_pictures, over_white, picture_bytes, png
from PIL import Image

from graft.data.image import Shape, decode, decode_reduced, examine, shape_of
from graft.data.unreadable import UnreadableImage
from graft.errors import DataError
from small import make_pipe

ODD = list(odd_pictures())
CORNER = np.array([[10, 40, 90], [160, 200, 250]], np.uint8)  # [2, 3]: no two sides alike


def pixels(source, **options) -> np.ndarray:
    return decode(source, **options).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_odd_picture_has_its_pixels(odd: Odd, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(odd.data)
    found = pixels(path)
    assert found.shape == odd.pixels.shape
    assert found.dtype == np.uint8
    worst = np.abs(found.astype(int) - odd.pixels.astype(int)).max()
    assert worst <= odd.tolerance


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_path_bytes_and_opened_image_agree(odd: Odd, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(odd.data)
    with Image.open(path) as picture:
        assert torch.equal(decode(picture), decode(path))
    assert torch.equal(decode(odd.data), decode(str(path)))


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_truncated_picture_is_refused(odd: Odd) -> None:
    several = odd.name == "mpo" or odd.name.startswith("frames")
    share = 4 if several else 2  # the first of two frames must be hit
    with pytest.raises(UnreadableImage):
        decode(odd.data[: len(odd.data) // share])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = np.kron(CORNER, np.ones((16, 16), np.uint8))
    stored = _as_stored(upright, orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encode(Image.fromarray(grey3(stored)), kind, exif=exif, **options)
    found = pixels(data)
    assert found.shape == (*upright.shape, 3)
    assert np.abs(found.astype(int) - grey3(upright)).max() <= (2 if kind == "JPEG" else 0)


def _as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """How a camera stores it: row 0 and column 0 as the EXIF standard's table names them."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]


@pytest.mark.parametrize("least", [1, 40, 60, 119, 120, 121, 481])
def test_a_jpeg_is_reduced_as_far_as_its_shorter_side_allows(least: int) -> None:
    rng = np.random.default_rng(0)
    data = encode(Image.fromarray(rng.integers(0, 256, (481, 633, 3), np.uint8)), "JPEG")
    found, size = decode_reduced(data, least)
    assert size == (481, 633)
    factor = max(each for each in (1, 2, 4, 8) if 481 // each >= least)
    assert found.shape == (3, -(-481 // factor), -(-633 // factor))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_upright_and_knows_its_size(orientation: int) -> None:
    upright = np.kron(CORNER, np.ones((64, 64), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(_as_stored(upright, orientation)), "JPEG", exif=exif, quality=100)
    found, size = decode_reduced(data, 64)
    assert size == (128, 192)
    assert np.abs(found[0].numpy().astype(int) - upright[::2, ::2]).max() <= 2


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_what_is_no_large_jpeg_is_decoded_as_it_is(odd: Odd) -> None:
    whole = decode(odd.data)
    for least in (None, 10_000):
        found, size = decode_reduced(odd.data, least)
        assert torch.equal(found, whole)
        assert size == whole.shape[1:]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_found_out_also_reduced(progressive: bool) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (240, 240, 3), np.uint8))
    data = encode(picture, "JPEG", progressive=progressive)
    for share in (0.5, 0.9, 0.99):
        with pytest.raises(UnreadableImage):
            decode_reduced(data[: int(share * len(data))], 1)


def test_damaged_exif_means_upright() -> None:
    data = encode(Image.fromarray(colours()), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(pixels(data), colours())


@pytest.mark.parametrize("mode", ["RGBa", "La"])
def test_premultiplied_alpha(mode: str) -> None:
    rgba = colours(1, 4)
    rgba[:, :, 3] = np.where(rgba[:, :, 3] < 128, 0, 255)
    picture = Image.fromarray(rgba).convert("LA" if mode == "La" else "RGBA").convert(mode)
    straight = np.asarray(picture.convert("LA" if mode == "La" else "RGBA").convert("RGBA"))
    assert np.array_equal(pixels(picture), over_white(straight[:, :, :3], straight[:, :, 3]))


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBX", "PA"])
def test_other_modes_as_pillow_converts_them(mode: str) -> None:
    source = Image.fromarray(colours())
    picture = source.convert("P").convert("PA") if mode == "PA" else source.convert(mode)
    assert np.array_equal(pixels(picture), np.asarray(picture.convert("RGB")))


def test_decoding_leaves_the_callers_image_alone() -> None:
    picture = Image.fromarray(colours(1, 4))
    before = (picture.mode, picture.tobytes(), dict(picture.info))
    decode(picture)
    assert (picture.mode, picture.tobytes(), dict(picture.info)) == before


@pytest.mark.parametrize("mode", ["F", "LAB"])
def test_modes_without_a_fixed_range_are_refused(mode: str) -> None:
    with pytest.raises(UnreadableImage, match=f"'{mode}'.*neither grey nor RGB.*8 or 16 bits"):
        decode(Image.new(mode, (4, 4)))


@pytest.mark.odd_input("Pictures")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["i2", "i4", "u4"])
def test_integers_without_a_range_are_refused_whatever_their_values(kind: str, channels: int) -> None:
    """Signed or 32-bit integers in TIFF, .npy and arrays: refused with the name of `data.max_value`,
    whether or not a picture has values below zero."""
    values = [
        np.array([[low, 7], [200, 3000]]).astype(kind) for low in ((0, -9) if kind[0] == "i" else (0,))
    ]
    for value in values:
        for order in "<>":
            for source in (encoded(value, "tiff", byteorder=order), encoded(value, "npy"), value):
                with pytest.raises(UnreadableImage, match=r"data\.max_value"):
                    decode(source, channels=channels)
                found = decode(source, channels=channels, max_value=3000)
                assert found[0].tolist() == [[0, 1], [17, 255]]


def encoded(values: np.ndarray, kind: str, **options) -> bytes:
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, values)
    else:
        tifffile.imwrite(file, values, photometric="minisblack", **options)
    return file.getvalue()


def test_integers_beyond_sixteen_bits_are_refused() -> None:
    with pytest.raises(UnreadableImage, match=r"outside 0\.\.65535"):
        decode(Image.fromarray(np.full((4, 4), 65536, np.int32)))


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PDF", "EPS", "JPEG2000"])
def test_other_formats_are_refused(kind: str) -> None:
    picture = Image.new("RGB", (16, 16))
    with pytest.raises(UnreadableImage, match=r"no JPEG, PNG, WebP, BMP, TIFF, GIF or \.npy"):
        decode(encode(picture, kind))


@pytest.mark.parametrize("data", [b"", b"hello", b"<html>", b"\xff\xd8\xff"])
def test_no_picture_at_all(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(UnreadableImage) as caught:
        decode(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, DataError)


SHAPE = np.kron(np.array([[0, 1], [1, 0]], np.uint8), np.ones((4, 4), np.uint8))  # [8, 8]


def veiled(level: int, how: str) -> bytes:
    """A PNG with a shape of one level on nothing, by each way in which a picture can be transparent."""
    alpha = SHAPE * 255
    grey, full = Image.fromarray(np.full_like(SHAPE, level)), Image.fromarray(alpha)
    if how == "palette":
        numbers = Image.fromarray(SHAPE).convert("P")
        numbers.putpalette([level] * 6)
        return encode(numbers, "PNG", transparency=bytes([0, 255]))
    if how == "key":
        other = 255 - level if level != 127 else 0
        return encode(
            Image.fromarray(np.where(SHAPE, level, other).astype(np.uint8)), "PNG", transparency=other
        )
    if how == "bit":
        return encode(
            Image.fromarray(alpha * (level > 127) + (255 - alpha) * (level <= 127)).convert("1"),
            "PNG",
            transparency=255 * (level <= 127),
        )
    bands = [grey] * (3 if how == "RGBA" else 1)
    return encode(Image.merge(how, [*bands, full]), "PNG")


@pytest.mark.odd_input("Pictures")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("how", ["RGBA", "LA", "palette", "key", "bit"])
def test_a_shape_on_nothing_stays_visible(how: str, channels: int) -> None:
    """A shape on a transparent background, white, grey or black: it is laid over white, or over black where
    what can be seen is brighter than three quarters, so it stays visible."""
    for level in (0, 255) if how == "bit" else (0, 60, 127, 190, 192, 254, 255):
        found = pixels(veiled(level, how), channels=channels)
        shape, around = found[SHAPE > 0], found[SHAPE == 0]
        assert (shape == level).all()
        assert (around == (0 if level > 191 else 255)).all()
        assert not examine(veiled(level, how)).uniform


def test_brightness_counts_what_can_be_seen_alone() -> None:
    """Colours that are hidden do not decide, and what is half transparent counts half."""
    hidden = np.full((8, 8, 4), 255, np.uint8)
    hidden[:, :, 3] = SHAPE * 255
    for colour in (0, 255):
        hidden[SHAPE == 0, :3] = colour
        assert pixels(Image.fromarray(hidden))[0, 0].tolist() == [0, 0, 0]
    veil = np.zeros((1, 3, 4), np.uint8)
    veil[0, :, 0] = veil[0, :, 1] = veil[0, :, 2] = (255, 0, 90)
    veil[0, :, 3] = (255, 63, 0)  # bright in the mean of what is opaque: 255 * 255 / (255 + 63) > 191
    assert pixels(Image.fromarray(veil))[0, :, 0].tolist() == [255, 0, 0]
    veil[0, 1, 3] = 255
    assert pixels(Image.fromarray(veil))[0, :, 0].tolist() == [255, 0, 255]


@pytest.mark.parametrize("background", ["white", "black"])
def test_a_background_can_be_named(background: str) -> None:
    found = pixels(veiled(127, "RGBA"), background=background)
    assert (found[SHAPE == 0] == (255 if background == "white" else 0)).all()


def test_a_background_changes_nothing_that_is_opaque() -> None:
    for odd in ODD:
        if odd.name.startswith(("rgb-", "grey", "palette-GIF", "cmyk")):
            assert torch.equal(decode(odd.data, background="black"), decode(odd.data, background="white"))
    opaque = np.dstack([colours(), np.full((8, 8), 255, np.uint8)])
    assert np.array_equal(pixels(Image.fromarray(opaque), background="black"), colours())


def test_channels_one_gives_grey() -> None:
    ramp = CORNER.repeat(4, axis=0)
    assert np.array_equal(pixels(Image.fromarray(ramp), channels=1)[:, :, 0], ramp)
    luma = np.asarray(Image.fromarray(colours()).convert("L"))
    assert np.array_equal(pixels(Image.fromarray(colours()), channels=1)[:, :, 0], luma)


@pytest.mark.odd_input("Pictures")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_pictures_of_a_single_value_are_known(kind: str) -> None:
    """A picture in which every pixel is the same, whatever made it so: it is counted, in `train`, `plan`,
    `check`, `evaluate` and `predict`."""
    options = {"lossless": True} if kind == "WEBP" else {}
    assert examine(encode(Image.new("RGB", (40, 40), (9, 99, 3)), kind, **options)).uniform
    assert not examine(encode(Image.fromarray(colours(side=40)), kind)).uniform


def test_a_fine_pattern_is_not_of_a_single_value() -> None:
    """Reduced to an eighth, each pixel of it has the mean of the same 8 x 8 pixels."""
    pattern = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (32, 32))
    assert not examine(encode(Image.fromarray(pattern), "JPEG")).uniform


def test_arrays_and_what_cannot_be_seen_can_be_of_a_single_value_too() -> None:
    assert examine(np.full((4, 4, 3), (1, 2, 3), np.uint8)).uniform
    assert examine(np.full((4, 4), 200, np.uint16), max_value=4095).uniform
    assert examine(np.arange(16, dtype=np.uint16).reshape(4, 4)).uniform  # of 65535
    assert not examine(np.arange(16, dtype=np.uint16).reshape(4, 4), max_value=255).uniform
    assert examine(Image.fromarray(np.dstack([colours(), np.zeros((8, 8), np.uint8)]))).uniform


# --- hostile files ---------------------------------------------------------------------------


def test_pixel_cap_is_checked_before_decoding() -> None:
    bomb = png(20_000, 20_000, 8, 2, [b""])  # 400 megapixels in 70 bytes
    with pytest.raises(UnreadableImage, match="more pixels than Pillow opens"):
        decode(bomb)
    with pytest.raises(UnreadableImage, match=r"10000 x 10000 pixels.*max_megapixels = 80"):
        decode(png(10_000, 10_000, 8, 2, [b""]))
    with pytest.raises(UnreadableImage, match="max_megapixels"):
        decode(picture_bytes(0), max_pixels=63)
    assert decode(picture_bytes(0), max_pixels=64).shape == (3, 8, 8)


def test_pixel_cap_holds_for_an_opened_image() -> None:
    with pytest.raises(UnreadableImage, match="max_megapixels"):
        decode(Image.new("RGB", (9, 9)), max_pixels=80)


def test_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "film.jpg"
    with path.open("wb") as file:
        file.truncate(2**33)  # sparse
    with pytest.raises(UnreadableImage, match="8590 MB, more than"):
        decode(path)


def test_pipe_and_socket_are_never_opened(tmp_path: Path) -> None:
    make_pipe(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.jpg"))
        for name in ("pipe.jpg", "s.jpg"):
            with pytest.raises(UnreadableImage, match="not a regular file"):
                decode(tmp_path / name)
    with pytest.raises(UnreadableImage, match="not a regular file"):
        decode("/dev/zero")


def test_pipe_that_takes_the_files_place_does_not_hang(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture_bytes(0))
    genuine = Path.stat

    def swap(self, **options):
        status = genuine(self, **options)
        path.unlink()
        make_pipe(path)
        return status

    monkeypatch.setattr(Path, "stat", swap)
    with pytest.raises(UnreadableImage, match="not a regular file"):
        decode(path)


def test_missing_directory_and_forbidden(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UnreadableImage, match="no such file"):
        decode(tmp_path / "none.jpg")
    with pytest.raises(UnreadableImage, match="not a regular file"):
        decode(tmp_path)
    with pytest.raises(UnreadableImage):
        decode("a\0b")
    path = tmp_path / "a.png"
    path.write_bytes(picture_bytes(0))

    def forbid(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbid)
    with pytest.raises(UnreadableImage, match="permission denied"):
        decode(path)


def test_unprintable_name_can_be_shown(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage) as caught:
        decode(tmp_path / "a\udcff\n.jpg")
    str(caught.value).encode("utf-8")
    assert "\n" not in str(caught.value)


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImage("why", "where")))
    assert (error.reason, error.where) == ("why", "where")


FUZZ = settings(max_examples=150, suppress_health_check=list(HealthCheck), derandomize=True)
MAGIC = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"RIFF"]


@FUZZ
@given(magic=st.sampled_from([b"", *MAGIC]), rest=st.binary(max_size=200))
def test_random_bytes_raise_only_our_error(magic: bytes, rest: bytes) -> None:
    _survives(magic + rest)


@FUZZ
@given(data=st.data())
def test_damaged_pictures_raise_only_our_error(data: st.DataObject) -> None:
    odd = data.draw(st.sampled_from(ODD))
    damaged = bytearray(odd.data)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    _survives(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


def _survives(data: bytes) -> None:
    """Either a picture or our error; any warning is an error here (pytest's configuration)."""
    try:
        picture = decode(data, max_pixels=100_000)
    except UnreadableImage as error:
        assert error.reason
        assert "\n" not in error.reason
    else:
        assert picture.dtype == torch.uint8
        assert picture.shape[0] == 3


# --- warnings and threads -------------------------------------------------------------------


def _warns() -> bytes:
    """A TIFF whose EXIF pointer leads nowhere: Pillow warns about it."""
    tiff = bytearray(encode(Image.fromarray(colours()), "TIFF"))
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    struct.pack_into("<H", tiff, start, count + 40)
    return bytes(tiff)


def test_pillows_warnings_stay_inside() -> None:
    data = _warns()
    with pytest.raises(UserWarning):  # the proof that there is something to keep quiet
        _load(data)
    before = list(warnings.filters)
    with pytest.raises(UnreadableImage) if _fails(data) else warnings.catch_warnings():
        decode(data)
    assert list(warnings.filters) == before


def _load(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()


def _fails(data: bytes) -> bool:
    try:
        decode(data)
    except UnreadableImage:
        return True
    return False


@pytest.mark.parametrize(("mode", "kind", "expected"), [
    ("L", "png", 1), ("1", "tiff", 1), ("LA", "png", 1), ("I;16", "png", 1), ("I;16B", "tiff", 1),
    ("F", "tiff", 1), ("P", "gif", 3), ("RGB", "jpeg", 3), ("RGBA", "webp", 3), ("CMYK", "tiff", 3),
])  # fmt: skip
def test_the_shape_is_read_of_the_formats_that_are_decoded(mode: str, kind: str, expected: int) -> None:
    assert shape_of(_saved(Image.new(mode, (3, 2)), kind)) == Shape(3, 2, expected)


def test_the_shape_counts_pages_and_is_none_of_what_is_not_read() -> None:
    first, second = Image.new("RGB", (3, 2)), Image.new("RGB", (3, 2), "red")
    several = {"save_all": True, "append_images": [second]}
    assert shape_of(_saved(first, "tiff", **several)) == Shape(3, 2, 3, pages=2)
    assert shape_of(_saved(first, "mpo", **several)) == Shape(3, 2, 3)  # the camera's own second picture
    assert shape_of(_saved(first, "ppm")) is None and shape_of(b"no picture") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shape_of(_warns())


def _saved(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_many_threads_agree_and_leave_no_filter() -> None:
    before = list(warnings.filters)
    expected = [decode(odd.data) for odd in ODD]
    gate = threading.Barrier(4)

    def work(_number: int) -> list[torch.Tensor]:
        gate.wait()
        return [decode(odd.data) for odd in ODD for _ in range(3)][::3]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(4)):
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert list(warnings.filters) == before


# --- arrays ----------------------------------------------------------------------------------


def test_arrays_and_tensors() -> None:
    rgb = colours()
    assert np.array_equal(pixels(rgb), rgb)
    assert np.array_equal(pixels(torch.from_numpy(rgb).permute(2, 0, 1)), rgb)
    assert np.array_equal(pixels(rgb[:, :, 0]), grey3(rgb[:, :, 0]))
    assert np.array_equal(pixels(rgb[:, :, 0], channels=1), rgb[:, :, :1])
    assert np.array_equal(pixels(rgb[::-1, ::2]), rgb[::-1, ::2])
    assert np.array_equal(pixels(colours(0, 7), channels=7), colours(0, 7))
    deep = rgb.astype(np.uint16) * 256 + 3
    assert np.array_equal(pixels(deep), rgb)


def test_array_is_copied() -> None:
    rgb = colours()
    picture = decode(rgb)
    rgb[:] = 0
    assert picture.any()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((4, 4, 3), 1.5), r"float64 values lie in 1\.5\.\.1\.5; 0\.\.1.*data\.max_value"),
        (np.full((4, 4, 3), np.nan), "not a number"),
        (np.zeros((4, 4), np.int64), "int64; uint8"),
        (np.zeros(4, np.uint8), r"shape \[4\] is no picture"),
        (np.zeros((0, 4, 3), np.uint8), "no picture"),
        (np.zeros((2, 4, 4, 3), np.uint8), "no picture"),
        (np.zeros((3, 8, 9), np.uint8), "9 channels where 3 are expected"),
        (torch.zeros(8, 9, 3, dtype=torch.uint8), "8 channels where 3 are expected"),
        (-torch.ones(3, 8, 9), r"float32 values lie in -1\.\.-1"),
    ],
)
def test_other_arrays_are_refused(array, words: str) -> None:
    with pytest.raises(UnreadableImage, match=words):
        decode(array)


def test_max_value_counts_as_full_in_a_grey_png_of_16_bits() -> None:
    values = np.array([[0, 500, 1000, 4000]], np.uint16)
    for source in (encode(Image.fromarray(values), "PNG"), Image.fromarray(values)):
        assert decode(source, max_value=1000)[0].tolist() == [[0, 128, 255, 255]]
        assert decode(source)[0].tolist() == [[0, 1, 3, 15]]


def test_max_value_is_refused_where_a_png_has_16_bit_colours() -> None:
    """Pillow reads the upper 8 bits of each colour, so it could not be obeyed."""
    deep = png(3, 3, 16, 2, [struct.pack(">9H", *range(0, 900, 100))] * 3)
    assert decode(deep).shape == (3, 3, 3)
    with pytest.raises(UnreadableImage, match=r"16 bits.*data\.max_value.*save it as TIFF or \.npy"):
        decode(deep, max_value=1000)
