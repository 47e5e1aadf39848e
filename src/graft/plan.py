"""Plan: exactly what will happen, before it does.

``make_plan`` resolves a strategy's steps: epochs to optimiser steps, stage names to parameter names,
rates to optimiser groups, and the numerics to this machine. The plan is a frozen value, saved with
the run; what is saved is what ran.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter
from torch import nn

from graft.adapters import check_adapters
from graft.backbones import state_digest
from graft.backbones.contract import Adapters, Backbone, Encoding
from graft.backbones.modes import can_recompute
from graft.batchnorm import plain_norms
from graft.data.items import Items, Splits
from graft.errors import DataError, RecipeError, quote
from graft.model import Head, Model
from graft.notes import notes_on, notes_on_backbone, notes_on_pixels, notes_on_reuse
from graft.numerics import Numerics, resolve_device, resolve_numerics, world_size
from graft.options import Frozen, Views
from graft.recipe import COLUMNS, Recipe
from graft.reuse.planning import Reuse, find_reuse, views_for
from graft.schedule import count_warmup, steps_in_epoch
from graft.small_batches import check_single_items
from graft.steps import Calibrate, Select, Solve, Step, Train
from graft.stochastic_depth import droppable
from graft.strategies import Ask, entry_of, plan_steps, split_name
from graft.surgery import undecayed
from graft.task import Task

if TYPE_CHECKING:
    from graft.evidence import Evidence
    from graft.forward_trial import Choice

VERSION = 2
_OF_PICTURES = (
    "augment",
    "image",
    "max_megapixels",
    "channels",
    "max_value",
    "background",
    "size",
    "statistics",
)
STEPS_DROPOUT = 0.2  # of a head trained by steps on a frozen backbone, as the courses have it


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
    views: int | None = None
    """How many views of a picture there are, which begin anew; None: a new one in every epoch."""
    reuse: Reuse | None = None
    """Where what is frozen is computed once; None: the whole network runs in every step."""

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
    columns: tuple[str, ...] = ()
    """Those of a table that hold the texts."""
    named: dict[str, Any] = Field(default_factory=dict)
    """What the recipe says of a table's columns, which tables to evaluate on are read by as well."""


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
    phases: tuple[Annotated[Solve | Phase | Select | Calibrate, Field(discriminator="kind")], ...]
    numerics: Numerics
    adapters: Adapters | None = None
    """What was put into the backbone and trains in place of its stages."""
    tta: Views = "none"
    """Test-time augmentation: what predictions are the mean over."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls.model_validate_json(text)

    @property
    def takes_text(self) -> bool:
        return "encoding" in self.network

    @property
    def trained(self) -> int:
        """How many values move in any phase, a solved head among them."""
        head = self.parameters - sum(stage.parameters for stage in self.stages)
        phases = [phase for phase in self.phases if isinstance(phase, Phase)]
        return max([sum(group.count for group in phase.groups) for phase in phases], default=head)

    def make_head(self) -> Head:
        """The head as a value of the model's."""
        return TypeAdapter(Head).validate_python(self.head)

    @property
    def parameters(self) -> int:
        """Parameters of trunk and head together."""
        head = self.make_head()
        return sum(stage.parameters for stage in self.stages) + _head_size(head)


def check(recipe: Recipe, backbone: Backbone) -> None:
    """Refuse, before any data is read, what the recipe and the backbone make impossible.

    Raises:
        RecipeError: unknown strategy, parameter or stage, a device that is not there, rates that leave
            out a stage or name one twice, a warm-up longer than its phase, options that exclude each
            other, a batch that cannot be cut as asked, pretrained weights under a strategy that wants none.
    """
    resolve_device(recipe.device)
    check_adapters(recipe, backbone, adapts=entry_of(recipe).adapts is not None)
    if recipe.train.l2sp and not backbone.source.pretrained:
        raise RecipeError("train.l2sp pulls weights toward the pretrained ones, and these are random.")
    steps = plan_steps(make_ask(recipe, backbone))
    if recipe.train.gradient_checkpointing and not can_recompute(backbone.trunk):
        raise RecipeError(
            f"train.gradient_checkpointing: {backbone.source.id} has no such switch; leave it out."
        )
    _check_drop_path(steps, backbone)
    _check_batchnorm(recipe, backbone)
    _check_batches(steps)
    if split_name(recipe.strategy)[0] == "scratch" and backbone.source.pretrained:
        raise RecipeError(
            "The strategy scratch wants random weights, but this backbone is pretrained; "
            "load it with the weights name 'none'."
        )
    if isinstance(backbone.preprocess, Encoding):
        _check_text(recipe, backbone, steps)
        return
    if "text" in recipe.data.model_fields_set:
        raise RecipeError(f"data.text: of texts alone; {backbone.source.id} takes pictures.")
    size = backbone.preprocess.size
    if recipe.data.size is not None and size != (recipe.data.size, recipe.data.size):
        raise RecipeError(
            f"data.size = {recipe.data.size}, but the backbone was loaded for {size[0]} x {size[1]} "
            "pixels; load it with size=, or leave the setting out."
        )
    if recipe.data.channels != backbone.preprocess.channels:
        raise RecipeError(
            f"data.channels = {recipe.data.channels}, but the backbone was loaded for "
            f"{backbone.preprocess.channels} channels."
        )


