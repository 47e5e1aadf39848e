"""Preprocessing equals the library's own."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torchvision
from odd_pictures import noise, waves
from PIL import Image

from graft.backbones.contract import Preprocess
from graft.data.image import decode, decode_reduced
from graft.data.transforms import preprocess
from graft.errors import DataError

SMALL = Preprocess(size=(24, 24), resize=28)
SIZES = [(8, 8), (37, 91), (300, 420), (420, 40), (1, 5)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "name",
    [
        "ResNet50_Weights.IMAGENET1K_V1",
        "ResNet50_Weights.IMAGENET1K_V2",
        "EfficientNet_B0_Weights.IMAGENET1K_V1",  # bicubic
        "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1",  # bicubic, resized to the size of the crop
        "Inception_V3_Weights.IMAGENET1K_V1",
        "EfficientNet_V2_S_Weights.IMAGENET1K_V1",
    ],
)
def test_equals_torchvisions_own(name: str, size: tuple[int, int]) -> None:
    own = torchvision.models.get_weight(name).transforms()
    how = Preprocess(
        size=(own.crop_size[0], own.crop_size[0]),
        resize=own.resize_size[0],
        interpolation=own.interpolation.value,
        mean=tuple(own.mean),
        std=tuple(own.std),
    )
    picture = noise(3, *size)
    assert torch.equal(preprocess(picture, how), own(picture))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(60, 80), (150, 100), (20, 24)])
def test_close_to_timms_pillow_pipeline(interpolation: str, size: tuple[int, int]) -> None:
    from timm.data import create_transform

    array = waves(*size)
    own = create_transform((3, 48, 48), interpolation=interpolation, crop_pct=0.875)
    how = Preprocess(size=(48, 48), resize=54, interpolation=interpolation)
    found = preprocess(decode(array), how)
    levels = (found - own(Image.fromarray(array))).abs() * torch.tensor(how.std)[:, None, None]
    assert levels.max() * 255 < 1.5  # of 255: both round to 8 bits, Pillow after each direction


def test_pair_resizes_exactly_and_none_not_at_all() -> None:
    exact = preprocess(noise(3, 10, 30), Preprocess(size=(24, 24), resize=(24, 24)))
    assert exact.shape == (3, 24, 24)
    plain = Preprocess(size=(24, 24), resize=None, mean=(0.0,) * 3, std=(1.0,) * 3)
    picture = noise(3, 24, 24)
    assert torch.equal(preprocess(picture, plain), picture / 255)


def test_small_picture_is_padded_with_black() -> None:
    how = Preprocess(size=(8, 8), resize=None, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = preprocess(torch.full((3, 4, 4), 255, dtype=torch.uint8), how)
    assert found.sum() == 3 * 16
    assert found[:, 2:6, 2:6].min() == 1


def test_ribbon_does_not_exhaust_memory() -> None:
    ribbon = torch.full((3, 1, 200_000), 77, dtype=torch.uint8)  # 256 x 51 million if resized whole
    found = preprocess(ribbon, Preprocess(size=(224, 224), resize=256))
    assert found.shape == (3, 224, 224)
    assert len(found[0].unique()) == 1


@pytest.mark.parametrize("shape", [(1, 9, 9), (4, 9, 9)])
def test_wrong_channels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=f"has {shape[0]} channels, the network takes 3"):
        preprocess(noise(*shape), SMALL)


def test_float_picture_is_refused() -> None:
    with pytest.raises(DataError, match=r"float32.*uint8"):
        preprocess(torch.zeros(3, 9, 9), SMALL)


@pytest.mark.parametrize("quality", [60, 95])
@pytest.mark.parametrize("size", [(333, 500), (599, 799), (1025, 771), (2600, 120)])
def test_a_reduced_picture_is_cut_and_looks_like_the_whole_one(size: tuple[int, int], quality: int) -> None:
    """Sides that are no multiple of the factor would move the cut, were it not for the whole size."""
    buffer = io.BytesIO()
    y, x = np.mgrid[0 : size[0], 0 : size[1]] / min(size)
    grey = (100 * np.sin(9 * x) * np.cos(7 * y) + 128).astype(np.uint8)
    Image.fromarray(grey).save(buffer, "JPEG", quality=quality)
    how = Preprocess(size=(24, 24), resize=28)
    reduced, whole = decode_reduced(buffer.getvalue(), how.least_side)
    assert reduced.shape[-1] < size[1]
    levels = torch.tensor(how.std)[:, None, None] * 255
    differences = levels * (
        preprocess(reduced, how, whole=whole) - preprocess(decode(buffer.getvalue()), how)
    )
    assert differences.abs().mean() < 2
    assert differences.abs().max() < 16
