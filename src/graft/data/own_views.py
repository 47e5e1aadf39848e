"""Random views by a list of one's own: a function of a picture and its seed.

See :mod:`graft.augmentations` for how such a list is written.

Shapes: K channels, height H, width W of a picture; h, w of the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as plain

from graft.augmentations import Change, parse_changes
from graft.data.hues import grey_of, hue_turned
from graft.data.transforms import fitted, normalise, random_crop

if TYPE_CHECKING:
    from torch import Tensor

    from graft.backbones.contract import Preprocess

DRAWS = 4  # numbers that each change has for itself, so that none moves those of another
OF_COLOURS = ("saturation", "hue", "grey")
ERASED, NARROWEST = (0.02, 0.33), 0.3  # share of the area, and of width to height


def own_view(picture: Tensor, how: Preprocess, changes: tuple[str, ...], seed: int) -> Tensor:
    """One view of uint8 [K, H, W], as the list says: float32 [K, h, w], normalised.

    The crop comes first, and without one the picture is cut as in evaluation; then what the list has, in
    its order. What is of colours leaves pictures alone whose K is not 3.
    """
    wanted = _parsed(changes)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(len(wanted), DRAWS, dtype=torch.float64, generator=generator).tolist()
    if wanted[0].name == "crop":
        cut = random_crop(picture, how, (wanted[0].amount, wanted[0].most), draws[0])
    else:
        cut = fitted(picture, how)
    view = plain.convert_image_dtype(cut, torch.float32)
    for change, drawn in zip(wanted, draws, strict=True):
        if change.name in CHANGES and (how.channels == 3 or change.name not in OF_COLOURS):
            view = CHANGES[change.name](view, change.amount, drawn, how)
    return normalise(view, how)


@lru_cache(maxsize=64)
def _parsed(changes: tuple[str, ...]) -> tuple[Change, ...]:
    return parse_changes(changes)


def _flip(view: Tensor, chance: float, drawn: Sequence[float], _: Preprocess) -> Tensor:
    return view.flip(-1) if drawn[0] < chance else view


def _vflip(view: Tensor, chance: float, drawn: Sequence[float], _: Preprocess) -> Tensor:
    return view.flip(-2) if drawn[0] < chance else view


def _rotate(view: Tensor, degrees: float, drawn: Sequence[float], how: Preprocess) -> Tensor:
    return _moved(view, degrees * (2 * drawn[0] - 1), 0.0, 0.0, how)


def _shift(view: Tensor, share: float, drawn: Sequence[float], how: Preprocess) -> Tensor:
    right, down = (share * (2 * each - 1) for each in drawn[:2])
    return _moved(view, 0.0, right * view.shape[-1], down * view.shape[-2], how)


def _moved(view: Tensor, angle: float, right: float, down: float, how: Preprocess) -> Tensor:
    moved: Tensor = plain.affine(
        view,
        angle,
        [round(right), round(down)],
        scale=1.0,
        shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
        fill=list(how.mean),
    )
    return moved


def _brightness(view: Tensor, share: float, drawn: Sequence[float], _: Preprocess) -> Tensor:
    return (view * _factor(share, drawn)).clamp_(0, 1)


def _contrast(view: Tensor, share: float, drawn: Sequence[float], _: Preprocess) -> Tensor:
    mean = view.mean(-1).mean(-1).mean()  # by rows: a sum of everything at once is cut by threads
    return (mean + (view - mean) * _factor(share, drawn)).clamp_(0, 1)


def _saturation(view: Tensor, share: float, drawn: Sequence[float], _: Preprocess) -> Tensor:
    grey = _grey_of(view)
    return (grey + (view - grey) * _factor(share, drawn)).clamp_(0, 1)


def _hue(view: Tensor, share: float, drawn: Sequence[float], _: Preprocess) -> Tensor:
    turn = torch.tensor([[6 * share * (2 * drawn[0] - 1)]])
    return hue_turned(view.flatten(1)[None], turn).view_as(view)


def _grey(view: Tensor, chance: float, drawn: Sequence[float], _: Preprocess) -> Tensor:
    return _grey_of(view).expand_as(view).clone() if drawn[0] < chance else view


def _erase(view: Tensor, chance: float, drawn: Sequence[float], how: Preprocess) -> Tensor:
    """A rectangle with the mean of the pretraining, which is zero when normalised."""
    if drawn[0] >= chance:
        return view
    least, most = ERASED
    h, w = view.shape[-2:]
    area = (least + (most - least) * drawn[1]) * h * w
    narrow = NARROWEST ** (2 * drawn[2] - 1)
    tall, wide = (min(side, max(1, round(length))) for side, length in
                  ((h, math.sqrt(area * narrow)), (w, math.sqrt(area / narrow))))  # fmt: skip
    top = int(drawn[3] * (h - tall + 1))
    left = int((drawn[3] * 997 % 1) * (w - wide + 1))  # digits of it that the row does not depend on
    view = view.clone()
    view[:, top : top + tall, left : left + wide] = torch.tensor(how.mean)[:, None, None]
    return view


def _factor(share: float, drawn: Sequence[float]) -> float:
    return 1 + share * (2 * drawn[0] - 1)


def _grey_of(view: Tensor) -> Tensor:
    """[3, h, w] -> [1, h, w]."""
    return grey_of(view.flatten(1)[None]).view(1, *view.shape[1:])


CHANGES: dict[str, Callable[[Tensor, float, Sequence[float], Preprocess], Tensor]] = {
    "flip": _flip,
    "vflip": _vflip,
    "rotate": _rotate,
    "shift": _shift,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
    "grey": _grey,
    "erase": _erase,
}
