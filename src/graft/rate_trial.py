"""Which rate suits the data, by trying: a short training at each on four fifths of the labels.

The rest measures. What the features show beforehand does not tell a domain where the body should move
fast from one where it should not, as long as the two are neither near nor far (see
benchmarks/results/study.md); a hundred and fifty steps do.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from graft.backbones.contract import Backbone
from graft.data.dataset import Pictures
from graft.data.items import Items, Splits
from graft.data.validation import split_off
from graft.errors import TrainingError
from graft.evidence import Evidence
from graft.inference import forward_all
from graft.numerics import resolve_device
from graft.plan import make_plan
from graft.recipe import Recipe
from graft.schedule import steps_in_epoch
from graft.seeds import mix
from graft.training import fit

STEPS, SHARE, MOST_ITEMS = 150, 0.2, 500  # of a trial; held out to measure on, and no more than


def try_rates(
    recipe: Recipe, backbone: Backbone, splits: Splits, evidence: Evidence, rates: Sequence[float]
) -> dict[float, float]:
    """The loss (nats) on held-out training items after a short training at each of ``rates``.

    A rate at which training diverges is left out.
    """
    kept, held, _ = split_off(splits.train, splits.task.labels, SHARE, mix(recipe.seed, "rate trial"))
    batch_size = recipe.train.batch_size
    seen = _sample(splits.train.select(kept), STEPS * batch_size, recipe.seed)  # one epoch of them at most
    part = replace(splits, train=seen, val=None, test=None)
    measured = _sample(splits.train.select(held), MOST_ITEMS, recipe.seed)
    epochs = math.ceil(STEPS / steps_in_epoch(len(seen), batch_size))
    found = {}
    for rate in rates:
        with contextlib.suppress(TrainingError):
            loss = _loss_after(_with_rate(recipe, rate, epochs), backbone, part, evidence, measured)
            if math.isfinite(loss):
                found[rate] = loss
    return found


def _with_rate(recipe: Recipe, rate: float, epochs: int) -> Recipe:
    """The recipe for a trial: what it says of single phases, and of a warm-up, is of the whole length."""
    train = recipe.train.model_copy(update={"lr": rate, "warmup": 0.1})
    return recipe.model_copy(update={"train": train, "epochs": epochs, "phase": {}})


def _loss_after(
    recipe: Recipe, backbone: Backbone, splits: Splits, evidence: Evidence, measured: Items
) -> float:
    plan = make_plan(recipe, backbone, splits, evidence)
    trained = fit(backbone, splits, plan)
    device = resolve_device(plan.numerics.device)
    logits = forward_all(trained.model, Pictures(measured, backbone.preprocess), device)
    assert measured.targets is not None
    return float(splits.task.losses(logits, torch.from_numpy(measured.targets)).mean())


def _sample(items: Items, most: int, seed: int) -> Items:
    order = np.random.default_rng(mix(seed, "rate trial items")).permutation(len(items))
    return items.select(sorted(order[:most].tolist()))
