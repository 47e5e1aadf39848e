"""Penalised linear classifiers on the principal axes of their features, several of them at once.

Multinomial logistic regression, or of a multi-label task one logistic regression a label. Features are
standardised and turned to their principal axes; the L2 penalty is the same in every turned frame, and the
curvature of the loss is nearly diagonal there. Problems differ in how much each item counts: those of a
cross-validation share features, and every pass over them.

Shapes: N items, D features, R axes and one constant, C classes, P problems.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, one_hot

from graft.descent import History, minimise
from graft.metrics import average_precisions

EXACT = 2**21  # entries of features up to which arithmetic is in double precision
ROWS = 2**22  # entries of what is computed of a few rows at a time
FAINT = 1e-10  # of the largest variance: axes below carry only rounding
LEAST_CURVATURE = 1e-4  # of a class, in the first guess of the Hessian


@dataclass(frozen=True)
class Axes:
    """Features along their principal axes, and the way back.

    ``rows``: [N, R], the last column a constant one. ``spread``: mean square of each column [R]. ``turn``:
    [D, R - 1] from standardised features to axes.
    """

    rows: Tensor
    spread: Tensor
    mean: Tensor
    scale: Tensor
    turn: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Axes:
        """Of features [N, D], which are left as they are; a feature that never varies carries nothing."""
        count, width = features.shape
        exact = features.numel() <= EXACT
        kind = torch.float64 if exact else torch.float32
        mean = torch.as_tensor(
            sum(part.sum(0, dtype=torch.float64) for _, part in parts_of(features)) / count
        )
        square = sum((part.double() - mean).square().sum(0) for _, part in parts_of(features))
        deviation = torch.as_tensor(square / count).sqrt()
        scale = torch.where(deviation > 1e-8 * deviation.max(), deviation, torch.inf)
        rows = torch.ones(count, width + 1, dtype=kind, device=features.device)
        standard = rows[:, :-1]
        for some, part in parts_of(features):
            standard[some] = (part.double() - mean) / scale
        if count > width:
            _, turn = torch.linalg.eigh((standard.T @ standard).double())
        else:  # as many axes as items, found among these
            square, items = torch.linalg.eigh((standard @ standard.T).double())
            seen = square > FAINT * square[-1]
            turn = standard.double().T @ items[:, seen] / square[seen].sqrt()
        turn = turn.to(kind)
        axes = turn.shape[1]
        for some, part in parts_of(standard):
            rows[some, :axes] = part @ turn
        rows = rows[:, : axes + 1] if axes == width else torch.cat([rows[:, :axes], rows[:, -1:]], dim=1)
        spread = sum(part.square().sum(0) for _, part in parts_of(rows))
        return cls(rows, torch.as_tensor(spread / count), mean, scale, turn)

    def on_features(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [C, R] as a weight [C, D] and a bias [C] on features as they come, in double."""
        weight = weights[:, :-1].double() @ self.turn.double().T / self.scale
        return weight, weights[:, -1].double() - weight @ self.mean

    def project(self, features: Tensor) -> Tensor:
        """Other features [M, D] along these axes, [M, R]."""
        turned = ((features.double() - self.mean) / self.scale).to(self.turn.dtype) @ self.turn
        return torch.cat([turned, turned.new_ones(len(turned), 1)], dim=1)


