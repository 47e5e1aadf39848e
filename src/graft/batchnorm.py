"""Batch-norm kept as it was pretrained, whatever ``.train()`` is called on later.

A layer is frozen by giving it a class of its own that stays in eval mode. Its values, its names in
``state_dict`` and its place in the network stay what they were; it can be copied and pickled.
Everything that keeps running statistics counts: torch's batch-norm classes, timm's BatchNormAct2d
and its evolved norms, synchronised batch-norm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_made: dict[type[nn.Module], type[nn.Module]] = {}  # class -> its frozen form


class StaysInEval(nn.Module):
    """Mixed into a batch-norm class: its statistics are used and never updated."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)  # children (activation, block dropout) follow as usual
        self.training = False
        return self

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return _rebuild, (_base_of(type(self)),), dict(self.__dict__)


def freeze_batchnorm(module: nn.Module, affine: bool = True) -> int:
    """Freeze the statistics of every batch-norm layer in place; survives ``.train()``.

    Args:
        affine: freeze weight and bias of these layers too.

    Returns:
        the number of layers that are frozen now.
    """
    count = 0
    for layer in running_norms(module):
        if not isinstance(layer, StaysInEval):
            layer.__class__ = _frozen_class(type(layer))
            layer.__dict__["_graft_held"] = ()
        layer.train(layer.training)
        if affine:
            held = [n for n, p in layer.named_parameters(recurse=False) if p.requires_grad]
            for name in held:
                layer.get_parameter(name).requires_grad_(False)
            layer.__dict__["_graft_held"] += tuple(held)
        count += 1
    return count


def unfreeze_batchnorm(module: nn.Module) -> int:
    """Undo :func:`freeze_batchnorm`: what it froze trains again, modes follow ``module``'s.

    Returns:
        the number of layers that were thawed.
    """
    count = 0
    for layer in running_norms(module):
        kind = type(layer)
        if issubclass(kind, StaysInEval):
            layer.__class__ = _base_of(kind)
            for name in layer.__dict__.pop("_graft_held", ()):
                layer.get_parameter(name).requires_grad_(True)
            layer.train(module.training)
            count += 1
    return count


@contextlib.contextmanager
def collecting_statistics(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Inside, every batch that passes counts for the statistics of ``norms``, which begin anew.

    They are the plain mean over the batches; afterwards the layers are in eval mode and keep them.

    Args:
        norms: torch's batch-norms and what is derived of them, with running statistics.
    """
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.training = True
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum, norm.training = momentum, False


def plain_norms(trunk: nn.Module, modules: Collection[str] | None = None) -> list[_BatchNorm]:
    """Torch's batch-norms (and their kin) with statistics; of ``modules``, names of leaves, where given.

    Some hold their activation as a leaf of their own, and count where that is named.
    """
    return [
        layer
        for name, layer in trunk.named_modules()
        if isinstance(layer, _BatchNorm)
        and layer.running_mean is not None
        and (modules is None or any(leaf == name or leaf.startswith(f"{name}.") for leaf in modules))
    ]


def running_norms(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of ``module`` that keep running statistics."""
    for layer in module.modules():
        if layer._buffers.get("running_var") is not None:
            yield layer


def _frozen_class(base: type[nn.Module]) -> type[nn.Module]:
    if base not in _made:
        body = {"__module__": base.__module__}
        _made[base] = type(f"Frozen{base.__name__}", (StaysInEval, base), body)
    return _made[base]


def _base_of(frozen: type[nn.Module]) -> type[nn.Module]:
    base = frozen.__mro__[2]
    assert issubclass(base, nn.Module)
    return base


def _rebuild(base: type[nn.Module]) -> nn.Module:
    frozen = _frozen_class(base)
    return frozen.__new__(frozen)
