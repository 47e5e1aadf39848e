"""Mean and deviation of each channel over the training data.

The statistics that pretrained weights bring are those of red, green and blue. Of other channels (infrared,
depth, four fluorescences) they say nothing, and the data's own take their place.

Shapes: N items, K channels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from graft.data.content import read_picture
from graft.data.threads import read_in_threads
from graft.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graft.backbones.contract import Preprocess
    from graft.data.items import Items
    from graft.recipe import DataSettings

_LEVELS = np.arange(256) / 255


def prepare_for(preprocess: Preprocess, items: Items, settings: DataSettings) -> Preprocess:
    """``preprocess`` as it is for training on ``items``: with the data's statistics where asked for.

    ``settings.statistics``: "data" takes those of ``items``, "weights" leaves them, "auto" takes the
    data's where there are not three channels. How ``items`` were read goes along, so that whoever predicts
    later reads pictures in the same way.

    Raises:
        DataError: a picture can no longer be read.
    """
    preprocess = replace(preprocess, max_value=items.max_value, background=items.background)
    asked = settings.statistics
    if asked == "weights" or (asked == "auto" and preprocess.channels == 3):
        return preprocess
    return with_statistics(preprocess, *channel_statistics(items, preprocess.channels))


def with_statistics(preprocess: Preprocess, mean: tuple[float, ...], std: tuple[float, ...]) -> Preprocess:
    """``preprocess`` with another mean and deviation a channel, on the scale 0-1.

    Raises:
        ValueError: not one of each for every channel, or a deviation that is not above zero.
    """
    if len(mean) != preprocess.channels or len(std) != preprocess.channels or not all(s > 0 for s in std):
        raise ValueError(f"mean {mean} and std {std} for {preprocess.channels} channels")
    return replace(preprocess, mean=tuple(mean), std=tuple(std))


def channel_statistics(items: Items, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel over all pixels of all pictures, on the scale 0-1.

    Exact, whatever the order: pixels are counted by their level. Pictures count by their size. A
    channel that never varies gets the deviation 1, for there is nothing to scale.

    Raises:
        DataError: a picture can no longer be read, has changed since it was scanned, or there are none.
    """
    if not len(items):
        raise DataError("There are no training pictures to take mean and deviation from.")
    counts = np.zeros((channels, 256), dtype=np.int64)
    for found in read_in_threads(lambda number: _levels(items, number, channels), range(len(items))):
        counts += found
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ _LEVELS
    deviation = np.sqrt((share * (_LEVELS - mean[:, None]) ** 2).sum(axis=1))
    constant = (counts > 0).sum(axis=1) == 1
    return tuple(mean.tolist()), tuple(np.where(constant, 1.0, deviation).tolist())


def _levels(items: Items, number: int, channels: int) -> NDArray[np.int64]:
    """How many pixels of one picture have each of the 256 levels, [K, 256]."""
    pixels = read_picture(items, number, channels=channels).pixels.numpy()
    return np.stack([np.bincount(band.ravel(), minlength=256) for band in pixels])
