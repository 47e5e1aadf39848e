"""Model: a trunk and a head, and the head as a plain value.

The trunk maps a batch of pictures or texts to features [B, D]; the head maps features to logits
[B, C]. Parameter names are canonical: ``trunk.`` or ``head.`` and the module's own name.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from graft.backbones.contract import Backbone
from graft.surgery import make_head


@dataclass(frozen=True)
class Head:
    """What the head is: ``linear``, or ``mlp`` (dropout - linear - ReLU - dropout - linear)."""

    features: int
    classes: int
    kind: Literal["linear", "mlp"] = "linear"
    hidden: int = 256
    dropout: float | tuple[float, float] = 0.0
    """Before each linear layer; or before the first and the second of an mlp."""

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        if isinstance(self.dropout, tuple):  # as it comes back from JSON
            values["dropout"] = list(self.dropout)
        return values

    def build(self, *, seed: int) -> nn.Module:
        """The module, random as a function of ``seed`` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make_head(
                self.features,
                self.classes,
                kind=self.kind,
                hidden=self.hidden,
                dropout=self.dropout,
            )


class Model(nn.Module):
    """``head(trunk(inputs))``."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, inputs: Tensor) -> Tensor:
        """A batch of inputs -> logits [B, C]."""
        logits: Tensor = self.head(self.trunk(inputs))
        return logits


def make_model(backbone: Backbone, head: Head, *, seed: int) -> Model:
    """A model on a copy of the backbone's trunk, its head random as a function of ``seed``."""
    return Model(copy.deepcopy(backbone.trunk), head.build(seed=seed))


def set_linear_head(model: Model, weight: Tensor, bias: Tensor) -> None:
    """Put solved ``weight`` [C, D] and ``bias`` [C] into the linear head, in place."""
    linear = next(module for module in model.head.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
