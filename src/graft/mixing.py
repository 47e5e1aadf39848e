"""MixUp and CutMix: two pictures of a batch made into one, and their labels with them.

Both are functions of the batch and torch's generator (which the loop seeds for every step). The
pictures that meet are neighbours in the batch, whose order is random.

Shapes: B pictures, K channels, h, w; C classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mix_batch(pictures: Tensor, targets: Tensor, *, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Mix each picture [B, K, h, w] with the one before it, and the labels [B, C] alike.

    Where both strengths are given, a coin decides for the whole batch. The shares are drawn from
    Beta(a, a): MixUp (Zhang et al., 2018) blends all pixels, CutMix (Yun et al., 2019) pastes a
    rectangle, and labels follow the share of pixels that is there in the end.
    """
    if not mixup and not cutmix:
        return pictures, targets
    use_cutmix = bool(cutmix) and (not mixup or bool(torch.rand(()) < 0.5))
    share = _draw_beta(cutmix if use_cutmix else mixup)
    others, their_targets = pictures.roll(1, 0), targets.roll(1, 0)
    if use_cutmix:
        pictures, share = _paste(pictures, others, share)
    else:
        pictures = share * pictures + (1 - share) * others
    return pictures, share * targets + (1 - share) * their_targets


def main_labels(targets: Tensor, *, several: bool) -> Tensor:
    """The labels of the larger part of each mixed item: of shares [B, C], int64 [B].

    ``several``: of items with several labels, bool [B, C].
    """
    return targets >= 0.5 if several else targets.argmax(dim=-1)


def _draw_beta(strength: float) -> float:
    """A share of Beta(strength, strength); NumPy and torch's own Beta would not follow the seed alike."""
    one, two = torch._standard_gamma(torch.full((2,), strength, dtype=torch.float64)).tolist()
    return 0.5 if one + two == 0 else float(one / (one + two))


def _paste(pictures: Tensor, others: Tensor, share: float) -> tuple[Tensor, float]:
    """A rectangle of ``others`` with 1 - ``share`` of the area, anywhere; and the share that is left."""
    height, width = pictures.shape[-2:]
    side = math.sqrt(1 - share)
    middle_y, middle_x = (float(value) for value in torch.rand(2))
    top, bottom = _cut(middle_y, side, height)
    left, right = _cut(middle_x, side, width)
    mixed = pictures.clone()
    mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _cut(middle: float, side: float, length: int) -> tuple[int, int]:
    """Where a rectangle begins and ends, cut off at the picture's edge."""
    start, end = round((middle - side / 2) * length), round((middle + side / 2) * length)
    return max(0, start), min(length, end)
