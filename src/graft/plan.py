"""Plan: exactly what will happen, before it does.

``make_plan`` resolves a strategy's steps: epochs to optimiser steps, stage names to parameter names,
rates to optimiser groups, and the numerics to this machine. The plan is a frozen value, saved with
the run; what is saved is what ran.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import Field
from torch import nn

from graft.backbones import state_digest
from graft.backbones.contract import Backbone
from graft.data.items import Items, Splits
from graft.errors import DataError, RecipeError
from graft.model import Head, Model
from graft.numerics import Numerics, resolve_device, resolve_numerics, world_size
from graft.recipe import Frozen, Recipe
from graft.schedule import geometric_rates, steps_in_epoch
from graft.steps import Solve, Train
from graft.strategies import Ask, plan_steps, split_name
from graft.surgery import undecayed

VERSION = 1


class Group(Frozen):
    """Parameters that share a peak rate and a weight decay: one optimiser group."""

    rate: float
    weight_decay: float
    stages: tuple[str, ...]
    parameters: tuple[str, ...]
    """Canonical names: ``trunk.`` or ``head.`` and the module's own."""
    count: int


class Phase(Frozen):
    """A training step, resolved."""

    kind: Literal["phase"] = "phase"
    train: Train
    steps_per_epoch: int
    warmup_steps: int
    groups: tuple[Group, ...]
    frozen: tuple[str, ...]
    """Stages that stay as they are."""

    @property
    def steps(self) -> int:
        return self.train.epochs * self.steps_per_epoch


class StageSize(Frozen):
    """A stage's name and its number of parameters."""

    name: str
    parameters: int


class DataSummary(Frozen):
    """What the plan knows of the data: counts and the fingerprint of its content."""

    train: int
    val: int
    test: int
    fingerprint: str


class Plan(Frozen):
    """Everything that a run will do, in order."""

    version: int = VERSION
    strategy: str
    seed: int
    backbone: str
    network: dict[str, Any]
    """Fingerprint of the trunk's values, how it was built, and its preprocessing."""
    stages: tuple[StageSize, ...]
    head: dict[str, Any]
    labels: tuple[str, ...]
    data: DataSummary
    phases: tuple[Annotated[Solve | Phase, Field(discriminator="kind")], ...]
    numerics: Numerics
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls.model_validate_json(text)

    def make_head(self) -> Head:
        """The head as a value of the model's."""
        return Head(**self.head)

    @property
    def parameters(self) -> int:
        """Parameters of trunk and head together."""
        head = self.make_head()
        return sum(stage.parameters for stage in self.stages) + _head_size(head)


def check(recipe: Recipe, backbone: Backbone) -> None:
    """Refuse, before any data is read, what the recipe and the backbone make impossible.

    Raises:
        RecipeError: unknown strategy or parameter, a device that is not there, a batch that cannot be
            cut as asked, pretrained weights under a strategy that wants none.
    """
    resolve_device(recipe.device)
    plan_steps(_ask(recipe, backbone, steps_per_epoch=1))
    train = recipe.train
    parts = train.accumulate * world_size()
    if train.batch_size < parts:
        raise RecipeError(
            f"train.batch_size = {train.batch_size} cannot be cut into {parts} parts "
            f"(train.accumulate = {train.accumulate}, {world_size()} processes)."
        )
    if split_name(recipe.strategy)[0] == "scratch" and backbone.source.pretrained:
        raise RecipeError(
            "The strategy scratch wants random weights, but this backbone is pretrained; "
            "load it with the weights name 'none'."
        )
    if recipe.data.channels != backbone.preprocess.channels:
        raise RecipeError(
            f"data.channels = {recipe.data.channels}, but the backbone was loaded for "
            f"{backbone.preprocess.channels} channels."
        )


def make_plan(recipe: Recipe, backbone: Backbone, splits: Splits) -> Plan:
    """Resolve the recipe for this backbone and data.

    Raises:
        RecipeError: as :func:`check`.
        DataError: fewer training pictures than processes.
    """
    check(recipe, backbone)
    numerics = resolve_numerics(recipe)
    per_epoch = steps_in_epoch(len(splits.train), recipe.train.batch_size)
    if len(splits.train) // per_epoch < numerics.processes:
        raise DataError(
            f"{len(splits.train)} training pictures are too few for {numerics.processes} processes."
        )
    ask = _ask(recipe, backbone, steps_per_epoch=per_epoch)
    head = _head(recipe, backbone, classes=splits.task.classes)
    sizes = _sizes(backbone)
    names = _Names.of(backbone, head)
    return Plan(
        strategy=recipe.strategy,
        seed=recipe.seed,
        backbone=backbone.source.id,
        network=describe_network(backbone),
        stages=tuple(StageSize(name=name, parameters=sizes[name]) for name in backbone.stage_names),
        head=head.to_dict(),
        labels=splits.task.labels,
        data=DataSummary(
            train=len(splits.train),
            val=_length(splits.val),
            test=_length(splits.test),
            fingerprint=splits.fingerprint,
        ),
        phases=tuple(
            step if isinstance(step, Solve) else _resolve(step, names, per_epoch)
            for step in plan_steps(ask)
        ),
        numerics=numerics,
        notes=tuple(_notes(ask, splits, backbone)),
    )