@dataclass(frozen=True)
class Truth:
    """What items are, and how much each counts; of a multi-label task ``targets`` has two dimensions."""

    targets: Tensor  # int64 [N], or float64 [N, C]
    items: Tensor  # float64 [N]
    classes: Tensor  # float64 [C]

    @classmethod
    def of(
        cls,
        targets: NDArray[Any],
        classes: int,
        class_weights: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Truth:
        """Raises ValueError where shapes do not belong together or weights are no weights."""
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
        """What each item's loss counts, [N]; of a multi-label task, each label's is its own."""
        return self.items if self.multi_label else self.items * self.classes[self.targets]

    def take(self, which: Tensor) -> Truth:
        return replace(self, targets=self.targets[which], items=self.items[which])

    def to(self, like: Tensor) -> Truth:
        """On the device, and of the precision, of ``like``."""
        targets = self.targets.to(like) if self.multi_label else self.targets.to(like.device)
        return Truth(targets, self.items.to(like), self.classes.to(like))

    def losses(self, logits: Tensor) -> Tensor:
        """Weighted loss of each item [N] by logits [N, C]; of a multi-label task the sum over labels."""
        found, _ = self.losses_and_slopes(logits[:, None])
        return found[:, 0] * self.weights

    def losses_and_slopes(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Of logits [N, P, C]: losses [N, P] and their derivatives, without the weights of items."""
        if not self.multi_label:
            known = log_softmax(logits, dim=2)
            own = self.targets[:, None, None].expand(-1, logits.shape[1], 1)
            losses = -known.gather(2, own)[:, :, 0]
            slopes = known.exp_()
            return losses, slopes.scatter_add_(2, own, slopes.new_full(own.shape, -1.0))
        has = self.targets[:, None]
        given, missed = self.classes * has, 1 - has
        losses = -(given * logsigmoid(logits) + missed * logsigmoid(-logits)).sum(2)
        chance = logits.sigmoid()
        return losses, missed * chance - given * (1 - chance)

    def curvatures(self, logits: Tensor) -> Tensor:
        """Second derivatives of the losses by each logit [N, P, C], without weights of items."""
        if not self.multi_label:
            chance = logits.softmax(2)
            return chance * (1 - chance)
        has = self.targets[:, None]
        chance = logits.sigmoid()
        return chance * (1 - chance) * (self.classes * has + 1 - has)

    def score(self, logits: Tensor) -> float:
        """Accuracy, or macro mean average precision (0 where no item has a label)."""
        if not self.multi_label:
            return float((logits.argmax(1) == self.targets).double().mean())
        found = average_precisions(logits.cpu().numpy(), self.targets.cpu().numpy().astype(np.int64))
        return 0.0 if np.isnan(found).all() else float(np.nanmean(found))


class Regression:
    """Problems on the same features; each solution starts from the last.

    ``counts`` [N, P]: how often an item is in a problem (0 or 1). A label that every item of a problem has,
    or none, has no optimum (its bias would grow without end): it keeps the odds that this leaves open.
    """

    def __init__(self, axes: Axes, truth: Truth, counts: Tensor) -> None:
        rows = axes.rows
        self.axes, self.truth = axes, truth.to(rows)
        counts = counts.to(rows)
        sizes = counts.sum(0)
        self.shares = counts * self.truth.weights[:, None] / sizes  # [N, P]
        classes = len(truth.classes)
        self.open = torch.ones(counts.shape[1], classes, dtype=torch.bool, device=rows.device)
        self.weights = rows.new_zeros(counts.shape[1], classes, rows.shape[1])
        self.path: deque[tuple[float, Tensor]] = deque(maxlen=2)  # strengths, and their optima
        self.history = History()
        self.bends: Tensor | None = None  # mean second derivatives of the losses by the logits, [P, C]
        if truth.multi_label:
            having = counts.T @ self.truth.targets  # [P, C]
            self.open = (having > 0) & (having < sizes[:, None])
            odds = ((having + 0.5) / (sizes[:, None] - having + 0.5)).log()
            self.weights[:, :, -1] = torch.where(self.open, torch.zeros_like(odds), odds)

    def start_from(self, weights: Tensor) -> None:
        """Begin the next solution at the mean of other problems' weights [P', C, R]."""
        start = weights.mean(0).expand_as(self.weights)
        self.weights, self.bends = torch.where(self.open[:, :, None], start, self.weights), None

    def solve(self, strength: float, tolerance: float) -> Tensor:
        """The optima [P, C, R] at this L2 strength, to within ``tolerance`` nats of the mean loss.

        Strengths of one object's solutions differ from each other.
        """
        penalised = self.weights.new_ones(self.weights.shape)
        penalised[:, :, -1] = 0.0  # the constant is free
        penalty = strength * penalised
        if self.path:
            self.history.bend((strength - self.path[-1][0]) * penalised.flatten(1))
        if self.bends is None:
            self._look(None)
        assert self.bends is not None
        bends = self.bends.clamp_min(LEAST_CURVATURE)
        inverse = 1 / (bends[:, :, None] * self.axes.spread.clamp_min(0) + penalty).clamp_min(1e-12)
        inverse = inverse * self.open[:, :, None]
        shape = self.weights.shape

        def evaluate(flat: Tensor) -> tuple[Tensor, Tensor]:
            weights = flat.view(shape)
            losses, slopes = self._pass(weights)
            losses = losses + 0.5 * (weights.square() * penalty).sum((1, 2))
            return losses, (slopes + weights * penalty).flatten(1)

        start = self._ahead(strength).flatten(1)
        found = minimise(evaluate, start, inverse.flatten(1), tolerance, self.history)
        self.weights, self.bends = found.view(shape), None
        self.path.append((strength, self.weights))
        return self.weights

    def _ahead(self, strength: float) -> Tensor:
        """Where the last two solutions point to: along a path of strengths, optima move steadily."""
        if len(self.path) < 2:
            return self.weights
        (before, older), (last, newer) = self.path
        return newer + (newer - older) * (math.log(strength / last) / math.log(last / before))

    def logits(self, problem_of: Tensor) -> Tensor:
        """Logits [N, C] of each item under the problem with this number [N]; zeros where it is negative."""
        return self._look(problem_of)

    def _pass(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [P] and their slopes [P, C, R], the penalty left out."""
        losses = weights.new_zeros(len(weights))
        slopes = torch.zeros_like(weights.flatten(0, 1))
        for rows, truth, shares, logits in self._walk(weights):
            found, bends = truth.losses_and_slopes(logits)
            losses += (found * shares).sum(0)
            bends *= shares[:, :, None]
            slopes.addmm_(bends.flatten(1).T, rows)
        return losses, slopes.view_as(weights) * self.open[:, :, None]

    def _look(self, problem_of: Tensor | None) -> Tensor:
        """Logits as :meth:`logits` gives them; on the way, how the losses bend at these weights."""
        rows, classes = self.axes.rows, self.weights.shape[1]
        problems = torch.full((len(rows),), -1) if problem_of is None else problem_of
        problems = problems.to(rows.device)
        found, bends = [], self.weights.new_zeros(self.weights.shape[:2])
        places = problems.split(self._size())
        for own, (_, truth, shares, logits) in zip(places, self._walk(self.weights), strict=True):
            bends += (truth.curvatures(logits) * shares[:, :, None]).sum(0)
            chosen = own.clamp_min(0)[:, None, None].expand(-1, 1, classes)
            found.append(logits.gather(1, chosen)[:, 0] * (own >= 0)[:, None])
        self.bends = bends
        return torch.cat(found)

    def _size(self) -> int:
        """How many rows are looked at at a time."""
        return max(1, ROWS // (self.weights.shape[0] * self.weights.shape[1]))

    def _walk(self, weights: Tensor) -> Iterator[tuple[Tensor, Truth, Tensor, Tensor]]:
        """A few rows at a time: these, their truth, their shares, and their logits [n, P, C]."""
        flat, rows = weights.flatten(0, 1), self.axes.rows
        size = self._size()
        for start in range(0, len(rows), size):
            some = slice(start, start + size)
            part = rows[some]
            truth = replace(self.truth, targets=self.truth.targets[some], items=self.truth.items[some])
            yield part, truth, self.shares[some], (part @ flat.T).view(len(part), *weights.shape[:2])


def in_folds(fold_of: NDArray[np.int64]) -> Tensor:
    """How often items are in the problem that leaves a fold out, [N, P]; P folds, numbered from 0."""
    folds = torch.from_numpy(fold_of)
    counted: Tensor = 1 - one_hot(folds.clamp_min(0), int(folds.max()) + 1) * (folds >= 0)[:, None]
    return counted


def parts_of(values: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """A few rows at a time: large ones are never whole in memory a second time."""
    size = max(1, ROWS // values.shape[1])
    for start in range(0, len(values), size):
        some = slice(start, start + size)
        yield some, values[some]


def _checked_weights(given: Tensor | None, count: int, name: str) -> Tensor:
    if given is None:
        return torch.ones(count, dtype=torch.float64)
    values = given.double().cpu()
    if values.shape != (count,) or not torch.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"{name} {tuple(values.shape)} for {count}, or negative, or not finite")
    return values
