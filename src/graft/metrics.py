"""Arrays in, numbers out: how good predictions are.

Shapes: N items, C classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassMetrics:
    """One class: how many items it has, and its precision, recall and F1 (0 where undefined)."""

    n: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Metrics:
    """Quality of predictions on ``n`` items.

    ``accuracy``: share decided rightly. ``balanced_accuracy``: mean recall of the classes present.
    ``loss``: mean cross-entropy in nats. ``problems``: what was odd about the data, in sentences.
    """

    n: int
    accuracy: float
    balanced_accuracy: float
    loss: float
    per_class: dict[str, ClassMetrics]
    confusion: tuple[tuple[int, ...], ...]  # rows: the truth, columns: the decision
    problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def score_logits(
    logits: NDArray[np.floating[Any]], targets: NDArray[np.int64], labels: tuple[str, ...]
) -> Metrics:
    """Metrics of ``logits`` [N, C] against class indices ``targets`` [N].

    Raises:
        ValueError: the shapes do not belong together, or N is zero.
    """
    if logits.shape != (len(targets), len(labels)) or not len(targets):
        raise ValueError(f"logits {logits.shape} against {len(targets)} targets, {len(labels)} labels")
    table = confusion_table(targets, logits.argmax(axis=1), len(labels))
    per_class = {label: _class_metrics(table, index) for index, label in enumerate(labels)}
    recalls = [entry.recall for entry in per_class.values() if entry.n]
    return Metrics(
        n=len(targets),
        accuracy=float(np.trace(table) / len(targets)),
        balanced_accuracy=float(np.mean(recalls)),
        loss=float(cross_entropies(logits, targets).mean()),
        per_class=per_class,
        confusion=tuple(tuple(int(count) for count in row) for row in table),
    )


def cross_entropies(logits: NDArray[np.floating[Any]], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cross-entropy of each item in nats: [N, C], [N] -> [N], computed in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    normaliser = np.log(np.exp(shifted).sum(axis=1))
    losses: NDArray[np.float64] = normaliser - shifted[np.arange(len(targets)), targets]
    return losses


def confusion_table(
    targets: NDArray[np.int64], decisions: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Counts [C, C]: rows are the truth, columns the decision."""
    cells = np.bincount(targets * classes + decisions, minlength=classes * classes)
    return cells.reshape(classes, classes)


def _class_metrics(table: NDArray[np.int64], index: int) -> ClassMetrics:
    right, n, decided = table[index, index], table[index].sum(), table[:, index].sum()
    precision, recall = _ratio(right, decided), _ratio(right, n)
    return ClassMetrics(
        n=int(n),
        precision=precision,
        recall=recall,
        f1=_ratio(2 * precision * recall, precision + recall),
    )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