def describe_network(backbone: Backbone) -> dict[str, Any]:
    """What makes this network this one, as plain values: a run never goes on with another."""
    values = {
        "sha256": state_digest(backbone.trunk),
        "options": backbone.source.options,
        "preprocess": backbone.preprocess.to_dict(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def needs_validation(recipe: Recipe, backbone: Backbone) -> bool:
    """Whether any step decides by validation data; a solved head decides out of fold instead."""
    steps = plan_steps(_ask(recipe, backbone, steps_per_epoch=1))
    return any(isinstance(step, Train) for step in steps)


class _Names(Frozen):
    """Canonical names by stage, each with its size and whether it decays."""

    stages: dict[str, tuple[str, ...]]
    head: tuple[str, ...]
    sizes: dict[str, int]
    decaying: frozenset[str]

    @classmethod
    def of(cls, backbone: Backbone, head: Head) -> _Names:
        unused = set(backbone.unused)
        model = Model(backbone.trunk, head.build(seed=0))
        parameters = dict(model.named_parameters())
        return cls(
            stages={
                stage.name: tuple(f"trunk.{name}" for name in stage.parameters if name not in unused)
                for stage in backbone.stages
            },
            head=tuple(name for name in parameters if name.startswith("head.")),
            sizes={name: parameter.numel() for name, parameter in parameters.items()},
            decaying=frozenset(parameters.keys() - undecayed(model)),
        )


def _ask(recipe: Recipe, backbone: Backbone, *, steps_per_epoch: int) -> Ask:
    return Ask(recipe, backbone.stage_names, steps_per_epoch, backbone.source.pretrained)


def _head(recipe: Recipe, backbone: Backbone, *, classes: int) -> Head:
    dropout = recipe.head_dropout
    if dropout is None:
        dropout = 0.25 if recipe.head == "mlp" else 0.0
    return Head(backbone.feature_dim, classes, recipe.head, recipe.head_hidden, dropout)


def _resolve(train: Train, names: _Names, per_epoch: int) -> Phase:
    steps = train.epochs * per_epoch
    return Phase(
        train=train,
        steps_per_epoch=per_epoch,
        # At least one step runs at the full rate.
        warmup_steps=min(round(train.warmup * steps), steps - 1),
        groups=tuple(_groups(train, names)),
        frozen=tuple(name for name in names.stages if name not in train.stages),
    )


def _groups(train: Train, names: _Names) -> Iterable[Group]:
    """One group for each distinct (rate, decay): fused optimisers like few and large groups."""
    members: dict[tuple[float, float], list[tuple[str, str]]] = defaultdict(list)
    rates = geometric_rates(train.rates.lowest, train.rates.top, max(1, len(train.stages)))
    blocks = [(stage, names.stages[stage], rate) for stage, rate in zip(train.stages, rates, strict=False)]
    for stage, parameters, rate in [*blocks, ("head", names.head, train.rates.head)]:
        for name in parameters:
            decay = train.weight_decay if name in names.decaying else 0.0
            members[rate, decay].append((stage, name))
    for (rate, decay), found in members.items():
        yield Group(
            rate=rate,
            weight_decay=decay,
            stages=tuple(dict.fromkeys(stage for stage, _ in found)),
            parameters=tuple(name for _, name in found),
            count=sum(names.sizes[name] for _, name in found),
        )


def _notes(ask: Ask, splits: Splits, backbone: Backbone) -> Iterable[str]:
    if ask.recipe.head_init == "auto" and not ask.solvable:
        why = "is not linear" if ask.pretrained else "stands on random weights"
        yield f"The head starts random: it {why}, so it cannot be solved."
    steps = plan_steps(ask)
    trains = any(isinstance(step, Train) for step in steps)
    unused = _unused(ask.recipe, trains=trains, validates=splits.val is not None)
    if unused:
        yield f"Set, but of no effect here: {', '.join(unused)}."
    if splits.val is None and trains:
        yield "There is no validation data: the last weights are kept, whatever they are worth."
    if backbone.unused:
        yield f"{len(backbone.unused)} parameters of the backbone are never used and never train."


def _unused(recipe: Recipe, *, trains: bool, validates: bool) -> list[str]:
    """Settings that were given and that no step of this plan looks at."""
    given = {f"train.{name}" for name in recipe.train.model_fields_set}
    if recipe.epochs is not None:
        given.add("epochs")
    if not trains:
        if "validation" in recipe.data.model_fields_set:
            given.add("data.validation")  # a solved head decides out of fold, on all labels
        return sorted(given - {"train.workers"})
    return [] if validates else sorted(given & {"train.patience", "train.select"})


def _sizes(backbone: Backbone) -> dict[str, int]:
    parameters: dict[str, nn.Parameter] = dict(backbone.trunk.named_parameters())
    return {
        stage.name: sum(parameters[name].numel() for name in stage.parameters) for stage in backbone.stages
    }


def _head_size(head: Head) -> int:
    if head.kind == "linear":
        return (head.features + 1) * head.classes
    return (head.features + 1) * head.hidden + (head.hidden + 1) * head.classes


def _length(items: Items | None) -> int:
    return 0 if items is None else len(items)
