"""Items as batches of a network's inputs, whatever they are."""

from __future__ import annotations

from typing import TypeAlias

from graft.backbones.contract import Encoding, Intake
from graft.data.dataset import Pictures
from graft.data.items import Items
from graft.data.random_views import Augmentation
from graft.data.texts import Texts

Inputs: TypeAlias = Pictures | Texts
"""``batches`` gives tensors; ``order``, ``cut`` and ``groups`` say which items go together."""


def open_inputs(
    items: Items,
    intake: Intake,
    preset: Augmentation = "none",
    *,
    seed: int = 0,
    flip: bool = True,
    keep: bool = True,
) -> Inputs:
    """Items as ``intake`` makes inputs of them; the other arguments are those of ``Pictures``."""
    if isinstance(intake, Encoding):
        return Texts(items, intake)
    return Pictures(items, intake, preset, seed, flip, keep)