def _check_text(recipe: Recipe, backbone: Backbone, steps: Iterable[Step]) -> None:
    """Raises RecipeError where something is asked of texts that only pictures have."""
    intake = backbone.preprocess
    assert isinstance(intake, Encoding)
    most, pooling = recipe.data.max_length, backbone.source.options.get("config", {}).get("pooling")
    if most is not None and most != intake.max_length:
        raise RecipeError(
            f"data.max_length = {most}, but the backbone was loaded for {intake.max_length} tokens; load "
            "it with max_length=, or leave the setting out."
        )
    if recipe.pooling not in ("auto", pooling):
        raise RecipeError(
            f"pooling = {quote(recipe.pooling)}, but the backbone was loaded with {quote(pooling)}; "
            "load it with pooling=, or leave the setting out."
        )
    asked = [f"data.{name}" for name in _OF_PICTURES if name in recipe.data.model_fields_set]
    train = [step for step in steps if isinstance(step, Train)]
    asked += [f"train.{name}" for name in ("mixup", "cutmix") if any(getattr(step, name) for step in train)]
    if any(step.augmentation != "none" for step in train):
        asked.append("train.augmentation")
    if recipe.final.tta not in (None, "none"):
        asked.append("final.tta")
    if recipe.train.workers:
        asked.append("train.workers")
    if asked:
        raise RecipeError(f"{', '.join(asked)}: of pictures alone; {backbone.source.id} takes texts.")


def make_plan(
    recipe: Recipe,
    backbone: Backbone,
    splits: Splits,
    evidence: Evidence | None = None,
    forward: Choice | None = None,
) -> Plan:
    """Resolve the recipe for this backbone and data.

    ``evidence`` is what the strategy auto decides by; ``forward`` what a trial of the resting backbone
    chose (None: the plain way).

    Raises:
        RecipeError: as :func:`check`; or batch-norms would meet one value a channel.
        DataError: fewer pictures to train or to validate on than processes.
    """
    check(recipe, backbone)
    numerics = resolve_numerics(recipe, forward.forward if forward else None)
    items = len(splits.train)
    ask = make_ask(recipe, backbone, splits, evidence)
    head = _head(recipe, backbone, classes=splits.task.classes)
    sizes = _sizes(backbone)
    names = _Names.of(backbone, head)
    steps = tuple(_for_task(step, splits.task) for step in plan_steps(ask))
    _check_batches(steps)
    for step in steps:
        smallest = items // steps_in_epoch(items, step.batch_size) if isinstance(step, Train) else items
        if smallest < numerics.processes:
            raise DataError(
                f"{items} training items are too few for {numerics.processes} processes"
                + (f" in batches of {step.batch_size}." if isinstance(step, Train) else ".")
            )
        if isinstance(step, Train):
            check_single_items(step, backbone, items=items, processes=numerics.processes)
        if isinstance(step, Train) and step.objective == "contrast":
            _check_contrast(splits.task, numerics.processes)
    if splits.val is not None and len(splits.val) < numerics.processes:
        raise DataError(
            f"{len(splits.val)} validation items are too few for {numerics.processes} processes."
        )
    reuses = _reuses(recipe, backbone, steps, splits.train)
    views = _views_kept(recipe, steps, reuses, items + _length(splits.val))
    return Plan(
        strategy=recipe.strategy,
        seed=recipe.seed,
        backbone=backbone.source.id,
        network=describe_network(backbone),
        stages=tuple(StageSize(name=name, parameters=sizes[name]) for name in backbone.stage_names),
        head=head.to_dict(),
        labels=splits.task.labels,
        data=DataSummary(
            train=items,
            val=_length(splits.val),
            test=_length(splits.test),
            fingerprint=splits.fingerprint,
            columns=splits.columns,
            named=recipe.data.model_dump(include=set(COLUMNS), exclude_unset=True, mode="json"),
        ),
        phases=tuple(
            _resolve(step, names, items, reuse=reuses.get(number), views=views)
            if isinstance(step, Train)
            else step
            for number, step in enumerate(steps)
        ),
        numerics=numerics,
        adapters=backbone.adapters,
        tta=_views(ask, steps),
        notes=(
            *notes_on(ask, steps, validates=splits.val is not None),
            *notes_on_reuse(ask, steps, reuses, views),
            *notes_on_backbone(backbone),
            *notes_on_pixels(recipe, backbone),
            *([forward.note] if forward and forward.gain > 1 else []),
        ),
    )


