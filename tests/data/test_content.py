"""What is hashed is what is decoded, whatever happens to the files in between."""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_pictures import colours, small_tree, write_tree
from PIL import Image

from graft.backbones.contract import Preprocess
from graft.data import read_splits
from graft.data.content import read_content, read_picture
from graft.data.dataset import Pictures
from graft.data.image import decode
from graft.data.items import Items
from graft.data.pixels import PixelStore
from graft.data.statistics import channel_statistics
from graft.errors import DataError
from graft.recipe import DataSettings
from graft.reuse.states import Lower, States
from graft.reuse.store import Store

WHOLE = DataSettings(validation=0)
HOW = Preprocess(size=(8, 8), resize=None)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(colours(seed)).save(file, "PNG")
    return file.getvalue()


def in_files(folder: Path) -> Items:
    return read_splits(write_tree(folder / "photos", small_tree(each=3)), WHOLE).train


def mapped(folder: Path) -> Items:
    np.save(folder / "pixels.npy", np.stack([colours(seed) for seed in range(6)]))
    return read_splits((np.load(folder / "pixels.npy", mmap_mode="r+"), [0, 1] * 3), WHOLE).train


def change_file(items: Items, number: int) -> None:
    Path(str(items.sources[number])).write_bytes(png(77))


def change_pixels(items: Items, number: int) -> None:
    items.sources[number][0, 0] += 1  # type: ignore[index, operator]


@pytest.mark.odd_input("Feature cache")
@pytest.mark.parametrize("make, change", [(in_files, change_file), (mapped, change_pixels)])
def test_what_changed_since_the_scan_is_refused(
    tmp_path: Path, make: Callable[[Path], Items], change: Callable[[Items, int], None]
) -> None:
    """A picture that changes after it was scanned, in its file or in a memory-mapped array: the run stops
    and names it, so that no feature is kept under the content of another picture.
    """
    items = make(tmp_path)
    read_picture(items, 4, channels=3)
    change(items, 4)
    for read in (
        lambda: read_picture(items, 4, channels=3),
        lambda: Pictures(items, HOW)[4],
        lambda: channel_statistics(items, 3),
    ):
        with pytest.raises(DataError, match=f"{items.ids[4]} has changed since the data was scanned"):
            read()


def test_a_text_is_what_was_scanned_whatever_becomes_of_its_table(tmp_path: Path) -> None:
    table = tmp_path / "reviews.csv"
    table.write_text("text,label\ngood,a\nbad,b\nfine,a\nawful,b\n")
    items = read_splits(table, WHOLE, modality="text").train
    table.write_text("text,label\nother,a\nthings,b\nare,a\nhere,b\n")
    assert [str(source) for source in items.sources] == ["good", "bad", "fine", "awful"]
    assert list(items.digests) == [source.digest for source in items.sources]  # type: ignore[union-attr]


def test_content_is_ours_alone() -> None:
    array = colours(1)
    for source in (array, torch.from_numpy(array).permute(2, 0, 1)):
        content, digest = read_content(source, max_pixels=100)
        array[0, 0] ^= 1
        assert read_content(content, max_pixels=100)[1] == digest
        assert read_content(source, max_pixels=100)[1] != digest


@pytest.mark.parametrize("name", ["file", "bytes", "array", "tensor", "image"])
def test_other_pixels_have_another_digest(tmp_path: Path, name: str) -> None:
    def source(seed: int) -> Any:
        array = colours(seed)
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
        return {
            "file": tmp_path / f"{seed}.png",
            "bytes": png(seed),
            "array": array,
            "tensor": torch.from_numpy(array).permute(2, 0, 1),
            "image": Image.fromarray(array),
        }[name]

    digests = [read_content(source(seed), max_pixels=100)[1] for seed in (1, 2, 1)]
    assert digests[0] == digests[2] != digests[1]


def test_a_pil_image_is_more_than_its_values() -> None:
    """The same indices with other colours, or turned, are other pictures."""
    plain = Image.fromarray(colours(1)[:, :, 0])
    red, blue, turned = (plain.copy() for _ in range(3))
    red.putpalette([255, 0, 0] * 256)
    blue.putpalette([0, 0, 255] * 256)
    turned.getexif()[0x0112] = 6
    digests = {read_content(each, max_pixels=100)[1] for each in (plain, red, blue, turned)}
    assert len(digests) == 4


