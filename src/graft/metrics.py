"""Arrays in, numbers out: how good predictions are.

Knows nothing of torch, of tasks, or of where logits came from. Everything is computed in double
precision.

Shapes: N items, C classes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

ALIKE = 1e-8  # rows that vary by less than this share of their square tell nothing apart
BINS = 15  # of the calibration error, as Guo et al. (2017) have it


@dataclass(frozen=True)
class ClassMetrics:
    """One class: how many items it has, and its precision, recall and F1 (0 where undefined)."""

    n: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Metrics:
    """Quality of single-label predictions on ``n`` items.

    ``accuracy``: share decided rightly. ``balanced_accuracy``: mean recall of the classes present.
    ``loss``: mean cross-entropy in nats. ``ece``: expected calibration error, how far the probability of
    what was decided lies from the share that was right, over 15 bins (Guo et al., 2017).
    ``problems``: what was odd about the data, in sentences.
    """

    n: int
    accuracy: float
    balanced_accuracy: float
    loss: float
    ece: float
    per_class: dict[str, ClassMetrics]
    confusion: tuple[tuple[int, ...], ...]  # rows: the truth, columns: the decision
    problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class LabelMetrics:
    """One label of several: how many items have it, and its precision, recall, F1 and average precision.

    All of them 0 where undefined.
    """

    n: int
    precision: float
    recall: float
    f1: float
    average_precision: float


@dataclass(frozen=True)
class MultiLabelMetrics:
    """Quality of multi-label predictions on ``n`` items.

    ``accuracy``: share of items whose labels were decided rightly, every one of them.
    ``mean_average_precision``: mean over the labels that some item has; 0 where none has any.
    ``macro_f1``: mean over all labels; ``micro_f1``: of all decisions together. ``loss``: mean over items
    and labels of binary cross-entropy in nats. ``ece``: mean over labels of the distance between their
    probability and the share of items that have them, over 15 bins. ``problems``: what was odd about
    the data, in sentences.
    """

    n: int
    accuracy: float
    mean_average_precision: float
    macro_f1: float
    micro_f1: float
    loss: float
    ece: float
    per_class: dict[str, LabelMetrics]
    problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def score_logits(logits: Floats, targets: Integers, labels: tuple[str, ...]) -> Metrics:
    """Metrics of ``logits`` [N, C] against class indices ``targets`` [N].

    Raises:
        ValueError: the shapes do not belong together, or N is zero.
    """
    if logits.shape != (len(targets), len(labels)) or not len(targets) or targets.ndim != 1:
        raise ValueError(f"logits {logits.shape} against {len(targets)} targets, {len(labels)} labels")
    decided = logits.argmax(axis=1)
    table = confusion_table(targets, decided, len(labels))
    per_class = {label: _class_metrics(table, index) for index, label in enumerate(labels)}
    recalls = [entry.recall for entry in per_class.values() if entry.n]
    return Metrics(
        n=len(targets),
        accuracy=float(np.trace(table) / len(targets)),
        balanced_accuracy=float(np.mean(recalls)),
        loss=float(cross_entropies(logits, targets).mean()),
        ece=calibration_error(softmax(logits), targets),
        per_class=per_class,
        confusion=tuple(tuple(int(count) for count in row) for row in table),
    )


def score_label_logits(
    logits: Floats, targets: Integers, labels: tuple[str, ...], thresholds: tuple[float, ...]
) -> MultiLabelMetrics:
    """Metrics of ``logits`` [N, C] against ``targets`` [N, C] of zeros and ones.

    A label is decided for where its probability reaches its threshold.

    Raises:
        ValueError: the shapes do not belong together, or N is zero.
    """
    shapes = logits.shape == targets.shape == (len(targets), len(labels))
    if not shapes or not len(targets) or len(thresholds) != len(labels):
        raise ValueError(f"logits {logits.shape} against targets {targets.shape}, {len(labels)} labels")
    truth = targets.astype(bool)
    shares = sigmoid(logits)
    # In single precision, as a prediction decides.
    decided = shares.astype(np.float32) >= np.array(thresholds, dtype=np.float32)
    precisions = average_precisions(logits, targets)
    defined = precisions[~np.isnan(precisions)]
    per_class = {
        label: _label_metrics(truth[:, index], decided[:, index], precisions[index])
        for index, label in enumerate(labels)
    }
    return MultiLabelMetrics(
        n=len(targets),
        accuracy=float((truth == decided).all(axis=1).mean()),
        mean_average_precision=float(defined.mean()) if len(defined) else 0.0,
        macro_f1=float(np.mean([entry.f1 for entry in per_class.values()])),
        micro_f1=_ratio(2 * float((truth & decided).sum()), float(truth.sum() + decided.sum())),
        loss=float(binary_cross_entropies(logits, targets).mean()),
        ece=calibration_error(shares, targets),
        per_class=per_class,
    )


def cross_entropies(logits: Floats, targets: Integers) -> NDArray[np.float64]:
    """Cross-entropy of each item in nats: [N, C], [N] -> [N]."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=1, keepdims=True)
    normaliser = np.log(np.exp(shifted).sum(axis=1))
    losses: NDArray[np.float64] = normaliser - shifted[np.arange(len(targets)), targets]
    return losses


def binary_cross_entropies(logits: Floats, targets: Integers) -> NDArray[np.float64]:
    """Binary cross-entropy of each item and label in nats: [N, C], zeros and ones [N, C] -> [N, C]."""
    signed = np.where(targets.astype(bool), logits, -logits).astype(np.float64)
    losses: NDArray[np.float64] = np.logaddexp(0.0, -signed)
    return losses


