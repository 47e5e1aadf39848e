"""Models of transformers: any text encoder or decoder that ``AutoModel`` builds, and networks for pictures.

Weights are read from safetensors only, and no code of a repository is ever run. What builds the network
again (its configuration, and how its states are pooled) travels in ``Source.options``; the tokenizer is
part of the backbone's ``Encoding``.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graft.backbones.allowed import read_pooling, transformers_settings
from graft.backbones.assembly import Request, adapt_channels, assemble, resized
from graft.backbones.contract import Backbone, Preprocess, Source
from graft.backbones.hub import MissingFileError
from graft.backbones.local_weights import linear_head, read_tensor, tensor_names
from graft.backbones.pooled import PictureTrunk, TextTrunk
from graft.backbones.processor import read_preprocess
from graft.backbones.repository import find_file, find_optional, read_json_object
from graft.backbones.sketching import sketch
from graft.backbones.stored import Layout, read_layout
from graft.backbones.tokenizer import own_pooling, read_encoding
from graft.backbones.tokenizer_limits import read_rules
from graft.errors import BackboneError, GraftError, first_line, quote

# What stands for a picture: what the network itself pools, or its class token. Others give neither.
_POOL_THEMSELVES = {
    *("convnext", "convnextv2", "dinov2", "dinov2_with_registers", "regnet", "resnet", "swin", "swinv2"),
}
_CLASS_TOKENS = {"beit", "data2vec-vision", "deit", "vit", "vit_msn"}
# Where the classifier of these is one linear layer on that very state, its name in the file.
_CLASSIFIERS = {
    **dict.fromkeys(("convnext", "convnextv2", "deit", "swin", "swinv2", "vit", "vit_msn"), "classifier"),
    **dict.fromkeys(("regnet", "resnet"), "classifier.1"),
}


def load(request: Request, config: dict[str, Any]) -> Backbone:
    """The model of a repository or folder whose ``config.json`` is ``config``, without any head.

    Raises:
        BackboneError: an unknown or unsuitable type of model, weights or tokenizer that cannot be had or
            do not fit, or an option that this kind of model does not know.
    """
    stored = config.get("transformers", config) if request.config else config
    with _quiet():
        built = _read_config(stored, request)
        if request.file is not None:
            raise BackboneError(
                f"hf/{request.name}: a single file of weights cannot be taken; put it beside config.json, "
                "as model.safetensors, and name the folder as hf/./folder."
            )
        of_pictures = built.model_type in _POOL_THEMSELVES | _CLASS_TOKENS  # BEiT has a vocabulary as well
        if hasattr(built, "vocab_size") and not of_pictures:
            return _load_text(request, built, config)
        return _load_pictures(request, built)


def _read_config(values: dict[str, Any], request: Request) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    if "auto_map" in values and values["model_type"] not in _known_types():
        raise BackboneError(
            f"hf/{request.name} needs code of its own repository, which graft never runs; choose a model "
            "of a type that transformers itself knows."
        )
    if values["model_type"] not in _known_types():
        raise BackboneError(
            f"hf/{request.name}: transformers knows no model of type {quote(values['model_type'])}; "
            "a newer version of it may."
        )
    kind = _known_types()[values["model_type"]]
    settings = transformers_settings(kind, _network_of(kind), values, f"hf/{request.name}")
    try:
        config = AutoConfig.for_model(**settings)
    except (StrictDataclassError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BackboneError(
            f"The config.json of hf/{request.name} is not right: {first_line(error)}."
        ) from None
    if "quantization_config" in values:
        raise BackboneError(
            f"hf/{request.name} holds quantized weights, which are not read; choose the model in full "
            "precision."
        )
    if config.is_encoder_decoder:
        raise BackboneError(
            f"hf/{request.name} is an encoder with a decoder ({config.model_type}); an encoder or a "
            "decoder alone was expected."
        )
    config.use_cache = False
    return config


def _network_of(kind: type) -> type:
    """The class of network that AutoModel makes of a configuration; that itself where it makes none."""
    from transformers import AutoModel

    factory: Any = AutoModel
    found = factory._model_mapping.get(kind, kind)
    network: type = found[0] if isinstance(found, tuple) else found
    return network


def _known_types() -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING


def _load_text(request: Request, config: Any, stored: dict[str, Any]) -> Backbone:
    if request.channels != 3 or request.size is not None or request.drop_path:
        raise BackboneError(
            f"hf/{request.name} takes texts; data.channels, data.size and train.drop_path are of pictures."
        )
    if request.config:
        encoding, pooling = request.encoding, read_pooling(stored["pooling"], f"hf/{request.name}")
        if encoding is None or encoding.vocabulary != config.vocab_size:
            raise BackboneError(f"hf/{request.name} cannot be built again without its own tokenizer.")
    else:
        encoding = read_encoding(request.name, config, request.max_length)
        pooling = request.pooling or own_pooling(request.name, config)
    padding = config.pad_token_id if isinstance(config.pad_token_id, int) else 0
    network, weights = _build(request, config)
    takes_segments = "token_type_ids" in inspect.signature(network.forward).parameters
    segments = takes_segments and getattr(config, "type_vocab_size", 0) > 1
    if segments and read_rules(encoding.tokenizer).segment >= config.type_vocab_size:
        raise BackboneError(
            f"The tokenizer of hf/{request.name} numbers segments beyond the {config.type_vocab_size} that "
            "its network knows."
        )
    trunk = TextTrunk(network, pooling=pooling, segments=segments, padding=padding)
    options = {"config": {**_plain(config), "pooling": pooling}}
    source = Source("hf", request.name, weights, licence="", options=options)
    return _named(assemble(trunk, encoding, source, request.channels))


def _plain(config: Any) -> dict[str, Any]:
    return {
        "model_type": config.model_type,
        "transformers": json.loads(config.to_json_string(use_diff=False)),
    }


def _build(request: Request, config: Any) -> tuple[nn.Module, str]:
    """The network, with its weights unless random ones are wanted, and the name of these."""
    import transformers

    factory: Any = transformers.AutoModel
    random = request.random or request.weights == "none"
    options: dict[str, Any] = {}
    try:
        kind = factory._model_mapping[type(config)]
        if "add_pooling_layer" in inspect.signature(kind).parameters:
            options["add_pooling_layer"] = config.model_type in _POOL_THEMSELVES

        def build() -> nn.Module:
            built: nn.Module = factory.from_config(config, dtype=torch.float32, **options)
            return built

        if random:
            network = build()
        else:
            sketch(build, _layout_of(request.name), f"hf/{request.name}")
            network = _with_weights(factory, request, config, options)
    except GraftError:
        raise
    except Exception as error:  # with a stranger's numbers, building raises of every kind
        raise BackboneError(f"hf/{request.name} cannot be built from its config.json: {error}") from None
    return network, request.weights or "main"


def _with_weights(factory: Any, request: Request, config: Any, options: dict[str, Any]) -> nn.Module:
    from safetensors import SafetensorError

    folder = _fetch_weights(request.name)
    try:
        loaded: tuple[nn.Module, dict[str, Any]] = factory.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # to name them below
            output_loading_info=True,
            **options,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise BackboneError(
            f"The weights of hf/{request.name} cannot be read: {first_line(error)}."
        ) from None
    network, told = loaded
    lacking = sorted(told["missing_keys"])
    wrong = sorted(str(each[0] if isinstance(each, tuple) else each) for each in told["mismatched_keys"])
    if lacking or wrong:
        raise BackboneError(
            f"The weights of hf/{request.name} do not fit its config.json: missing {lacking[:5]}, of "
            f"another shape {wrong[:5]}."
        )
    return network


def _fetch_weights(name: str) -> Path:
    """The folder with ``config.json`` and the weights, all of them there."""
    config = find_file(name, "config.json")
    _weight_files(name)
    return config.parent


def _weight_files(name: str) -> Mapping[str, Path]:
    """The file of every tensor that the repository stores, all of them fetched."""
    found = find_optional(name, "model.safetensors", "model.safetensors.index.json")
    if "model.safetensors" in found:
        return dict.fromkeys(tensor_names(found["model.safetensors"]), found["model.safetensors"])
    if not found:
        try:
            find_file(name, "model.safetensors")
        except MissingFileError as error:
            raise BackboneError(
                f"{error} Weights in other formats can run code when they are loaded, and are not read."
            ) from None
    index = read_json_object(found["model.safetensors.index.json"])
    places: dict[str, Any] = index.get("weight_map", {})
    files: dict[str, Path] = {}
    for part in sorted(set(places.values())):
        if not isinstance(part, str) or "/" in part or "\\" in part:
            raise BackboneError(
                f"hf/{name}: its list of weights names {quote(part)}, which is no file beside it."
            )
        files[part] = find_file(name, part)
    return {key: files[part] for key, part in places.items()}


def _layout_of(name: str) -> Layout:
    """What all files with weights of the repository hold."""
    files = set(_weight_files(name).values())
    return Layout(
        {key: each for file in files for key, each in read_layout(file, BackboneError).tensors.items()}
    )


def _load_pictures(request: Request, config: Any) -> Backbone:
    if hasattr(config, "num_channels") and config.model_type not in _POOL_THEMSELVES | _CLASS_TOKENS:
        known = ", ".join(sorted(_POOL_THEMSELVES | _CLASS_TOKENS))
        raise BackboneError(
            f"hf/{request.name} ({config.model_type}): of networks for pictures, graft knows what stands "
            f"for a picture in {known}. Look for the same network under timm/."
        )
    if not hasattr(config, "num_channels"):
        raise BackboneError(
            f"hf/{request.name} ({config.model_type}) takes neither texts nor pictures; a model of one of "
            "these was expected."
        )
    stored = request.config["preprocess"] if request.config else None
    preprocess = Preprocess.from_dict(stored) if stored else read_preprocess(request.name, config)
    network, weights = _build(request, config)
    pooled = config.model_type in _POOL_THEMSELVES
    options = {
        **request.options,
        "config": {**_plain(config), "preprocess": preprocess.to_dict()},
    }
    source = Source("hf", request.name, weights, labels=_labels(config), options=options)
    ready = adapt_channels(resized(preprocess, request.size), preprocess.channels)
    backbone = _named(assemble(PictureTrunk(network, pooled=pooled), ready, source, request.channels))
    if request.random or not backbone.source.pretrained:
        return backbone
    return replace(backbone, classifier=_classifier(request.name, config, backbone.feature_dim))


def _classifier(name: str, config: Any, features: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The pretraining's own classifier, where it is one linear layer on the features and in the file."""
    head = _CLASSIFIERS.get(config.model_type)
    if head is None or config.problem_type == "multi_label_classification":
        return None
    files = _weight_files(name)
    stored = {key: files[key] for key in (f"{head}.weight", f"{head}.bias") if key in files}
    classifier = linear_head({key: read_tensor(file, key) for key, file in stored.items()}, head)
    return classifier if classifier is not None and classifier[0].shape[1] == features else None


def _named(backbone: Backbone) -> Backbone:
    """Stages are called as in the library's own network, of which the trunk holds one."""
    if not backbone.stages:  # a sketch
        return backbone
    first, *others = (stage.name.removeprefix("network.") for stage in backbone.stages)
    names = ["embeddings" if first in ("stem", "network") else first, *others]
    stages = [replace(stage, name=name) for stage, name in zip(backbone.stages, names, strict=True)]
    return replace(backbone, stages=tuple(stages))


def _labels(config: Any) -> tuple[str, ...]:
    names = getattr(config, "id2label", None) or {}
    return tuple(str(names[key]) for key in sorted(names)) if len(names) > 2 else ()


@contextmanager
def _quiet() -> Iterator[None]:
    """The library's own bars and warnings stay out of a person's sight; what matters is checked here."""
    try:
        from transformers.utils import logging as transformers_logging
    except ImportError:
        raise BackboneError(
            'This model needs the library transformers: install it with pip install "graft-ml[text]".'
        ) from None
    logging: Any = transformers_logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
