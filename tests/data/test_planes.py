"""Pages of TIFFs: channels are the bands of one picture, and what is left out is said."""

from __future__ import annotations

import io
import re
import struct
import unittest.mock

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_pictures import colours, encode
from PIL import Image

from graft.data.image import decode, examine
from graft.data.planes import Pages, _first_pixels, read_pages
from graft.data.unreadable import UnreadableImage

WRITERS = {"imagej": {"imagej": True}, "ome": {"ome": True}, "tifffile": {}}


def tiff(array: np.ndarray, axes: str, writer: str = "imagej", **options) -> bytes:
    file = io.BytesIO()
    metadata = {"axes": axes, **options.pop("metadata", {})}
    tifffile.imwrite(file, array, photometric="minisblack", metadata=metadata, **WRITERS[writer], **options)
    return file.getvalue()


def stack(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


@pytest.mark.odd_input("Pictures")
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("channels", [2, 3, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pages_that_are_called_channels_are_bands(writer: str, channels: int, dtype: type) -> None:
    """A TIFF whose pages ImageJ, OME or tifffile call channels: they are the bands of one picture.

    In every number, at every depth, 3 as well.
    """
    levels = stack(channels, 6, 9)
    values = {np.uint8: levels, np.uint16: levels * np.uint16(257), np.float32: levels / np.float32(255)}
    data = tiff(values[dtype], "CYX", writer)
    assert np.array_equal(decode(data, channels=channels).numpy(), levels)
    assert examine(data, channels=channels).pages == ""
    with pytest.raises(UnreadableImage, match=f"it has {channels} channels where 5 are expected"):
        decode(data, channels=5)


@pytest.mark.parametrize("mode", ["grayscale", "composite", "color"])
def test_three_channels_are_red_green_and_blue_whatever_imagejs_mode(mode: str) -> None:
    levels = stack(3, 6, 9)
    rgb = encode(Image.fromarray(levels.transpose(1, 2, 0).copy()), "PNG")
    data = tiff(levels, "CYX", metadata={"mode": mode})
    for channels in (1, 3):
        assert np.array_equal(decode(data, channels=channels), decode(rgb, channels=channels))


@pytest.mark.odd_input("Pictures")
@pytest.mark.parametrize(
    ("axes", "writer"),
    [("TZCYX", "imagej"), ("TZCYX", "ome"), ("CZYX", "ome"), ("TCYX", "ome"), ("CTZYX", "tifffile")],
)
def test_of_a_hyperstack_the_channels_of_its_first_slice_and_time_are_read(axes: str, writer: str) -> None:
    """A hyperstack with channels, slices and times: the channels of the first slice and time are read, and
    how many pages were left is said."""
    sizes = {"T": 2, "Z": 4, "C": 3, "Y": 6, "X": 9}
    values = stack(*(sizes[axis] for axis in axes))
    data = tiff(values, axes, writer)
    first = values[tuple(slice(None) if axis in "CYX" else 0 for axis in axes)]
    assert np.array_equal(decode(data).numpy(), first)
    pages = int(np.prod(values.shape[:-2]))
    assert examine(data).pages == f"3 of {pages} pages: the channels of the first slice and time"


@pytest.mark.odd_input("Pictures")
def test_of_another_stack_the_first_page_is_read_and_the_others_are_counted() -> None:
    """Slices, times, plain pages, or the frames of a GIF, PNG or WebP: the first is read, and how many
    there are is said."""
    values = stack(4, 6, 9)
    plain = io.BytesIO()
    tifffile.imwrite(plain, values, photometric="minisblack", metadata=None)
    slices = [tiff(values, "ZYX", "imagej"), tiff(values, "TYX", "ome"), plain.getvalue()]
    for data in slices:
        assert np.array_equal(decode(data, channels=1)[0], values[0])
        assert examine(data).pages == examine(data, channels=1).pages == "the first of 4 pages"
        assert examine(data, channels=4).pages == ""  # asked for, so nothing is left
    for kind in ("GIF", "PNG", "WEBP"):
        frames = [Image.fromarray(colours(seed)) for seed in range(3)]
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        assert examine(data).pages == "the first of 3 frames"
        assert examine(encode(frames[0], kind)).pages == ""


def test_an_mpo_is_one_picture() -> None:
    """Its other frames are the camera's own; a JPEG is opened once, and not again for its frames."""
    frames = [Image.fromarray(colours(seed, side=32)) for seed in range(2)]
    mpo = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    for data in (mpo, encode(frames[0], "JPEG")):
        with unittest.mock.patch("graft.data.image.Image.open", wraps=Image.open) as opened:
            assert examine(data).pages == ""
        assert opened.call_count == 1


def test_directories_that_overlap_end_the_list() -> None:
    """A file of 64 kB that names 1000 tags at every place costs no more than one of sound directories."""
    size = 2**16
    data = bytearray(struct.pack("<H", 1000) * (size // 2))
    data[:8] = b"II*\0" + struct.pack("<I", 8)
    for place in range(
        8, size // 2, 12
    ):  # each directory's tags end where the place of the next one stands
        data[place : place + 2] = struct.pack("<H", 1000)
        struct.pack_into("<I", data, place + 2 + 12 * 1000, place + 12)
    unpacked = unittest.mock.Mock(wraps=struct.unpack_from)
    with unittest.mock.patch("graft.data.planes.struct.unpack_from", unpacked):
        read_pages(bytes(data))
    assert unpacked.call_count < size // 12 + 1000


def test_of_a_description_only_the_first_pixels_are_parsed() -> None:
    text = '<OME><Image><Pixels SizeC="3"/></Image>' + "<Image/>" * 10**5
    assert _first_pixels(text) is not None  # though what follows is not even closed
    assert _first_pixels("<OME>" + "<a/>" * 10**5) is None


def test_channels_are_not_placed_without_end() -> None:
    parts = '<TiffData IFD="0" PlaneCount="99999"/>' * 999
    with pytest.raises(UnreadableImage, match="again and again"):
        read_pages(ome(f'<Pixels SizeC="99999">{parts}</Pixels>'))


def test_pages_with_or_without_a_value_for_full_are_the_same_pages() -> None:
    for axes in ("CYX", "ZYX"):
        data = tiff(stack(3, 6, 9, dtype=np.uint16), axes)
        by_depth, scaled = decode(data), decode(data, max_value=65535)
        assert (by_depth.int() - scaled.int()).abs().max() <= 1


def test_smaller_copies_and_masks_are_no_pages() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(colours(), photometric="rgb", metadata=None)
        writer.write(colours()[::2, ::2, 0], subfiletype=1, metadata=None)
        writer.write(colours()[:, :, 0] > 9, subfiletype=4, photometric="minisblack", metadata=None)
    assert read_pages(file.getvalue()) == Pages(1)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", "<>")
def test_every_form_of_directory_is_read(big: bool, order: str) -> None:
    writer = "tifffile" if big else "imagej"
    data = tiff(stack(3, 6, 9), "CYX", writer, bigtiff=big, byteorder=order)
    assert read_pages(data) == Pages(3, (0, 1, 2))


def ome(body: str, pages: int = 6) -> bytes:
    """A TIFF of some pages with a handwritten OME description."""
    file = io.BytesIO()
    text = f'<?xml version="1.0"?><OME><Image ID="Image:0">{body}</Image></OME>'
    tifffile.imwrite(file, stack(pages, 6, 9), photometric="minisblack", metadata=None, description=text)
    return file.getvalue()


SIZES = 'SizeC="3" SizeZ="2" SizeT="1"'


@pytest.mark.parametrize(
    ("body", "channels"),
    [
        (f'<Pixels DimensionOrder="XYCZT" {SIZES}><TiffData/></Pixels>', (0, 1, 2)),
        (f'<Pixels DimensionOrder="XYZCT" {SIZES}/>', (0, 2, 4)),
        (
            f'<Pixels DimensionOrder="XYZCT" {SIZES}><TiffData FirstC="2" IFD="0"/>'
            '<TiffData FirstC="1" IFD="1" PlaneCount="1"/><TiffData IFD="5"/></Pixels>',
            (5, 1, 0),
        ),
        ('<Pixels SizeC="6"><Channel SamplesPerPixel="3"/><Channel SamplesPerPixel="3"/></Pixels>', (0, 1)),
        ('<Pixels SizeC="3"><Channel SamplesPerPixel="3"/></Pixels>', ()),
        ('<Pixels SizeC="no"/>', ()),
        ("<Pixels>", ()),
    ],
)
def test_ome_says_which_page_is_which_channel(body: str, channels: tuple[int, ...]) -> None:
    assert read_pages(ome(body)) == Pages(6, channels)


@pytest.mark.odd_input("Pictures")
def test_channels_that_are_not_there_are_refused() -> None:
    """A TIFF whose description names channels in other files, or more than it has pages: it is refused, and
    no other file is opened."""
    files = "".join(f'<TiffData FirstC="{n}"><UUID FileName="{n}.tif"/></TiffData>' for n in range(3))
    with pytest.raises(UnreadableImage, match="lie in 3 files"):
        decode(ome(f'<Pixels SizeC="3">{files}</Pixels>'))
    with pytest.raises(UnreadableImage, match=r"names 9 channels, and it has 6 page"):
        decode(ome('<Pixels SizeC="9"/>'), channels=9)


def test_entities_of_a_description_are_not_resolved() -> None:
    data = ome('<Pixels SizeC="3"/>')
    assert read_pages(data).channels
    bomb = data.replace(b'<?xml version="1.0"?>', b"<!DOCTYPE OME>       ")
    assert read_pages(bomb) == Pages(6)


WHOLE = [tiff(stack(3, 6, 9), "CYX", writer) for writer in WRITERS]


@settings(max_examples=150, deadline=None)
@given(changes=st.data(), whole=st.sampled_from(WHOLE))
def test_damaged_descriptions_raise_only_our_error(changes: st.DataObject, whole: bytes) -> None:
    damaged = bytearray(whole)
    numbers = [match.start() for match in re.finditer(rb"[0-9]", damaged[:2000])]
    for _ in range(changes.draw(st.integers(1, 6))):
        place = changes.draw(st.sampled_from(numbers) | st.integers(0, len(damaged) - 1))
        damaged[place] = changes.draw(st.integers(0, 255))
    try:
        assert decode(bytes(damaged)).shape[0] == 3
        examine(bytes(damaged))
    except UnreadableImage as error:
        assert error.reason
