"""Several smooth convex problems, minimised side by side: L-BFGS with a diagonal to start from.

The limited-memory quasi-Newton method of Liu and Nocedal (1989), one history for each problem, so that the
folds of a cross-validation share every pass over the data. ``inverse`` is a diagonal near the inverse
Hessian: where variables are the principal axes of the data it leaves little to learn, and a few passes do
what takes a plain L-BFGS hundreds.

Shapes: P problems of K variables each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

MOST = 500  # steps
HISTORY, HISTORY_BYTES = 8, 2**29
HALVINGS = 25  # of a step, before a problem counts as solved as well as the arithmetic allows
SUFFICIENT = 1e-4  # of the promised decrease (Armijo, 1966)


def minimise(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    inverse: Tensor,
    tolerance: float,
    history: History | None = None,
) -> Tensor:
    """The minima [P, K], from ``start`` [P, K].

    ``evaluate`` maps points [P, K] to values [P] and gradients [P, K]. A problem is solved where the
    decrease that ``inverse`` [P, K] still promises (half the squared length of the gradient by it) is at
    most ``tolerance``, in the units of the value. A ``history`` is what was learned of problems that bend
    alike; it is gone on with.
    """
    point = start
    value, slope = evaluate(point)
    pairs = History() if history is None else history
    kept = max(2, min(HISTORY, HISTORY_BYTES // (2 * start.nbytes)))
    seen = torch.finfo(value.dtype).eps * value.abs()  # less of the value is lost in rounding
    stuck = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    for _ in range(MOST):
        solved = stuck | (0.5 * _dot(slope, inverse * slope) <= seen.clamp_min(tolerance))
        if solved.all():
            break
        step = -_newton(slope, inverse, pairs)
        promised = _dot(step, slope)
        uphill = promised >= 0  # rounding has spoilt the history: the plain direction
        step = torch.where(uphill[:, None], -inverse * slope, step)
        step = torch.where(solved[:, None], torch.zeros_like(step), step)
        moved, lower, steeper, failed = _search(evaluate, point, value, slope, step)
        stuck = stuck | (failed & ~solved)
        pairs.append(_pair(moved - point, steeper - slope))
        if len(pairs) > kept:
            pairs.popleft()
        point, value, slope = moved, lower, steeper
    return point


class History(deque[tuple[Tensor, Tensor, Tensor]]):
    """Steps [P, K], how they changed the gradients [P, K], and one by the product of both [P]."""

    def bend(self, penalty: Tensor) -> None:
        """As if the problems had had this much more of a quadratic penalty [K], half of it times x²."""
        for place, (change, bend, _) in enumerate(self):
            self[place] = _pair(change, bend + penalty * change)


def _pair(change: Tensor, bend: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    along = _dot(change, bend)
    return change, bend, torch.where(along > 0, 1 / along, torch.zeros_like(along))


def _newton(slope: Tensor, inverse: Tensor, pairs: History) -> Tensor:
    """The two loops: what the inverse Hessian, as far as it is known, makes of the gradients."""
    rest, shares = slope, []
    for change, bend, weight in reversed(pairs):
        share = weight * _dot(change, rest)
        shares.append(share)
        rest = rest - share[:, None] * bend
    found = inverse * rest
    if pairs:
        _, bend, weight = pairs[-1]
        length = weight * _dot(bend, inverse * bend)
        found = torch.where(length > 0, 1 / length, torch.ones_like(length))[:, None] * found
    for (change, bend, weight), share in zip(pairs, reversed(shares), strict=True):
        found = found + (share - weight * _dot(bend, found))[:, None] * change
    return found


def _search(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    point: Tensor,
    value: Tensor,
    slope: Tensor,
    step: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halve each problem's step until it descends; where none does, the problem stays where it is.

    Returns points, values, gradients, and which problems found no way down.
    """
    length = torch.ones_like(value)
    promised = _dot(step, slope)
    noise = 4 * torch.finfo(value.dtype).eps * value.abs()
    for _ in range(HALVINGS):
        moved = point + length[:, None] * step
        lower, steeper = evaluate(moved)
        failed = ~(lower <= value + SUFFICIENT * length * promised + noise)
        if not failed.any():
            return moved, lower, steeper, failed
        length = torch.where(failed, length / 2, length)
    moved = torch.where(failed[:, None], point, moved)
    return (
        moved,
        torch.where(failed, value, lower),
        torch.where(failed[:, None], slope, steeper),
        failed,
    )


def _dot(one: Tensor, two: Tensor) -> Tensor:
    return (one * two).sum(1)
