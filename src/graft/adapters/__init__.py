"""Low-rank adapters: a small share of parameters that trains in place of a whole network.

``adapt`` puts them into a backbone, ``check_adapters`` refuses what cannot be done. The layers themselves
are peft's, which is imported only when a network is adapted.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from graft.backbones.contract import Adapters, Backbone, Target
from graft.errors import RecipeError
from graft.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import nn

    from graft.recipe import AdapterSettings

__all__ = ["Adapters", "Target", "adapt", "check_adapters", "merge", "quantize"]


def adapt(
    backbone: Backbone, settings: AdapterSettings, stages: Collection[str], *, seed: int = 0
) -> Backbone:
    """The backbone with adapters in ``stages``; see :func:`graft.adapters.injection.adapt`."""
    from graft.adapters.injection import adapt as put_in

    return put_in(backbone, settings, stages, seed=seed)


def merge(trunk: nn.Module) -> None:
    """Add what adapters learnt to the weights, in place; see :func:`graft.adapters.injection.merge`."""
    from graft.adapters.injection import merge as put_together

    put_together(trunk)


def quantize(trunk: nn.Module) -> None:
    """Frozen weights of adapted layers in 4 bits, in place; see :mod:`graft.adapters.quantizing`."""
    from graft.adapters.quantizing import quantize as put_in_four_bits

    put_in_four_bits(trunk)


def check_adapters(recipe: Recipe, backbone: Backbone, *, adapts: bool) -> None:
    """Refuse settings of adapters that cannot be followed; ``adapts``: the strategy trains adapters.

    Raises:
        RecipeError: naming the setting.
    """
    asked: Any = recipe.adapters
    if not adapts:
        if asked.model_fields_set:
            names = ", ".join(f"adapters.{name}" for name in sorted(asked.model_fields_set))
            raise RecipeError(f"{names}: of the strategy lora; the strategy here is {recipe.strategy}.")
        return
    if asked.bundle == "adapter" and not backbone.source.pretrained:
        raise RecipeError(
            "adapters.bundle = 'adapter': without its backbone an adapter is worth nothing, and this one's "
            "random weights could not be had again; take adapters.bundle=merged."
        )
    if asked.quantize == "none":
        return
    from graft.numerics import resolve_device

    if resolve_device(recipe.device).type != "cuda" or not torch.cuda.is_available():
        raise RecipeError(
            "adapters.quantize = '4bit' needs a CUDA device, and none is used here; leave it out (adapters "
            "then train on the network as it is), or run where there is one."
        )
    if asked.dora:
        raise RecipeError(
            "adapters.dora beside adapters.quantize = '4bit': DoRA wants the weights themselves; leave one "
            "of them out."
        )
    if find_spec("bitsandbytes") is None:
        raise RecipeError(
            "adapters.quantize = '4bit': weights are put into 4 bits by the library bitsandbytes, which is "
            "not installed: pip install graft-ml[qlora]."
        )
