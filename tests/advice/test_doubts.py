"""When not to transfer: said by what the recipe sets, and by what the pictures are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.advice.doubts import list_doubts
from graft.data import read_splits
from graft.data.items import Splits
from graft.recipe import DataSettings
from small import TINY, make_tiny

WIDE = replace(TINY, size=(64, 64))


def said(splits: Splits, **intake: object) -> str:
    backbone = make_tiny()
    return " ".join(
        list_doubts(replace(backbone, preprocess=replace(WIDE, **intake)), splits, None, "similar")
    )


def folder_of(folder: Path, side: int, mode: str, pages: int = 1) -> Splits:
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
        file = folder / "ab"[number % 2] / f"{number}.tif"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(pixels).convert(mode)
        picture.save(file, save_all=True, append_images=[picture] * (pages - 1))
    return read_splits(str(folder), DataSettings(validation=0.0), seed=0)


def test_the_recipe_is_doubted(tmp_path: Path) -> None:
    plain = folder_of(tmp_path, 48, "RGB")
    assert said(plain) == ""
    assert "One channel" in said(plain, mean=(0.5,) * 1, std=(0.25,) * 1)
    assert "6 channels: " in said(plain, mean=(0.5,) * 6, std=(0.25,) * 6)
    assert "slices of a volume" in said(plain, mean=(0.5,) * 32, std=(0.25,) * 32)
    assert "Pictures of 28 pixels" in said(plain, size=(28, 28))


@pytest.mark.odd_input("Building blocks and advice")
@pytest.mark.parametrize(
    ("side", "mode", "pages", "expected"),
    [(48, "L", 1, "Most pictures have one channel"), (48, "RGB", 3, "several pages, as volumes do"),
     (28, "RGB", 1, "Most pictures have 28 pixels or fewer")],
)  # fmt: skip
def test_the_pictures_are_doubted(tmp_path: Path, side: int, mode: str, pages: int, expected: str) -> None:
    """Grey, tiny or many-paged pictures: `advise` says why transfer may be the wrong tool for them."""
    assert expected in said(folder_of(tmp_path, side, mode, pages))
