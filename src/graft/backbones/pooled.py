"""A network of transformers with its last states pooled: one tensor in, features out.

The library's own ``forward`` runs, between a tensor of token numbers or pixels and a pooled state of the
last layer.

Shapes: B items, T tokens of the longest text, K channels, h, w of pictures, D features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graft.backbones.contract import PADDING, Pooling
from graft.backbones.tracing import Trace


class TextTrunk(nn.Module):
    """int64 [B, 2, T] -> [B, D]: the last layer's states, pooled.

    ``pooling``: cls takes the first token's, mean the mean over tokens, last the last token's.
    ``segments``: whether the network is told them. ``padding``: the token that stands behind texts.
    """

    def __init__(self, network: nn.Module, *, pooling: Pooling, segments: bool, padding: int) -> None:
        super().__init__()
        self.network = network
        self.pooling, self.segments, self.padding = pooling, segments, padding

    def forward(self, texts: Tensor) -> Tensor:
        tokens, real = texts[:, 0], texts[:, 0] != PADDING
        # Without padding there is no mask, and attention takes its fastest way.
        mask = None if bool(real.all()) else real
        inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": None}
        if self.segments:
            inputs["token_type_ids"] = texts[:, 1].clamp_min(0)
        if mask is not None:
            inputs |= {"input_ids": tokens.masked_fill(~mask, self.padding), "attention_mask": mask.long()}
        states: Tensor = self.network(**inputs).last_hidden_state
        return _pool(states, mask, self.pooling)

    def stage_groups(self, trace: Trace) -> list[tuple[str, ...]]:
        """Parameters by layer; what is used before the layers together, and what after with the last."""
        lists = [(name, each) for name, each in self.named_modules() if isinstance(each, nn.ModuleList)]
        prefix, layers = max(lists, key=lambda found: len(found[1]), default=("", nn.ModuleList()))
        groups: dict[str, list[str]] = {"": [], **{name: [] for name, _ in layers.named_children()}}
        around: list[str] = []
        for name, _ in self.named_parameters():
            inside = name.startswith(f"{prefix}.") and len(layers) > 0
            layer = name.removeprefix(f"{prefix}.").partition(".")[0]
            (groups[layer] if inside else around).append(name)
        inner = [trace.first_use.get(name, 0) for names in groups.values() for name in names]
        last = list(groups)[-1]
        for name in around:
            groups[last if trace.first_use.get(name, 0) > max(inner, default=0) else ""].append(name)
        return [tuple(names) for names in groups.values() if names]


class PictureTrunk(nn.Module):
    """[B, K, h, w] -> [B, D]: what the network itself pools, or the first token's state."""

    def __init__(self, network: nn.Module, *, pooled: bool) -> None:
        super().__init__()
        self.network = network
        self.pooled = pooled

    def forward(self, pictures: Tensor) -> Tensor:
        output = self.network(pixel_values=pictures)
        features: Tensor = (
            output.pooler_output.flatten(1) if self.pooled else output.last_hidden_state[:, 0]
        )
        return features


def _pool(states: Tensor, mask: Tensor | None, pooling: Pooling) -> Tensor:
    """States [B, T, D] -> [B, D]; ``mask`` [B, T]: where there are tokens, None for everywhere."""
    if pooling == "cls":
        return states[:, 0]
    if mask is None:
        return states.mean(1) if pooling == "mean" else states[:, -1]
    if pooling == "mean":
        real = mask.unsqueeze(-1).to(states)
        return (states * real).sum(1) / real.sum(1)
    rows = torch.arange(len(states), device=states.device)
    return states[rows, mask.sum(1) - 1]
