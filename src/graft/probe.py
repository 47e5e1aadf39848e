"""The linear head, solved to its optimum on frozen features.

Multinomial logistic regression with an L2 penalty (of a multi-label task: one logistic regression a
label) on standardised features; the strength of the penalty is chosen by stratified cross-validation along
a warm-started path from strong to weak, then the head is solved once more on all items (the protocol of
Kornblith et al., 2019). The standardisation is folded into the head, which then works on plain features.

All folds are solved side by side, on features turned to their principal axes (see regression.py). The mean
and deviation are those of all items, held-out ones included: the mean decides nothing, for the bias is
free, and the deviation of a feature barely depends on the fold. No label of a held-out item is seen.

Shapes: N items, D features, C classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from graft.folds import assign_folds
from graft.regression import Axes, Regression, Truth, in_folds, parts_of
from graft.steps import STRENGTHS

SMALL = 20_000_000  # multiplications of one pass below which one thread is quicker than two
NO_BETTER_IN_A_ROW = 3  # weaker penalties tried in vain before the path is given up,
NO_BETTER_BELOW = 1 / 30  # and the share of the best one that must have been tried
WORTH = 1e-3  # nats: less gain than this does not justify a weaker penalty
# Nats of the mean loss to which a head is solved: while penalties are compared, and the one that is kept.
ROUGH, FINE = 5e-5, 1e-9


@dataclass(frozen=True)
class Solution:
    """A solved head, and what the cross-validation said of it.

    ``path``: (strength, out-of-fold loss, out-of-fold score) of every strength that was tried. Losses
    are in nats, weighted as the training loss is; the score is accuracy, or the macro mean average
    precision of a multi-label task. Both are of items that the fold did not see, and None where nothing
    could be held out.
    """

    weight: Tensor  # [C, D], float32
    bias: Tensor  # [C], float32
    strength: float
    loss: float | None
    score: float | None
    path: tuple[tuple[float, float, float], ...]


def solve_head(
    features: Tensor,
    targets: NDArray[np.integer[Any]],
    classes: int,
    *,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 5,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
    device: torch.device | None = None,
) -> Solution:
    """The best linear head on ``features`` [N, D] for class indices [N], or zeros and ones [N, C].

    ``strengths`` are L2 strengths on the mean loss (scikit-learn's C is 1 / (N * strength)). Items
    of one ``group`` (identical files) are never on both sides of a fold. ``class_weights`` [C] multiply
    the loss of items of a class; of a multi-label task, what counts of the items that have the label.
    ``weights`` [N] multiply the loss of an item. Neither is divided by its sum. A label that every item
    has, or none, gets no weights and a bias of the odds that this leaves open. A GPU named as ``device``
    does the work; the solution is on the CPU.

    Raises:
        ValueError: no features, not finite ones, shapes that do not belong together, or weights that
            are negative or not finite.
    """
    fits = features.ndim == 2 and features.numel() > 0 and len(features) == len(targets)
    if not fits or not all(torch.isfinite(part).all() for _, part in parts_of(features)):
        raise ValueError(f"features {tuple(features.shape)} for {len(targets)} targets, or not finite")
    truth = Truth.of(targets, classes, class_weights, weights)
    # The loss of a multi-label path is a mean over labels, each of which is a problem of its own.
    worth = WORTH / classes if truth.multi_label else WORTH
    with _threads_for(features.numel() * classes):
        axes = Axes.of(features.to(device) if device is not None and device.type == "cuda" else features)
        ordered = sorted(set(strengths), reverse=True)
        fold_of = assign_folds(targets, folds, seed=seed, groups=groups)
        path, start = _cross_validate(axes, truth, ordered, fold_of, worth)
        kept = path[_best(path, worth)] if path else (ordered[len(ordered) // 2], None, None)
        strength, loss, score = kept
        whole = Regression(axes, truth, torch.ones(len(targets), 1))
        if start is not None:
            whole.start_from(start)
        weight, bias = axes.on_features(whole.solve(strength, FINE)[0])
    return Solution(weight.float().cpu(), bias.float().cpu(), strength, loss, score, tuple(path))


def held_out_losses(
    views: Sequence[Tensor],
    targets: NDArray[np.integer[Any]],
    classes: int,
    *,
    strength: float,
    folds: int = 5,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> list[Tensor]:
    """Losses (nats) of the items of each view [N, D] under heads that saw the first view of other items.

    The first view tells how good a head is out of fold, the others whether it still knows the items when
    they are, say, mirrored. Items that are never held out (see :func:`assign_folds`) are left out; the
    order is that of the items. ``strength`` as in :func:`solve_head`.
    """
    held, logits = held_out_logits(
        views, targets, classes, strength=strength, folds=folds, seed=seed, groups=groups
    )
    truth = Truth.of(targets, classes).take(held)
    return [truth.losses(found[held]) for found in logits]


def held_out_logits(
    views: Sequence[Tensor],
    targets: NDArray[np.integer[Any]],
    classes: int,
    *,
    strength: float,
    folds: int = 5,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Which items were held out [N], and the logits of each view [N, C], as :func:`held_out_losses`.

    Items that are never held out have no logits (NaN).
    """
    truth = Truth.of(targets, classes)
    fold_of = assign_folds(targets, folds, seed=seed, groups=groups)
    held = torch.from_numpy(fold_of)
    found = [torch.full((len(targets), classes), torch.nan, dtype=torch.float64) for _ in views]
    if not bool((held >= 0).any()):  # one item a class: no fold has anything in it
        return held >= 0, found
    with _threads_for(views[0].numel() * classes):
        axes = Axes.of(views[0])
        solved = Regression(axes, truth, in_folds(fold_of)).solve(strength, FINE)
        for fold, weights in enumerate(solved):
            own = held == fold
            weight, bias = axes.on_features(weights)
            for view, logits in zip(views, found, strict=True):
                logits[own] = linear(view[own].double(), weight, bias)
    return held >= 0, found


def _cross_validate(
    axes: Axes, truth: Truth, strengths: list[float], fold_of: NDArray[np.int64], worth: float
) -> tuple[list[tuple[float, float, float]], Tensor | None]:
    """(strength, loss, score) out of fold, until it clearly gets worse; and the best one's weights."""
    held_out = torch.from_numpy(fold_of >= 0)
    held = truth.take(held_out)
    total = float(held.weights.sum()) * (len(truth.classes) if truth.multi_label else 1)
    present = len(set(fold_of[fold_of >= 0].tolist()))
    # None: every class has a single picture, or folds would have nothing to learn from.
    if present < (1 if not held_out.all() else 2) or total == 0:
        return [], None
    problems = Regression(axes, truth, in_folds(fold_of))
    numbers = torch.from_numpy(fold_of).to(axes.rows.device)
    path: list[tuple[float, float, float]] = []
    best = None
    for strength in strengths:
        weights = problems.solve(strength, ROUGH)
        logits = problems.logits(numbers).double().cpu()[held_out]
        path.append((strength, float(held.losses(logits).sum()) / total, held.score(logits)))
        place = _best(path, worth)
        if place == len(path) - 1:
            best = weights
        tried = len(path) - 1 - place
        if tried >= NO_BETTER_IN_A_ROW and strength <= NO_BETTER_BELOW * path[place][0]:
            break
    return path, best


def _best(path: list[tuple[float, float, float]], worth: float) -> int:
    """The place of the strongest penalty that no weaker one clearly beats."""
    best = 0
    for place, (_, loss, _) in enumerate(path):
        if loss < path[best][1] - worth:
            best = place
    return best


@contextlib.contextmanager
def _threads_for(work: int) -> Iterator[None]:
    """One thread for small problems: thousands of short steps lose more by waiting for each other."""
    before = torch.get_num_threads()
    if work < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
