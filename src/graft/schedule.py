"""The course of a phase, as pure functions: which items when, and at which share of the peak rate."""

from __future__ import annotations

import math

import numpy as np

from graft.seeds import mix


def steps_in_epoch(items: int, batch_size: int) -> int:
    """Optimiser steps that see every item once."""
    return max(1, math.ceil(items / batch_size))


def epoch_batches(items: int, batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Every item once, shuffled as a function of (seed, epoch), in batches of nearly equal size.

    No small last batch is left over (20 items in batches of 8 become 7 + 7 + 6), so none is dropped
    and none weighs more than its neighbours.
    """
    order = np.random.default_rng(mix(seed, "epoch", epoch)).permutation(items)
    return [part.tolist() for part in np.array_split(order, steps_in_epoch(items, batch_size))]


def rate_factor(step: int, *, steps: int, warmup: int, schedule: str) -> float:
    """Share of the peak rate at ``step`` (0-based) of ``steps``: linear warm-up, then the schedule.

    ``cosine`` falls from 1 to 0 (Loshchilov & Hutter, 2017); ``constant`` stays.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * done))


def geometric_rates(lowest: float, top: float, count: int) -> list[float]:
    """``count`` rates from ``lowest`` to ``top``, each a constant factor above the one below.

    One stage alone gets ``top``.
    """
    if count == 1:
        return [top]
    ratio = top / lowest
    return [lowest * ratio ** (index / (count - 1)) for index in range(count)]
