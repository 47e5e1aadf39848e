"""Which layers of a network an adapter goes around, found for every family by what the layers are.

Linear layers (also of transformers' kind that GPT-2 is made of) and the projections of torch's attention;
on networks that are made of convolutions these as well. A layer is a target only where the network calls
it: some read the weight of a layer and never call it, and an adapter there would have no effect. Layers
that change their weight on the way (standardised, padded as in TensorFlow) are none: what was learnt could
not be added to the weight afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from graft.backbones.contract import Backbone, Target
from graft.errors import RecipeError, quote, suggest

ATTENTION = re.compile(r"(^|[._])(\w*attn\w*|\w*attention\w*|[qkvo]_proj|qkv)([._]|$)", re.IGNORECASE)
NAMES = re.compile(r"[\w.\-]+(\s*,\s*[\w.\-]+)*\s*,?")  # a regular expression has other signs as well
MOSTLY = 0.5  # share of a network's multiplying weights that lie in linear layers, above which it is no CNN
_GPT2 = "Conv1D"  # a linear layer with its weight transposed


def find_targets(
    backbone: Backbone, stages: Collection[str], wanted: str, *, rank: int, shifts: bool
) -> tuple[tuple[Target, ...], tuple[str, ...]]:
    """The targets in ``stages`` in the network's order, and the layers that it reads and does not call.

    ``wanted``: all, attention, ends of names with commas between them (``query,value``, from a dot on),
    or a regular expression that a layer's whole name must match. ``shifts``: whether an adapter also has a
    size for each output (DoRA).

    Raises:
        RecipeError: nothing is found, for one of several names, or the expression is none.
    """
    trunk = backbone.trunk
    called = _called(backbone)
    stage_of = {name: stage.name for stage in backbone.stages for name in stage.parameters}
    layers = {
        name: module
        for name, module in trunk.named_modules()
        if kind_of(module) is not None and stage_of.get(f"{name}.weight") in stages
    }
    chosen = _chosen(layers, wanted)
    targets = tuple(
        _describe(name, layers[name], stage_of[f"{name}.weight"], rank, shifts)
        for name in chosen
        if name in called
    )
    unread = tuple(name for name in chosen if name not in called)
    if not targets:
        raise RecipeError(_nothing(backbone, layers, wanted, unread))
    return targets, unread


def kind_of(module: nn.Module) -> str | None:
    """linear, transposed or convolution; None for what no adapter goes around."""
    if is_parametrized(module):
        return None
    forward = type(module).forward
    if isinstance(module, nn.Linear) and forward is nn.Linear.forward:
        return "linear"
    if isinstance(module, nn.Conv2d) and forward is nn.Conv2d.forward:
        # peft cannot add what a grouped convolution learnt to its weight, and knows no dilation.
        plain = module.groups == 1 and module.padding_mode == "zeros" and set(module.dilation) == {1}
        return "convolution" if plain else None
    return "transposed" if type(module).__name__ == _GPT2 and hasattr(module, "nf") else None


def _called(backbone: Backbone) -> set[str]:
    """Names of the modules that a pass of two items calls."""
    trunk, called = backbone.trunk, set()
    hooks = [
        module.register_forward_pre_hook(lambda _m, _i, name=name: called.add(name))
        for name, module in trunk.named_modules()
    ]
    modes = {module: module.training for module in trunk.modules()}
    try:
        with torch.no_grad():
            trunk.eval()(backbone.preprocess.noise(2))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return called


def _chosen(layers: dict[str, nn.Module], wanted: str) -> list[str]:
    if wanted == "attention":
        return [name for name in layers if ATTENTION.search(name)]
    if wanted != "all":
        if NAMES.fullmatch(wanted):
            return _named(layers, [part.strip() for part in wanted.split(",") if part.strip()])
        try:
            pattern = re.compile(wanted)
        except re.error as error:
            raise RecipeError(
                f"adapters.targets = {quote(wanted)} is no regular expression: {error}."
            ) from None
        return [name for name in layers if pattern.fullmatch(name)]
    sizes: dict[bool, int] = {True: 0, False: 0}
    for layer in layers.values():
        sizes[isinstance(layer, nn.Conv2d)] += _weight(layer).numel()
    if sizes[False] > MOSTLY * sum(sizes.values()):
        return [name for name, layer in layers.items() if not isinstance(layer, nn.Conv2d)]
    return list(layers)


def _named(layers: Collection[str], ends: Sequence[str]) -> list[str]:
    """The layers whose names end so, or are of attention where that is asked; in the network's order."""
    found: set[str] = set()
    for end in ends:
        fitting = {name for name in layers if f".{name}".endswith(f".{end}")}
        if end == "attention":
            fitting |= {name for name in layers if ATTENTION.search(name)}
        if not fitting and len(ends) > 1:
            near = suggest(end, {name.rpartition(".")[2] for name in layers})
            raise RecipeError(
                f"adapters.targets: no layer in the stages that would train has a name that ends with "
                f"{quote(end)}.{near}"
            )
        found |= fitting
    return [name for name in layers if name in found]


def _describe(name: str, layer: nn.Module, stage: str, rank: int, shifts: bool) -> Target:
    weight = _weight(layer)
    outputs, inputs = weight.shape[:2]
    if kind_of(layer) == "transposed":
        outputs, inputs = inputs, outputs
    around = weight[0, 0].numel()  # of a convolution's window
    added = rank * (inputs * around + outputs) + (outputs if shifts else 0)
    return Target(name, stage, tuple(weight.shape), added)


def _weight(layer: nn.Module) -> torch.Tensor:
    weight: Any = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight


def _nothing(backbone: Backbone, layers: dict[str, nn.Module], wanted: str, unread: Sequence[str]) -> str:
    """Why there is no target, and what to ask for."""
    name = backbone.source.id
    if unread:
        return (
            f"adapters.targets = {quote(wanted)}: {name} reads the weights of these layers and never calls "
            f"them, so no adapter would have an effect: {_few(unread)}."
        )
    if not layers:
        return f"{name} has no layer in the stages that would train which an adapter could go around."
    return (
        f"adapters.targets = {quote(wanted)} matches no layer of {name} in the stages that would train. "
        f"Layers there: {_few(list(layers))}. Take all, ends of these names, or a regular expression that "
        "matches whole ones."
    )


def _few(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
