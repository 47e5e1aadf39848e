"""Low-rank adapters: a small share of parameters that trains in place of a whole network.

``adapt`` puts them into a backbone, ``merge`` adds what they learnt to the weights,
``check_adapters`` refuses what cannot be done. The layers themselves are peft's, which is imported only
when a network is adapted.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from graft.adapters.injection import adapt, merge, merged
from graft.adapters.quantizing import quantize
from graft.backbones.contract import Adapters, Backbone, Target
from graft.errors import RecipeError
from graft.numerics import resolve_device
from graft.recipe import Recipe

__all__ = ["Adapters", "Target", "adapt", "check_adapters", "merge", "merged", "quantize"]


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
