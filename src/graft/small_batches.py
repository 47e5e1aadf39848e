"""Batches of a single item, of which batch-norm may have no statistics: refused before anything trains.

Batches are cut so that none is left over with one item (schedule.py). What is checked here is where the
batch size itself, its parts, or the share of one process come down to one. Where a batch-norm still has
several values a channel then, as in most stages of a convolutional network, nothing is refused.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from graft.backbones.contract import Backbone
from graft.backbones.truncation import is_within
from graft.batchnorm import running_norms
from graft.errors import RecipeError
from graft.schedule import count_parts, steps_in_epoch
from graft.steps import Train


def check_single_items(step: Train, backbone: Backbone, *, items: int, processes: int) -> None:
    """Refuse a phase whose batch-norms would meet one value a channel.

    Raises:
        RecipeError: statistics follow batches of one item, and a layer has one value a channel of it.
    """
    if not step.following or not meets_single_items(step, step.batch_size, items, processes):
        return
    leaves = [leaf for stage in backbone.stages if stage.name in step.following for leaf in stage.modules]
    starved = [
        name
        for name in single_valued(backbone)
        if any(is_within(leaf, name) for leaf in leaves)  # some hold their activation as a leaf
    ]
    if not starved:
        return
    least = 2 * step.accumulate * processes
    fitting = (
        size for size in range(least, items + 1) if not meets_single_items(step, size, items, processes)
    )
    size = next(fitting, None)
    other = "frozen" if backbone.source.pretrained else "adaptive"
    cures = [f"train.batchnorm={other}", *([f"train.batch_size={size}"] if size else [])]
    raise RecipeError(
        f"train.batchnorm = 'train' in phase {step.name!r}: with {items} training items and "
        f"train.batch_size = {step.batch_size} (train.accumulate = {step.accumulate}, processes: "
        f"{processes}) a batch-norm meets a single item, and {starved[0]} then has one value a channel, "
        f"which has no variance. Set {' or '.join(cures)}."
    )


def meets_single_items(step: Train, batch_size: int, items: int, processes: int) -> bool:
    """Whether some item passes the network alone in training."""
    share = items // steps_in_epoch(items, batch_size) // processes
    parts = count_parts(share, batch_size, accumulate=step.accumulate, processes=processes)
    return share // parts <= 1


def single_valued(backbone: Backbone) -> list[str]:
    """Names of the batch-norms that have one value a channel of one item."""
    found: list[str] = []
    trunk = copy.deepcopy(backbone.trunk).eval()
    norms = set(running_norms(trunk))

    def watch(name: str, module: nn.Module) -> None:
        def look(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            if given[0].numel() == given[0].shape[1]:
                found.append(name)

        module.register_forward_pre_hook(look)

    for name, module in trunk.named_modules():
        if module in norms:
            watch(name, module)
    with torch.inference_mode():
        trunk(backbone.preprocess.noise(1))
    return found
