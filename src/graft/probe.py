"""The linear head, solved to its optimum on frozen features.

Multinomial logistic regression with an L2 penalty, by L-BFGS in double precision on standardised
features; the strength of the penalty is chosen by stratified cross-validation along a warm-started
path from strong to weak, then the head is solved once more on all items (the protocol of Kornblith et
al., 2019). The standardisation is folded into the head, which then works on plain features.

Shapes: N items, D features, C classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from graft.seeds import mix
from graft.steps import STRENGTHS

SMALL = 20_000_000  # multiplications of one pass below which one thread is quicker than two
NO_BETTER_IN_A_ROW = 3  # weaker penalties tried in vain before the path is given up
WORTH = 1e-3  # nats: less gain than this does not justify a weaker penalty
# Largest gradient entry left, times the number of classes (entries of the mean loss shrink with it):
# while penalties are compared, and in the head that is kept.
ROUGH, FINE = 1e-3, 1e-5


@dataclass(frozen=True)
class Solution:
    """A solved head, and what the cross-validation said of it.

    ``path``: (strength, out-of-fold loss, out-of-fold accuracy) of every strength that was tried.
    The losses are in nats, the accuracies shares; both are of items that the fold did not see, and
    None where nothing could be held out.
    """

    weight: Tensor  # [C, D], float32
    bias: Tensor  # [C], float32
    strength: float
    loss: float | None
    accuracy: float | None
    path: tuple[tuple[float, float, float], ...]


def solve_head(
    features: Tensor,
    targets: NDArray[np.int64],
    classes: int,
    *,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 5,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> Solution:
    """The best linear head on ``features`` [N, D] for class indices ``targets`` [N].

    ``strengths`` are L2 strengths on the mean loss (scikit-learn's C is 1 / (N * strength)). Items
    of one ``group`` (identical files) are never on both sides of a fold.

    Raises:
        ValueError: no features, not finite ones, or shapes that do not belong together.
    """
    if len(features) != len(targets) or not len(features) or not torch.isfinite(features).all():
        raise ValueError(f"features {tuple(features.shape)} for {len(targets)} targets, or not finite")
    with _threads_for(features.numel() * classes):
        return _solve(features.double(), targets, classes, strengths, folds, seed, groups)


def _solve(
    x: Tensor,
    targets: NDArray[np.int64],
    classes: int,
    strengths: Sequence[float],
    folds: int,
    seed: int,
    groups: Sequence[str] | None,
) -> Solution:
    y = torch.from_numpy(np.asarray(targets, dtype=np.int64))
    fold_of = torch.from_numpy(assign_folds(targets, folds, seed=seed, groups=groups))
    ordered = sorted(strengths, reverse=True)
    path = _cross_validate(x, y, classes, ordered, fold_of)
    kept = path[_best(path)] if path else (ordered[len(ordered) // 2], None, None)
    strength, loss, accuracy = kept
    stronger = [each for each in ordered if each >= strength]
    weight, bias = _Problem(x, y, classes).solve_path(stronger)
    return Solution(weight.float(), bias.float(), strength, loss, accuracy, tuple(path))


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


def assign_folds(
    targets: NDArray[np.int64],
    folds: int,
    *,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> NDArray[np.int64]:
    """The fold of each item: stratified, groups kept whole; -1: never held out.

    A group that is the only one of its class is never held out, for nothing could be learned of it.
    """
    names = list(groups) if groups is not None else [str(index) for index in range(len(targets))]
    fold_of = np.full(len(targets), -1, dtype=np.int64)
    dealt = 0  # classes go on where the last one stopped, so that small ones fill all folds
    for label in np.unique(targets):
        members = np.flatnonzero(targets == label)
        unique = sorted({names[index] for index in members})
        if len(unique) < 2:
            continue
        order = np.random.default_rng(mix(seed, "folds", int(label))).permutation(len(unique))
        place = {unique[index]: (dealt + rank) % folds for rank, index in enumerate(order)}
        dealt += len(unique)
        for index in members:
            fold_of[index] = place[names[index]]
    return fold_of


def _cross_validate(
    x: Tensor, y: Tensor, classes: int, strengths: list[float], fold_of: Tensor
) -> list[tuple[float, float, float]]:
    """(strength, loss, accuracy) out of fold, along the path until it clearly gets worse."""
    present = [int(fold) for fold in fold_of.unique() if fold >= 0]
    if not present:  # every class has a single picture: nothing can be held out
        return []
    problems = [
        (_Problem(x[fold_of != fold], y[fold_of != fold], classes), fold_of == fold) for fold in present
    ]
    held_out = int((fold_of >= 0).sum())
    path: list[tuple[float, float, float]] = []
    for strength in strengths:
        loss = right = 0.0
        for problem, held in problems:
            weight, bias = problem.solve(strength, ROUGH)
            logits = linear(x[held], weight, bias)
            loss += float(cross_entropy(logits, y[held], reduction="sum"))
            right += float((logits.argmax(1) == y[held]).sum())
        path.append((strength, loss / held_out, right / held_out))
        if len(path) - 1 - _best(path) >= NO_BETTER_IN_A_ROW:
            break
    return path


def _best(path: list[tuple[float, float, float]]) -> int:
    """The place of the strongest penalty that no weaker one clearly beats."""
    best = 0
    for place, (_, loss, _) in enumerate(path):
        if loss < path[best][1] - WORTH:
            best = place
    return best


class _Problem:
    """One regression; each solution starts from the last, in standardised space."""

    def __init__(self, x: Tensor, y: Tensor, classes: int) -> None:
        self.mean = x.mean(0)
        deviation = x.std(0, correction=0)
        # A feature that never varies carries nothing; its weight is driven to zero by the penalty.
        self.scale = torch.where(deviation > 1e-8 * deviation.max(), deviation, torch.inf)
        self.x = (x - self.mean) / self.scale
        self.y = y
        self.weight = x.new_zeros(classes, x.shape[1], requires_grad=True)
        self.bias = x.new_zeros(classes, requires_grad=True)

    def solve(self, strength: float, tolerance: float) -> tuple[Tensor, Tensor]:
        """The optimum at this strength, as weight and bias on features as they come."""
        optimizer = torch.optim.LBFGS(
            [self.weight, self.bias],
            max_iter=300,
            history_size=20,
            tolerance_grad=tolerance / len(self.bias),
            tolerance_change=tolerance / len(self.bias) * 1e-4,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(linear(self.x, self.weight, self.bias), self.y)
            loss = loss + 0.5 * strength * self.weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            weight = self.weight / self.scale
            return weight, self.bias - weight @ self.mean

    def solve_path(self, strengths: Sequence[float]) -> tuple[Tensor, Tensor]:
        """The optimum at the last strength, reached along the path."""
        for strength in strengths[:-1]:
            self.solve(strength, ROUGH)
        return self.solve(strengths[-1], FINE)
