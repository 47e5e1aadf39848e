"""Networks by what people call them, to be laid beside each other: runs, bundles, files, backbones.

A run or a bundle is a folder; a run that has not ended stands for its newest checkpoint; a file holds
weights; an id names a backbone; and ``pretrained`` is what the other network began with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from graft.adapters import merged
from graft.backbones import load_backbone, rebuild
from graft.backbones.contract import Backbone, Source, Stage
from graft.backbones.local_weights import read_weights, strip_prefixes
from graft.bundle import MANIFEST, load_bundle, read_parts
from graft.changes import StageChange, compare_values, group_by_name
from graft.errors import BackboneError, BundleError, RunError, quote
from graft.files import follow
from graft.preparation import load_backbone as load_as_asked
from graft.runs import Run

PRETRAINED = "pretrained"
TRUNK, HEAD = "trunk.", "head."
_SHOWN = 5


@dataclass(frozen=True)
class Network:
    """The values of a trunk by name; ``stages``: where they are known; ``start``: what it began with."""

    values: dict[str, Tensor]
    stages: tuple[Stage, ...] | None = None
    start: Callable[[], Backbone] | None = None


def compare_networks(one: str, two: str) -> tuple[tuple[StageChange, ...], tuple[str, ...]]:
    """Which stages differ between ``one`` and what became of it, and what could not be compared, in words.

    Raises:
        BundleError: a name means nothing, or the two have no values in common.
        GraftError: as loading a bundle, a run, a file or a backbone does.
    """
    after = open_network(two)
    before = _start_of(after, two) if one == PRETRAINED else open_network(one)
    stages = after.stages or before.stages
    if stages is not None:
        wanted = [name for stage in stages for name in stage.parameters]
        before, after = (Network(strip_prefixes(each.values, wanted)) for each in (before, after))
    stages = stages or group_by_name(after.values)
    found = compare_values(before.values, after.values, stages)
    if not found:
        raise BundleError(f"{one} and {two} have no values in common: they are not of one architecture.")
    return found, tuple(_left_out(one, before, after)) + tuple(_left_out(two, after, before))


def open_network(name: str) -> Network:
    """The network of this name; raises as :func:`compare_networks`."""
    path = follow(Path(name))
    if (path / MANIFEST).is_file() or (path / "bundle" / MANIFEST).is_file():
        return _of_bundle(path)
    if (path / "recipe.json").is_file():
        return _of_run(Run(path))
    if path.is_file():
        return Network(read_weights(path))
    if path.exists():
        raise BundleError(
            f"{path} is neither a run nor a bundle: {MANIFEST} or recipe.json was expected there."
        )
    try:
        backbone = load_backbone(name)
    except BackboneError as error:
        raise BundleError(f"{name}: no such folder or file; and as a backbone: {error}") from None
    return Network(backbone.trunk.state_dict(), backbone.stages)


def _of_bundle(path: Path) -> Network:
    parts = read_parts(path)
    stored = parts.stored
    if stored.adapters is not None:
        values = load_bundle(path).merged().model.trunk.state_dict()
    else:
        values = {
            name.removeprefix(TRUNK): value
            for name, value in parts.tensors.items()
            if not name.startswith(HEAD)
        }
    source = stored.source
    own = source.library == "plain"  # a module of a person's own, whose code is not stored
    stages = None if own else rebuild(source, stored.preprocess).stages
    run = Run(path if (path / "recipe.json").is_file() else path.parent)
    if run.begun:  # which knows the seed of random weights, and a file's place
        return Network(values, stages, None if own else _start_of_run(run))
    if own or source.weights in ("none", "file"):
        return Network(values, stages)
    return Network(values, stages, lambda: _published(source))


def _start_of_run(run: Run) -> Callable[[], Backbone]:
    recipe = run.recipe
    return lambda: merged(load_as_asked(recipe))


def _published(source: Source) -> Backbone:
    """The backbone with the weights of its name, which must still be those that the bundle began with."""
    size, channels = source.options.get("size"), int(source.options.get("channels", 3))
    backbone = load_backbone(source.id, size=size, channels=channels)
    if source.sha256 and backbone.source.sha256 != source.sha256:
        raise BundleError(f"The weights of {source.id} are no longer those that the bundle began with.")
    return backbone


def _of_run(run: Run) -> Network:
    """A run that has not ended: what its newest checkpoint changed, over what it began with."""
    found = run.checkpoints.newest()
    if found is None:
        raise RunError(f"{run.folder} has no checkpoint yet: go on with graft resume {run.folder}.")
    backbone = load_as_asked(run.recipe)
    changed = {
        name.removeprefix(TRUNK): value for name, value in found.model.items() if name.startswith(TRUNK)
    }
    backbone.trunk.load_state_dict(changed, strict=False)
    plain = merged(backbone)
    return Network(plain.trunk.state_dict(), plain.stages, _start_of_run(run))


def _start_of(after: Network, name: str) -> Network:
    if after.start is None:
        raise BundleError(
            f"What {name} began with is not known: name it in place of {quote(PRETRAINED)} (a backbone's "
            "id, or a file with its weights)."
        )
    backbone = after.start()
    return Network(backbone.trunk.state_dict(), backbone.stages)


def _left_out(name: str, own: Network, other: Network) -> list[str]:
    """What stands in one network and not, or in another shape, in the other."""
    spare = [
        key
        for key, value in own.values.items()
        if key not in other.values or other.values[key].shape != value.shape
    ]
    if not spare:
        return []
    more = f" and {len(spare) - _SHOWN} more" if len(spare) > _SHOWN else ""
    return [f"In {name} alone, or in another shape: {', '.join(spare[:_SHOWN])}{more}."]
