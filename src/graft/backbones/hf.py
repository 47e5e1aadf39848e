"""hf/ORG/NAME and hf/./folder: a repository, or a folder, that holds one model, of timm or of transformers.

Its ``config.json`` names an "architecture" that timm knows, or a "model_type" of transformers (see
transformers.py); its weights are ``model.safetensors``. What the configuration says travels in
``Source.options``, so that a bundle needs neither again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from graft.backbones.assembly import Request
from graft.backbones.contract import Backbone, Source
from graft.backbones.repository import find_file, read_json_object
from graft.errors import BackboneError

KEPT = (
    "input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std",
    "first_conv", "classifier", "num_classes", "license", "label_names",
)  # fmt: skip


def load(request: Request) -> Backbone:
    """The model of a repository or folder, without its classifier.

    Raises:
        BackboneError: no such folder, a configuration that neither library knows, or weights that cannot
            be had or do not fit.
    """
    if request.weights not in (None, "none", "main", "file"):
        raise BackboneError(f"hf/{request.name} has its weights and none, not {request.weights!r}.")
    found = request.config or read_json_object(find_file(request.name, "config.json"))
    if "model_type" in found and "architecture" not in found:
        from graft.backbones import transformers

        return transformers.load(request, found)
    return _load_timm(request, request.config or _kept(found, request.name))


def _load_timm(request: Request, config: dict[str, Any]) -> Backbone:
    from graft.backbones import timm as timm_models  # seconds, which other models need not wait for

    name, _ = timm_models.split_name(str(config["architecture"]).partition(".")[0], "none")
    details = _as_timm(config)
    model = timm_models.build_model(name, details, request, {}, config["model_args"])
    weights = "file" if request.file is not None else request.weights or "main"
    file = None
    if not request.random and weights != "none":
        file = request.file or find_file(
            request.name, "model.safetensors", lambda: 4 * sum(p.numel() for p in model.parameters())
        )
        timm_models.load_file(model, details, file, request.channels)
    source = Source(
        "hf",
        request.name,
        weights,
        licence=str(details.license or ""),
        labels=timm_models.read_labels(details) if weights == "main" else (),
        options={**request.options, "config": config, "head": details.classifier},
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
    details = config.get("pretrained_cfg", config)
    kept = {key: details[key] for key in KEPT if details.get(key) is not None}
    for key in ("num_classes", "label_names"):
        if config.get(key) is not None:
            kept[key] = config[key]
    return {
        "architecture": config["architecture"],
        "model_args": dict(config.get("model_args") or {}),
        "pretrained_cfg": kept,
    }


def _as_timm(config: dict[str, Any]) -> Any:
    from timm.models import PretrainedCfg

    values = dict(config["pretrained_cfg"])
    for key in ("input_size", "mean", "std", "label_names"):
        if key in values:
            values[key] = tuple(values[key])
    return replace(PretrainedCfg(), **values)
