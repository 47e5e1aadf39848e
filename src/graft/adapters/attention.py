"""torch's multi-head attention with its projections as layers of their own, so that they can be adapted.

``nn.MultiheadAttention`` reads its weights and calls no layer, so an adapter around a projection would
have no effect; peft's layer for it adds and takes away what it learnt around every pass, which moves the
frozen weights by rounding. ``OpenAttention`` has the same parameters and computes the same.

Shapes: B items, L queries, S keys, E features, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention


class OpenAttention(nn.Module):
    """An attention whose queries, keys and values come of one layer ``in_proj`` [3 E, E]."""

    def __init__(self, closed: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, self.batch_first, self.dropout = closed.num_heads, closed.batch_first, closed.dropout
        self.in_proj = _linear(closed.in_proj_weight, closed.in_proj_bias)
        self.out_proj = _linear(closed.out_proj.weight, closed.out_proj.bias)
        self.training = closed.training

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # noqa: ARG002 (a hint beside the mask, which says it already)
    ) -> tuple[Tensor, Tensor | None]:
        """As :class:`torch.nn.MultiheadAttention`: outputs [B, L, E], attention [B, L, S] where asked."""
        batched = query.ndim == 3
        inputs = [_as_batch(each, batched, self.batch_first) for each in (query, key, value)]
        if query is key and key is value:
            parts = self.in_proj(inputs[0]).chunk(3, dim=-1)
        else:
            parts = tuple(self.in_proj(each).chunk(3, dim=-1)[n] for n, each in enumerate(inputs))
        queries, keys, values = (self._by_head(part) for part in parts)
        mask = _merged(attn_mask, key_padding_mask, queries, self.heads)
        rate, weights = self.dropout if self.training else 0.0, None
        if need_weights:
            scores = queries @ keys.transpose(-2, -1) / queries.shape[-1] ** 0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = dropout(weights, rate, training=rate > 0) @ values
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = scaled_dot_product_attention(queries, keys, values, mask, rate)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        out = out if self.batch_first else out.transpose(0, 1)
        if not batched:
            out = out.squeeze(0 if self.batch_first else 1)
            weights = None if weights is None else weights.squeeze(0)
        return out, weights

    def _by_head(self, part: Tensor) -> Tensor:
        """[B, L, E] -> [B, H, L, E / H]."""
        split: Tensor = part.unflatten(-1, (self.heads, -1))
        return split.transpose(1, 2)


def can_open(module: nn.Module) -> bool:
    """Whether this is an attention of torch's own that :class:`OpenAttention` stands for."""
    return (
        type(module) is nn.MultiheadAttention
        and module._qkv_same_embed_dim
        and module.bias_k is None
        and not module.add_zero_attn
    )


def open_attention(trunk: nn.Module) -> None:
    """Put an :class:`OpenAttention` in the place of every attention that it can stand for, in place."""
    for name, module in list(trunk.named_modules()):
        if can_open(module):
            assert isinstance(module, nn.MultiheadAttention)
            put(trunk, name, OpenAttention(module))


def close_attention(trunk: nn.Module) -> None:
    """The reverse of :func:`open_attention`; its projections must be plain layers again."""
    for name, module in list(trunk.named_modules()):
        if isinstance(module, OpenAttention):
            put(trunk, name, _closed(module))


def put(trunk: nn.Module, name: str, module: nn.Module) -> None:
    """``module`` in the place of the one of this name."""
    parent, _, child = name.rpartition(".")
    setattr(trunk.get_submodule(parent), child, module)


def _closed(module: OpenAttention) -> nn.MultiheadAttention:
    inner, outer = module.in_proj, module.out_proj
    with torch.device("meta"):
        closed = nn.MultiheadAttention(
            inner.in_features,
            module.heads,
            module.dropout,
            bias=inner.bias is not None,
            batch_first=module.batch_first,
        )
    closed.register_parameter("in_proj_weight", _parameter(inner.weight))
    closed.out_proj.register_parameter("weight", _parameter(outer.weight))
    if inner.bias is not None:
        closed.register_parameter("in_proj_bias", _parameter(inner.bias))
        closed.out_proj.register_parameter("bias", _parameter(outer.bias))
    return closed.train(module.training)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer of these very parameters."""
    outputs, inputs = weight.shape
    with torch.device("meta"):
        layer = nn.Linear(inputs, outputs, bias=bias is not None)
    layer.register_parameter("weight", _parameter(weight))
    layer.register_parameter("bias", None if bias is None else _parameter(bias))
    return layer


def _parameter(value: Tensor) -> nn.Parameter:
    assert isinstance(value, nn.Parameter)
    return value


def _as_batch(inputs: Tensor, batched: bool, batch_first: bool) -> Tensor:
    """[B, L, E], whatever the order was."""
    if not batched:
        return inputs.unsqueeze(0)
    return inputs if batch_first else inputs.transpose(0, 1)


def _merged(mask: Tensor | None, padding: Tensor | None, queries: Tensor, heads: int) -> Tensor | None:
    """What is added to scores [B, H, L, S]: both masks as one; true entries of a mask are left out."""
    parts: list[Any] = []
    if mask is not None:
        added = _additive(mask, queries)
        parts.append(added.unflatten(0, (-1, heads)) if added.ndim == 3 else added)
    if padding is not None:
        parts.append(_additive(padding, queries).view(-1, 1, 1, padding.shape[-1]))
    return sum(parts[1:], parts[0]) if parts else None


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, float("-inf"))
