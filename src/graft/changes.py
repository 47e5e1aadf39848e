"""Which layers changed: weights, batch-norm statistics, and what the network makes of the same items.

Three looks at each stage of a network before and after training: how far its weights moved, in shares of
their own length; how far its batch-norm statistics moved, in deviations; and whether its outcome is still
the same, up to a turn and a scale (CKA, Kornblith et al., 2019). A stage whose weights moved little can
compute something new, because what lies below it changed, so that the last look says most.

Shapes: N items, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from graft.backbones.contract import Stage
from graft.options import Frozen

STILL, NEW = 0.98, 0.7  # CKA above which an outcome is what it was, and below which it is another
FEWEST = 4  # items of which the unbiased estimate of CKA is defined


class StageChange(Frozen):
    """What became of one stage.

    ``weights``: the length of the difference by the length before. ``largest``: the same of the one
    parameter that moved most. ``shift``: by how many deviations the batch-norms' means moved, the mean over
    channels; ``spread``: how many times as large their deviations became, the geometric mean (both None
    where there are none). ``similarity``: CKA of the outcome on the same items, 1 where it is what it was;
    None where it was not looked at.
    """

    stage: str
    parameters: int
    weights: float
    largest: str | None = None
    shift: float | None = None
    spread: float | None = None
    similarity: float | None = None


def compare_values(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    stages: Iterable[Stage],
    similarities: Mapping[str, float] | None = None,
) -> tuple[StageChange, ...]:
    """What became of each stage, from the values of two networks by name; lowest stage first.

    Names that only one of them has, or in another shape, are passed over.
    """
    return tuple(
        _compare(stage, before, after, (similarities or {}).get(stage.name))
        for stage in stages
        if any(_both(name, before, after) for name in stage.parameters)
    )


def group_by_name(names: Iterable[str]) -> tuple[Stage, ...]:
    """Stages by the first part of parameters' names, in their order: of values with no network around."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.partition(".")[0], []).append(name)
    ends = ("running_mean", "running_var")
    return tuple(
        Stage(
            name=stage,
            parameters=tuple(each for each in own if not each.endswith((*ends, "num_batches_tracked"))),
            modules=tuple(dict.fromkeys(each.rpartition(".")[0] for each in own if each.endswith(ends))),
        )
        for stage, own in found.items()
    )


def linear_cka(one: Tensor, two: Tensor) -> float:
    """How alike two sets of features of the same items are: [N, D], [N, E] -> about 0 to 1.

    Linear centred kernel alignment with the unbiased estimate of HSIC (Song et al., 2012; Nguyen et al.,
    2021), which does not rise with the number of features. 1 where one is the other turned and scaled; nan
    where a set does not vary, or N is less than 4.
    """
    if len(one) < FEWEST:
        return math.nan
    first, second = (_gram(each.double()) for each in (one, two))
    own = float(_hsic(first, first)) * float(_hsic(second, second))
    return float(_hsic(first, second)) / math.sqrt(own) if own > 0 else math.nan


def summarise(changes: Sequence[StageChange]) -> str:
    """What the numbers say, in a sentence or two."""
    moved = [each for each in changes if each.weights > 0]
    if not moved:
        return "No weight of the backbone changed: what it computes is what it was."
    most, least = max(moved, key=lambda each: each.weights), min(moved, key=lambda each: each.weights)
    text = f"{most.stage} moved most, by {100 * most.weights:.2g} % of the length of its weights"
    if least is not most:
        text += f", {most.weights / least.weights:.3g} times as far as {least.stage}, which moved least"
    frozen = [each.stage for each in changes if each.weights == 0]
    if frozen:
        text += f"; {', '.join(frozen)} did not move"
    return ". ".join([text, *_outcomes(changes)]) + "."


def _outcomes(changes: Sequence[StageChange]) -> list[str]:
    seen = [each for each in changes if each.similarity is not None]
    if not seen:
        return []
    new = next((each for each in seen if (each.similarity or 0) < NEW), None)
    still = [each.stage for each in seen if (each.similarity or 0) >= STILL]
    lines = []
    if len(still) == len(seen):
        lines.append("Every stage computes nearly what it did (CKA of 0.98 or more)")
    elif still:
        lines.append(f"Up to {still[-1]} nearly the same is computed as before")
    if new is not None:
        lines.append(f"From {new.stage} on the features are others (CKA {new.similarity:.2f})")
    return lines


def _compare(
    stage: Stage, before: Mapping[str, Tensor], after: Mapping[str, Tensor], similarity: float | None
) -> StageChange:
    names = [name for name in stage.parameters if _both(name, before, after)]
    moves = {name: float((after[name].double() - before[name].double()).norm()) for name in names}
    lengths = {name: float(before[name].double().norm()) for name in names}
    shares = {name: move / lengths[name] if lengths[name] else 0.0 for name, move in moves.items()}
    moved, length = math.hypot(*moves.values()), math.hypot(*lengths.values())
    shift, spread = _statistics(stage, before, after)
    return StageChange(
        stage=stage.name,
        parameters=sum(before[name].numel() for name in names),
        weights=moved / length if length else 0.0,
        largest=max(shares, key=shares.__getitem__) if moved else None,
        shift=shift,
        spread=spread,
        similarity=None if similarity is None or math.isnan(similarity) else similarity,
    )


def _statistics(
    stage: Stage, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> tuple[float | None, float | None]:
    """How far the batch-norms' means moved, and how many times their deviations grew."""
    norms = [
        module
        for module in stage.modules
        if all(_both(f"{module}.{what}", before, after) for what in ("running_mean", "running_var"))
    ]
    if not norms:
        return None, None
    means, olds, news = (
        torch.cat([values[f"{norm}.{what}"].double() for norm in norms])
        for values, what in ((before, "running_mean"), (before, "running_var"), (after, "running_var"))
    )
    moved = torch.cat([after[f"{norm}.running_mean"].double() for norm in norms]) - means
    tiny = torch.finfo(torch.float32).tiny
    shift = float((moved.abs() / olds.clamp_min(tiny).sqrt()).mean())
    ratio = float((news.clamp_min(tiny) / olds.clamp_min(tiny)).log().mean() / 2)
    return shift, math.exp(ratio)


def _both(name: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    return name in before and name in after and before[name].shape == after[name].shape


def _gram(features: Tensor) -> Tensor:
    """Products of centred rows, with zeros for those of a row with itself."""
    centred = features - features.mean(0)
    found = centred @ centred.T
    return found.fill_diagonal_(0)


def _hsic(one: Tensor, two: Tensor) -> Tensor:
    """The unbiased estimate of HSIC, from two matrices [N, N] with zeros on the diagonal."""
    n = len(one)
    whole = (one * two).sum() + one.sum() * two.sum() / ((n - 1) * (n - 2))
    cross = (one.sum(0) * two.sum(0)).sum() * 2 / (n - 2)
    return (whole - cross) / (n * (n - 3))
