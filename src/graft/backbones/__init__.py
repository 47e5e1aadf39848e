"""Backbones: pretrained networks of several libraries, all as one kind of value.

``load_backbone("torchvision/resnet50")`` gives a ``Backbone`` (see contract.py). Ids are
``library/name[:weights]``; what follows the last colon names the weights, ``none`` gives random
ones. The libraries themselves are imported only when a backbone of theirs is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.backbones.contract import Backbone, Encoding, Intake, Pooling, Preprocess, Source, Stage
from graft.errors import BackboneError, quote, suggest
from graft.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from graft.backbones.assembly import Request

__all__ = [
    "Backbone",
    "Encoding",
    "Preprocess",
    "Source",
    "Stage",
    "from_module",
    "load_backbone",
    "parse_id",
    "rebuild",
    "register_library",
    "state_digest",
]

Loader = Callable[["Request"], Backbone]

_MODULES = {
    "graft": "graft.backbones.bundled",
    "torchvision": "graft.backbones.torchvision",
    "timm": "graft.backbones.timm",
    "hf": "graft.backbones.hf",
}
_registered: dict[str, Loader] = {}


def load_backbone(
    what: str | Recipe | Backbone,
    *,
    weights: str | Path | None = None,
    channels: int = 3,
    size: int | None = None,
    drop_path: float = 0.0,
    pooling: Pooling | None = None,
    max_length: int | None = None,
) -> Backbone:
    """Load a backbone by its id, or as a recipe asks for it; a ``Backbone`` is returned as it is.

    Args:
        weights: a local file with the weights, used in place of a download.
        channels: input channels; other than the pretrained number, the first filter is adapted.
        size: height and width of the pictures in pixels; None: as the weights were trained.
        drop_path: above 0, a network that can have stochastic depth is built with it.
        pooling: what of a text's last states stands for it; None: as the model's makers have it.
        max_length: tokens of a text that are taken; None: as many as the network can take, up to 512.

    Raises:
        BackboneError: unknown library, model or weights; weights that cannot be loaded or do not fit.
    """
    if isinstance(what, Backbone):
        return what
    if isinstance(what, Recipe):
        weights = what.weights if weights is None else weights
        return load_backbone(
            what.backbone,
            weights=weights,
            channels=what.data.channels,
            size=what.data.size if size is None else size,
            drop_path=max(drop_path, what.drop_path),
            pooling=None if what.pooling == "auto" else what.pooling,
            max_length=what.data.max_length,
        )
    from graft.backbones.assembly import Request

    library, name, tag = parse_id(what)
    _check_range(channels, size)
    file = None if weights is None else Path(weights)
    if file is not None and not file.is_file():
        raise BackboneError(f"There is no file {file}: a file with the backbone's weights was expected.")
    request = Request(
        name, tag, channels, size, file, drop_path=drop_path, pooling=pooling, max_length=max_length
    )
    backbone = _loader(library)(request)
    if not backbone.takes_text and (pooling is not None or max_length is not None):
        raise BackboneError(f"{what} takes pictures; pooling and data.max_length are of texts.")
    return backbone


def rebuild(source: Source, preprocess: Intake | None = None) -> Backbone:
    """The same architecture and preprocessing with random weights, without any network access.

    What a bundle's weights are loaded into. ``preprocess``: what was stored with it, which networks of
    texts need.

    Raises:
        BackboneError: the library or model is unknown to what is installed here, or it was made
            of a module of the user's own, which only the user can build.
    """
    from graft.backbones.assembly import Request

    if source.library == "plain":
        raise BackboneError(
            f"{source.id} was a module of your own and its code is not stored: build it with the "
            "function that makes it, and give that."
        )
    channels = int(source.options.get("channels", 3))
    size = source.options.get("size")
    config = source.options.get("config")
    encoding = preprocess if isinstance(preprocess, Encoding) else None
    request = Request(
        source.name, source.weights, channels, size, random=True, config=config, encoding=encoding
    )
    return replace(_loader(source.library)(request), source=source)


def parse_id(text: str) -> tuple[str, str, str | None]:
    """(library, name, weights) of an id ``library/name[:weights]``; weights None where not given.

    Raises:
        BackboneError: it is not of that form, or the library is unknown.
    """
    library, slash, rest = text.partition("/")
    known = list_libraries()
    if not slash or not rest:
        raise BackboneError(
            f"{quote(text)} is no backbone id: library/name[:weights] was expected, as in "
            f"torchvision/resnet50 or timm/{library or 'resnet18'}. Libraries: {', '.join(known)}."
        )
    if library not in known:
        near = suggest(library, known) or f" The libraries are {', '.join(known)}."
        if Path(text).expanduser().is_dir():
            near = (
                f" For a folder with a model of transformers write hf/{text}, for one of timm timm/{text}."
            )
        raise BackboneError(f"There is no library {quote(library)} (in {quote(text)}).{near}")
    name, colon, weights = rest.rpartition(":")
    if not colon:
        return library, rest, None
    if not name or not weights:
        raise BackboneError(f"{quote(text)} lacks a name before the colon or weights after it.")
    return library, name, weights


def list_libraries() -> list[str]:
    """Names that an id can begin with."""
    return [*_MODULES, *_registered]


def is_own(library: str) -> bool:
    """Whether graft's own adapters build its networks, from names and plain numbers alone."""
    return library in _MODULES


def register_library(name: str, load: Loader) -> None:
    """Make ``load`` answer for ids that begin with ``name/``.

    Raises:
        BackboneError: the name is taken or holds a slash or colon.
    """
    if name in list_libraries() or not name or set(name) & set("/:"):
        raise BackboneError(f"{quote(name)} cannot be registered: it is taken, empty, or holds / or :.")
    _registered[name] = load


def state_digest(module: nn.Module) -> str:
    """sha256 (hex) over the sorted names, types, shapes and bytes of the module's state_dict."""
    from graft.backbones.assembly import state_digest as digest

    return digest(module)


def from_module(module: nn.Module, **options: Any) -> Backbone:
    """Make a backbone of a module of your own; see :func:`graft.backbones.plain.from_module`."""
    from graft.backbones.plain import from_module as make

    return make(module, **options)


def _loader(library: str) -> Loader:
    if library in _registered:
        return _registered[library]
    if library not in _MODULES:
        raise BackboneError(f"There is no library {quote(library)}.{suggest(library, list_libraries())}")
    load: Loader = import_module(_MODULES[library]).load
    return load


def _check_range(channels: int, size: int | None) -> None:
    if channels < 1:
        raise BackboneError(f"channels = {channels}: it must be at least 1.")
    if size is not None and size < 8:
        raise BackboneError(f"size = {size}: pictures of at least 8 pixels were expected.")
