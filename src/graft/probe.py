"""The linear head, solved to its optimum on frozen features.

Multinomial logistic regression with an L2 penalty (of a multi-label task: one logistic regression a
label), by L-BFGS in double precision on standardised features; the strength of the penalty is chosen by
stratified cross-validation along a warm-started path from strong to weak, then the head is solved once
more on all items (the protocol of Kornblith et al., 2019). The standardisation is folded into the head,
which then works on plain features.

Shapes: N items, D features, C classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, linear

from graft.metrics import average_precisions
from graft.seeds import mix
from graft.steps import STRENGTHS
from graft.stratification import deal

SMALL = 20_000_000  # multiplications of one pass below which one thread is quicker than two
NO_BETTER_IN_A_ROW = 3  # weaker penalties tried in vain before the path is given up
WORTH = 1e-3  # nats: less gain than this does not justify a weaker penalty
# Largest gradient entry left, times the number of classes (entries of the mean loss shrink with it):
# while penalties are compared, and in the head that is kept.
ROUGH, FINE = 1e-3, 1e-5


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
) -> Solution:
    """The best linear head on ``features`` [N, D] for class indices [N], or zeros and ones [N, C].

    ``strengths`` are L2 strengths on the mean loss (scikit-learn's C is 1 / (N * strength)). Items
    of one ``group`` (identical files) are never on both sides of a fold. ``class_weights`` [C] multiply
    the loss of items of a class; of a multi-label task, what counts of the items that have the label.
    ``weights`` [N] multiply the loss of an item. Neither is divided by its sum. A label that every item
    has, or none, gets no weights and a bias of the odds that this leaves open.

    Raises:
        ValueError: no features, not finite ones, shapes that do not belong together, or weights that
            are negative or not finite.
    """
    if len(features) != len(targets) or not len(features) or not torch.isfinite(features).all():
        raise ValueError(f"features {tuple(features.shape)} for {len(targets)} targets, or not finite")
    truth = _Truth.of(targets, classes, class_weights, weights)
    with _threads_for(features.numel() * classes):
        fold_of = torch.from_numpy(assign_folds(targets, folds, seed=seed, groups=groups))
        return _solve(features.double(), truth, strengths, fold_of)


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
    truth = _Truth.of(targets, classes, None, None)
    fold_of = torch.from_numpy(assign_folds(targets, folds, seed=seed, groups=groups))
    found = [torch.full((len(targets),), torch.nan, dtype=torch.float64) for _ in views]
    with _threads_for(views[0].numel() * classes):
        for fold in (int(each) for each in fold_of.unique() if each >= 0):
            held, rest = fold_of == fold, fold_of != fold
            weight, bias = _Problem(views[0][rest].double(), truth.take(rest)).solve_path([strength])
            for view, losses in zip(views, found, strict=True):
                losses[held] = truth.take(held).losses(linear(view[held].double(), weight, bias))
    return [losses[fold_of >= 0] for losses in found]


@dataclass(frozen=True)
class _Truth:
    """What items are, and how much each counts; of a multi-label task ``targets`` has two dimensions."""

    targets: Tensor  # int64 [N], or float64 [N, C]
    items: Tensor  # float64 [N]
    classes: Tensor  # float64 [C]

    @classmethod
    def of(
        cls, targets: NDArray[Any], classes: int, class_weights: Tensor | None, weights: Tensor | None
    ) -> _Truth:
        plain = torch.from_numpy(np.array(targets, dtype=np.int64))
        if plain.ndim == 2 and plain.shape[1] != classes:
            raise ValueError(f"targets {tuple(plain.shape)} of {classes} classes")
        items = _checked_weights(weights, len(targets), "weights")
        by_class = _checked_weights(class_weights, classes, "class_weights")
        return cls(plain.double() if plain.ndim == 2 else plain, items, by_class)

    @property
    def multi_label(self) -> bool:
        return self.targets.ndim == 2

    @property
    def weights(self) -> Tensor:
        """What each item's loss counts, float64 [N]; of a multi-label task, each label's is its own."""
        return self.items if self.multi_label else self.items * self.classes[self.targets]

    def take(self, which: Tensor) -> _Truth:
        return replace(self, targets=self.targets[which], items=self.items[which])

    def only(self, labels: Tensor) -> _Truth:
        """Some of the labels of a multi-label task."""
        return replace(self, targets=self.targets[:, labels], classes=self.classes[labels])

    def losses(self, logits: Tensor) -> Tensor:
        """Weighted loss of each item [N]; of a multi-label task the sum over labels."""
        if not self.multi_label:
            return cross_entropy(logits, self.targets, reduction="none") * self.weights
        losses = binary_cross_entropy_with_logits(
            logits, self.targets, reduction="none", pos_weight=self.classes
        )
        return losses.sum(1) * self.items

    def score(self, logits: Tensor) -> float:
        """Accuracy, or macro mean average precision (0 where no item has a label)."""
        if not self.multi_label:
            return float((logits.argmax(1) == self.targets).double().mean())
        found = average_precisions(logits.numpy(), self.targets.numpy().astype(np.int64))
        return 0.0 if np.isnan(found).all() else float(np.nanmean(found))


def _checked_weights(given: Tensor | None, count: int, name: str) -> Tensor:
    if given is None:
        return torch.ones(count, dtype=torch.float64)
    values = given.double().cpu()
    if values.shape != (count,) or not torch.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"{name} {tuple(values.shape)} for {count}, or negative, or not finite")
    return values


def _solve(x: Tensor, truth: _Truth, strengths: Sequence[float], fold_of: Tensor) -> Solution:
    classes = len(truth.classes)
    # The loss of a multi-label path is a mean over labels, each of which is a problem of its own.
    worth = WORTH / classes if truth.multi_label else WORTH
    ordered = sorted(strengths, reverse=True)
    path = _cross_validate(x, truth, ordered, fold_of, worth)
    kept = path[_best(path, worth)] if path else (ordered[len(ordered) // 2], None, None)
    strength, loss, score = kept
    stronger = [each for each in ordered if each >= strength]
    weight, bias = _Problem(x, truth).solve_path(stronger)
    return Solution(weight.float(), bias.float(), strength, loss, score, tuple(path))


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
    targets: NDArray[np.integer[Any]],
    folds: int,
    *,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> NDArray[np.int64]:
    """The fold of each item: stratified, groups kept whole; -1: never held out.

    A group that is the only one of its class (of a multi-label task: of one of its labels) is never held
    out, for nothing could be learned of it.
    """
    names = list(groups) if groups is not None else [str(index) for index in range(len(targets))]
    if targets.ndim == 2:
        return _label_folds(targets, folds, seed, names)
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


def _label_folds(
    targets: NDArray[np.integer[Any]], folds: int, seed: int, names: list[str]
) -> NDArray[np.int64]:
    unique, group_of = np.unique(names, return_inverse=True)
    counts = np.zeros((len(unique), targets.shape[1]), dtype=np.int64)
    np.add.at(counts, group_of, targets)
    alone = counts[:, (counts > 0).sum(axis=0) == 1].any(axis=1)
    dealt = np.random.default_rng(mix(seed, "folds")).permutation(np.flatnonzero(~alone))
    shares = np.full(folds, 1 / folds)
    sizes = np.bincount(group_of)[dealt]
    wanted = shares[:, None] * counts[dealt].sum(axis=0)
    part_of = np.full(len(unique), -1, dtype=np.int64)
    part_of[dealt] = deal(counts[dealt], sizes, wanted, shares.tolist())
    return part_of[group_of]


def _cross_validate(
    x: Tensor, truth: _Truth, strengths: list[float], fold_of: Tensor, worth: float
) -> list[tuple[float, float, float]]:
    """(strength, loss, score) out of fold, along the path until it clearly gets worse."""
    present = [int(fold) for fold in fold_of.unique() if fold >= 0]
    held_out = fold_of >= 0
    held = truth.take(held_out)
    total = float(held.weights.sum()) * (len(truth.classes) if truth.multi_label else 1)
    # None: every class has a single picture, or folds would have nothing to learn from.
    if len(present) < (1 if not held_out.all() else 2) or total == 0:
        return []
    problems = [(_Problem(x[fold_of != fold], truth.take(fold_of != fold)), fold) for fold in present]
    path: list[tuple[float, float, float]] = []
    for strength in strengths:
        logits = x.new_empty(len(x), len(truth.classes))
        for problem, fold in problems:
            weight, bias = problem.solve(strength, ROUGH)
            logits[fold_of == fold] = linear(x[fold_of == fold], weight, bias)
        loss = float(held.losses(logits[held_out]).sum()) / total
        path.append((strength, loss, held.score(logits[held_out])))
        if len(path) - 1 - _best(path, worth) >= NO_BETTER_IN_A_ROW:
            break
    return path


def _best(path: list[tuple[float, float, float]], worth: float) -> int:
    """The place of the strongest penalty that no weaker one clearly beats."""
    best = 0
    for place, (_, loss, _) in enumerate(path):
        if loss < path[best][1] - worth:
            best = place
    return best


class _Problem:
    """One regression; each solution starts from the last, in standardised space.

    Labels that every item has, or none, have no optimum (their bias would grow without end) and are left
    out of it.
    """

    def __init__(self, x: Tensor, truth: _Truth) -> None:
        self.mean = x.mean(0)
        deviation = x.std(0, correction=0)
        # A feature that never varies carries nothing; its weight is driven to zero by the penalty.
        self.scale = torch.where(deviation > 1e-8 * deviation.max(), deviation, torch.inf)
        self.x = (x - self.mean) / self.scale
        self.constant = x.new_zeros(len(truth.classes))  # biases of what is left out
        self.open = torch.arange(len(truth.classes))
        if truth.multi_label:
            with_it = truth.targets.sum(0)
            self.open = ((with_it > 0) & (with_it < len(x))).nonzero().flatten()
            self.constant = ((with_it + 0.5) / (len(x) - with_it + 0.5)).log()
            truth = truth.only(self.open)
        self.truth = truth
        self.weight = x.new_zeros(len(self.open), x.shape[1], requires_grad=True)
        self.bias = x.new_zeros(len(self.open), requires_grad=True)

    def solve(self, strength: float, tolerance: float) -> tuple[Tensor, Tensor]:
        """The optimum at this strength, as weight and bias on features as they come."""
        if len(self.open):
            self._descend(strength, tolerance / len(self.constant))
        with torch.no_grad():
            weight = self.x.new_zeros(len(self.constant), self.x.shape[1])
            weight[self.open] = self.weight / self.scale
            bias = self.constant.clone()
            bias[self.open] = self.bias - weight[self.open] @ self.mean
            return weight, bias

    def _descend(self, strength: float, tolerance: float) -> None:
        optimizer = torch.optim.LBFGS(
            [self.weight, self.bias],
            max_iter=300,
            history_size=20,
            tolerance_grad=tolerance,
            tolerance_change=tolerance * 1e-4,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.truth.losses(linear(self.x, self.weight, self.bias)).mean()
            loss = loss + 0.5 * strength * self.weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    def solve_path(self, strengths: Sequence[float]) -> tuple[Tensor, Tensor]:
        """The optimum at the last strength, reached along the path."""
        for strength in strengths[:-1]:
            self.solve(strength, ROUGH)
        return self.solve(strengths[-1], FINE)
