"""What does not fit the network in a loop of one's own: rates, batches, inputs, and the head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from graft.diagnosis.findings import Finding, found

EVEN, EVEN_SGD = 1e-3, 1e-2  # one rate of all layers from which on pretrained ones forget
FEWEST = 8  # items of a batch from which on its statistics are of use
RESIZED = 1.7  # times the size that the weights were trained with, up or down
TORCHVISION_SIZE = 224
_OTHER_SIZES = ("efficientnet", "inception", "vision_transformer", "swin_transformer", "maxvit", "regnet")


def peak_rate(group: dict[str, Any]) -> float:
    """The largest rate of a group, also where a schedule has it begin lower."""
    return max(float(group[name]) for name in ("lr", "initial_lr", "max_lr") if name in group)


def even_rate(model: nn.Module, optimizer: torch.optim.Optimizer, high: float) -> Iterator[Finding]:
    """One rate for the head and for layers that know something already."""
    adaptive = "sgd" not in type(optimizer).__name__.lower()
    rates = {peak_rate(g) for g in optimizer.param_groups if any(p.requires_grad for p in g["params"])}
    moving = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    least, most = (EVEN, high) if adaptive else (EVEN_SGD, float("inf"))
    if len(rates) != 1 or not least <= max(rates) < most:  # from ``high`` on the rate itself is told
        return
    learnt = [name for name, norm in learnt_norms(model) if any(id(p) in moving for p in norm.parameters())]
    if learnt:
        yield found(
            "module.even-rate",
            "warning",
            f"One rate of {max(rates):g} for all layers, those that are pretrained among them",
            why="What suits a new head is too much for layers that know something already.",
            cure="1e-3 for a new head, 1e-5 to 1e-4 for pretrained layers: graft.param_groups.",
            examples=learnt,
        )


def learnt_norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Normalisations whose weights are no longer those that a layer begins with."""
    for name, module in model.named_modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if (
            "norm" not in type(module).__name__.lower()
            or not isinstance(weight, Tensor)
            or weight.ndim != 1
        ):
            continue
        flat = bool((weight == weight[0]).all())
        if not flat or (isinstance(bias, Tensor) and bool(bias.any())):
            yield name, module


def few_items(model: nn.Module, batch: Tensor) -> Iterator[Finding]:
    """Batch-norms that take their statistics from a handful of items."""
    training = [name for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.training]
    if training and len(batch) < FEWEST:
        yield found(
            "module.small-batches",
            "warning",
            f"{len(training)} batch-norms are in training mode, and a batch has {len(batch)} items",
            why="Means of so few items are noise, and evaluation then uses other ones.",
            cure=f"Freeze them (graft.freeze_batchnorm), or take batches of {FEWEST} or more.",
            examples=training,
        )


def input_size(model: nn.Module, batch: Tensor, size: int | None) -> Iterator[Finding]:
    """Pictures of another size than that of the pretraining (``size``; None: as the model says)."""
    own = size or size_of_weights(model)
    if batch.ndim != 4 or own is None:
        return
    given = min(batch.shape[-2:])
    if max(given / own, own / given) >= RESIZED:
        yield found(
            "module.input-size",
            "warning",
            f"Pictures of {given} pixels, and the weights were trained with {own}",
            why="Filters look for things of the size that they had in the pretraining.",
            cure=f"Resize to about {own} pixels, or take weights of that size.",
        )


def size_of_weights(model: nn.Module) -> int | None:
    """The side of the pictures that the weights were trained with, where the model says it."""
    for name in ("pretrained_cfg", "default_cfg"):  # timm
        described = getattr(model, name, None)
        if isinstance(described, dict) and described.get("input_size"):
            return int(min(described["input_size"][-2:]))
    for owner in (model, getattr(model, "config", None)):
        side = getattr(owner, "image_size", None)
        if isinstance(side, int):
            return side
    where = type(model).__module__
    if where.startswith("torchvision.models") and not where.endswith(_OTHER_SIZES):
        return TORCHVISION_SIZE if any(learnt_norms(model)) else None
    return None


def head_inputs(model: nn.Module, batch: Tensor) -> Iterator[Finding]:
    """The first linear layer that is given another number of features than it takes; nothing is changed."""
    if any(isinstance(each, nn.UninitializedParameter) for each in model.parameters()):
        return
    wrong: list[tuple[str, int, int]] = []
    names = {module: name for name, module in model.named_modules() if isinstance(module, nn.Linear)}

    def look(module: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(module, nn.Linear)
        if given and isinstance(given[0], Tensor) and given[0].shape[-1] != module.in_features:
            wrong.append((names[module], module.in_features, given[0].shape[-1]))

    modes = {module: module.training for module in model.modules()}
    hooks = [module.register_forward_pre_hook(look) for module in names]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(batch[:1].to(device))
    except Exception:  # a foreign network may raise anything; what the hooks saw before it is what counts
        pass
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    for name, takes, given in wrong[:1]:
        yield found(
            "module.head-inputs",
            "error",
            f"{name or 'The network'} takes {takes} features and is given {given}",
            why="The first step stops with an error about shapes.",
            cure=f"Make it nn.Linear({given}, …); graft.replace_head counts them itself.",
            examples=[name] if name else [],
        )
