"""Where the head of a network is: the one answer that all building blocks share.

The head is the whole module that a new one takes the place of. It is looked for where libraries put it
(timm's ``get_classifier``, then a child called ``fc``, ``classifier``, ``head``, ``heads`` …); in a network
without such a place it is the last linear layer, with the layers around it that it makes a head with.

At its place stands a layer, or a container that turns features [B, F] into scores [B, C] (maps into maps
where its last layer is a convolution). Whether a container does is tried, on tensors without content. One
that pools or flattens first keeps these layers when it is replaced; one that does more than that (picks a
token, walks over its input) keeps all but its last layer, which is the head then.

Some classifiers of torchvision hold pretrained layers beside the last one (VGG's two hidden ones). Those
are part of the body: the head is the layer behind them, or whatever stands there. A container that was
put in place of the whole classifier is laid out differently, and is the head as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from graft.backbones.grouping import owner_of
from graft.backbones.truncation import is_within

USUAL_NAMES = ("fc", "classifier", "head", "heads", "last_linear", "output", "logits")

# What stands before the last layer of torchvision's classifiers, by the class of the network.
# A linear layer is named with its number of outputs.
BEFORE_THE_LAST: dict[str, tuple[tuple[str, ...], ...]] = {
    "AlexNet": (("Dropout", "Linear 4096", "ReLU", "Dropout", "Linear 4096", "ReLU"),),
    "ConvNeXt": (("LayerNorm2d", "Flatten"),),
    "EfficientNet": (("Dropout",),),
    "MaxVit": (("AdaptiveAvgPool2d", "Flatten", "LayerNorm", "Linear 512", "Tanh"),),
    "MNASNet": (("Dropout",),),
    "MobileNetV2": (("Dropout",),),
    "MobileNetV3": tuple((f"Linear {width}", "Hardswish", "Dropout") for width in (1024, 1280)),
    "SqueezeNet": (("Dropout",),),
    "VGG": (("Linear 4096", "ReLU", "Dropout") * 2,),
    "VisionTransformer": ((),),
}
AFTER_THE_LAST = ("ReLU", "AdaptiveAvgPool2d")


class Removed(nn.Identity):
    """Stands where a head was taken out."""


@dataclass(frozen=True)
class Classifier:
    """A head: its dotted name, and what stands there.

    ``features``, ``classes``: what it maps from and to. ``before``, ``after``: what of it stays when it is
    replaced or removed, as a pool before its layers.
    """

    name: str
    module: nn.Module
    features: int
    classes: int
    convolutional: bool
    before: tuple[nn.Module, ...] = ()
    after: tuple[nn.Module, ...] = ()


def locate_heads(module: nn.Module) -> list[Classifier]:
    """All heads side by side, the main one first, auxiliary ones last; none in a network of features."""
    for place in _places(module):
        heads = _heads_at(module, place)
        if heads:
            if len(heads) == 1 and (named := _named_by_library(module)) and len(named) > 1:
                heads = [head for name in named for head in _heads_at(module, name)]
            known = {head.name for head in heads}
            return [*heads, *(aux for aux in _auxiliary(module, heads[0]) if aux.name not in known)]
    return []


def _places(module: nn.Module) -> Iterator[str]:
    """Names of modules that may be or hold the head, likeliest first."""
    named = _named_by_library(module)
    if named is not None:
        yield from named  # where the library knows of none there is none: it gives features
        return
    children = dict(module.named_children())
    yield from (name for name in USUAL_NAMES if name in children and not _is_removed(children[name]))
    headless = _headless(module)
    if isinstance(module, nn.Sequential):
        yield from _end_of(module)
    nested = [name for name, _ in module.named_modules() if _leaf(name) in USUAL_NAMES]
    nested.reverse()  # of equally deep ones, the last
    for name in sorted(nested, key=lambda name: name.count(".")):
        if not _is_inside(name, headless) and not _is_removed(module.get_submodule(name)):
            yield name
    yield from _last_linear(module, headless)


def _named_by_library(module: nn.Module) -> list[str] | None:
    """What timm's own method calls the heads; None where the network has no such method."""
    get: Any = getattr(module, "get_classifier", None)
    if not callable(get):
        return None
    try:
        found = get()
    except AttributeError:  # it looks inside the replaced module
        return None
    wanted = found if isinstance(found, tuple | list) else (found,)
    names = {id(child): name for name, child in module.named_modules()}
    return [names[id(child)] for child in wanted if id(child) in names]