def sigmoid(logits: Floats) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), without overflow."""
    shares: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))
    return shares


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Probabilities of classes, rows summing to one: [N, C] -> [N, C]."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def calibration_error(shares: Floats, targets: Integers) -> float:
    """Expected calibration error of probabilities [N, C] (Guo et al., 2017), over 15 bins of (0, 1].

    Of class indices [N]: how far the probability of what was decided lies from the share decided rightly.
    Of zeros and ones [N, C]: how far a label's probability lies from the share of items that have it; the
    mean over labels. Distances are those of a bin's means, weighted by its items; nan where a probability
    is.
    """
    if np.isnan(shares).any():
        return math.nan
    if targets.ndim == 2:
        pairs = zip(shares.T, targets.T, strict=True)
        return float(np.mean([_bin_error(column, truth) for column, truth in pairs]))
    return _bin_error(shares.max(axis=1), shares.argmax(axis=1) == targets)


def _bin_error(shares: Floats, right: Integers | NDArray[np.bool_]) -> float:
    _, expected, found = bin_sums(shares, right)
    return float(np.abs(expected - found).sum() / len(shares))


def bin_sums(shares: Floats, right: Integers | NDArray[np.bool_]) -> tuple[Any, Any, Any]:
    """In 15 bins of (0, 1]: how many shares [N] lie there, their sum, and how many of them are right."""
    place = np.clip(np.ceil(shares.astype(np.float64) * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    expected = np.bincount(place, weights=shares, minlength=BINS)
    return counts, expected, np.bincount(place, weights=right, minlength=BINS)


def average_precisions(scores: Floats, targets: Integers) -> NDArray[np.float64]:
    """Average precision of each label: [N, C], zeros and ones [N, C] -> [C]; nan where no item has it."""
    pairs = zip(scores.T, targets.T, strict=True)
    return np.array([_average_precision(column, truth) for column, truth in pairs], dtype=np.float64)


def _average_precision(scores: Floats, truth: Integers) -> float:
    """Precision at each distinct score, weighted by the recall that it adds (no interpolation)."""
    if not truth.any():
        return math.nan
    right, decided, _ = _cuts(scores, truth)
    gained = np.diff(right, prepend=0) / right[-1]
    return float((gained * right / decided).sum())


def best_threshold(shares: Floats, truth: Integers) -> float:
    """The threshold on ``shares`` [N] (in 0..1) with the best F1 on ``truth`` [N] of zeros and ones.

    Midway between two neighbouring shares; of several equally good ones the nearest to one half; one
    half where nothing is true.
    """
    if not truth.any():
        return 0.5
    right, decided, lowest = _cuts(shares, truth)
    f1 = 2 * right / (decided + right[-1])
    below = np.append(lowest[1:], 0.0)  # the next smaller share, to which the threshold may fall
    # Within (below, lowest] every threshold decides alike: one half if it lies there, else the middle.
    halfway = np.where((below < 0.5) & (lowest >= 0.5), 0.5, (below + lowest) / 2)
    # Shares are of single precision: between two neighbours there, only the upper one separates them.
    halfway = np.where(halfway.astype(np.float32) > below.astype(np.float32), halfway, lowest)
    best = halfway[f1 >= f1.max() - 1e-12]
    chosen = float(best[np.abs(best - 0.5).argmin()])
    # Shares that single precision rounds to 0 or 1 leave no room for a middle.
    return min(max(chosen, float(np.finfo(np.float32).tiny)), 1 - 2.0**-24)


def _cuts(
    scores: Floats, truth: Integers
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating[Any]]]:
    """For each distinct score, from high to low: true ones at or above it, items there, and the score."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    right = np.cumsum(truth[order].astype(np.int64))[last]
    return right, last + 1, ranked[last]


def effective_rank(features: Floats) -> float:
    """How many directions the rows [N, D] spread in: the exponential of the entropy of their shares.

    Shares are the singular values of the centred rows by their sum (Roy and Vetterli, 2007). 0 where the
    rows are all alike; nan where one is not finite.
    """
    wide = features.astype(np.float64)
    if not np.isfinite(wide).all():
        return math.nan
    centred = wide - wide.mean(axis=0)
    if not (centred**2).sum() > ALIKE * (wide**2).sum():
        return 0.0
    squares = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    lengths = np.sqrt(np.linalg.eigvalsh(squares).clip(0))
    shares = lengths[lengths > 0] / lengths.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def confusion_table(targets: Integers, decisions: Integers, classes: int) -> NDArray[np.int64]:
    """Counts [C, C]: rows are the truth, columns the decision."""
    cells = np.bincount(targets * classes + decisions, minlength=classes * classes)
    return cells.reshape(classes, classes)


def _class_metrics(table: NDArray[np.int64], index: int) -> ClassMetrics:
    return ClassMetrics(*_quality(table[index, index], table[index].sum(), table[:, index].sum()))


def _label_metrics(truth: NDArray[np.bool_], decided: NDArray[np.bool_], precision: float) -> LabelMetrics:
    counts = (truth & decided).sum(), truth.sum(), decided.sum()
    return LabelMetrics(*_quality(*counts), 0.0 if math.isnan(precision) else float(precision))


def _quality(right: int, n: int, decided: int) -> tuple[int, float, float, float]:
    """(n, precision, recall, F1)."""
    return int(n), _ratio(right, decided), _ratio(right, n), _ratio(2 * right, n + decided)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
