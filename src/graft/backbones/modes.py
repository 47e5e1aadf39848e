"""Ways in which a network can compute the same: how it attends, and what it keeps for the backward pass.

Both are switches of the library that a network comes from; a network without one has only the usual way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

from torch import nn

from graft.backbones.pooled import PictureTrunk, TextTrunk

Attention: TypeAlias = Literal["sdpa", "eager"]
"""Attention by torch's fused kernel, or step by step, which is quicker on some short texts."""


def attends_both_ways(trunk: nn.Module) -> bool:
    """Whether the network's attention can be switched."""
    network: Any = _network(trunk)
    return bool(getattr(network, "_supports_sdpa", False))


@contextmanager
def attending(trunk: nn.Module, how: Attention) -> Iterator[None]:
    """Inside, the network attends in this way, where it can."""
    network: Any = _network(trunk)
    before = network.config._attn_implementation if attends_both_ways(trunk) else how
    set_attention(trunk, how)
    try:
        yield
    finally:
        set_attention(trunk, before)


def set_attention(trunk: nn.Module, how: Attention) -> None:
    """From here on the network attends in this way, where it can."""
    network: Any = _network(trunk)
    if attends_both_ways(trunk) and network.config._attn_implementation != how:
        network.set_attn_implementation(how)


def can_recompute(trunk: nn.Module) -> bool:
    """Whether activations can be computed again in the backward pass (Chen et al., 2016)."""
    network: Any = _network(trunk)
    if network is not None:
        return bool(network.supports_gradient_checkpointing)
    return callable(getattr(trunk, "set_grad_checkpointing", None))


@contextmanager
def recomputing(trunk: nn.Module) -> Iterator[None]:
    """Inside, training keeps a few activations and computes the others again: less memory, more time."""
    _switch(trunk, on=True)
    try:
        yield
    finally:
        _switch(trunk, on=False)


def _switch(trunk: nn.Module, *, on: bool) -> None:
    network: Any = _network(trunk)
    if network is None:
        timm_model: Any = trunk
        timm_model.set_grad_checkpointing(on)
        return
    # Older versions of transformers know the older name alone.
    name = "activation" if hasattr(network, "activation_checkpointing_enable") else "gradient"
    if on:
        getattr(network, f"{name}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(network, f"{name}_checkpointing_disable")()


def _network(trunk: nn.Module) -> nn.Module | None:
    """The network of transformers that a trunk holds."""
    return trunk.network if isinstance(trunk, TextTrunk | PictureTrunk) else None
