"""Task: what the labels mean.

A task owns the order of the labels, the loss, the decision made from logits, and the score that says
how good decisions are. It is stored with the bundle and never re-derived from a folder. There are two
kinds: ``single-label`` (each item has exactly one of the labels) and ``multi-label`` (any number of them,
none included).

Shapes: N items, C classes. Targets are class indices int64 [N] of a single-label task, zeros and ones
uint8 [N, C] of a multi-label one; shares in float [N, C] where items were mixed.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from graft.errors import DataError, quote

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from graft.metrics import Metrics, MultiLabelMetrics

Kind = Literal["single-label", "multi-label"]
HALF = 0.5  # the threshold of a label that has none of its own


@dataclass(frozen=True)
class Task:
    """Classification over ``labels``, in the order of the logits.

    ``thresholds``: the probability from which on a label of a multi-label task is decided for, one a
    class; None: one half each. ``temperature``: what logits are divided by before they become
    probabilities, fitted on data that was held out; losses of training do without it.

    Raises:
        DataError: too few labels (two are needed to tell apart, one to tell whether it applies), a label
            that stands twice, an unknown kind, thresholds that are not one number in (0, 1) a label,
            a temperature that is not above zero.
    """

    labels: tuple[str, ...]
    kind: Kind = "single-label"
    thresholds: tuple[float, ...] | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("single-label", "multi-label"):
            raise DataError(f"There is no task {quote(self.kind)}; there are single-label and multi-label.")
        if len(self.labels) < (1 if self.multi_label else 2):
            found = f"one class, {quote(self.labels[0])}" if self.labels else "no class"
            raise DataError(f"The data has {found}; at least two classes are needed to tell apart.")
        if len(set(self.labels)) != len(self.labels):
            twice = sorted(name for name, count in Counter(self.labels).items() if count > 1)
            raise DataError(f"Each label must stand once in the label order; repeated: {twice}.")
        if self.thresholds is not None:
            self._check_thresholds(self.thresholds)
        if not 0 < self.temperature < math.inf:
            raise DataError(f"The temperature is {self.temperature}; a number above zero was expected.")

    def _check_thresholds(self, thresholds: tuple[float, ...]) -> None:
        if not self.multi_label:
            raise DataError(
                "A single-label task has no thresholds: the most probable label is decided for."
            )
        if len(thresholds) != self.classes or not all(0 < value < 1 for value in thresholds):
            raise DataError(
                f"The thresholds are {list(thresholds)}; one number between 0 and 1 for each of the "
                f"{self.classes} labels was expected."
            )

    @property
    def classes(self) -> int:
        """C, the number of classes."""
        return len(self.labels)

    @property
    def multi_label(self) -> bool:
        """Whether an item may have several labels, or none."""
        return self.kind == "multi-label"

    @property
    def score_name(self) -> str:
        """What :meth:`score` measures, as people call it."""
        return "mean average precision" if self.multi_label else "accuracy"

    def losses(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        smoothing: float = 0.0,
        weights: Tensor | None = None,
        gamma: float = 0.0,
    ) -> Tensor:
        """The loss of each item in nats: logits [N, C] and targets -> float32 [N].

        Single-label: cross-entropy. Multi-label: the mean over classes of binary cross-entropy.
        ``smoothing`` is the share of each target that is spread evenly over all classes; of each
        yes-or-no of a multi-label task, over yes and no. ``weights`` [C]: an item's loss times the
        weight of its class, not divided by any sum of weights (mixed targets: each class's share of the
        loss times its weight); multi-label: what counts of a *present* label is multiplied, as by
        torch's ``pos_weight``. ``gamma``: exponent of the focal loss (Lin et al., 2017), which multiplies
        each term -log p by (1 - p)^gamma; 0 is the plain loss.
        """
        form = _label_losses if self.multi_label else _class_losses
        return form(logits.float(), targets, smoothing, weights, gamma)

    def target_rows(self, targets: Tensor) -> Tensor:
        """Targets as float32 [N, C], one row an item, that can be mixed and given to :meth:`losses`."""
        from torch.nn.functional import one_hot

        if self.multi_label or targets.ndim == 2:
            return targets.float()
        return one_hot(targets, self.classes).float()

    def probabilities(self, logits: Tensor) -> Tensor:
        """[N, C] -> [N, C]: rows that sum to one; of a multi-label task, each label's own."""
        logits = logits.float() / self.temperature
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)

    def decisions(self, logits: Tensor) -> Tensor:
        """What is decided: class indices int64 [N]; multi-label: bool [N, C], at or above the threshold."""
        if not self.multi_label:
            return logits.argmax(dim=-1)
        return self.probabilities(logits) >= logits.new_tensor(self._limits()).float()

    def with_temperature(self, temperature: float) -> Task:
        """This task with another temperature of its probabilities."""
        return replace(self, temperature=temperature)

    def choose_thresholds(self, logits: Tensor, targets: Tensor) -> Task:
        """This task with the thresholds that give each label its best F1 on ``targets`` [N, C].

        Of several that are equally good, the one nearest to one half; one half also for a label that no
        item has. A single-label task is returned as it is.
        """
        if not self.multi_label:
            return self
        from graft.metrics import best_threshold

        shares = self.probabilities(logits).double().cpu().numpy()
        truth = targets.cpu().numpy()
        chosen = (best_threshold(shares[:, index], truth[:, index]) for index in range(self.classes))
        return replace(self, thresholds=tuple(chosen))

    def score(self, logits: Tensor, targets: Tensor) -> float:
        """The one number by which models are compared, higher is better; see ``score_name``.

        Accuracy, or the mean over labels of average precision (labels that no item has left out; nan
        where no item has any).
        """
        if not self.multi_label:
            return float((self.decisions(logits) == targets).double().mean())
        from graft.metrics import average_precisions

        found = average_precisions(logits.double().cpu().numpy(), targets.cpu().numpy())
        defined = [value for value in found if not math.isnan(value)]
        return sum(defined) / len(defined) if defined else math.nan

    def measure(
        self, logits: NDArray[np.floating[Any]], targets: NDArray[np.integer[Any]]
    ) -> Metrics | MultiLabelMetrics:
        """All metrics of ``logits`` [N, C] on arrays of targets; N must be at least one."""
        from graft.metrics import score_label_logits, score_logits

        logits = logits / self.temperature
        if self.multi_label:
            return score_label_logits(logits, targets, self.labels, self._limits())
        return score_logits(logits, targets, self.labels)

    def names_of(self, target: Any) -> tuple[str, ...]:
        """The labels of one item: of a class index, or of a row of zeros and ones."""
        if not self.multi_label:
            return (self.labels[int(target)],)
        return tuple(label for label, present in zip(self.labels, target, strict=True) if present)

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = {"kind": self.kind, "labels": list(self.labels)}
        if self.thresholds is not None:
            values["thresholds"] = list(self.thresholds)
        if self.temperature != 1.0:
            values["temperature"] = self.temperature
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Task:
        """The inverse of :meth:`to_dict`."""
        thresholds = values.get("thresholds")
        return cls(
            labels=tuple(values["labels"]),
            kind=values["kind"],
            thresholds=None if thresholds is None else tuple(thresholds),
            temperature=values.get("temperature", 1.0),
        )

    def _limits(self) -> tuple[float, ...]:
        return self.thresholds if self.thresholds is not None else (HALF,) * self.classes


