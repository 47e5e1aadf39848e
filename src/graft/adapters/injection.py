"""Low-rank adapters (LoRA, Hu et al., 2022) around the layers of a backbone, through peft.

An adapted backbone is a backbone like any other: its trunk is a copy with peft's layers in it, its stages
are the same ones, and what they have to train are the adapters. ``merge`` adds what was learnt to the
weights, and gives the plain network back.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from graft.adapters.attention import close_attention, open_attention, put
from graft.adapters.targets import find_targets
from graft.backbones.assembly import state_digest
from graft.backbones.contract import Adapters, Backbone, Stage, Target
from graft.backbones.truncation import is_within, leaf_names
from graft.errors import RecipeError
from graft.logs import silenced
from graft.recipe import AdapterSettings
from graft.seeds import mix

OWN = "own"  # the name of the adapter that is trained
_BIAS: dict[str, Literal["none", "all", "lora_only"]] = {
    "none": "none",
    "targets": "lora_only",
    "all": "all",
}


def adapt(
    backbone: Backbone, settings: AdapterSettings, stages: Collection[str], *, seed: int = 0
) -> Backbone:
    """The backbone with adapters in ``stages``, which change nothing yet; the given one is left as it is.

    Adapters begin as a function of ``seed``.

    Raises:
        RecipeError: peft is not installed, or there is nothing to adapt as asked.
    """
    base = state_digest(backbone.trunk)
    opened = _followed(backbone, copy.deepcopy(backbone.trunk), open_attention)
    targets, unread = find_targets(
        opened, stages, settings.targets, rank=settings.rank, shifts=settings.dora
    )

    def put_in(trunk: nn.Module) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(seed, "adapters"))
            inject(trunk, settings, targets, OWN)

    adapted = _followed(opened, opened.trunk, put_in)
    training = {name for name, parameter in adapted.trunk.named_parameters() if parameter.requires_grad}
    adapted.trunk.requires_grad_(True)
    inside = [name for stage in adapted.stages if stage.name in stages for name in stage.parameters]
    told = Adapters(settings.model_dump(), targets, tuple(n for n in inside if n in training), base, unread)
    return replace(adapted, adapters=told)


def inject(
    trunk: nn.Module,
    settings: AdapterSettings,
    targets: Collection[Target],
    name: str,
    *,
    tuner: Any = None,
) -> Any:
    """Put an adapter of this name around the targets, in place; returns peft's tuner.

    ``tuner``: what put the first one in, where there is one already. Only the adapter's parameters, and the
    biases that the settings name, have gradients then.

    Raises:
        RecipeError: peft is not installed.
    """
    try:
        with silenced("bitsandbytes"):  # which warns of kernels for 4 bits that nobody asked for
            from peft import LoraConfig
            from peft.tuners.lora import LoraModel
    except ModuleNotFoundError:
        raise RecipeError(
            "Adapters are made by the library peft, which is not installed: pip install graft-ml[adapters]."
        ) from None
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        bias=_BIAS[settings.bias],
        target_modules="|".join(re.escape(target.name) for target in targets),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sets right itself how weights of GPT-2 lie
        if tuner is None:
            return LoraModel(trunk, config, name)
        tuner.peft_config[name] = config
        tuner.inject_adapter(trunk, name)
        return tuner


def merge(trunk: nn.Module) -> None:
    """Add what the adapters learnt to the weights and take the adapters away, in place."""
    for layer in lora_layers(trunk).values():
        layer.merge()
    take_out(trunk)


def merged(backbone: Backbone) -> Backbone:
    """The backbone as a plain network again, with what its adapters learnt; the given one stays."""
    if backbone.adapters is None:
        return backbone
    return replace(_followed(backbone, copy.deepcopy(backbone.trunk), merge), adapters=None)


def take_out(trunk: nn.Module) -> None:
    """Take the adapters away, in place, and leave the weights as they are."""
    for name, layer in lora_layers(trunk).items():
        put(trunk, name, layer.get_base_layer())
    close_attention(trunk)
    if hasattr(trunk, "peft_config"):
        del trunk.peft_config


def lora_layers(trunk: nn.Module) -> dict[str, Any]:
    """peft's layers, by the name of what they are around."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in trunk.named_modules() if isinstance(module, LoraLayer)}


def _followed(backbone: Backbone, trunk: nn.Module, change: Any) -> Backbone:
    """The backbone with ``trunk``, a copy of its own, after ``change``, which may move, add and remove.

    A parameter keeps its stage wherever it is moved to; one that is new, and every module, has that of the
    layer that it is put around.
    """
    before = {id(parameter): name for name, parameter in trunk.named_parameters()}
    change(trunk)
    old_name = {name: before.get(id(parameter)) for name, parameter in trunk.named_parameters()}
    new_name = {old: name for name, old in old_name.items() if old is not None}
    stage_of = {
        new_name[name]: stage.name
        for stage in backbone.stages
        for name in stage.parameters
        if name in new_name  # the others were taken out
    }
    leaves = {leaf: stage.name for stage in backbone.stages for leaf in stage.modules}
    for name in (name for name, old in old_name.items() if old is None):
        stage_of[name] = _stage_of_new(name, leaves)
    modules = {
        leaf: stage
        for leaf in leaf_names(trunk)
        if (stage := _stage_of_leaf(leaf, leaves, stage_of)) is not None
    }
    return replace(
        backbone,
        trunk=trunk,
        stages=tuple(_restaged(stage, new_name, stage_of, modules) for stage in backbone.stages),
        unused=tuple(new_name[name] for name in backbone.unused),
    )


def _restaged(
    stage: Stage, new_name: Mapping[str, str], stage_of: Mapping[str, str], modules: Mapping[str, str]
) -> Stage:
    kept = [new_name[name] for name in stage.parameters if name in new_name]
    added = [name for name, owner in stage_of.items() if owner == stage.name and name not in set(kept)]
    inside = tuple(leaf for leaf, owner in modules.items() if owner == stage.name)
    return replace(stage, parameters=(*kept, *added), modules=inside)


def _stage_of_new(parameter: str, leaves: Mapping[str, str]) -> str:
    owner = parameter.rpartition(".")[0]  # a new layer, or one in whose place layers were before
    return next(
        stage for leaf, stage in leaves.items() if is_within(parameter, leaf) or is_within(leaf, owner)
    )


def _stage_of_leaf(leaf: str, leaves: Mapping[str, str], stage_of: Mapping[str, str]) -> str | None:
    for outer, stage in leaves.items():
        if is_within(leaf, outer):
            return stage
    return next((stage for name, stage in stage_of.items() if is_within(name, leaf)), None)
