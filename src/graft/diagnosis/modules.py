"""The doctor for a training loop of your own: the same mistakes, found in plain PyTorch objects."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from graft.batchnorm import running_norms
from graft.diagnosis import fitting
from graft.diagnosis.findings import Finding, found

HIGH = 1e-2  # for Adam and its kin
BYTES = 20.0  # values above this are pixels that nobody scaled


def doctor(
    model: nn.Module,
    loader: Iterable[Any],
    optimizer: torch.optim.Optimizer | None = None,
    *,
    validation: Iterable[Any] | None = None,
    size: int | None = None,
) -> tuple[Finding, ...]:
    """What is wrong with a model, its batches and its optimiser; call it just before the first step.

    Without an optimiser the model is taken to be evaluated on ``loader``. ``loader`` gives tensors, or
    tuples that begin with one; of each loader one batch is taken, of ``validation`` the same one twice.
    Nothing is changed. ``size``: the side in pixels of the pictures that the weights were trained with;
    None: as the model says, where it does.
    """
    batch = _first(loader)
    every = [
        *_modes(model, training=optimizer is not None),
        *_drift(model),
        *(_optimizer(model, optimizer) if optimizer is not None else ()),
        *(_batch(model, batch, size, training=optimizer is not None) if batch is not None else ()),
        *(_random(validation) if validation is not None else ()),
    ]
    return tuple(every)


def _modes(model: nn.Module, *, training: bool) -> Iterator[Finding]:
    acting = [name for name, module in model.named_modules() if _differs(module)]
    off = [name for name in acting if not model.get_submodule(name).training]
    on = [name for name in acting if model.get_submodule(name).training]
    frozen = all(not p.requires_grad for p in model.parameters())
    if training and acting and len(off) == len(acting) and not frozen:
        names = [
            name
            for name in off
            if not isinstance(model.get_submodule(name), nn.modules.batchnorm._BatchNorm)
        ]
        if names:
            yield found(
                "module.trained-in-eval",
                "warning",
                "The model is in evaluation mode, and an optimiser is about to train it",
                why="Dropout and its like do nothing, so the model overfits as if they were not there.",
                cure="Call model.train() before training (and freeze batch-norm apart: "
                "graft.freeze_batchnorm).",
                examples=names,
            )
    if not training and on:
        yield found(
            "module.evaluated-in-train",
            "error",
            f"{len(on)} layers are in training mode, and the model is being evaluated",
            why="Dropout acts at random, and batch-norm takes its numbers from the batch and changes "
            "its own.",
            cure="Call model.eval() first.",
            examples=on,
        )


def _differs(module: nn.Module) -> bool:
    """Whether the module does something else in training than in evaluation."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats


def _drift(model: nn.Module) -> Iterator[Finding]:
    frozen = {
        name: all(not p.requires_grad for p in module.parameters())
        for name, module in model.named_modules()
        if any(True for _ in module.parameters())
    }
    norms = {id(norm) for norm in running_norms(model)}
    moving = [
        name
        for name, module in model.named_modules()
        if id(module) in norms
        and module.training
        and frozen.get(name, frozen.get(name.rpartition(".")[0], False))
    ]
    if moving:
        yield found(
            "module.batchnorm-drift",
            "error",
            f"{len(moving)} batch-norms of frozen layers are in training mode",
            why="Their statistics follow the batches, so that frozen layers change with every step.",
            cure="graft.freeze_batchnorm(model), or graft.freeze(model, stages=...), which does both.",
            examples=moving,
        )


def _optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Finding]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    frozen = [names.get(id(p), "a parameter that is not the model's") for p in held if not p.requires_grad]
    if frozen:
        yield found(
            "module.frozen-in-optimizer",
            "warning",
            f"{len(frozen)} frozen parameters are in the optimiser",
            why="Some optimisers decay weights whose gradient is zero, and all keep state for them.",
            cure="Give it only what trains: [p for p in model.parameters() if p.requires_grad].",
            examples=frozen,
        )
    inside = {id(parameter) for parameter in held}
    left = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in inside]
    if left:
        yield found(
            "module.not-in-optimizer",
            "error",
            f"{len(left)} parameters want gradients and are not in the optimiser",
            why="They never move: a head that was replaced after the optimiser was made is the usual case.",
            cure="Make the optimiser after the last change to the model.",
            examples=left,
        )
    foreign = sum(id(parameter) not in names for parameter in held)
    if foreign:
        yield found(
            "module.foreign-in-optimizer",
            "error",
            f"{foreign} parameters of the optimiser are not the model's",
            why="What it moves is not what computes.",
            cure="Make the optimiser after the last change to the model.",
        )
    adaptive = "adam" in type(optimizer).__name__.lower()
    fastest = max(map(fitting.peak_rate, optimizer.param_groups))
    yield from fitting.even_rate(model, optimizer, HIGH)
    if adaptive and fastest >= HIGH:
        yield found(
            "module.high-rate",
            "warning",
            f"{type(optimizer).__name__} at a rate of {fastest:g}",
            why="Pretrained layers forget within a few such steps.",
            cure="1e-3 for a new head, 1e-5 to 1e-4 for pretrained layers (graft.param_groups grades "
            "them).",
        )


def _batch(model: nn.Module, batch: Tensor, size: int | None, *, training: bool) -> Iterator[Finding]:
    yield from _inputs(batch)
    yield from fitting.input_size(model, batch, size)
    yield from fitting.head_inputs(model, batch)
    if training:
        yield from fitting.few_items(model, batch)


def _inputs(batch: Tensor) -> Iterator[Finding]:
    if batch.ndim != 4:
        return
    if not batch.is_floating_point() or float(batch.max()) > BYTES:
        yield found(
            "module.unscaled-inputs",
            "error",
            f"Pictures hold values up to {float(batch.max()):.4g}",
            why="The weights were trained with values around zero, mostly between -3 and 3.",
            cure="Scale to 0-1, then normalise by the mean and deviation that belong to the weights.",
        )
    elif float(batch.min()) >= 0 and float(batch.max()) <= 1:
        yield found(
            "module.not-normalised",
            "warning",
            f"Pictures hold values from {float(batch.min()):.2f} to {float(batch.max()):.2f}",
            why="They are scaled to 0-1 and no more; most weights want mean and deviation taken off.",
            cure="Normalise by the mean and deviation that belong to the weights.",
        )


def _random(loader: Iterable[Any]) -> Iterator[Finding]:
    one, two = _first(loader), _first(loader)
    if one is None or two is None or one.shape != two.shape:
        return
    if not torch.equal(one, two):
        yield found(
            "module.random-validation",
            "warning",
            "The first validation batch is another one when it is taken again",
            why="Scores move from one look to the next, and the best epoch is the luckiest.",
            cure="No random augmentation and no shuffling in the validation loader.",
        )


def _first(loader: Iterable[Any]) -> Tensor | None:
    for batch in itertools.islice(iter(loader), 1):
        inputs = batch[0] if isinstance(batch, tuple | list) else batch
        return inputs if isinstance(inputs, Tensor) else None
    return None
