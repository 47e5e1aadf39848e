"""Adapters without their backbone: what of a model they are, and how the model is had again.

A bundle that holds an adapter alone names its backbone by id and by the digest of its values; any other
backbone is refused, for an adapter means nothing on it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from graft.adapters.injection import adapt
from graft.backbones import load_backbone
from graft.backbones.assembly import state_digest
from graft.backbones.contract import Adapters, Backbone, Encoding, Intake, Source
from graft.errors import BackboneError, BundleError, RecipeError
from graft.recipe import AdapterSettings

Base = Backbone | str | Path
"""What stands for a backbone that a bundle does not hold: itself, or a file with its weights."""


def names_to_store(model: nn.Module, backbone: Backbone) -> tuple[str, ...]:
    """Names of a trained model's values that its backbone does not have: adapters, head, and what moved."""
    assert backbone.adapters is not None
    base = {f"trunk.{name}": value for name, value in backbone.trunk.state_dict().items()}
    own = {f"trunk.{name}" for name in backbone.adapters.parameters}
    return tuple(
        name
        for name, value in model.state_dict().items()
        if name in own or name not in base or not torch.equal(value.cpu(), base[name].cpu())
    )


def load_base(source: Source, intake: Intake, digest: str, given: Base | None = None) -> Backbone:
    """The backbone that an adapter was made on, by its id or as it is given.

    Raises:
        BundleError: it cannot be had, or is another one.
    """
    base = given if isinstance(given, Backbone) else _load(source, intake, given)
    found = state_digest(base.trunk)
    if found != digest:
        raise BundleError(
            f"The adapter was made on {source.id} with values of digest {digest[:12]}; those of "
            f"{base.source.id} have {found[:12]}, so it would mean nothing on them. Give the backbone that "
            "it was made on: base= in Python, or graft merge --weights FILE for a whole bundle."
        )
    return base


def rebuild_trunk(base: Backbone, adapters: Adapters) -> nn.Module:
    """The trunk with the adapters in their places, which hold nothing yet.

    Raises:
        BundleError: they do not fit into this network.
    """
    try:
        settings = AdapterSettings.model_validate(adapters.settings)
        adapted = adapt(base, settings, adapters.stages)
    except (RecipeError, ValidationError) as error:
        raise BundleError(f"The adapter cannot be put into {base.source.id}: {error}") from None
    assert adapted.adapters is not None
    if adapted.adapters.targets != adapters.targets:
        raise BundleError(
            f"The adapter does not fit into {base.source.id} as it is built here: it was made for "
            f"{len(adapters.targets)} layers, and {len(adapted.adapters.targets)} are found. Load it with "
            "the versions listed in its graft.json."
        )
    return adapted.trunk


def _load(source: Source, intake: Intake, weights: str | Path | None) -> Backbone:
    if source.library == "plain":
        raise BundleError(f"{source.id} was a module of your own: give it, as base=graft.from_module(...).")
    if source.weights == "file" and weights is None:
        raise BundleError(
            f"The adapter was made on {source.library}/{source.name} with weights of a file: give that "
            "file, as base= in Python, or graft merge --weights FILE for a whole bundle."
        )
    library_and_name = f"{source.library}/{source.name}"
    config = source.options.get("config") or {}
    texts = isinstance(intake, Encoding)
    try:
        return load_backbone(
            library_and_name if source.weights == "file" else source.id,
            weights=weights,
            channels=int(source.options.get("channels", 3)),
            size=source.options.get("size"),
            pooling=config.get("pooling") if texts else None,
            max_length=intake.max_length if isinstance(intake, Encoding) else None,
        )
    except BackboneError as error:
        raise BundleError(f"The adapter's backbone cannot be had: {error}") from None
