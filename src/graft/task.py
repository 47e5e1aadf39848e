"""Task: what the labels mean.

A task owns the order of the labels, the loss, and the decision made from logits. It is stored with
the bundle and never re-derived from a folder. This version knows single-label classification.

Shapes: N items, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graft.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Task:
    """Single-label classification over ``labels``, in the order of the logits.

    Raises:
        DataError: fewer than two labels, or a label that stands twice.
    """

    labels: tuple[str, ...]
    kind: str = "single-label"

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            found = f"one class, {self.labels[0]!r}" if self.labels else "no class"
            raise DataError(f"The data has {found}; at least two classes are needed to tell apart.")
        if len(set(self.labels)) != len(self.labels):
            twice = sorted({name for name in self.labels if self.labels.count(name) > 1})
            raise DataError(f"Each label must stand once in the label order; repeated: {twice}.")

    @property
    def classes(self) -> int:
        """C, the number of classes."""
        return len(self.labels)

    def losses(self, logits: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of each item: logits [N, C], targets [N] class indices -> [N], in nats."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits.float(), targets, reduction="none", label_smoothing=smoothing)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax over classes: [N, C] -> [N, C], rows summing to one."""
        return logits.float().softmax(dim=-1)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "labels": list(self.labels)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Task:
        """The inverse of :meth:`to_dict`."""
        return cls(labels=tuple(values["labels"]), kind=values["kind"])