def _class_losses(
    logits: Tensor, targets: Tensor, smoothing: float, weights: Tensor | None, gamma: float
) -> Tensor:
    """Each item's loss were it of this class [N, C], then that of the class it is of."""
    losses = _focal(logits.log_softmax(dim=-1), gamma)
    if smoothing:
        losses = (1 - smoothing) * losses + smoothing * losses.mean(dim=-1, keepdim=True)
    if weights is not None:
        losses = losses * weights
    if targets.ndim == 1:
        return losses.gather(1, targets[:, None]).squeeze(1)
    return (targets * losses).sum(dim=-1)


def _label_losses(
    logits: Tensor, targets: Tensor, smoothing: float, weights: Tensor | None, gamma: float
) -> Tensor:
    from torch.nn.functional import logsigmoid

    truth = targets.float()
    if smoothing:
        truth = truth * (1 - smoothing) + HALF * smoothing
    present, absent = _focal(logsigmoid(logits), gamma), _focal(logsigmoid(-logits), gamma)
    if weights is not None:
        present = present * weights
    return (truth * present + (1 - truth) * absent).mean(dim=-1)


def _focal(log_probabilities: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma * -log p."""
    if not gamma:
        return -log_probabilities
    # Not quite down to 0, where the slope of a power below one has no end.
    doubt = (-log_probabilities.expm1()).clamp_min(1e-7)
    return -log_probabilities * doubt**gamma
