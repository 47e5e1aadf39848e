"""hf/ORG/NAME and hf/./folder: a repository, or a folder, that holds one model in timm's format.

That is a ``config.json`` with an "architecture" that timm knows, and ``model.safetensors``. What
the configuration says travels in ``Source.options``, so that a bundle needs neither again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from graft.backbones import timm as timm_models
from graft.backbones.assembly import Request
from graft.backbones.contract import Backbone, Source
from graft.backbones.hub import MissingFileError, fetch_from_hub
from graft.errors import BackboneError

MOST_BYTES = 1_000_000
KEPT = (
    "input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std",
    "first_conv", "classifier", "num_classes", "license", "label_names",
)  # fmt: skip


def load(request: Request) -> Backbone:
    """The timm-format model of a repository or folder, without its classifier.

    Raises:
        BackboneError: no such folder, a configuration that is not timm's, an unknown architecture,
            or weights that cannot be had or do not fit.
    """
    if request.weights not in (None, "none", "main", "file"):
        raise BackboneError(f"hf/{request.name} has its weights and none, not {request.weights!r}.")
    config = request.config or _kept(_read_config(request.name), request.name)
    name, _ = timm_models.split_name(str(config["architecture"]).partition(".")[0], "none")
    details = _as_timm(config)
    model = timm_models.build_model(name, details, request, {}, config["model_args"])
    weights = "file" if request.file is not None else request.weights or "main"
    if not request.random and weights != "none":
        file = request.file or _find(request.name, "model.safetensors", model)
        timm_models.load_file(model, details, file, request.channels)
    source = Source(
        "hf",
        request.name,
        weights,
        licence=str(details.license or ""),
        labels=timm_models.read_labels(details) if weights == "main" else (),
        options={**request.options, "config": config, "head": details.classifier},
    )
    return timm_models.finish(model, details, request, source)


def _read_config(name: str) -> dict[str, Any]:
    file = _find(name, "config.json", None)
    try:
        text = file.read_text(encoding="utf-8") if file.stat().st_size <= MOST_BYTES else ""
        config = json.loads(text)
    except (OSError, ValueError) as error:
        raise BackboneError(f"{file} is no readable configuration: {error}.") from None
    if not isinstance(config, dict):
        raise BackboneError(f"{file} holds no JSON object; a timm config.json was expected.")
    return config


def _kept(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The part of a config.json that is needed to build the network and read pictures for it."""
    if "architecture" not in config:
        if "model_type" in config or "architectures" in config:
            raise BackboneError(
                f"hf/{name} is a transformers model ({config.get('model_type', '?')}), which "
                "this version of graft does not support: it reads timm's format only. "
                "Look for the same network under timm/."
            )
        raise BackboneError(f'hf/{name}: its config.json names no "architecture", as timm\'s does.')
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


def _find(name: str, filename: str, model: Any) -> Path:
    """The path of a file of the folder, or of the repository."""
    if name.startswith((".", "/", "~")):
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise BackboneError(f"There is no folder {folder}, which hf/{name} names.")
        file = folder / filename
        if not file.is_file():
            raise BackboneError(f"{folder} has no {filename}: a folder with a timm model was expected.")
        return file
    if name.count("/") != 1:
        raise BackboneError(
            f"hf/{name}: a repository hf/ORG/NAME, or a folder hf/./path or hf//path, was expected."
        )
    size = None if model is None else 4 * sum(p.numel() for p in model.parameters())
    try:
        return fetch_from_hub(name, filename, lambda: size)
    except MissingFileError as error:
        raise BackboneError(f"{error} hf/ takes timm-format models only.") from None
