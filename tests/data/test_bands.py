"""Files of any number of bands: the pixels that were stored, or one error in words."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from odd_pictures import colours, encode
from PIL import Image

from graft.data.bands import to_bytes, to_levels
from graft.data.image import decode
from graft.data.splits import read_splits
from graft.data.unreadable import UnreadableImage
from graft.recipe import DataSettings


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def pixels(data: bytes, channels: int, **options) -> np.ndarray:
    return decode(data, channels=channels, **options).permute(1, 2, 0).numpy()


# --- pixels of every kind ---------------------------------------------------------------------


def test_every_kind_of_pixel_has_one_meaning() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(to_bytes(ramp), ramp)
    assert np.array_equal(to_bytes(ramp.astype(np.uint16) * 257), ramp)
    for kind in (np.float32, np.float64):
        assert np.array_equal(to_bytes((ramp / 255).astype(kind)), ramp)
    assert np.abs(to_bytes((ramp / 255).astype(np.float16)).astype(int) - ramp).max() <= 1
    assert np.array_equal(to_bytes((ramp.astype(np.uint16) * 257).astype(">u2")), ramp)
    assert np.array_equal(to_bytes((ramp / 255).astype(">f4")), ramp)


@given(hnp.arrays(st.sampled_from(["u2", "i2", "i4", "f4", "f8"]), (3, 4), elements=st.integers(0, 30_000)))
def test_max_value_counts_as_full(values: np.ndarray) -> None:
    found = to_bytes(values, 10_000.0)
    expected = np.clip(255 * values.astype(np.float64) / 10_000, 0, 255)
    assert np.abs(found - expected).max() <= 0.5 + 1e-3


def test_max_value_cuts_off_and_leaves_bytes_alone() -> None:
    assert to_bytes(np.array([-1e300, -5.0, 5.0, 10.0, 1e300]), 10.0).tolist() == [0, 0, 128, 255, 255]
    assert to_bytes(np.array([7], np.uint8), 10.0).tolist() == [7]


@pytest.mark.parametrize(
    ("values", "full", "words"),
    [
        (np.array([0.5, np.nan]), None, "not a number"),
        (np.array([0.5, np.inf]), 1.0, "infinite"),
        (np.array([0.0, 1.01]), None, r"lie in 0\.\.1\.01; 0\.\.1.*data\.max_value"),
        (np.array([-0.1, 1.0]), None, r"lie in -0\.1"),
        (np.array([1, 2], np.int16), None, r"int16; uint8, uint16.*data\.max_value"),
        (np.array([1, 2], np.uint32), None, "uint32"),
        (np.array([1j]), 1.0, "complex128"),
    ],
)
def test_pixels_without_a_range_are_refused(values, full, words: str) -> None:
    with pytest.raises(UnreadableImage, match=words):
        to_bytes(values, full)


# --- .npy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 12])
def test_npy_of_both_layouts(channels: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, channels), dtype=np.uint8)
    assert np.array_equal(pixels(npy(picture), channels), picture)
    assert np.array_equal(pixels(npy(picture.transpose(2, 0, 1)), channels), picture)
    assert np.array_equal(pixels(npy(np.asfortranarray(picture)), channels), picture)


def test_npy_that_could_be_either_has_its_channels_last() -> None:
    cube = np.random.default_rng(0).integers(0, 256, (4, 5, 4), dtype=np.uint8)
    assert np.array_equal(pixels(npy(cube), 4), cube)


def test_grey_npy_is_grey() -> None:
    grey = colours()[:, :, 0]
    assert np.array_equal(pixels(npy(grey), 1)[:, :, 0], grey)
    assert np.array_equal(pixels(npy(grey), 3), np.repeat(grey[:, :, None], 3, axis=2))
    with pytest.raises(UnreadableImage, match="3 channels where 5 are expected"):
        decode(npy(grey), channels=5)


def test_npy_depths() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 5), dtype=np.uint8)
    assert np.array_equal(pixels(npy(picture.astype(np.uint16) * 257), 5), picture)
    assert np.array_equal(pixels(npy((picture / 255).astype(np.float32)), 5), picture)
    assert np.array_equal(pixels(npy(picture.astype(np.int16) * 10), 5, max_value=2550), picture)


def header(text: str) -> bytes:
    body = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (100000, 100000, 3), }"), "megapixels"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (9000, 8000, 64), }"), "megapixels"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (-4, 4, 3), }"), "no pixels|damaged"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (0, 4, 3), }"), "is no picture"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (4, 4, 3), }"), "of objects"),
        (header("{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (4, 4, 3), }"), "records"),
        (header("{'descr': '<U9', 'fortran_order': False, 'shape': (2, 2), }") + b"\0" * 200, "str288"),
        (header("exit()"), "damaged"),
        (header("(" * 3000), "damaged"),
        (npy(colours())[:-1], "ends before the array"),
        (npy(np.zeros(4, np.uint8)), r"shape \[4\] is no picture"),
        (npy(np.zeros((2, 3, 4, 5), np.uint8)), "is no picture"),
        (b"\x93NUMPY\x03\x00" + b"\0" * 20, "version"),
        (b"\x93NUMPY", "damaged"),
    ],
)
def test_hostile_npy_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(UnreadableImage, match=words):
        decode(data)


# --- TIFF -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [2, 4, 5, 12])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiffs_of_any_number_of_bands(channels: int, planar: str, compression: str | None) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 33, channels), dtype=np.uint8)
    stored = picture if planar == "contig" else picture.transpose(2, 0, 1)
    data = tiff(stored, photometric="minisblack", planarconfig=planar, compression=compression)
    assert np.array_equal(pixels(data, channels), picture)


@pytest.mark.parametrize("options", [{"tile": (16, 16)}, {"byteorder": ">"}, {"bigtiff": True}])
def test_other_ways_to_store_a_tiff(options) -> None:
    picture = np.random.default_rng(0).integers(0, 65536, (20, 33, 5), dtype=np.uint16)
    data = tiff(picture, photometric="minisblack", planarconfig="contig", **options)
    assert np.array_equal(pixels(data, 5), picture >> 8)


def test_pages_that_are_alike_are_bands() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 20, 33), dtype=np.uint8)
    data = tiff(picture, photometric="minisblack")
    assert np.array_equal(decode(data, channels=6).numpy(), picture)
    with pytest.raises(UnreadableImage, match="1 channels where 5 are expected"):
        decode(data, channels=5)
    assert np.array_equal(decode(data, channels=1)[0].numpy(), picture[0])  # the first of several frames


@pytest.mark.parametrize("full", [None, 9.0])
def test_another_number_of_bands_is_named(full: float | None) -> None:
    data = tiff(np.ones((9, 9, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    for channels in (1, 3, 4):
        with pytest.raises(UnreadableImage, match=f"5 channels where {channels} are expected"):
            decode(data, channels=channels, max_value=full)


def test_tiffs_of_depths_that_pillow_refuses() -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8)
    floats = (values / 255).astype(np.float32)
    assert np.array_equal(pixels(tiff(floats, photometric="rgb"), 3), values)
    grey = pixels(tiff(floats[:, :, 0]), 3)
    assert np.array_equal(grey, np.repeat(values[:, :, :1], 3, axis=2))
    assert np.array_equal(pixels(tiff(floats[:, :, 0]), 1)[:, :, 0], values[:, :, 0])
    signed = tiff(values.astype(np.int32) * 1000, photometric="rgb")
    with pytest.raises(UnreadableImage, match=r"int32.*data\.max_value"):
        decode(signed)
    assert np.array_equal(pixels(signed, 3, max_value=255_000), values)


def test_max_value_reaches_sixteen_bits_and_leaves_eight_alone() -> None:
    values = colours(1)
    for array in (values, values[:, :, 0]):
        wanted = array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2)
        deep = array.astype(np.uint16) * 40
        assert np.array_equal(pixels(tiff(deep), 3, max_value=255 * 40), wanted)
        assert np.array_equal(pixels(tiff(array), 3, max_value=7), wanted)
    palette = Image.fromarray(values).quantize(9)
    data = encode(palette, "TIFF")
    assert np.array_equal(pixels(data, 3, max_value=7), pixels(data, 3))


def test_white_is_zero_in_bands_too() -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    data = tiff(values, photometric="miniswhite")
    assert np.array_equal(pixels(data, 1)[:, :, 0], 255 - to_bytes(values))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_bands_is_that_of_pillow(orientation: int) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (5, 7, 5), dtype=np.uint8)
    tag = [(274, "H", 1, orientation, True)]
    data = tiff(stored, photometric="minisblack", planarconfig="contig", extratags=tag)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for band in range(5):
        plain = encode(Image.fromarray(stored[:, :, band]), "TIFF", exif=exif)
        assert np.array_equal(pixels(data, 5)[:, :, band], pixels(plain, 1)[:, :, 0])


def test_too_large_a_tiff_is_refused_before_it_is_decoded() -> None:
    data = tiff(np.zeros((100, 100, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    with pytest.raises(UnreadableImage, match="100 x 100 pixels of 5 bands, more than"):
        decode(data, channels=5, max_pixels=9_999)


def test_few_pixels_of_many_deep_bands_can_be_too_large() -> None:
    bomb = np.zeros((600, 600, 64))
    deep = tiff(bomb, photometric="minisblack", planarconfig="contig", compression="zlib")
    assert len(deep) < 1_000_000
    with pytest.raises(UnreadableImage, match="600 x 600 pixels of 64 bands, more than"):
        decode(deep, channels=64, max_pixels=600 * 600)


def test_a_truncated_tiff_is_refused() -> None:
    """tifffile alone would fill in zeros."""
    data = tiff(np.ones((100, 100, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    with pytest.raises(UnreadableImage, match="ends before the picture"):
        decode(data[:-100], channels=5)


def test_a_compression_that_needs_more_says_so() -> None:
    """The name of LZW is written over that of deflate: nothing here can read it."""
    data = tiff(
        np.ones((9, 9, 5), np.uint8), photometric="minisblack", compression="zlib", planarconfig="contig"
    )
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages.first.tags["Compression"].valueoffset
    data = data[:place] + (5).to_bytes(2, "little") + data[place + 2 :]
    with pytest.raises(
        UnreadableImage, match=r"LZW needs the package imagecodecs.*graft-ml\[tiff\]|damaged"
    ):
        decode(data, channels=5)


FUZZ = settings(max_examples=150, suppress_health_check=list(HealthCheck), derandomize=True)
BASES = [
    npy(colours()),
    npy((colours() / 255).astype(np.float32)),
    tiff(np.ones((9, 9, 5), np.uint16), photometric="minisblack", planarconfig="contig"),
    tiff(np.ones((5, 9, 9), np.float32), photometric="minisblack", compression="zlib"),
    tiff(np.ones((5, 32, 32), np.uint8), photometric="minisblack", planarconfig="separate", tile=(16, 16)),
]


@FUZZ
@given(data=st.data(), channels=st.sampled_from([1, 3, 5]), full=st.sampled_from([None, 9.0]))
def test_damaged_files_raise_only_our_error(data: st.DataObject, channels: int, full) -> None:
    base = data.draw(st.sampled_from(BASES))
    damaged = bytearray(base)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(len(damaged) // 2, len(damaged)))]
    try:
        picture = decode(bytes(damaged), max_pixels=100_000, channels=channels, max_value=full)
    except UnreadableImage as error:
        assert error.reason
        assert "\n" not in error.reason
    else:
        assert picture.shape[0] == channels


def test_the_users_own_log_of_tifffile_is_left_alone(caplog) -> None:
    data = tiff(np.ones((9, 9, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    decode(data, channels=5)
    with caplog.at_level(logging.INFO, "tifffile"):
        logging.getLogger("tifffile").warning("of somebody else")
    assert "of somebody else" in caplog.text


def test_folders_of_bands_are_read(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for label in ("crow", "owl"):
        (tmp_path / label).mkdir()
        for number in range(4):
            picture = generator.integers(0, 10_000, (8, 8, 5), dtype=np.uint16)
            if number % 2:
                np.save(tmp_path / label / f"{number}.npy", picture)
            else:
                data = tiff(picture, photometric="minisblack", planarconfig="contig")
                (tmp_path / label / f"{number}.tif").write_bytes(data)
    splits = read_splits(tmp_path, DataSettings(channels=5, max_value=10_000, validation=0))
    assert len(splits.train) == 8
    assert splits.problems == ()
    assert splits.train.max_value == splits.train.select([1]).max_value == 10_000


def test_truth_values_are_black_and_white() -> None:
    mask = np.array([[True, False]])
    assert to_bytes(mask).tolist() == to_bytes(mask, 1.0).tolist() == [[255, 0]]
    assert to_levels(mask).depth is None
