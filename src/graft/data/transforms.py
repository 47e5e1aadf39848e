"""From a decoded picture to the network's input: preprocessing, and random changes for training.

``preprocess`` is the only path of evaluation, prediction, export and serving; ``augment`` is the
same with randomness in front, a function of its seed alone. Resizing is that of torchvision's own
weight presets on uint8 tensors (through float, rounded back to uint8, antialiased), bit for bit:
the newer v2 kernels differ from it by up to 1 level (bilinear) or 26 (bicubic, on noise), and
depend on the processor.

Shapes: K channels, height H, width W of the picture; h, w of the input.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as plain

from graft.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from graft.backbones.contract import Preprocess

Preset: TypeAlias = Literal["none", "light", "standard", "aggressive"]

DRAWN: dict[Preset, int] = {"none": 0, "light": 1, "standard": 2, "aggressive": 1}
"""Another number whenever a seed draws another view than before: what is stored rests on it."""
_LONGEST = 20  # times the shorter side
_LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float32)
_SIXTHS = torch.tensor(
    [[5.0], [3.0], [1.0]], dtype=torch.float32
)  # where red, green and blue stand on the circle of hues
_one_at_a_time = threading.Lock()  # the CPU generator is borrowed, and there is only one


def preprocess(picture: Tensor, how: Preprocess, *, whole: tuple[int, int] | None = None) -> Tensor:
    """Resize, centre-crop, scale and normalise: uint8 [K, H, W] -> float32 [K, h, w].

    A picture that is smaller than the crop after resizing is padded with zeros (black), as by
    torchvision. One that is more than 20 times as long as wide is cut to that about its centre
    first, so that resizing its shorter side cannot exhaust the memory. ``whole``: height and width before
    the picture was reduced, by which it is cut as the whole one would be (see image.decode_reduced).

    Raises:
        DataError: the picture has another number of channels than the network takes.
    """
    _check_channels(picture, how)
    return _normalise(plain.center_crop(_resize(picture, how, whole), list(how.size)), how)


def augment(picture: Tensor, how: Preprocess, preset: Preset, seed: int, *, flip: bool = True) -> Tensor:
    """One random view, a function of ``seed`` alone: uint8 [K, H, W] -> float32 [K, h, w].

    ``none``: as ``preprocess``. ``light``: a random crop of 80-100 % of the area (of what the
    input's shape can show of the picture), and a horizontal flip. ``standard``: also rotation up to
    15°, a shift up to 10 %, and colour jitter. ``aggressive``: a crop of 35-100 %, flip,
    RandAugment, and erasing of a random rectangle. Without ``flip`` no view is mirrored.
    Colours are left alone where K is not 3. The global generator is left as it was.

    Raises:
        DataError: the picture has another number of channels than the network takes.
    """
    if preset == "none":
        return preprocess(picture, how)
    _check_channels(picture, how)
    least, change, finish = _build(how, preset, flip)
    with _one_at_a_time, torch.random.fork_rng(devices=[]):
        # torch.manual_seed would start or reseed CUDA, too
        torch.default_generator.manual_seed(seed)
        view: Tensor = finish(_normalise(change(_random_crop(picture, how, least)), how))
    return view


def _check_channels(picture: Tensor, how: Preprocess) -> None:
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


def _resize(picture: Tensor, how: Preprocess, whole: tuple[int, int] | None) -> Tensor:
    if how.resize is None:
        return picture
    if isinstance(how.resize, int):
        sides = picture.shape[-2:] if whole is None else whole
        picture, shorter = _shortened(picture), min(sides)
        size = [int(how.resize * min(side, _LONGEST * shorter) / shorter) for side in sides]
    else:
        size = list(how.resize)
    resized: Tensor = plain.resize(picture, size, _mode(how), antialias=True)
    return resized


def _shortened(picture: Tensor) -> Tensor:
    height, width = picture.shape[-2:]
    limit = _LONGEST * min(height, width)
    if max(height, width) <= limit:
        return picture
    cut: Tensor = plain.center_crop(picture, [min(height, limit), min(width, limit)])
    return cut


def _normalise(picture: Tensor, how: Preprocess) -> Tensor:
    scaled = plain.convert_image_dtype(picture, torch.float32)
    normal: Tensor = plain.normalize(scaled, mean=list(how.mean), std=list(how.std))
    return normal


def _mode(how: Preprocess) -> InterpolationMode:
    return InterpolationMode(how.interpolation)


@lru_cache(maxsize=64)
def _build(how: Preprocess, preset: Preset, flip: bool) -> tuple[float, v2.Transform, v2.Transform]:
    """The least area of the crop, what changes uint8 pixels, and what changes normalised ones."""
    mirror, nothing = v2.RandomHorizontalFlip(p=0.5 if flip else 0.0), v2.Identity()
    if preset == "light":
        return 0.8, mirror, nothing
    if preset == "standard":
        return 0.8, v2.Compose([mirror, *_standard(how)]), nothing
    if preset == "aggressive":
        return 0.35, v2.Compose([mirror, _strong(how)]), v2.RandomErasing(p=0.25)
    raise DataError(f"There is no augmentation {preset!r}; there are none, light, standard and aggressive.")


def _random_crop(picture: Tensor, how: Preprocess, least: float) -> Tensor:
    """A rectangle anywhere in the picture, resized to the input's size.

    Its area is ``least``-1 of the largest rectangle of the input's shape that fits, its shape up to
    a third wider or narrower. (torchvision measures the area against the whole picture: from a wide
    one no such rectangle can be cut, and it falls back to the same centre crop every time.)
    """
    height, width = picture.shape[-2:]
    scale = min(height / how.size[0], width / how.size[1])
    whole_h, whole_w = how.size[0] * scale, how.size[1] * scale
    area, shape, down, right = torch.rand(4, dtype=torch.float64).tolist()
    area = least + (1 - least) * area
    narrowest = max(3 / 4, area * (whole_h / height) ** 2)  # both bounds keep it inside
    widest = min(4 / 3, (width / whole_w) ** 2 / area)
    ratio = narrowest * (widest / narrowest) ** shape
    h = min(height, max(1, round(whole_h * math.sqrt(area / ratio))))
    w = min(width, max(1, round(whole_w * math.sqrt(area * ratio))))
    top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
    cut: Tensor = plain.resized_crop(picture, top, left, h, w, list(how.size), _mode(how), antialias=True)
    return cut


def _standard(how: Preprocess) -> list[v2.Transform]:
    move = v2.RandomAffine(
        degrees=15, translate=(0.1, 0.1), interpolation=InterpolationMode.BILINEAR, fill=_grey(how)
    )
    return [move] if how.channels != 3 else [move, _jitter]


def _jitter(picture: Tensor) -> Tensor:
    """Brightness, contrast and saturation of up to 20 % more or less, then hue turned by up to a tenth.

    uint8 [3, h, w] -> float32 in [0, 1]. The first three are one matrix on colours. torchvision's own makes
    a pass of each and rounds in between: 2.7 times as long on 64 x 64 pixels, where views take a good part
    of a small network's step.
    """
    bright, contrast, saturation, turn = torch.rand(4, dtype=torch.float64).tolist()
    bright, contrast, saturation = (0.8 + 0.4 * each for each in (bright, contrast, saturation))
    colours = plain.convert_image_dtype(picture, torch.float32).flatten(1)
    grey = float(_LUMA @ colours.mean(1))
    matrix = bright * contrast * (1 - saturation) * _LUMA.expand(3, 3)
    matrix.diagonal().add_(bright * contrast * saturation)
    changed = torch.addmm(colours.new_tensor(bright * (1 - contrast) * grey), matrix, colours).clamp_(0, 1)
    return _turn_hue(changed, 0.6 - 1.2 * turn).view_as(picture)


def _turn_hue(colours: Tensor, by: float) -> Tensor:
    """[3, n] in RGB with the hue of the colour space HSV turned ``by`` sixths of the circle.

    A channel is the value less the chroma times a trapezium of the hue: Smith (1978), in one formula.
    """
    red, green, blue = colours
    (value, most), least = colours.max(0), colours.amin(0)
    chroma = value - least
    differences = torch.stack([green - blue, blue - red, red - green]).gather(0, most[None])[0]
    hue = differences / chroma.clamp_min(1e-12) + 2 * most + by
    place = (hue + _SIXTHS).remainder_(6)
    return value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)


def _strong(how: Preprocess) -> v2.Transform:
    """RandAugment; only its movements where channels are not colours."""
    if how.channels == 3:
        return v2.RandAugment(interpolation=InterpolationMode.BILINEAR, fill=_grey(how))
    return v2.RandomAffine(
        degrees=30,
        translate=(0.15, 0.15),
        shear=(-15, 15, -15, 15),
        interpolation=InterpolationMode.BILINEAR,
        fill=_grey(how),
    )


def _grey(how: Preprocess) -> list[float]:
    """What fills the corners: the mean colour, which is zero after normalisation."""
    return [float(round(255 * mean)) for mean in how.mean]
