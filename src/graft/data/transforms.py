"""From a decoded picture to the network's input: the one path of evaluation, prediction and export.

Resizing is that of torchvision's own weight presets on uint8 tensors (through float, rounded back to uint8,
antialiased), bit for bit: the newer v2 kernels differ from it by up to 1 level (bilinear) or 26 (bicubic,
on noise), and depend on the processor.

Shapes: K channels, height H, width W of the picture; h, w of the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as plain

from graft.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from graft.backbones.contract import Preprocess

_LONGEST = 20  # times the shorter side


def preprocess(picture: Tensor, how: Preprocess, *, whole: tuple[int, int] | None = None) -> Tensor:
    """Resize, centre-crop, scale and normalise: uint8 [K, H, W] -> float32 [K, h, w].

    A picture that is smaller than the crop after resizing is padded with zeros (black), as by
    torchvision. One that is more than 20 times as long as wide is cut to that about its centre
    first, so that resizing its shorter side cannot exhaust the memory. ``whole``: height and width before
    the picture was reduced, by which it is cut as the whole one would be (see image.decode_reduced).

    Raises:
        DataError: the picture has another number of channels than the network takes.
    """
    check_picture(picture, how)
    cut = plain.center_crop(_resize(picture, how, whole), list(how.size))
    return normalise(plain.convert_image_dtype(cut, torch.float32), how)


def check_picture(picture: Tensor, how: Preprocess) -> None:
    """Raises DataError where it is not uint8 [K, H, W], or has other channels than the network takes."""
    if picture.dtype != torch.uint8 or picture.ndim != 3:
        raise DataError(
            f"A picture of type {picture.dtype} and shape {list(picture.shape)} cannot be "
            "preprocessed; uint8 [K, H, W] as from graft.data.image.decode was expected."
        )
    if picture.shape[0] != how.channels:
        raise DataError(
            f"The picture has {picture.shape[0]} channels, the network takes {how.channels}; "
            "decode it with channels=Preprocess.channels."
        )


def normalise(values: Tensor, how: Preprocess) -> Tensor:
    """float32 [..., K, h, w] in [0, 1] less the mean, by the deviation of the pretraining; in place."""
    normal: Tensor = plain.normalize(values, mean=list(how.mean), std=list(how.std), inplace=True)
    return normal


def interpolation(how: Preprocess) -> InterpolationMode:
    """Of resizing."""
    return InterpolationMode(how.interpolation)


def _resize(picture: Tensor, how: Preprocess, whole: tuple[int, int] | None) -> Tensor:
    if how.resize is None:
        return picture
    if isinstance(how.resize, int):
        sides = picture.shape[-2:] if whole is None else whole
        picture, shorter = _shortened(picture), min(sides)
        size = [int(how.resize * min(side, _LONGEST * shorter) / shorter) for side in sides]
    else:
        size = list(how.resize)
    resized: Tensor = plain.resize(picture, size, interpolation(how), antialias=True)
    return resized


def _shortened(picture: Tensor) -> Tensor:
    height, width = picture.shape[-2:]
    limit = _LONGEST * min(height, width)
    if max(height, width) <= limit:
        return picture
    cut: Tensor = plain.center_crop(picture, [min(height, limit), min(width, limit)])
    return cut
