"""hf/ORG/NAME and hf/./folder: a repository, or a folder, that holds one model, of timm or of transformers.

Its ``config.json`` names an "architecture" that timm knows, or a "model_type" of transformers (see
transformers.py); its weights are ``model.safetensors``. What the configuration says travels in
``Source.options``, so that a bundle needs neither again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from graft.backbones.allowed import timm_arguments, timm_facts
from graft.backbones.assembly import Request
from graft.backbones.contract import Backbone, Source
from graft.backbones.repository import find_config, find_file, read_json_object
from graft.backbones.sketching import sketch
from graft.errors import BackboneError, quote


def load(request: Request) -> Backbone:
    """The model of a repository or folder, without its classifier.

    Raises:
        BackboneError: no such folder, a configuration that neither library knows, or weights that cannot
            be had or do not fit.
    """
    if request.weights not in (None, "none", "main", "file"):
        raise BackboneError(f"hf/{request.name} has its weights and none, not {quote(request.weights)}.")
    if request.random and not request.config:
        raise BackboneError(f"hf/{request.name} cannot be built again: its configuration is missing.")
    found = request.config or read_json_object(find_config(request.name))
    if "model_type" in found and "architecture" not in found:
        from graft.backbones import transformers

        return transformers.load(request, found)
    return _load_timm(request, _kept(found, request.name))


def _load_timm(request: Request, config: dict[str, Any]) -> Backbone:
    from graft.backbones import timm as timm_models  # seconds, which other models need not wait for

    name, _ = timm_models.split_name(str(config["architecture"]).partition(".")[0], "none")
    details = _as_timm(config)

    def build() -> nn.Module:
        return timm_models.build_model(name, details, request, {}, config["model_args"])

    weights = "file" if request.file is not None else request.weights or "main"
    file = None
    if not request.random and weights != "none":
        file = request.file or find_file(request.name, "model.safetensors", lambda: _bytes_of(build))
        sketch(build, timm_models.layout_of_file(file), f"hf/{request.name}")
    model = build()
    taken = {} if file is None else timm_models.load_file(model, details, file, request.channels)
    source = Source(
        "hf",
        request.name,
        weights,
        licence=str(details.license or ""),
        labels=timm_models.read_labels(details) if weights == "main" else (),
        options={**request.options, "config": config, "head": details.classifier, **taken},
    )
    backbone = timm_models.finish(model, details, request, source)
    return replace(backbone, classifier=timm_models.read_classifier(backbone, details, file))


def _kept(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The part of a config.json that is needed to build the network and read pictures for it."""
    if "architecture" not in config:
        raise BackboneError(
            f'hf/{name}: its config.json names neither an "architecture" of timm nor a "model_type" of '
            "transformers."
        )
    what = f"hf/{name}"
    details = config.get("pretrained_cfg", config)
    if not isinstance(details, dict):
        raise BackboneError(f"{what}: pretrained_cfg of its configuration is no table.")
    beside = {key: config[key] for key in ("num_classes", "label_names") if config.get(key) is not None}
    return {
        "architecture": config["architecture"],
        "model_args": timm_arguments(config.get("model_args") or {}, what),
        "pretrained_cfg": timm_facts({**details, **beside}, what),
    }


def _bytes_of(build: Callable[[], nn.Module]) -> int:
    """About how large the file with the weights is."""
    with torch.device("meta"):
        return 4 * sum(parameter.numel() for parameter in build().parameters())


def _as_timm(config: dict[str, Any]) -> Any:
    from timm.models import PretrainedCfg

    values = dict(config["pretrained_cfg"])
    for key in ("input_size", "mean", "std", "label_names"):
        if key in values:
            values[key] = tuple(values[key])
    return replace(PretrainedCfg(), **values)
