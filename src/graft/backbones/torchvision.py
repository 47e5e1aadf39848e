"""torchvision/...: every classification model of torchvision, with its named weights.

Preprocessing is read from the weights themselves, also where they are not loaded. The auxiliary
classifiers of googlenet and inception are dropped, and the shift of the input that these two do
inside the network when pretrained is done by preprocessing instead (mean and std of 0.5).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torchvision
from torch import nn
from torchvision.transforms import InterpolationMode

from graft.backbones.assembly import Request, assemble, resized
from graft.backbones.contract import Backbone, Preprocess, Source
from graft.backbones.heads import find_heads, remove_head
from graft.backbones.hub import fetch_from_url
from graft.backbones.local_weights import State, Weights, linear_head, load_state, open_weights
from graft.errors import BackboneError, quote, suggest

AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
LICENCE = "BSD-3-Clause"
SHIFTED = (0.5, 0.5, 0.5)
OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)$")


def load(request: Request) -> Backbone:
    """A torchvision model without its classifier.

    Raises:
        BackboneError: an unknown model or weights, weights that cannot be loaded or do not fit, or a
            picture size that the model does not take.
    """
    # Weights from a file: what was built for them was kept.
    kept = request.config["preset"] if request.config else request.weights
    preset = find_weights(request.name, kept)
    model = build_model(request.name, preset, request.size)
    heads = [head.name for head in find_heads(model)]
    remove_head(model)
    classifier, source = None, _source(request, preset, heads[0])
    if not request.random and (request.file is not None or request.weights != "none"):
        found = _load_weights(model, request, preset, heads)
        classifier = linear_head(found.state, heads[0])
        source = replace(source, options=source.options | found.options)
    preprocess = resized(_preprocess(request, preset), request.size)
    return replace(assemble(model, preprocess, source, request.channels), classifier=classifier)


def find_weights(name: str, weights: str | None) -> Any:
    """The member of the model's weights enum; the default one for None and "none".

    Raises:
        BackboneError: unknown model or weights.
    """
    known = list_names()
    if name not in known:
        near = suggest(name, known) or " `graft models torchvision` lists them."
        raise BackboneError(f"torchvision has no classification model {quote(name)}.{near}")
    choices = torchvision.models.get_model_weights(name)
    if weights in (None, "none", "file", "DEFAULT"):
        return choices.DEFAULT
    names = [choice.name for choice in choices]
    if weights not in names:
        raise BackboneError(
            f"torchvision/{name} has no weights {quote(weights)}; it has {', '.join(names)}, DEFAULT "
            f"and none.{suggest(str(weights), names)}"
        )
    return choices[weights]


def list_names() -> list[str]:
    """Names of all classification models, sorted."""
    return list(torchvision.models.list_models(module=torchvision.models))


def build_model(name: str, preset: Any, size: int | None = None) -> nn.Module:
    """The whole network of torchvision, with random weights and without auxiliary heads."""
    options: dict[str, Any] = {}
    if name in AUXILIARY:
        # torchvision's own start for these two takes minutes and warns.
        options = {"aux_logits": False, "init_weights": False, "transform_input": False}
    if name.startswith("vit_"):
        options["image_size"] = size or preset_size(preset)[0]
    if preset.meta["categories"] is not None:
        options["num_classes"] = len(preset.meta["categories"])
    try:
        model = torchvision.models.get_model(name, weights=None, **options)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise BackboneError(f"torchvision/{name} cannot be built for {size} pixels: {error}.") from None
    assert isinstance(model, nn.Module)
    return model


def _load_weights(model: nn.Module, request: Request, preset: Any, heads: list[str]) -> Weights:
    if request.file is not None:
        file = request.file
    else:
        file = fetch_from_url(preset.url, lambda: int(preset.meta["_file_size"] * 1e6))
    found = open_weights(file)
    state = {OLD_DENSENET.sub(r"\1\2", key): value for key, value in found.state.items()}
    if request.name.startswith("vit_"):
        state = _fit_positions(model, state)
    load_state(model, state, str(file), [*heads, *AUXILIARY.get(request.name, ())])
    return replace(found, state=state)


def _fit_positions(model: Any, state: State) -> State:
    """Position embeddings stretched to the picture size that the model was built for."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    embedding = state.get("encoder.pos_embedding")
    if embedding is None or embedding.shape == model.encoder.pos_embedding.shape:
        return state
    return dict(interpolate_embeddings(model.image_size, model.patch_size, dict(state)))


def preset_size(preset: Any) -> tuple[int, int]:
    """Height and width of the pictures that these weights were evaluated on."""
    crop = preset.transforms().crop_size
    return int(crop[0]), int(crop[-1])


def _preprocess(request: Request, preset: Any) -> Preprocess:
    transforms = preset.transforms()
    names = {
        InterpolationMode.BILINEAR: "bilinear",
        InterpolationMode.BICUBIC: "bicubic",
        InterpolationMode.NEAREST: "nearest",
    }
    preprocess = Preprocess(
        size=preset_size(preset),
        resize=int(transforms.resize_size[0]),
        interpolation=names[transforms.interpolation],
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
    if request.name in AUXILIARY:
        return replace(preprocess, mean=SHIFTED, std=SHIFTED)
    return preprocess


def _source(request: Request, preset: Any, head: str) -> Source:
    options = {**request.options, "head": head}
    if request.file is not None:
        options["config"] = {"preset": preset.name}
        return Source("torchvision", request.name, "file", options=options)
    if request.weights == "none":
        return Source("torchvision", request.name, "none", options=options)
    meta = preset.meta
    return Source(
        "torchvision",
        request.name,
        preset.name,
        licence=meta.get("license", LICENCE),
        labels=tuple(meta["categories"] or ()),
        accuracy=published_accuracy(meta),
        options=options,
    )


def published_accuracy(meta: dict[str, Any]) -> float | None:
    """Top-1 accuracy on ImageNet in percent, where torchvision states it."""
    value = meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
    return None if value is None else float(value)
