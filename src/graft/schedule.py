"""The course of a phase, as pure functions: which items when, and at which share of the peak rate."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np

from graft.seeds import mix

T = TypeVar("T")

# One cycle begins at a 25th of the peak and ends at nothing (Smith, 2018; Smith & Topin, 2019), while
# the momentum goes the other way.
CYCLE_START = 1 / 25
CYCLE_MOMENTUM = (0.95, 0.85)


def steps_in_epoch(items: int, batch_size: int) -> int:
    """Optimiser steps that see every item once.

    A batch of one where larger ones were asked for, which only an odd number of items in batches of two
    leaves over, is merged into another: batch-norm may have no statistics of one item.
    """
    if batch_size == 2:
        return max(1, items // 2)
    return max(1, math.ceil(items / batch_size))


def count_parts(share: int, batch_size: int, *, accumulate: int, processes: int) -> int:
    """The parts that a process cuts its ``share`` of a batch into.

    As many as asked, but fewer where one would hold a single item and the batch size leaves room for two.
    """
    fewest = min(2, batch_size // (accumulate * processes))
    return min(accumulate, max(1, share // max(1, fewest)))


def epoch_order(items: int, *, seed: int, epoch: int) -> list[int]:
    """Every item once, shuffled as a function of (seed, epoch)."""
    order: list[int] = np.random.default_rng(mix(seed, "epoch", epoch)).permutation(items).tolist()
    return order


def cut_batches(order: Sequence[T], batch_size: int) -> list[list[T]]:
    """``order`` in batches of nearly equal size.

    No small last batch is left over (20 items in batches of 8 become 7 + 7 + 6), so none is dropped
    and none weighs more than its neighbours. None is of one item, unless ``batch_size`` is (or there is
    no other item).
    """
    count = steps_in_epoch(len(order), batch_size)
    small, larger = divmod(len(order), count)
    ends = [place * small + min(place, larger) for place in range(count + 1)]
    return [list(order[start:end]) for start, end in pairwise(ends)]


def parse_warmup(value: float | str) -> tuple[float, str]:
    """A warm-up as (amount, unit): unit is "share", "epochs" or "steps".

    >>> parse_warmup(0.1), parse_warmup("2 epochs"), parse_warmup("5 %")
    ((0.1, 'share'), (2.0, 'epochs'), (0.05, 'share'))

    Raises:
        ValueError: not of this form, below zero, or a share that is the whole phase or more.
    """
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(%|epochs?|steps?|)\s*", value)
        if found is None:
            raise ValueError("a share as 0.1, or epochs or steps as '2 epochs' was expected")
        amount, unit = float(found[1]), found[2].rstrip("s")
        if unit in ("epoch", "step"):
            return amount, f"{unit}s"
        value = amount / 100 if unit == "%" else amount
    if not 0 <= value < 1:
        raise ValueError("as a share of the phase it must lie in [0, 1); or write '2 epochs'")
    return float(value), "share"


def count_warmup(value: float | str, *, epochs: int, per_epoch: int) -> int:
    """The steps of a warm-up in a phase of ``epochs``.

    Raises:
        ValueError: it takes the whole phase or more, so that no step would run at the full rate.
    """
    amount, unit = parse_warmup(value)
    total = epochs * per_epoch
    if unit == "share":
        return min(round(amount * total), total - 1)
    steps = round(amount * per_epoch) if unit == "epochs" else round(amount)
    if steps >= total:
        raise ValueError(f"the phase has {epochs} epochs ({total} steps); a shorter warm-up was expected")
    return steps


def rate_factor(
    step: int,
    *,
    steps: int,
    warmup: int,
    schedule: str,
    drop_every: int = 1,
    drop_factor: float = 0.1,
) -> float:
    """Share of the peak rate at ``step`` (0-based) of ``steps``: warm-up, then the schedule.

    ``cosine`` (Loshchilov & Hutter, 2017) and ``linear`` fall from 1 to 0; ``step`` falls by
    ``drop_factor`` every ``drop_every`` steps; ``constant`` stays. The warm-up is linear, but in
    ``one-cycle`` it rises as a cosine from a 25th.
    """
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "one-cycle":
        if step < warmup:
            return _cosine(CYCLE_START, 1.0, step / warmup)
        return _cosine(1.0, 0.0, done)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "cosine":
        return _cosine(1.0, 0.0, done)
    if schedule == "linear":
        return 1.0 - done
    if schedule == "step":
        return float(drop_factor ** (step // drop_every))
    return 1.0


def cycle_momentum(step: int, *, steps: int, warmup: int) -> float:
    """Momentum (Adam's first beta) in a one-cycle schedule: falls while the rate rises, and back."""
    high, low = CYCLE_MOMENTUM
    if step < warmup:
        return _cosine(high, low, step / warmup)
    return _cosine(low, high, (step - warmup) / max(1, steps - warmup))


def geometric_rates(lowest: float, top: float, count: int) -> list[float]:
    """``count`` rates from ``lowest`` to ``top``, each a constant factor above the one below.

    One stage alone gets ``top``.
    """
    if count == 1:
        return [top]
    ratio = top / lowest
    return [lowest * ratio ** (index / (count - 1)) for index in range(count)]


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * done))
