"""Arithmetic on whole sets of weights: running average, interpolation, average of several.

Only floating-point values are averaged; counters (such as batch-norm's number of batches) are those of
the newer set. All functions leave their arguments alone but ``update_average``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

Weights = Mapping[str, Tensor]


def update_average(average: dict[str, Tensor], weights: Weights, decay: float, step: int) -> None:
    """One step of an exponential moving average, in place.

    The decay rises with ``step`` (from 1) up to ``decay``, as min(decay, (1 + step) / (10 + step)), so
    that the random start of a short training is soon forgotten.
    """
    kept = min(decay, (1 + step) / (10 + step))
    for name, value in weights.items():
        if value.is_floating_point():
            average[name].lerp_(value.detach().to(average[name]), 1 - kept)
        else:
            average[name].copy_(value)


def interpolate(start: Weights, end: Weights, share: float) -> dict[str, Tensor]:
    """``share`` of ``end`` and the rest of ``start``, name by name (WiSE-FT, Wortsman et al., 2022)."""
    return {
        name: start[name].lerp(value, share) if value.is_floating_point() else value.clone()
        for name, value in end.items()
    }


def average(sets: Sequence[Weights]) -> dict[str, Tensor]:
    """The plain mean of several sets of weights with the same names."""
    first = sets[0]
    return {
        name: sum((each[name] for each in sets[1:]), start=value.clone()) / len(sets)
        if value.is_floating_point()
        else value.clone()
        for name, value in first.items()
    }
