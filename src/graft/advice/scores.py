"""How much features know of labels, in numbers that need no training of the network.

Shapes: N items, D features, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
NEIGHBOURS, TEMPERATURE = 20, 0.07  # of k-NN on cosines (Wu et al., 2018)
WIDE, CLOSE = 30, 1e-9  # how far, in logarithms, and how closely the ratio of precisions is searched for
_TINY = 1e-12


def logme(features: Any, labels: Any) -> float:
    """Log evidence a sample of linear models from features [N, D] to one-hot labels, the mean over classes.

    ``labels``: class indices [N]. After LogME (You et al., 2021), with the fixed point in the form that is
    right where features outnumber samples, too: everything follows from a thin SVD, and directions without
    data take no part in the evidence.

    Raises:
        ValueError: not finite, or of other shapes.
    """
    values, targets = _checked(features, labels)
    left, sizes, _ = np.linalg.svd(values, full_matrices=False)
    squares = sizes**2
    keep = squares > squares.max(initial=0.0) * _TINY
    left, squares = left[:, keep], squares[keep]
    classes = np.unique(targets)
    return float(np.mean([_evidence(left, squares, targets == each) for each in classes]))


def _evidence(left: Array, squares: Array, chosen: NDArray[np.bool_]) -> float:
    """The largest log evidence a sample for one class, over the precisions of weights and noise.

    For each ratio of the two the best noise is known in closed form, so one number is searched for; the
    usual fixed point goes to the same place, but takes thousands of rounds where features know little.
    """
    from scipy.optimize import minimize_scalar

    target = chosen.astype(np.float64)
    turned = (left.T @ target) ** 2  # z²
    outside = max(float(target @ target - turned.sum()), 0.0)

    def missing(logarithm: float) -> float:
        ratio = float(np.exp(logarithm))
        misfit = float((turned * ratio / (squares + ratio)).sum()) + outside
        noise = len(target) / max(misfit, _TINY)
        return -log_evidence(left, squares, target, ratio * noise, noise)

    middle = np.log(squares.mean()) if len(squares) else 0.0
    grid = middle + np.linspace(-WIDE, WIDE, 8 * WIDE + 1)
    best = int(np.argmin([missing(each) for each in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(missing, bounds=(low, high), method="bounded", options={"xatol": CLOSE})
    return -min(float(found.fun), missing(grid[best]))


def log_evidence(
    left: Array, squares: Array, target: Array, weight_precision: float, noise_precision: float
) -> float:
    """Log density a sample of ``target`` [N] under weights and noise of these precisions.

    ``left`` [N, K] and ``squares`` [K]: left singular vectors of the features, and squared singular values.
    """
    count = len(target)
    turned = (left.T @ target) ** 2
    outside = max(float(target @ target - turned.sum()), 0.0)
    ratio = weight_precision / noise_precision
    length = (squares * turned / (squares + ratio) ** 2).sum()
    residual = (turned * (ratio / (squares + ratio)) ** 2).sum() + outside
    total = 0.5 * (
        count * np.log(noise_precision / (2 * np.pi))
        + len(squares) * np.log(weight_precision)
        - np.log(weight_precision + noise_precision * squares).sum()
        - noise_precision * residual
        - weight_precision * length
    )
    return float(total / count)


def h_score(features: Any, labels: Any) -> float:
    """How far classes are apart beside how widely features spread (Bao et al., 2019), shrunk (2021).

    The covariance is shrunk as Ledoit and Wolf (2004) do, and that of the class means by the same share
    (Ibrahim et al., 2021), so that few samples of many features do not make it explode.

    Raises:
        ValueError: as :func:`logme`.
    """
    from sklearn.covariance import ledoit_wolf

    values, targets = _checked(features, labels)
    centred = values - values.mean(0)
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    means = np.zeros_like(centred)
    for each in np.unique(targets):
        means[targets == each] = centred[targets == each].mean(0)
    between = means.T @ means / len(means)
    return float((1 - shrinkage) * np.trace(np.linalg.pinv(covariance, hermitian=True) @ between))


def knn_accuracy(features: Any, labels: Any, *, neighbours: int = NEIGHBOURS) -> float:
    """The share of items whose nearest others, weighted by cosine, are of their class.

    Raises:
        ValueError: as :func:`logme`.
    """
    values, targets = _checked(features, labels)
    count, classes = len(targets), int(targets.max()) + 1
    values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), _TINY)
    taken = min(neighbours, count - 1)
    right = 0
    for start in range(0, count, 1024):
        cosines = values[start : start + 1024] @ values.T
        own = np.arange(start, start + len(cosines))
        cosines[np.arange(len(cosines)), own] = -np.inf
        nearest = np.argpartition(-cosines, taken - 1, axis=1)[:, :taken]
        weights = np.exp((np.take_along_axis(cosines, nearest, 1) - 1) / TEMPERATURE)
        votes = np.zeros((len(cosines), classes))
        np.add.at(votes, (np.arange(len(cosines))[:, None], targets[nearest]), weights)
        right += int((votes.argmax(1) == targets[own]).sum())
    return right / count


def separability(features: Any, labels: Any) -> float:
    """The share of the variance of features that lies between classes, 0 to 1.

    Raises:
        ValueError: as :func:`logme`.
    """
    values, targets = _checked(features, labels)
    centred = values - values.mean(0)
    total = float((centred**2).sum())
    between = sum(
        float((targets == each).sum()) * float((centred[targets == each].mean(0) ** 2).sum())
        for each in np.unique(targets)
    )
    return between / total if total > 0 else 0.0


def forecast(counts: Any, errors: Any, count: float) -> float | None:
    """The error at ``count`` labels, by a power law through errors at fewer (Hestness et al., 2017).

    None where fewer than three errors are above zero, or they do not fall.
    """
    sizes, found = np.asarray(counts, float), np.asarray(errors, float)
    usable = found > 0
    if usable.sum() < 3:
        return None
    slope, height = np.polyfit(np.log(sizes[usable]), np.log(found[usable]), 1)
    return float(np.exp(height + slope * np.log(count))) if slope < 0 else None


def _checked(features: Any, labels: Any) -> tuple[Array, NDArray[np.int64]]:
    values, targets = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if values.ndim != 2 or targets.shape != (len(values),) or len(values) < 2:
        raise ValueError(
            f"features {values.shape} and labels {targets.shape}: [N, D] and [N] of two items or more were "
            "expected"
        )
    if not np.isfinite(values).all():
        raise ValueError("features are not all finite")
    if not np.issubdtype(targets.dtype, np.integer) or targets.min() < 0:
        raise ValueError("labels: class indices were expected, whole numbers from 0 on")
    return values, targets.astype(np.int64)
