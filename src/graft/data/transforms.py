"""From a decoded picture to the network's input: the one path of evaluation, prediction and export.

Resizing is that of torchvision's own weight presets on uint8 tensors (through float, rounded back to uint8,
antialiased), bit for bit: the newer v2 kernels differ from it by up to 1 level (bilinear) or 26 (bicubic,
on noise), and depend on the processor.

Shapes: K channels, height H, width W of the picture; h, w of the input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    cut = fitted(picture, how, whole=whole)
    return normalise(plain.convert_image_dtype(cut, torch.float32), how)


def fitted(picture: Tensor, how: Preprocess, *, whole: tuple[int, int] | None = None) -> Tensor:
    """Resized and cut to the input's size, in the values of the picture: uint8 [K, H, W] -> [K, h, w].

    Raises:
        DataError: as :func:`preprocess`.
    """
    check_picture(picture, how)
    cut: Tensor = plain.center_crop(_resize(picture, how, whole), list(how.size))
    return cut


def random_crop(
    picture: Tensor, how: Preprocess, area: tuple[float, float], drawn: Sequence[float]
) -> Tensor:
    """A rectangle anywhere in the picture, resized to the input's size; ``drawn``: four numbers in [0, 1).

    Its area is between the two shares ``area`` of the largest rectangle of the input's shape that fits,
    its shape up to a third wider or narrower. (torchvision measures the area against the whole picture:
    from a wide one no such rectangle can be cut, and it falls back to the same centre crop every time.)
    """
    check_picture(picture, how)
    height, width = picture.shape[-2:]
    scale = min(height / how.size[0], width / how.size[1])
    whole_h, whole_w = how.size[0] * scale, how.size[1] * scale
    (least, most), (share, shape, down, right) = area, drawn
    covered = least + (most - least) * share
    narrowest = max(3 / 4, covered * (whole_h / height) ** 2)  # both bounds keep it inside
    widest = min(4 / 3, (width / whole_w) ** 2 / covered)
    ratio = narrowest * (widest / narrowest) ** shape
    h = min(height, max(1, round(whole_h * math.sqrt(covered / ratio))))
    w = min(width, max(1, round(whole_w * math.sqrt(covered * ratio))))
    top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
    cut: Tensor = plain.resized_crop(
        picture, top, left, h, w, list(how.size), interpolation(how), antialias=True
    )
    return cut


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
