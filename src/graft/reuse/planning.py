"""Where a phase can be split, and how many views of a picture its store has room for."""

from __future__ import annotations

import math

from graft.backbones.contract import Backbone, Encoding
from graft.data.items import Items
from graft.data.texts import Texts
from graft.options import Frozen
from graft.reuse.split import find_split

REPEATS = 5  # epochs for each view that is kept: more views are nearer to new ones in every epoch


class Reuse(Frozen):
    """A phase computes what lies below the stage ``above`` once, and keeps it.

    ``place``: the number of stages below. ``above``: the first stage that runs in every step; "head" where
    all stages are below. ``row_bytes``: what is kept of one view of a picture, or of a text, about.
    """

    place: int
    above: str
    row_bytes: int


def find_reuse(backbone: Backbone, frozen: int, items: Items) -> Reuse | None:
    """The highest place to split with at most ``frozen`` stages below; None where there is none.

    ``items``: texts among them say how long rows are.
    """
    if frozen == len(backbone.stages):
        return Reuse(place=frozen, above="head", row_bytes=4 * backbone.feature_dim)
    split = find_split(backbone, frozen)
    if split is None:
        return None
    row = split.row
    if isinstance(backbone.preprocess, Encoding):
        row = (math.ceil(Texts(items, backbone.preprocess).lengths.mean()), *row[1:])
    return Reuse(place=split.place, above=split.above, row_bytes=4 * math.prod(row))


def views_for(epochs: int, items: int, row_bytes: int, room: int) -> int:
    """How many views to keep of each picture: a fifth as many as epochs, as far as they fit; 0: none do."""
    return min(math.ceil(epochs / REPEATS), room // max(1, items * row_bytes))
