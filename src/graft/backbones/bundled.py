"""graft/...: the small backbone inside the package, for a first run without a network."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from graft.backbones.assembly import Request, assemble, resized
from graft.backbones.contract import Backbone, Preprocess, Source
from graft.backbones.local_weights import linear_head, load_state, open_weights, read_weights
from graft.errors import BackboneError, quote, suggest

NAMES = ("resnet18-half-64",)
CHECKSUMS = {"resnet18-half-64": "2754d7e89ec53859d16da449ecbeaa12f087343e5515fdaa3ab49971ccc5eb60"}
WEIGHTS = "tiny-imagenet"
LICENCE = "Apache-2.0 (trained on Tiny-ImageNet: non-commercial research data)"


def load(request: Request) -> Backbone:
    """The bundled network with the weights in the package, or with random ones.

    Raises:
        BackboneError: an unknown name or weights, or a damaged installation.
    """
    if request.name not in NAMES:
        near = suggest(request.name, NAMES) or f" There is: {', '.join(NAMES)}."
        raise BackboneError(f"graft brings no backbone {quote(request.name)}.{near}")
    weights = "file" if request.file else request.weights or WEIGHTS
    if weights not in (WEIGHTS, "file", "none"):
        raise BackboneError(
            f"graft/{request.name} has the weights {WEIGHTS} and none, not {quote(weights)}."
        )
    config = read_config(request.name)
    trunk, classifier = _build(config, request.drop_path), None
    taken: dict[str, str] = {}
    if request.file and not request.random:
        found = open_weights(request.file)
        load_state(trunk, found.state, str(request.file), ["fc"])
        taken = found.options
    elif weights == WEIGHTS and not request.random:
        file = _verified(request.name)
        state = {k: v.float() if v.is_floating_point() else v for k, v in read_weights(file).items()}
        classifier = linear_head(state, "fc")
        load_state(trunk, state, str(file), ["fc"])
    preprocess = resized(_preprocess(config), request.size)
    source = _source(request, weights, config)
    source = replace(source, options=source.options | taken)
    return replace(assemble(trunk, preprocess, source, request.channels), classifier=classifier)


def read_config(name: str) -> dict[str, Any]:
    """What is known of a bundled network, as its config.json says it."""
    config = json.loads((_folder(name) / "config.json").read_text(encoding="utf-8"))
    assert isinstance(config, dict)
    return config


def _folder(name: str) -> Path:
    return Path(__file__).parent / "weights" / name


def _build(config: dict[str, Any], drop_path: float) -> nn.Module:
    import timm

    architecture = config["architecture"]
    model = timm.create_model(
        architecture["model"],
        channels=tuple(architecture["channels"]),
        num_classes=0,
        drop_path_rate=drop_path,
    )
    assert isinstance(model, nn.Module)
    return model


def _verified(name: str) -> Path:
    file = _folder(name) / "weights.safetensors"
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise BackboneError(f"{file} cannot be read ({error.strerror}): install graft anew.") from None
    if found != CHECKSUMS[name]:
        raise BackboneError(f"{file} is not what was shipped (sha256 {found}): install graft anew.")
    return file


def _preprocess(config: dict[str, Any]) -> Preprocess:
    _, height, width = config["input_size"]
    return Preprocess(
        size=(height, width),
        resize=config["resize"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _source(request: Request, weights: str, config: dict[str, Any]) -> Source:
    if weights != WEIGHTS:
        return Source("graft", request.name, weights, options={**request.options, "head": "fc"})
    labels = json.loads((_folder(request.name) / "labels.json").read_text(encoding="utf-8"))
    return Source(
        "graft",
        request.name,
        weights,
        licence=LICENCE,
        labels=tuple(entry["name"] for entry in labels),
        accuracy=round(100 * config["source_task"]["top1_validation"], 2),
        options={**request.options, "head": "fc"},
    )