def _end_of(module: nn.Sequential) -> Iterator[str]:
    """The last part of a chain, where it is a head and not a network."""
    holding = [name for name, child in module.named_children() if _layers(child)]
    for name in holding[-1:]:
        found = _head_in(module, name)
        if found is not None and not found.convolutional:
            yield name


def _last_linear(module: nn.Module, headless: Sequence[str]) -> Iterator[str]:
    """The last linear layer, or the outermost container that it makes a head with."""
    linear = [
        name
        for name, child in module.named_modules()
        if isinstance(child, nn.Linear) and not _is_inside(name, headless)
    ]
    for place in linear[-1:]:
        while outer := owner_of(place):
            found = _head_in(module, outer)
            if found is None or any(_layers(layer) for layer in found.before):
                break
            place = outer
        yield place


def _heads_at(module: nn.Module, name: str) -> list[Classifier]:
    """The heads at a place: it as a whole, several side by side, or the last layer that it holds."""
    holder = module.get_submodule(name)
    if isinstance(holder, nn.ModuleList):  # as in CrossViT
        parts = [f"{name}.{part}" for part, _ in holder.named_children()]
        return [head for part in parts for head in _heads_at(module, part)]
    inner = _behind_pretrained(module, name)
    if inner is None and (found := _head_in(module, name)) is not None:
        return [found]
    if inner is None:
        holding = [part for part, child in holder.named_children() if _layers(child)]
        inner = f"{name}.{holding[-1]}" if holding else None
    return [] if inner is None else _heads_at(module, inner)


def _behind_pretrained(module: nn.Module, name: str) -> str | None:
    """The name of the last layer, where the library built the classifier with others before it."""
    holder, owner = module.get_submodule(name), module.get_submodule(owner_of(name))
    if not isinstance(holder, nn.Sequential):
        return None
    parts = list(holder.named_children())
    for layout in _layouts(owner):
        found = tuple(_described(part) for _, part in parts[: len(layout)])
        after = [type(part).__name__ for _, part in parts[len(layout) + 1 :]]
        if found == layout and len(parts) > len(layout) and set(after) <= set(AFTER_THE_LAST):
            return f"{name}.{parts[len(layout)][0]}"
    return None


def _layouts(owner: nn.Module) -> tuple[tuple[str, ...], ...]:
    for kind in type(owner).__mro__:
        if kind.__module__.startswith("torchvision."):
            return BEFORE_THE_LAST.get(kind.__name__, ())
    return ()


def _described(part: nn.Module) -> str:
    outputs = f" {part.out_features}" if isinstance(part, nn.Linear) else ""
    return f"{type(part).__name__}{outputs}"


def _head_in(module: nn.Module, name: str) -> Classifier | None:
    """The module ``name`` as a head; None where it is none, or all of the network that has parameters."""
    holder = module.get_submodule(name)
    layers = _layers(holder)
    if not layers:
        return None
    if not any(True for _ in holder.children()):
        features, classes = _shape_of(holder)
        return Classifier(name, holder, features, classes, isinstance(holder, nn.Conv2d))
    if sum(1 for _ in module.parameters()) == sum(1 for _ in holder.parameters()):
        return None
    parts = tuple(holder.children()) if isinstance(holder, nn.Sequential) else (holder,)
    convolutional = isinstance(layers[-1], nn.Conv2d)
    for start, end in _spans(parts):
        core = nn.Sequential(*parts[start:end])
        shape = _tried(core, convolutional)
        if shape is not None:
            flattens = not convolutional and _run_without_content(core, (2, shape[0], 1, 1)) is not None
            before = (*parts[:start], *([nn.Flatten()] if flattens else []))
            return Classifier(name, holder, *shape, convolutional, before, parts[end:])
    return None