def _check_contrast(task: Task, processes: int) -> None:
    if task.multi_label:
        raise RecipeError("contrast draws together what has the same label; here items have any number.")
    if processes > 1:
        raise RecipeError(
            "contrast compares all of a batch, so it runs in one process; contrast=0 is none."
        )


def describe_network(backbone: Backbone) -> dict[str, Any]:
    """What makes this network this one, as plain values: a run never goes on with another."""
    values = {
        "sha256": state_digest(backbone.trunk),
        "options": backbone.source.options,
        ("encoding" if backbone.takes_text else "preprocess"): backbone.preprocess.to_dict(),
    }
    if backbone.adapters is not None:
        values["adapters"] = backbone.adapters.settings
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def needs_validation(recipe: Recipe, backbone: Backbone) -> bool:
    """Whether any step decides by validation data; a solved head decides out of fold instead."""
    steps = plan_steps(make_ask(recipe, backbone))
    return any(isinstance(step, Train) and step.objective == "labels" for step in steps)


class _Names(Frozen):
    """Canonical names of what can train by stage, each with its size and whether it decays."""

    stages: dict[str, tuple[str, ...]]
    head: tuple[str, ...]
    sizes: dict[str, int]
    decaying: frozenset[str]

    @classmethod
    def of(cls, backbone: Backbone, head: Head) -> _Names:
        unused, adapters = set(backbone.unused), backbone.adapters
        training = {name for stage in backbone.stages for name in stage.parameters} - unused
        training = training if adapters is None else set(adapters.parameters)
        model = Model(backbone.trunk, head.build(seed=0))
        parameters = dict(model.named_parameters())
        return cls(
            stages={
                stage.name: tuple(f"trunk.{name}" for name in stage.parameters if name in training)
                for stage in backbone.stages
            },
            head=tuple(name for name in parameters if name.startswith("head.")),
            sizes={name: parameter.numel() for name, parameter in parameters.items()},
            decaying=frozenset(parameters.keys() - undecayed(model)),
        )


def make_ask(
    recipe: Recipe, backbone: Backbone, splits: Splits | None = None, evidence: Evidence | None = None
) -> Ask:
    """What a strategy may know; without ``splits``, as before any data is read."""
    items = None if splits is None else len(splits.train)
    return Ask(
        recipe,
        backbone.stage_names,
        1 if items is None else steps_in_epoch(items, recipe.train.batch_size),
        backbone.source.pretrained,
        validates=splits is None or splits.val is not None,
        evidence=evidence,
        items=items,
        takes_text=backbone.takes_text,
        multi_label=splits is not None and splits.task.multi_label,
        adapted=() if backbone.adapters is None else backbone.adapters.stages,
    )


def _views(ask: Ask, steps: Sequence[Step]) -> Views:
    of_strategy = entry_of(ask.recipe).views
    return ask.recipe.final.tta or ("none" if of_strategy is None else of_strategy(ask, steps))


def _check_batchnorm(recipe: Recipe, backbone: Backbone) -> None:
    """Raises RecipeError where statistics are to move and there are none."""
    asked = [each.batchnorm for each in (recipe.train, *recipe.phase.values())]
    words = {word for each in asked for word in ([each] if isinstance(each, str) else each.values())}
    if words - {"frozen"} and not plain_norms(backbone.trunk):
        raise RecipeError(
            f"train.batchnorm: {backbone.source.id} has no batch-norm with statistics; leave it out."
        )


def _check_drop_path(steps: Iterable[Step], backbone: Backbone) -> None:
    if any(isinstance(step, Train) and step.drop_path for step in steps) and not droppable(backbone.trunk):
        raise RecipeError(
            f"train.drop_path: {backbone.source.id} has no stochastic depth to be set; leave it out."
        )


