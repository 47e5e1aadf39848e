"""What backbones there are, and what one consists of.

``find_models`` reads what the libraries state about their models and builds none of them; a fact
that is not known is None. Parameter counts of timm's models, which timm does not state, come from a
table that ``python -m graft.backbones.catalog`` made by building each one without its values.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from graft.backbones.contract import Backbone, Intake
from graft.errors import BackboneError, quote, suggest

TABLE = Path(__file__).parent / "timm_parameters.json"


@dataclass(frozen=True)
class ModelInfo:
    """Known facts about one model; of its default weights where they differ by weights."""

    id: str  # library/name
    library: str
    parameters: int | None  # with the classifier
    gmacs: float | None  # billions of multiply-adds for one picture
    input_size: tuple[int, int, int]  # channels, height, width
    accuracy: float | None  # top-1 on the data it was trained on, in percent
    megabytes: float | None  # of the file with the weights
    licence: str | None
    weights: tuple[str, ...]  # names of the pretrained weights, the default first

    @property
    def default(self) -> str | None:
        """The weights that an id without any names; None where there are only random ones."""
        return self.weights[0] if self.weights else None


@dataclass(frozen=True)
class Part:
    """A child of the network or a stage of it, with the numbers in its parameters."""

    name: str
    kind: str  # class of a child; of a stage its entry, or "" where it has none
    parameters: int


@dataclass(frozen=True)
class Description:
    """What ``graft inspect`` shows of a loaded backbone."""

    id: str
    parameters: int
    feature_dim: int
    head: str | None  # where the classifier was, before it was taken out
    children: tuple[Part, ...]
    stages: tuple[Part, ...]
    unused: tuple[str, ...]
    preprocess: Intake
    licence: str
    accuracy: float | None
    labels: int  # number of classes that the pretrained classifier told apart; 0: not known
    sha256: str
    average: str = ""  # what a file with weights calls the average that was taken from it

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def find_models(*patterns: str, pretrained: bool = False) -> list[ModelInfo]:
    """Models whose id (``library/name``) contains any of ``patterns``, or matches it where it has * or ?.

    Args:
        patterns: none: every model.
        pretrained: only those that have pretrained weights.

    Raises:
        BackboneError: one of the patterns finds nothing.
    """
    known = [info for info in _everything() if info.weights or not pretrained]
    found: set[str] = set()
    for pattern in patterns or ("",):
        fitting = {info.id for info in known if fits(info.id.lower(), pattern.lower())}
        if not fitting:
            names = [info.id for info in _everything()]
            near = suggest(pattern, [*names, *(name.partition("/")[2] for name in names)])
            raise BackboneError(f"No backbone matches {quote(pattern)}.{near}")
        found |= fitting
    return [info for info in known if info.id in found]


def fits(name: str, pattern: str) -> bool:
    """Whether a name contains this part, or matches it where it is a pattern."""
    return fnmatchcase(name, pattern) if any(sign in pattern for sign in "*?[") else pattern in name


def describe(backbone: Backbone) -> Description:
    """The parts of a loaded backbone, in numbers."""
    trunk, source = backbone.trunk, backbone.source
    sizes = {name: parameter.numel() for name, parameter in trunk.named_parameters()}
    children = [
        Part(name, type(child).__name__, sum(p.numel() for p in child.parameters()))
        for name, child in trunk.named_children()
    ]
    stages = [
        Part(stage.name, stage.entry or "", sum(sizes[name] for name in stage.parameters))
        for stage in backbone.stages
    ]
    return Description(
        id=source.id,
        parameters=sum(sizes.values()),
        feature_dim=backbone.feature_dim,
        head=source.options.get("head"),
        children=tuple(children),
        stages=tuple(stages),
        unused=backbone.unused,
        preprocess=backbone.preprocess,
        licence=source.licence,
        accuracy=source.accuracy,
        labels=len(source.labels),
        sha256=source.sha256,
        average=source.options.get("average", ""),
    )


@cache
def _everything() -> tuple[ModelInfo, ...]:
    return (*_bundled(), *_torchvision(), *_timm())


def _bundled() -> Iterator[ModelInfo]:
    from graft.backbones.bundled import LICENCE, NAMES, WEIGHTS, read_config

    for name in NAMES:
        config = read_config(name)
        yield ModelInfo(
            id=f"graft/{name}",
            library="graft",
            parameters=config["parameters"],
            gmacs=None,
            input_size=_three(config["input_size"]),
            accuracy=round(100 * config["source_task"]["top1_validation"], 2),
            megabytes=round(2 * config["parameters"] / 1e6, 1),
            licence=LICENCE,
            weights=(WEIGHTS,),
        )


def _torchvision() -> Iterator[ModelInfo]:
    from torchvision.models import get_model_weights

    from graft.backbones import torchvision

    for name in torchvision.list_names():
        choices = get_model_weights(name)
        preset = choices.DEFAULT
        names = [choice.name for choice in choices if choice is not preset]
        height, width = torchvision.preset_size(preset)
        yield ModelInfo(
            id=f"torchvision/{name}",
            library="torchvision",
            parameters=preset.meta["num_params"],
            gmacs=preset.meta.get("_ops"),
            input_size=(3, height, width),
            accuracy=torchvision.published_accuracy(preset.meta),
            megabytes=preset.meta.get("_file_size"),
            licence=preset.meta.get("license", torchvision.LICENCE),
            weights=(preset.name, *names),
        )


def _timm() -> Iterator[ModelInfo]:
    import timm

    tags: dict[str, list[str]] = defaultdict(list)
    for full in timm.list_pretrained():
        name, _, tag = full.partition(".")
        tags[name].append(tag)
    counts = _read_counts()
    for name in timm.list_models():
        config = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
        weights = sorted(tags[name], key=lambda tag: (tag != config.tag, tag))
        parameters = counts.get(name)
        yield ModelInfo(
            id=f"timm/{name}",
            library="timm",
            parameters=parameters,
            gmacs=None,
            input_size=_three(config.input_size),
            accuracy=None,
            megabytes=None if parameters is None else round(4 * parameters / 1e6, 1),
            licence=config.license,
            weights=tuple(weights),
        )


def _three(size: Sequence[int]) -> tuple[int, int, int]:
    channels, height, width = size
    return channels, height, width


def _read_counts() -> dict[str, int]:
    counts = json.loads(TABLE.read_text(encoding="utf-8"))
    assert isinstance(counts, dict)
    return counts


def count_timm() -> dict[str, int]:
    """Parameters of every timm model, built without values; takes minutes."""
    import timm
    import torch

    counts = {}
    for name in timm.list_models():
        with torch.device("meta"):
            counts[name] = sum(p.numel() for p in timm.create_model(name).parameters())
    return counts


if __name__ == "__main__":
    TABLE.write_text(json.dumps(count_timm(), indent=0, sort_keys=True) + "\n", encoding="utf-8")