def test_a_pil_image_of_twelve_bits_stays_one() -> None:
    """Pillow forgets the depth of a file once its pixels are loaded."""
    with Image.open(io.BytesIO(twelve_bits([0, 1000, 2000, 4095]))) as picture:
        first = decode(picture)
        assert first[0].tolist() == [[0, 1000 >> 4, 2000 >> 4, 255]]
        digest = read_content(picture, max_pixels=100)[1]
        assert torch.equal(decode(picture), first)
        assert read_content(picture, max_pixels=100)[1] == digest


@pytest.mark.parametrize("dtype", ["u1", ">u2", "f2", "?", "c8", "M8[D]", "U2"])
@pytest.mark.parametrize("shape", [(4, 6, 3), (0, 3), (2, 0, 1)])
def test_digests_are_of_the_values_in_their_order(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    turned = np.asfortranarray(values)
    digests = [read_content(each, max_pixels=100)[1] for each in (values, turned, values[:, ::-1])]
    whole = (*shape, 1)[:3]
    head = f"{'x'.join(map(str, whole))} {values.dtype.str} :".encode()
    assert digests[0] == digests[1] == hashlib.sha256(head + values.tobytes()).hexdigest()
    assert values.size == 0 or dtype == "?" or digests[2] != digests[0]


def test_a_pil_image_is_copied_with_what_decides_its_pixels() -> None:
    """So that it may change after its digest was taken: its depth and its orientation are copied too."""
    with Image.open(io.BytesIO(twelve_bits([0, 1000, 2000, 4095]))) as deep:
        turned = Image.fromarray(colours(1))
        turned.getexif()[0x0112] = 6
        for picture in (deep, turned):
            content, digest = read_content(picture, max_pixels=100)
            before = decode(picture)
            picture.putpixel((0, 0), 7 if picture is deep else (1, 2, 3))
            assert torch.equal(decode(content), before)
            assert read_content(content, max_pixels=100)[1] == digest
            assert read_content(picture, max_pixels=100)[1] != digest


def twelve_bits(values: list[int]) -> bytes:
    """A TIFF of one row of grey pixels of 12 bits, two of them in three bytes."""
    pairs = zip(values[::2], values[1::2], strict=True)
    pixels = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)
    tags = {256: len(values), 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(pixels)}
    head = struct.pack("<2sHI", b"II", 42, 8 + len(pixels))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return head + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


@given(
    st.lists(st.tuples(st.sampled_from(["change", "restore", "read"]), st.integers(0, 5)), max_size=12),
    st.booleans(),
)
@settings(max_examples=30)
def test_nothing_false_enters_the_cache(events: list[tuple[str, int]], keep: bool) -> None:
    """Files change and are restored at any moment: what is read is of the content as it was scanned."""
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        folder = Path(place)
        patch.setattr("graft.data.dataset.pixel_store", PixelStore(10**6 if keep else 0))
        items = in_files(folder)
        paths = [Path(str(source)) for source in items.sources]
        before = [path.read_bytes() for path in paths]
        right = torch.stack([Pictures(items, HOW)[number][0] for number in range(6)]).mean((2, 3))
        lower = Lower(lambda pictures: pictures.mean((2, 3)), torch.device("cpu"), batch=2)
        space = Store(folder / "store").space({"test": 1}, {})
        states = States(Pictures(items, HOW), lower, space)
        for event, number in events:
            if event == "change":
                paths[number].write_bytes(png(50 + number))
            elif event == "restore":
                paths[number].write_bytes(before[number])
            else:
                with contextlib.suppress(DataError):
                    ((found, _, numbers),) = states.batches([[number, (number + 1) % 6]])
                    assert torch.allclose(found, right[numbers], atol=1e-6)
        for path, content in zip(paths, before, strict=True):
            path.write_bytes(content)
        fresh = States(Pictures(items, HOW), lower, Store(folder / "store").space({"test": 1}, {}))
        ((found, _, _),) = fresh.batches([list(range(6))])
        assert torch.allclose(found, right, atol=1e-6)
