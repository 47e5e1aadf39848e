"""The classifier of any network: found, replaced, removed, made anew.

See :mod:`graft.backbones.locating` for what counts as the head: the whole module that a new one replaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from graft.backbones.grouping import owner_of
from graft.backbones.locating import USUAL_NAMES, Classifier, Removed, locate_heads
from graft.errors import BackboneError, quote, suggest

HeadKind = Literal["linear", "mlp"]
Dropout = float | Sequence[float] | None


def head_of(module: nn.Module) -> tuple[str, nn.Module]:
    """The dotted name and the module of the classifier: the whole that :func:`replace_head` replaces.

    It is a layer, or a container with several: a ``Sequential`` at ``fc`` or ``classifier`` is the head
    as a whole. Of torchvision's own classifiers with pretrained layers in them (VGG, AlexNet,
    MobileNetV3, ConvNeXt, MaxViT) it is what stands behind these. A network with several parallel
    classifiers (one for a distillation token, or auxiliary ones) gives the main one.

    Raises:
        BackboneError: there is none, as in a network that gives features.
    """
    found = find_heads(module)[0]
    return found.name, found.module


def find_heads(module: nn.Module) -> list[Classifier]:
    """All parallel classifiers, the main one first; see :func:`head_of`."""
    found = locate_heads(module)
    if found:
        return found
    raise BackboneError(
        f"{type(module).__name__} has no classifier: neither a layer under one of the usual names "
        f"({', '.join(USUAL_NAMES)}) nor any linear layer that could be one. It seems to give features "
        "already; put make_head(features, classes) behind it."
    )


def make_head(
    features: int,
    classes: int,
    kind: HeadKind = "linear",
    hidden: int = 256,
    dropout: Dropout = None,
) -> nn.Module:
    """A new head [B, features] -> [B, classes] with random weights.

    Args:
        kind: linear (one linear layer, behind dropout if any), or mlp (dropout, linear, ReLU,
            dropout, linear).
        hidden: width of the mlp's middle.
        dropout: share of features dropped in training, before each linear layer; of an mlp also two
            shares, one a layer; None: 0 for linear, 0.25 for mlp.

    Raises:
        BackboneError: an unknown kind, or a number out of range.
    """
    return _build_head(nn.Linear, features, classes, kind, hidden, dropout)


def replace_head(
    module: nn.Module,
    classes: int,
    *,
    kind: HeadKind = "linear",
    hidden: int = 256,
    dropout: Dropout = None,
) -> nn.Module:
    """Give ``module`` a new, random classifier in place; the output becomes [B, classes].

    Returns what stands at the head's place now, as :func:`head_of` finds it. Convolutional heads stay
    convolutional; an activation that follows one (squeezenet's ReLU, which would cut every negative score
    off) is taken out. Layers of the old head that only pool or flatten stay. Of several parallel
    classifiers each is replaced.

    Raises:
        BackboneError: no classifier was found, or see :func:`make_head`.
    """
    heads = find_heads(module)
    for old in heads:
        layer = nn.Conv2d if old.convolutional else nn.Linear
        head = _build_head(layer, old.features, classes, kind, hidden, dropout)
        reference = next(old.module.parameters())
        head = head.to(reference.device, reference.dtype).train(old.module.training)
        put_module(module, old.name, _between(old, head))
        _drop_activation_after(module, old.name)
    for holder in (module, *(module.get_submodule(owner_of(old.name)) for old in heads)):
        if isinstance(getattr(holder, "num_classes", None), int):
            holder.num_classes = classes  # type: ignore[assignment] # torch declares tensors and modules only
    return module.get_submodule(heads[0].name)


def remove_head(module: nn.Module) -> nn.Module:
    """Put an identity in place of the classifier, so that ``module`` gives features.

    Returns the removed head (the main one of several parallel ones; all are removed). Layers of it that
    only pool or flatten stay. What has lost its head has none: :func:`head_of` does not take another
    layer for it.

    Raises:
        BackboneError: no classifier was found.
    """
    heads = find_heads(module)
    for head in heads:
        put_module(module, head.name, _between(head, Removed()))
    return heads[0].module


def _between(old: Classifier, new: nn.Module) -> nn.Module:
    """``new`` with what stays of the old head around it."""
    if not old.before and not old.after:
        return new
    return nn.Sequential(*old.before, new, *old.after).train(old.module.training)


def put_module(module: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` in the place of the submodule with this dotted name.

    Raises:
        BackboneError: there is no such submodule.
    """
    known = dict(module.named_modules())
    if not name or name not in known:
        near = suggest(name, known)
        raise BackboneError(f"{type(module).__name__} has no module named {quote(name)}.{near}")
    parent, _, leaf = name.rpartition(".")
    holder = known[parent]
    # Attributes set by index keep the order of a Sequential, and work for every container.
    holder._modules[leaf] = new


def _build_head(
    layer: type[nn.Linear] | type[nn.Conv2d],
    features: int,
    classes: int,
    kind: str,
    hidden: int,
    dropout: Dropout,
) -> nn.Module:
    _check(features=features, classes=classes, hidden=hidden)
    if kind not in ("linear", "mlp"):
        near = suggest(kind, ("linear", "mlp"))
        raise BackboneError(f"There is no head of kind {quote(kind)}; the kinds are linear and mlp.{near}")
    shares = _shares(dropout, kind)
    if kind == "linear":
        last = _layer(layer, features, classes)
        return nn.Sequential(nn.Dropout(shares[0]), last) if shares[0] else last
    first, last = _layer(layer, features, hidden), _layer(layer, hidden, classes)
    return nn.Sequential(nn.Dropout(shares[0]), first, nn.ReLU(), nn.Dropout(shares[1]), last)


def _shares(dropout: Dropout, kind: str) -> list[float]:
    """The share that is dropped before each linear layer."""
    layers = 2 if kind == "mlp" else 1
    if dropout is None:
        dropout = 0.25 if kind == "mlp" else 0.0
    shares = list(dropout) if isinstance(dropout, Sequence) else [dropout] * layers
    if len(shares) != layers:
        raise BackboneError(
            f"dropout = {shares}: a head of kind {kind} has {layers} linear layer{'s' * (layers > 1)}, and "
            "each takes one share."
        )
    for share in shares:
        if not 0.0 <= share < 1.0:
            raise BackboneError(f"dropout = {share}: it must be at least 0 and below 1.")
    return shares


def _layer(layer: type[nn.Linear] | type[nn.Conv2d], before: int, after: int) -> nn.Module:
    return nn.Conv2d(before, after, 1) if layer is nn.Conv2d else nn.Linear(before, after)


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise BackboneError(f"{name} = {number}: it must be at least 1.")


def _drop_activation_after(module: nn.Module, name: str) -> None:
    parent, _, leaf = name.rpartition(".")
    holder = module.get_submodule(parent)
    if not isinstance(holder, nn.Sequential):
        return
    names = list(holder._modules)
    follower = names[names.index(leaf) + 1 :][:1]
    if follower and isinstance(holder._modules[follower[0]], nn.ReLU):
        del holder._modules[follower[0]]
