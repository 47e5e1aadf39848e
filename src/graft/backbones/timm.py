"""timm/...: every model of pytorch-image-models, with its tagged weights.

Ids are ``timm/NAME.TAG`` as timm writes them, or ``timm/NAME:TAG``. Files are fetched by hub.py,
and read and converted by timm itself, which knows the older formats of its models. timm's statement
of a model's features is not used: some heads keep a layer before the classifier.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.data.config import resolve_model_data_config
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from graft.backbones.assembly import Request, adapt_channels, assemble, resized
from graft.backbones.contract import Backbone, Preprocess, Source
from graft.backbones.hub import MissingFileError, fetch_from_hub, fetch_from_url
from graft.backbones.local_weights import (
    State,
    is_safetensors,
    load_state,
    open_weights,
    read_linear_head,
    read_weights,
)
from graft.backbones.stored import Layout, layout_of, read_layout
from graft.errors import BackboneError, first_line, quote, suggest
from graft.logs import silenced

INTERPOLATIONS = {"bilinear": "bilinear", "bicubic": "bicubic", "nearest": "nearest"}


def load(request: Request) -> Backbone:
    """A timm model without its classifier.

    Raises:
        BackboneError: an unknown model or tag, weights that cannot be loaded or do not fit, or a
            number of channels or a size that the model does not take.
    """
    name, tag = split_name(request.name, request.weights)
    if request.config:  # the weights came from a file; what was built for them was kept
        tag = request.config["preset"]
    elif request.file is not None and tag is None and not list_tags(name):
        tag = "none"
    config = find_config(name, tag)
    overlay: dict[str, Any] = {}
    if request.file is None and tag != "none" and not request.random:
        overlay = {"file": str(fetch_weights(name, config)), "custom_load": _is_npz(config)}
    model = build_model(name, config, request, overlay)
    taken: dict[str, str] = {}
    if request.file is not None and not request.random:
        taken = load_file(model, config, request.file, request.channels)
    source = _source(name, tag or config.tag or "none", config, request)
    backbone = finish(model, config, request, replace(source, options=source.options | taken))
    return replace(
        backbone, classifier=read_classifier(backbone, config, request.file or overlay.get("file"))
    )


def read_classifier(
    backbone: Backbone, config: Any, file: str | Path | None
) -> tuple[Tensor, Tensor] | None:
    """The pretraining's own classifier, where it is one linear layer on the features and in the file."""
    heads = _classifiers(config)
    if not file or not heads or not backbone.source.pretrained or Path(file).suffix == ".npz":
        return None
    found = read_linear_head(Path(file), heads[0])
    return found if found is not None and found[0].shape[1] == backbone.feature_dim else None


def finish(model: nn.Module, config: Any, request: Request, source: Source) -> Backbone:
    """The last steps, which models from a repository share."""
    preprocess = adapt_channels(resized(read_preprocess(config), request.size), request.channels)
    return assemble(model, preprocess, source, request.channels)


def split_name(name: str, weights: str | None) -> tuple[str, str | None]:
    """(model, tag): the tag from the name or from ``weights``; None for the model's default.

    Raises:
        BackboneError: two different tags, or an unknown model.
    """
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        known = timm.list_models()
        near = suggest(model, known) or " `graft models timm/...` searches them."
        raise BackboneError(f"timm has no model {quote(model)}.{near}")
    if tag and weights and weights not in (tag, "none", "file"):
        raise BackboneError(f"timm/{name}:{weights} names two different weights: {tag} and {weights}.")
    if weights == "none":
        return model, "none"
    return model, None if weights == "file" and not tag else tag or weights


def find_config(name: str, tag: str | None) -> Any:
    """timm's configuration of a model's weights; the default one for None and "none".

    Raises:
        BackboneError: unknown tag, or no tag where the model has no weights at all.
    """
    tags = list_tags(name)
    if tag not in (None, "none") and tag not in tags:
        there = f"it has {', '.join(tags)} and none" if tags else "it has none but :none (random)"
        raise BackboneError(f"timm/{name} has no weights {quote(tag)}; {there}.{suggest(str(tag), tags)}")
    if tag is None and not tags:
        raise BackboneError(
            f"timm/{name} has no pretrained weights: write timm/{name}:none for random ones."
        )
    config = timm.get_pretrained_cfg(f"{name}.{tag}" if tag in tags else name)
    return config if config is not None else timm.models.PretrainedCfg()


def list_tags(name: str) -> list[str]:
    """Tags of a model's pretrained weights, the default first."""
    tags = [full.partition(".")[2] for full in timm.list_models(f"{name}.*", pretrained=True)]
    default = getattr(timm.get_pretrained_cfg(name), "tag", None)
    return sorted(tags, key=lambda tag: (tag != default, tag))


