"""A contrastive first stage: features of one label are drawn together, those of others apart.

Before the head is solved, and most useful where labels are few (SetFit, Tunstall et al., 2022): n labels
make n² pairs to learn from. Every pair of a batch counts, so a batch of 32 is 496 pairs.

Shapes: B items of a batch, D features, N items.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from graft.schedule import cut_batches
from graft.seeds import mix


def contrast_losses(features: Tensor, targets: Tensor) -> Tensor:
    """Squared distance of cosines [B] from 1 within a label and from 0 across: each item's mean, [B].

    ``features`` [B, D] and ``targets`` int64 [B]; an item alone in its batch has no loss.
    """
    unit = normalize(features.float(), dim=1)
    same = (targets[:, None] == targets[None]).to(unit)
    others = 1 - torch.eye(len(targets), device=unit.device)
    return ((unit @ unit.T - same).square() * others).sum(1) / max(1, len(targets) - 1)


def contrast_batches(
    targets: NDArray[np.integer[Any]], batch_size: int, *, seed: int, epoch: int
) -> list[list[int]]:
    """Items [N] in at most ``steps_in_epoch`` batches, in pairs of one label, by (seed, epoch).

    An item that is left over without a partner is left out of this epoch.
    """
    generator = np.random.default_rng(mix(seed, "contrast", epoch))
    by_label: dict[int, list[int]] = defaultdict(list)
    for item in generator.permutation(len(targets)).tolist():
        by_label[int(targets[item])].append(item)
    pairs = [
        items[start : start + 2] for items in by_label.values() for start in range(0, len(items) - 1, 2)
    ] or [[item] for item in range(len(targets))]  # a label each: all are others to each other
    shuffled = [pairs[place] for place in generator.permutation(len(pairs))]
    batches = cut_batches(shuffled, -(-batch_size // len(pairs[0])))
    return [[item for pair in batch for item in pair] for batch in batches]
