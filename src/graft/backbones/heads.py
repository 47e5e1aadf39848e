"""The classifier of any network: found, replaced, removed, made anew.

A head is the last layer that turns features into class scores: a linear layer, or a convolution of
one pixel in networks that pool afterwards. It is looked for where libraries put it (timm's
``get_classifier``, ``fc``, ``classifier``, ``head``, ``heads.head``, ``last_linear``), otherwise it
is the last linear layer of the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from torch import nn

from graft.errors import BackboneError, suggest

HeadKind = Literal["linear", "mlp"]

USUAL_NAMES = ("fc", "classifier", "head", "heads", "last_linear", "output", "logits")


def head_of(module: nn.Module) -> tuple[str, nn.Module]:
    """The dotted name and the module of the classifier (a linear layer or a convolution).

    A network with several parallel classifiers (one for a distillation token) gives the first.

    Raises:
        BackboneError: there is none, as in a network that gives features.
    """
    return find_heads(module)[0]


def find_heads(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """All parallel classifiers, the main one first; see :func:`head_of`."""
    for name in _candidates(module):
        heads = _layers_in(module, name)
        if heads:
            return heads if len(heads) > 1 else heads + _auxiliary(module, heads[0])
    raise BackboneError(
        f"{type(module).__name__} has no classifier: neither a layer under one of the usual names "
        f"({', '.join(USUAL_NAMES)}) nor any linear layer. It seems to give features already; put "
        "make_head(features, classes) behind it."
    )


def make_head(
    features: int,
    classes: int,
    kind: HeadKind = "linear",
    hidden: int = 256,
    dropout: float | None = None,
) -> nn.Module:
    """A new head [B, features] -> [B, classes] with random weights.

    Args:
        kind: linear (one linear layer, behind dropout if any), or mlp (dropout, linear, ReLU,
            dropout, linear).
        hidden: width of the mlp's middle.
        dropout: share of features dropped in training; None: 0 for linear, 0.25 for mlp.

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
    dropout: float | None = None,
) -> nn.Module:
    """Give ``module`` a new, random classifier in place; the output becomes [B, classes].

    Returns the new head. Convolutional heads stay convolutional; an activation that follows one
    (squeezenet's ReLU, which would cut every negative score off) is taken out. Of several parallel
    classifiers each is replaced.

    Raises:
        BackboneError: no classifier was found, or see :func:`make_head`.
    """
    new: list[nn.Module] = []
    for name, old in find_heads(module):
        layer = nn.Conv2d if isinstance(old, nn.Conv2d) else nn.Linear
        head = _build_head(layer, _shape_of(old)[0], classes, kind, hidden, dropout)
        reference = next(old.parameters())
        put_module(module, name, head.to(reference.device, reference.dtype).train(old.training))
        _drop_activation_after(module, name)
        new.append(head)
    for holder in {id(m): m for m in (module, *_parents(module))}.values():
        if isinstance(getattr(holder, "num_classes", None), int):
            holder.num_classes = classes  # type: ignore[assignment] # torch declares tensors and modules only
    return new[0]


def remove_head(module: nn.Module) -> nn.Module:
    """Put an identity in place of the classifier, so that ``module`` gives features.

    Returns the removed head (the first of several parallel ones; all are removed).

    Raises:
        BackboneError: no classifier was found.
    """
    heads = find_heads(module)
    for name, _ in heads:
        put_module(module, name, nn.Identity())
    return heads[0][1]