def build_model(
    name: str,
    config: Any,
    request: Request,
    overlay: Mapping[str, Any],
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The network without classifier, as timm makes it; weights from ``overlay["file"]`` if given.

    ``arguments`` are those of the model's own, as a repository's configuration gives them.

    Raises:
        BackboneError: timm refuses the options or the weights.
    """
    options = {**(arguments or {}), **_size_options(config, request.size)}
    options |= {"num_classes": 0, "in_chans": request.channels} | drop_path_options(request)
    try:
        model = _create(
            name,
            pretrained=bool(overlay),
            pretrained_cfg=config,
            pretrained_cfg_overlay=dict(overlay) or None,
            **options,
        )
    except (TypeError, ValueError, AssertionError, UserWarning) as error:
        if "drop_path_rate" in str(error):
            raise BackboneError(
                f"timm/{name} has no stochastic depth; leave train.drop_path out."
            ) from None
        raise BackboneError(
            f"timm/{name} cannot be built for {request.channels} channels"
            f"{f' and {request.size} pixels' if request.size else ''}: {first_line(error, lines=3)}."
        ) from error
    except (RuntimeError, OSError, KeyError, SafetensorError) as error:
        raise BackboneError(
            f"The weights {overlay.get('file', '')} cannot be loaded into timm/{name}: "
            f"{first_line(error, lines=3)}. Delete the file if it is damaged."
        ) from error
    assert isinstance(model, nn.Module)
    return model


def layout_of_file(file: Path) -> Layout:
    """What a file with weights holds; of a .safetensors file its header is all that is read."""
    if is_safetensors(file):
        return read_layout(file, BackboneError)
    return layout_of(read_weights(file))


def load_file(model: nn.Module, config: Any, file: Path, channels: int) -> dict[str, str]:
    """Load a local file: as it is, or else as timm's own converter for this model reads it.

    Returns what ``Source.options`` says of the weights that were taken.

    Raises:
        BackboneError: see local_weights.load_state; the message is about the file as it is.
    """
    found, heads = open_weights(file), _classifiers(config)
    state = found.state
    try:
        load_state(model, _with_channels(state, config, channels), str(file), heads)
    except BackboneError as as_it_is:
        try:
            converted = _with_channels(_convert(model, state), config, channels)
            load_state(model, converted, str(file), heads)
        except BackboneError:
            raise as_it_is from None
    return found.options


def _convert(model: nn.Module, state: State) -> State:
    """``state`` as timm's converter for this model makes it: other names, other picture sizes."""
    home = sys.modules[type(model).__module__]
    convert: Callable[..., State] | None = getattr(home, "checkpoint_filter_fn", None)
    try:
        return convert(dict(state), model) if convert is not None else state
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        return state  # made for formats that this file is not in


def drop_path_options(request: Request) -> dict[str, Any]:
    """Timm builds modules of stochastic depth only where a rate is given."""
    return {"drop_path_rate": request.drop_path} if request.drop_path else {}


def fetch_weights(name: str, config: Any) -> Path:
    """The file with the weights that ``config`` describes, from the cache or downloaded.

    Raises:
        BackboneError: it cannot be had; see hub.py.
    """

    def size() -> int:
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False, pretrained_cfg=config)
        return 4 * sum(p.numel() for p in model.parameters())

    if not config.hf_hub_id:
        return fetch_from_url(str(config.url), size)
    if config.hf_hub_filename:
        return fetch_from_hub(config.hf_hub_id, config.hf_hub_filename, size)
    try:
        return fetch_from_hub(config.hf_hub_id, "model.safetensors", size)
    except MissingFileError:
        return fetch_from_hub(config.hf_hub_id, "pytorch_model.bin", size)


def read_preprocess(config: Any) -> Preprocess:
    """Preprocessing as the weights were evaluated by timm."""
    data: dict[str, Any] = resolve_model_data_config(None, pretrained_cfg=config.to_dict())
    _, height, width = data["input_size"]
    resize: int | tuple[int, int]
    if data["crop_mode"] == "squash":
        resize = (math.floor(height / data["crop_pct"]), math.floor(width / data["crop_pct"]))
    else:
        resize = math.floor(min(height, width) / data["crop_pct"])
    return Preprocess(
        size=(height, width),
        resize=resize,
        interpolation=INTERPOLATIONS.get(data["interpolation"], "bicubic"),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )


def _create(name: str, **options: Any) -> Any:
    with silenced("timm"), warnings.catch_warnings():
        # A stem made for colour says that other channels will not work; that is a refusal here.
        warnings.filterwarnings("error", message=".*in_chans.* may not work")
        return timm.create_model(name, **options)


def _size_options(config: Any, size: int | None) -> dict[str, Any]:
    if size is None or not config.fixed_input_size or tuple(config.input_size[1:]) == (size, size):
        return {}
    return {"img_size": size}


def _classifiers(config: Any) -> list[str]:
    named = config.classifier or ()
    return [named] if isinstance(named, str) else list(named)


def _with_channels(state: State, config: Any, channels: int) -> State:
    """The first filter's weights adapted to another number of channels."""
    from timm.models import adapt_input_conv

    first = config.first_conv or ()
    before = config.input_size[0]
    adapted = dict(state)
    for name in [first] if isinstance(first, str) else first:
        weight = state.get(f"{name}.weight")
        if channels != before and weight is not None and weight.shape[1] == before:
            adapted[f"{name}.weight"] = adapt_input_conv(channels, weight)
    return adapted


def _source(name: str, weights: str, config: Any, request: Request) -> Source:
    options = {**request.options, "head": next(iter(_classifiers(config)), None)}
    if request.file is not None:
        return Source("timm", name, "file", options={**options, "config": {"preset": weights}})
    if weights == "none":
        return Source("timm", name, weights, options=options)
    return Source(
        "timm",
        name,
        weights,
        licence=config.license or "",
        labels=read_labels(config),
        options=options,
    )


def read_labels(config: Any) -> tuple[str, ...]:
    """What the pretrained classifier told apart, where timm knows it in words."""
    if config.label_names:
        return tuple(map(str, config.label_names))
    subset = infer_imagenet_subset(config.to_dict()) if config.num_classes else None
    if subset is None:
        return ()
    info: Any = ImageNetInfo(subset)
    return tuple(info.index_to_description(i) for i in range(info.num_classes()))


def _is_npz(config: Any) -> bool:
    return bool(config.custom_load) and not config.hf_hub_id