def _spans(parts: Sequence[nn.Module]) -> Iterator[tuple[int, int]]:
    """Runs of ``parts`` with the last layer in them, the longest first."""
    last = max(place for place, part in enumerate(parts) if _layers(part))
    for start in range(last + 1):
        for end in range(len(parts), last, -1):
            yield start, end


def _tried(core: nn.Module, convolutional: bool) -> tuple[int, int] | None:
    """Features and classes, where ``core`` maps [B, F] to [B, C] (or maps to maps, of the same size)."""
    rest = (3, 2) if convolutional else ()
    for width in dict.fromkeys(_widths(core)):
        scores = _run_without_content(core, (2, width, *rest))
        if scores is not None and scores.ndim == 2 + len(rest) and scores.shape[2:] == rest:
            return width, scores.shape[1]
    return None


def _run_without_content(core: nn.Module, shape: tuple[int, ...]) -> Tensor | None:
    """What ``core`` makes of a tensor of this shape, in eval mode; None where it does not compute."""
    reference = next(core.parameters())
    named = (*core.named_parameters(), *core.named_buffers())
    values = {name: value.detach().to("meta") for name, value in named}
    modes = {child: child.training for child in core.modules()}
    try:
        for child in modes:
            child.training = False
        with torch.no_grad():
            output = functional_call(core, values, torch.zeros(shape, dtype=reference.dtype, device="meta"))
    except Exception:  # whatever a module raises at what it cannot take
        return None
    finally:
        for child, mode in modes.items():
            child.training = mode
    return output if isinstance(output, Tensor) else None


def _widths(core: nn.Module) -> Iterator[int]:
    """Numbers of features that some layer of ``core`` takes, the first one's first."""
    for child in core.modules():
        for attribute in ("in_features", "in_channels", "num_features"):
            if isinstance(width := getattr(child, attribute, None), int):
                yield width
        if isinstance(child, nn.LayerNorm):
            yield int(child.normalized_shape[-1])


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers inside that could give scores, ``module`` among them."""
    return [
        child
        for child in module.modules()
        if isinstance(child, nn.Linear) or (isinstance(child, nn.Conv2d) and child.groups == 1)
    ]


def _shape_of(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


def _auxiliary(module: nn.Module, head: Classifier) -> Iterable[Classifier]:
    """Heads beside the main one: ``aux_head`` beside ``head``, and those of GoogLeNet and Inception."""
    place = head.name
    while isinstance(module.get_submodule(owner_of(place)), nn.Sequential) and owner_of(place):
        place = owner_of(place)
    leaf, owner = _leaf(place), owner_of(place)
    for other, child in module.get_submodule(owner).named_children():
        auxiliary = other.lower().startswith("aux")
        beside = other != leaf and (auxiliary or leaf in other)
        if not beside or isinstance(child, nn.ModuleList) or _is_removed(child):
            continue
        for found in _heads_at(module, f"{owner}.{other}".lstrip(".")):
            if not found.convolutional and (auxiliary or found.classes == head.classes):
                yield found


def _is_removed(place: nn.Module) -> bool:
    """Whether the head at a place was taken out, and nothing was put there."""
    if isinstance(place, nn.Identity):
        return True
    # Elsewhere the order of registration says nothing.
    known = nn.Identity if isinstance(place, nn.Sequential) else Removed
    relevant = [child for child in place.children() if _layers(child) or _marks(child, known)]
    return bool(relevant) and _is_removed(relevant[-1])


def _marks(module: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(child, kind) for child in module.modules())


def _headless(module: nn.Module) -> list[str]:
    """Names of the networks inside (and "" for the whole) whose own head was taken out."""
    found = []
    for name, child in module.named_modules():
        usual = _leaf(name) in USUAL_NAMES and _is_removed(child)
        if name and (usual or isinstance(child, Removed)):
            owner = owner_of(name)
            while owner and isinstance(module.get_submodule(owner), nn.Sequential):
                owner = owner_of(owner)
            found.append(owner)
    return found


def _is_inside(name: str, outer: Iterable[str]) -> bool:
    return any(is_within(name, each) for each in outer)


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