def put_module(module: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` in the place of the submodule with this dotted name.

    Raises:
        BackboneError: there is no such submodule.
    """
    known = dict(module.named_modules())
    if not name or name not in known:
        near = suggest(name, known)
        raise BackboneError(f"{type(module).__name__} has no module named {name!r}.{near}")
    parent, _, leaf = name.rpartition(".")
    holder = known[parent]
    # Attributes set by index keep the order of a Sequential, and work for every container.
    holder._modules[leaf] = new


def _candidates(module: nn.Module) -> Iterable[str]:
    """Names of modules that may be or hold the classifier, likeliest first."""
    named = _named_by_library(module)
    if named is not None:
        yield from named  # where the library knows of none there is none: it gives features
        return
    children = dict(module.named_children())
    yield from (name for name in USUAL_NAMES if name in children)
    nested = [n for n, _ in module.named_modules() if n.rpartition(".")[2] in USUAL_NAMES]
    nested.reverse()  # of equally deep ones, the last
    yield from sorted(nested, key=lambda name: name.count("."))
    linear = [name for name, child in module.named_modules() if isinstance(child, nn.Linear)]
    yield from linear[-1:]


def _named_by_library(module: nn.Module) -> list[str] | None:
    """What timm's own method calls the classifiers; None where the network has no such method."""
    get: Any = getattr(module, "get_classifier", None)
    if not callable(get):
        return None
    found = get()
    wanted = found if isinstance(found, tuple | list) else (found,)
    names = {id(child): name for name, child in module.named_modules()}
    return [names[id(child)] for child in wanted if id(child) in names]


def _layers_in(module: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """The layers that give the scores inside the module ``name``."""
    library = _named_by_library(module)
    if library and name in library:
        heads = [layer for other in library for layer in _last_layers(module, other)]
        return heads if len(heads) == len({n for n, _ in heads}) else heads[:1]
    return _last_layers(module, name)


def _last_layers(module: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    holder = module.get_submodule(name)
    if isinstance(holder, nn.ModuleList):  # parallel classifiers, as in CrossViT
        return [
            head
            for part in dict(holder.named_children())
            for head in _last_layers(module, f"{name}.{part}")
        ]
    layers: list[tuple[str, nn.Module]] = [
        (f"{name}.{inner}".rstrip("."), child)
        for inner, child in holder.named_modules()
        if isinstance(child, nn.Linear) or (isinstance(child, nn.Conv2d) and child.groups == 1)
    ]
    last = _shape_of(layers[-1][1]) if layers else (0, 0)
    if last[0] == last[1]:
        return layers[-1:]
    # Several that map the same features to the same classes stand side by side (RepViT).
    return [layer for layer in layers if _shape_of(layer[1]) == last]


def _auxiliary(module: nn.Module, head: tuple[str, nn.Module]) -> list[tuple[str, nn.Module]]:
    """Layers beside the head that score the same classes: ``aux_head`` beside ``head``."""
    name, layer = head
    parent, _, leaf = name.rpartition(".")
    return [
        (f"{parent}.{other}".lstrip("."), child)
        for other, child in module.get_submodule(parent).named_children()
        if other != leaf
        and leaf in other
        and isinstance(child, nn.Linear)
        and isinstance(layer, nn.Linear)
        and child.out_features == layer.out_features
    ]


def _shape_of(layer: nn.Module) -> tuple[int, int]:
    """Features and classes of a layer."""
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


def _build_head(
    layer: type[nn.Linear] | type[nn.Conv2d],
    features: int,
    classes: int,
    kind: str,
    hidden: int,
    dropout: float | None,
) -> nn.Module:
    _check(features=features, classes=classes, hidden=hidden)
    share = (0.25 if kind == "mlp" else 0.0) if dropout is None else dropout
    if not 0.0 <= share < 1.0:
        raise BackboneError(f"dropout = {share}: it must be at least 0 and below 1.")
    if kind == "linear":
        last = _layer(layer, features, classes)
        return nn.Sequential(nn.Dropout(share), last) if share else last
    if kind == "mlp":
        first, last = _layer(layer, features, hidden), _layer(layer, hidden, classes)
        return nn.Sequential(nn.Dropout(share), first, nn.ReLU(), nn.Dropout(share), last)
    near = suggest(kind, ("linear", "mlp"))
    raise BackboneError(f"There is no head of kind {kind!r}; the kinds are linear and mlp.{near}")


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
        holder._modules[follower[0]] = nn.Identity()


def _parents(module: nn.Module) -> Iterable[nn.Module]:
    for name, _ in find_heads(module):
        parent = name.rpartition(".")[0]
        if parent:
            yield module.get_submodule(parent)
