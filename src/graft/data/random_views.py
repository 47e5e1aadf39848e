"""Random views for training: a function of a picture and its seed, whatever is computed beside it.

What is random is drawn picture by picture, and the pixels are computed for several pictures at once: one by
one, the overhead of many small operations would take a third of a small network's step.

Shapes: N pictures, K channels, height H, width W of a picture; h, w of the input.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import torch
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as plain

from graft.data.hues import grey_of, hue_turned
from graft.data.own_views import own_view
from graft.data.transforms import normalise, preprocess, random_crop
from graft.errors import DataError, quote

if TYPE_CHECKING:
    from torch import Tensor

    from graft.backbones.contract import Preprocess

Preset: TypeAlias = Literal["none", "light", "standard", "aggressive"]
Augmentation: TypeAlias = "Preset | tuple[str, ...]"
"""A preset, or a list of changes as of :mod:`graft.augmentations`."""

DRAWN: dict[Preset, int] = {"none": 0, "light": 2, "standard": 3, "aggressive": 1}
"""Another number whenever a seed draws another view than before: what is stored rests on it."""
OWN_DRAWN = 1
"""The same of lists of one's own."""
LEAST: dict[Preset, float] = {"light": 0.8, "standard": 0.8, "aggressive": 0.35}
"""Share of the area that a crop shows at least."""
DEGREES, SHIFT = 15, 0.1  # to either side; the shift is a share of the side
JITTER, HUE = 0.2, 0.1  # more or less of brightness, contrast and saturation; of the circle of hues
AT_ONCE = 2**14  # pixels of the views of one computation: more would not stay in the processor's cache
_one_at_a_time = threading.Lock()  # the CPU generator is borrowed, and there is only one


class Draws(NamedTuple):
    """What is random in the views of N pictures: each column uniform in [0, 1)."""

    crop: Tensor
    """Area, shape, down, right: [N, 4]."""
    move: Tensor
    """Mirror, turn, right, down: [N, 4]."""
    colours: Tensor
    """Brightness, contrast, saturation, hue: [N, 4]."""


