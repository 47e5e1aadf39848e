"""Where a network looks: which part of a picture, or which words, speak for what it decided.

Gradient times activation in one layer, summed over its channels (for a layer below global pooling and a
linear head this is Grad-CAM, Selvaraju et al., 2017; otherwise HiResCAM, Draelos and Carin, 2020), by the
library captum. Of pictures the highest layer that still has places is taken, of texts the embeddings.

Shapes: B items, h, w places of a layer, T tokens, D channels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graft.backbones.contract import Encoding
from graft.backbones.tokenizer_limits import open_tokenizer
from graft.data.items import Text
from graft.model import Model

FEWEST_PLACES = 3  # a side of the layer's grid; below it, a map says next to nothing
MOST_PREFIX = 8  # tokens before those that are places (class, distillation, registers)
_AT_ONCE = 8


def look_at_pictures(model: Model, inputs: Tensor, decided: Sequence[int]) -> NDArray[np.float64] | None:
    """For each picture [B, K, H, W] what speaks for the class ``decided``: [B, h, w], 0 to 1.

    None where no layer of the network has places.
    """
    network = _copy(model)
    layer = _highest_with_places(network, inputs[:1])
    if layer is None:
        return None
    found = torch.cat([_places(each) for each in _attribute(network, layer, inputs, decided)])
    spoken = found.clamp_min(0)
    most = spoken.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    scaled: NDArray[np.float64] = (spoken / most).double().numpy()
    return scaled


def look_at_texts(
    model: Model, encoding: Encoding, texts: Sequence[Text], inputs: Tensor, decided: Sequence[int]
) -> list[list[tuple[str, float]]] | None:
    """For each text [B, 2, T] its words with what they say for (above 0) or against ``decided``, -1 to 1.

    None where the network has no layer that turns the vocabulary's tokens into vectors.
    """
    network = _copy(model)
    layer = next((m for m in network.modules() if _holds_words(m, encoding)), None)
    if layer is None:
        return None
    rows = [
        row
        for found in _attribute(network, layer, inputs, decided)
        for row in found.sum(-1).double().numpy()
    ]
    return [_by_word(text, encoding, row) for text, row in zip(texts, rows, strict=True)]


def _holds_words(module: nn.Module, encoding: Encoding) -> bool:
    return isinstance(module, nn.Embedding) and module.num_embeddings >= encoding.vocabulary


def _copy(model: Model) -> Model:
    """A copy with gradients everywhere; what was frozen in it has none otherwise."""
    return copy.deepcopy(model).eval().requires_grad_(True)


def _attribute(network: Model, layer: nn.Module, inputs: Tensor, decided: Sequence[int]) -> list[Tensor]:
    """Gradient times activation of ``layer``, a few items at a time."""
    from captum.attr import LayerGradientXActivation

    method = LayerGradientXActivation(network, layer)
    targets, rows = torch.tensor(decided, device=inputs.device), []
    for start in range(0, len(inputs), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found: Any = method.attribute(inputs[part], target=targets[part])
        rows.append((found[0] if isinstance(found, tuple) else found).detach().float().cpu())
    return rows


def _highest_with_places(network: Model, example: Tensor) -> nn.Module | None:
    """The last module to finish whose outcome is a grid or a row of tokens, and whose places count.

    Above the layer in which a class token gathers them, places of tokens have no say in the decision.
    """
    seen: list[tuple[nn.Module, Tensor]] = []

    def look(module: nn.Module, _: Any, outcome: Any) -> None:
        if not isinstance(outcome, Tensor) or not outcome.requires_grad:
            return
        grid = _grid(outcome)
        if grid is not None and _like(grid, example):
            outcome.retain_grad()
            seen.append((module, outcome))

    hooks = [module.register_forward_hook(look) for module in network.trunk.modules()]
    try:
        with torch.enable_grad():
            network(example).max().backward()
    finally:
        for hook in hooks:
            hook.remove()
        network.zero_grad()
    for module, outcome in reversed(seen):
        if outcome.grad is not None and bool(_places(outcome.grad.abs()).any()):
            return module
    return None


def _grid(outcome: Tensor) -> tuple[int, int] | None:
    """Height and width of the places in a layer's outcome; None where it has none."""
    if outcome.ndim == 4:
        height, width = outcome.shape[1:3] if _channels_last(outcome) else outcome.shape[2:]
        return (height, width) if min(height, width) >= FEWEST_PLACES else None
    if outcome.ndim == 3:
        side = math.isqrt(outcome.shape[1])
        places = side >= FEWEST_PLACES and outcome.shape[1] - side**2 <= MOST_PREFIX
        return (side, side) if places else None
    return None


def _like(grid: tuple[int, int], example: Tensor) -> bool:
    """Whether a grid has the sides of the picture, reduced: heads of attention by tokens have not."""
    height, width = example.shape[-2:]
    return abs(grid[0] * width - grid[1] * height) <= max(height, width)


def _channels_last(outcome: Tensor) -> bool:
    return outcome.shape[1] == outcome.shape[2] != outcome.shape[3]


def _places(found: Tensor) -> Tensor:
    """What each place says: [B, …] -> [B, h, w]."""
    grid = _grid(found)
    assert grid is not None
    if found.ndim == 4:
        return found.sum(-1 if _channels_last(found) else 1)
    return found.sum(-1)[:, -math.prod(grid) :].reshape(-1, *grid)


def _by_word(text: Text, encoding: Encoding, scores: NDArray[np.float64]) -> list[tuple[str, float]]:
    """Words with the sum of their tokens' scores, by the largest; tokens that were cut say nothing."""
    tokenizer = open_tokenizer(encoding.tokenizer)
    tokenizer.enable_truncation(encoding.max_length)
    found = tokenizer.encode(text.first, text.second)
    parts = [text.first, text.second or ""]
    words: dict[tuple[int, int], tuple[int, int, float]] = {}
    for sequence, word, (begin, end), score in zip(
        found.sequence_ids, found.word_ids, found.offsets, scores, strict=False
    ):
        if sequence is not None and word is not None:
            first, _, total = words.get((sequence, word), (begin, end, 0.0))
            words[sequence, word] = (first, end, total + float(score))
    most = max([abs(total) for *_, total in words.values()], default=0.0) or 1.0
    return [(parts[key[0]][begin:end], total / most) for key, (begin, end, total) in words.items()]