def _check_batches(steps: Iterable[Step]) -> None:
    processes = world_size()
    for step in (each for each in steps if isinstance(each, Train)):
        parts = step.accumulate * processes
        if step.batch_size < parts:
            raise RecipeError(
                f"train.batch_size = {step.batch_size} cannot be cut into {parts} parts "
                f"(train.accumulate = {step.accumulate}, {processes} processes) in phase {step.name!r}."
            )
        if (step.mixup or step.cutmix) and step.batch_size < 2 * processes:
            raise RecipeError(
                f"train.mixup or train.cutmix in {step.name!r}: with train.batch_size = {step.batch_size} "
                "a process has one picture of a batch, and none to mix it with; take a larger one."
            )


def _head(recipe: Recipe, backbone: Backbone, *, classes: int) -> Head:
    dropout = recipe.head_dropout
    if dropout is None and recipe.head == "mlp":
        dropout = 0.25
    if dropout is None:
        dropout = STEPS_DROPOUT if recipe.strategy == "probe:steps" else 0.0
    return Head(backbone.feature_dim, classes, recipe.head, recipe.head_hidden, dropout)


def _for_task(step: Step, task: Task) -> Step:
    """Candidates are compared item by item, and average precision has no part for each item."""
    judged = isinstance(step, Select) and task.multi_label
    return step.model_copy(update={"score": "loss"}) if judged else step


def _reuses(recipe: Recipe, backbone: Backbone, steps: Sequence[Step], items: Items) -> dict[int, Reuse]:
    """By the number of a step, where it can be split below what trains. Mixed pictures cannot be stored.

    Nor where activations are computed again: in the backward pass the upper part would not find its state.
    """
    if not recipe.reuse.store or recipe.train.gradient_checkpointing:
        return {}
    found: dict[int, Reuse | None] = {}
    places: dict[int, Reuse | None] = {}  # several phases may rest to the same place
    for number, step in enumerate(steps):
        if isinstance(step, Train) and not (step.mixup or step.cutmix):
            moving = [place for place, name in enumerate(backbone.stage_names) if name in step.stages]
            frozen = min(moving, default=len(backbone.stages))
            if frozen and frozen not in places:
                places[frozen] = find_reuse(backbone, frozen, items)
            found[number] = places.get(frozen)
    return {number: reuse for number, reuse in found.items() if reuse is not None}


def _views_kept(recipe: Recipe, steps: Sequence[Step], reuses: dict[int, Reuse], items: int) -> int | None:
    """How many views of each picture the phases that reuse take in turn; 0: there is no room for any."""
    if recipe.reuse.views is not None or not reuses:
        return recipe.reuse.views
    epochs = sum(step.epochs for step in steps if isinstance(step, Train))
    largest = max(reuse.row_bytes for reuse in reuses.values())
    return views_for(epochs, items, largest, recipe.reuse.room)


def _resolve(train: Train, names: _Names, items: int, *, reuse: Reuse | None, views: int | None) -> Phase:
    per_epoch = steps_in_epoch(items, train.batch_size)
    return Phase(
        train=train,
        steps_per_epoch=per_epoch,
        warmup_steps=count_warmup(train.warmup, epochs=train.epochs, per_epoch=per_epoch),
        groups=tuple(_groups(train, names)),
        frozen=tuple(name for name in names.stages if name not in train.stages),
        views=views if reuse and views else None,
        reuse=reuse if views else None,
    )


def _groups(train: Train, names: _Names) -> Iterable[Group]:
    """One group for each distinct (rate, decay): fused optimisers like few and large groups."""
    members: dict[tuple[float, float], list[tuple[str, str]]] = defaultdict(list)
    blocks = [(stage, names.stages[stage], rate) for stage, rate in train.rates.stages.items()]
    head = [("head", names.head, train.rates.head)] if train.objective == "labels" else []
    for stage, parameters, rate in [*blocks, *head]:
        # L2-SP pulls the body toward where it started, and not toward zero as well.
        own = 0.0 if train.l2sp and stage != "head" else train.weight_decay
        for name in parameters:
            decay = own if name in names.decaying else 0.0
            members[rate, decay].append((stage, name))
    for (rate, decay), found in members.items():
        yield Group(
            rate=rate,
            weight_decay=decay,
            stages=tuple(dict.fromkeys(stage for stage, _ in found)),
            parameters=tuple(name for _, name in found),
            count=sum(names.sizes[name] for _, name in found),
        )


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