def augment(
    pictures: Iterable[Tensor],
    how: Preprocess,
    preset: Augmentation,
    seeds: Sequence[int],
    *,
    flip: bool = True,
) -> Tensor:
    """A random view of each picture, by its own seed: N times uint8 [K, H, W] -> float32 [N, K, h, w].

    ``none``: as ``preprocess``. ``light``: a random crop of 80-100 % of the area (of what the
    input's shape can show of the picture), and a horizontal flip. ``standard``: also rotation up to
    15°, a shift up to 10 %, and colour jitter. ``aggressive``: a crop of 35-100 %, flip,
    RandAugment, and erasing of a random rectangle. Without ``flip`` no view of a preset is mirrored.
    A list of changes: as ``own_view`` makes them. Colours are left alone where K is not 3. The global
    generator is left as it was.

    Raises:
        DataError: a picture has another number of channels than the network takes.
    """
    if preset == "none":
        return torch.stack([preprocess(picture, how) for picture in pictures])
    if isinstance(preset, tuple):
        each = zip(pictures, seeds, strict=True)
        return torch.stack([own_view(picture, how, preset, seed) for picture, seed in each])
    if preset not in LEAST:
        raise DataError(
            f"There is no augmentation {quote(preset)}; there are none, light, standard and aggressive."
        )
    if preset == "aggressive":
        each = zip(pictures, seeds, strict=True)
        return torch.stack([_strong_view(picture, how, seed, flip) for picture, seed in each])
    draws = _drawn(seeds)
    wanted = zip(pictures, draws.crop.tolist(), strict=True)
    crops = torch.stack(
        [random_crop(picture, how, (LEAST[preset], 1.0), drawn) for picture, drawn in wanted]
    )
    size = max(1, AT_ONCE // math.prod(how.size))
    parts = zip(crops.split(size), draws.move.split(size), draws.colours.split(size), strict=True)
    return torch.cat([_changed(*part, how, preset, flip) for part in parts])


def _drawn(seeds: Sequence[int]) -> Draws:
    generator = torch.Generator()
    rows = [torch.rand(12, dtype=torch.float64, generator=generator.manual_seed(seed)) for seed in seeds]
    return Draws(*torch.stack(rows).split(4, dim=1))


def _changed(
    crops: Tensor, move: Tensor, colours: Tensor, how: Preprocess, preset: Preset, flip: bool
) -> Tensor:
    """Views of the presets light and standard: uint8 [N, K, h, w] -> float32, normalised."""
    views = plain.convert_image_dtype(crops, torch.float32)
    mirrors = (move[:, 0] < 0.5) & flip
    if preset == "light":
        views[mirrors] = views[mirrors].flip(-1)
    else:
        views = _moved(views, move, mirrors, torch.tensor(how.mean))
        if how.channels == 3:
            views = _jittered(views, colours)
    return normalise(views, how)


def _moved(views: Tensor, draws: Tensor, mirrors: Tensor, fill: Tensor) -> Tensor:
    """Pictures [N, K, h, w], mirrored or not, then turned and shifted, all in one resampling.

    Each pixel is looked up where it comes from, bilinearly. ``draws``: as ``Draws.move``; ``fill`` [K] lies
    outside.
    """
    h, w = views.shape[-2:]
    _, turn, right, down = draws.float()[:, :, None, None].unbind(1)
    angle = math.radians(DEGREES) * (2 * turn - 1)
    x = torch.arange(w) - (w - 1) / 2 - SHIFT * w * (2 * right - 1)
    y = (torch.arange(h) - (h - 1) / 2)[:, None] - SHIFT * h * (2 * down - 1)
    side = torch.where(mirrors, -1, 1)[:, None, None]
    across = side * (x * angle.cos() + y * angle.sin()) * (2 / w)
    along = (y * angle.cos() - x * angle.sin()) * (2 / h)
    grid = torch.stack([across, along], dim=-1)
    fill = fill[:, None, None]  # zeros lie outside, so it is taken for zero meanwhile
    return F.grid_sample(views - fill, grid, align_corners=False).add_(fill)


def _jittered(views: Tensor, draws: Tensor) -> Tensor:
    """Brightness, contrast and saturation of up to 20 % more or less, then hue turned by up to a tenth.

    [N, 3, h, w] in [0, 1]; ``draws``: as ``Draws.colours``. The first three are one sum of the colour, its
    grey and the mean grey; torchvision makes a pass of each and rounds in between.
    """
    bright, contrast, saturation = (1 - JITTER + 2 * JITTER * draws[:, :3]).float().T[..., None]
    turn = (6 * HUE * (1 - 2 * draws[:, 3:])).float()
    colours = views.flatten(2)
    grey = grey_of(colours)
    mean = grey_of(colours.mean(2, keepdim=True))  # not of grey: a sum to one number is cut by threads
    shared = bright * (contrast * (1 - saturation) * grey + (1 - contrast) * mean)
    changed = torch.addcmul(shared[:, None], (bright * contrast * saturation)[:, None], colours)
    return hue_turned(changed.clamp_(0, 1), turn).view_as(views)


def _strong_view(picture: Tensor, how: Preprocess, seed: int, flip: bool) -> Tensor:
    """[K, h, w] of the preset aggressive: torchvision draws from the global generator."""
    change, erase = _strong(how, flip)
    with _one_at_a_time, torch.random.fork_rng(devices=[]):
        # torch.manual_seed would start or reseed CUDA, too
        torch.default_generator.manual_seed(seed)
        drawn = torch.rand(4, dtype=torch.float64).tolist()
        changed = change(random_crop(picture, how, (LEAST["aggressive"], 1.0), drawn))
        view: Tensor = erase(normalise(plain.convert_image_dtype(changed, torch.float32), how))
    return view


@lru_cache(maxsize=64)
def _strong(how: Preprocess, flip: bool) -> tuple[v2.Transform, v2.Transform]:
    """What changes uint8 pixels, and what changes normalised ones: no colours where there are none."""
    grey = [float(round(255 * mean)) for mean in how.mean]  # zero when normalised
    strong = (
        v2.RandAugment(interpolation=InterpolationMode.BILINEAR, fill=grey)
        if how.channels == 3
        else v2.RandomAffine(
            degrees=30,
            translate=(0.15, 0.15),
            shear=(-15, 15, -15, 15),
            interpolation=InterpolationMode.BILINEAR,
            fill=grey,
        )
    )
    mirror = v2.RandomHorizontalFlip(p=0.5 if flip else 0.0)
    return v2.Compose([mirror, strong]), v2.RandomErasing(p=0.25)
