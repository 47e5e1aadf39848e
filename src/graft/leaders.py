"""The best weights of a phase so far, and what they scored."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

Weights = dict[str, Tensor]


@dataclass
class Leaders:
    """Up to ``most`` sets of weights, the best first; ``entries`` say what each scored, and when.

    An entry has at least "score" (lower is better) and "epoch".
    """

    most: int = 1
    entries: list[dict[str, float]] = field(default_factory=list)
    weights: list[Weights] = field(default_factory=list)

    @property
    def best(self) -> dict[str, float] | None:
        return self.entries[0] if self.entries else None

    def offer(self, entry: dict[str, float], take: Callable[[], Weights]) -> bool:
        """Put an entry where it belongs, its weights taken only if it does; whether it is the best now.

        Of two equal ones the earlier leads; what is not finite never does.
        """
        if not math.isfinite(entry["score"]):
            return False
        place = sum(each["score"] <= entry["score"] for each in self.entries)
        if place >= self.most:
            return False
        self.entries.insert(place, entry)
        self.weights.insert(place, take())
        del self.entries[self.most :], self.weights[self.most :]
        return place == 0

    def tensors(self) -> Weights:
        """All weights as one flat set, each name with its rank."""
        return {
            f"{rank}::{name}": value
            for rank, weights in enumerate(self.weights)
            for name, value in weights.items()
        }

    def restore(self, entries: list[dict[str, float]], tensors: Weights) -> None:
        """The inverse: ``entries``, and what :meth:`tensors` made of their weights."""
        self.entries = list(entries)
        self.weights = [{} for _ in entries]
        for name, value in tensors.items():
            rank, _, name = name.partition("::")
            self.weights[int(rank)][name] = value
