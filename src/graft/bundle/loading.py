"""From a bundle's parts to its network: built, compared with the stored tensors, filled, and proved.

Before a network is allocated it is sketched, without memory, and the sketch compared with the header of
the weights; so what a stranger's manifest describes costs no more than the weights that came with it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from graft.backbones import from_module, rebuild
from graft.backbones.contract import Backbone, Factory, Intake, Preprocess
from graft.backbones.sketching import sketch_trunk
from graft.backbones.stored import Layout, layout_of
from graft.bundle.bounds import check_inputs
from graft.bundle.manifest import MANIFEST, WEIGHTS
from graft.bundle.parts import Parts, read_parts
from graft.bundle.value import Bundle
from graft.data.items import Items, Text
from graft.data.texts import Texts
from graft.data.transforms import preprocess as prepare_picture
from graft.errors import BackboneError, BundleError, DataError
from graft.model import Model

GOLDEN_TOLERANCE = 1e-3  # absolute and relative; other machines round differently


def load_bundle(
    path: str | Path, *, factory: Factory | None = None, base: Backbone | str | Path | None = None
) -> Bundle:
    """Load a bundle from its folder, or from the folder of the run that made it.

    ``factory`` builds the network where the backbone was a module of the user's own. ``base``: of a bundle
    that is an adapter, its backbone or a file with its weights; by default loaded by its id.

    Raises:
        BundleError: nothing there, damaged, of a newer format, or it does not compute what it did; it
            names a file out of its folder, or sizes beyond what its weights hold; an adapter's backbone
            cannot be loaded, or is another one.
    """
    parts = read_parts(path)
    model = _build(parts, factory, base)
    _fill(model, parts)
    prove(model, parts)
    return replace(parts.stored, model=model)


def _build(parts: Parts, factory: Factory | None, base: Backbone | str | Path | None) -> Model:
    """The network as it is made, weights still random, or those of the backbone that an adapter is for."""
    stored, folder = parts.stored, parts.folder
    if stored.adapters is not None:
        from graft.adapters.on_base import load_base, rebuild_trunk

        found = load_base(stored.source, stored.preprocess, stored.adapters.base, base)
        return Model(rebuild_trunk(found, stored.adapters), stored.head.build(seed=0))
    if base is not None:
        raise BundleError(f"{folder} holds its whole network; leave out the backbone given beside it.")
    own = _make_own(stored, factory) if stored.source.library == "plain" else None
    try:
        trunk = _rebuild(parts) if own is None else own
        return Model(trunk, stored.head.build(seed=0))
    except BackboneError as error:
        raise BundleError(f"The network of {folder} cannot be built: {error}") from None
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # Options and sizes that no network has.
        raise BundleError(f"{folder / MANIFEST} is damaged, its network cannot be built: {error}") from None


def _rebuild(parts: Parts) -> nn.Module:
    """The trunk by its source, once it is known to be as large as the stored tensors."""
    stored, trunk = parts.stored, parts.layout.under("trunk.")
    sketched = sketch_trunk(stored.source, stored.preprocess, trunk)
    if sketched is not None:
        _check_names(sketched.tensors, trunk.tensors, parts.folder)
    return rebuild(stored.source, stored.preprocess).trunk


def _make_own(stored: Bundle, factory: Factory | None) -> nn.Module:
    if factory is None:
        raise BundleError(
            f"{stored.source.id} was a module of your own and no code is stored: load the bundle from "
            "Python, with factory=the function that builds the module."
        )
    head = stored.source.options.get("head")  # where it was taken out before
    return from_module(factory(), preprocess=stored.preprocess, name=stored.source.name, head=head).trunk


def _fill(model: Model, parts: Parts) -> None:
    """Every value of the model from the bundle: same names, same shapes, all finite.

    Of an adapter, those of its backbone may be missing.
    """
    file, partly = parts.folder / WEIGHTS, parts.stored.adapters is not None
    own = layout_of(model.state_dict())
    if partly:
        learnt = {k: v for k, v in own.tensors.items() if k in parts.layout.tensors or _is_learnt(k)}
        own = Layout(learnt)
    _check_names(own.tensors, parts.layout.tensors, parts.folder)
    for name, stored in parts.layout.tensors.items():
        if stored != own.tensors[name]:
            raise BundleError(f"{file}: {name} is {stored}; the network has {own.tensors[name]}.")
    for name, tensor in parts.tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BundleError(f"{file}: {name} holds values that are not finite.")
    model.load_state_dict(parts.tensors, strict=not partly)
    model.eval()


def _check_names(own: Collection[str], stored: Collection[str], folder: Path) -> None:
    missing, extra = sorted(set(own).difference(stored)), sorted(set(stored).difference(own))
    if missing or extra:
        raise BundleError(
            f"{folder / WEIGHTS} does not fit its network: missing {missing[:5]}, unknown {extra[:5]}."
        )


def _is_learnt(name: str) -> bool:
    """Whether a value is of an adapter or of the head, which no backbone has."""
    return name.startswith("head.") or ".lora_" in name


def prove(model: Model, parts: Parts) -> None:
    """Raises BundleError where the network does not compute what it did when it was saved."""
    folder, golden, intake = parts.folder, parts.golden, parts.stored.preprocess
    try:
        check_inputs(golden["inputs"], intake)
        ready = _prepared(intake)
        with torch.inference_mode():
            logits = model(golden["inputs"]).float()
        worst = float((logits - golden["logits"]).abs().max())
        fits = logits.shape == golden["logits"].shape
        if isinstance(intake, Preprocess):
            fits = fits and ready.shape[1:] == golden["inputs"].shape[1:] and bool(ready.isfinite().all())
    except (BundleError, DataError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise BundleError(f"{folder} does not fit together: {error}") from None
    if not fits:
        raise BundleError(f"{folder} does not fit together: its proof is of other inputs.")
    if not torch.allclose(logits, golden["logits"], rtol=GOLDEN_TOLERANCE, atol=GOLDEN_TOLERANCE):
        raise BundleError(
            f"{folder} does not compute what it did when it was saved (logits differ by {worst:.2g}): "
            "the network's code changed. Load it with the versions listed in its graft.json."
        )


def _prepared(intake: Intake) -> Tensor:
    """A small item as it is prepared for the network, as a batch of one."""
    if isinstance(intake, Preprocess):
        picture = torch.zeros(intake.channels, 8, 8, dtype=torch.uint8)
        return prepare_picture(picture, intake).unsqueeze(0)
    items = Items((Text("A word."),), ("",), None, ("",))
    ((inputs, _, _),) = Texts(items, intake).batches([[0]])
    return inputs
