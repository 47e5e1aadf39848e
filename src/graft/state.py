"""The state of training that moves: model, optimiser, position, best weights; saved and restored whole.

Everything else about a run stands in its plan. Between two records of the loop (training.py) this state is
consistent, so a checkpoint can be taken at any of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from graft.backbones.assembly import tensors_digest
from graft.backbones.contract import Backbone
from graft.batchnorm import running_norms
from graft.checkpoint import Checkpoint, Checkpoints, Position, copy_tensors, optimizer_tensors
from graft.data.dataset import Pictures
from graft.data.items import Items, Splits
from graft.data.transforms import Preset
from graft.engine import Engine, start_engine
from graft.errors import TrainingError
from graft.model import Model, make_model
from graft.plan import Phase, Plan
from graft.seeds import mix

SAVE_EVERY = 30.0  # seconds between checkpoints within a phase, or longer where saving is slow:
SAVE_SHARE = 0.05  # at most this share of the time goes into checkpoints


@dataclass(frozen=True)
class Trained:
    """What came out of a plan: the model on the CPU, in evaluation mode, and how long it took.

    ``frozen_unchanged``: how many values were frozen throughout; they were compared bit by bit.
    ``solved``: strength, out-of-fold loss and accuracy of the head that was solved, where one was.
    ``ends``: for each phase of gradient steps its name, its epochs, and the one whose weights were kept
    (0: the start of the phase, for no epoch improved on it; None: the last, without validation data).
    """

    model: Model
    plan: Plan
    seconds: float
    frozen_unchanged: int
    solved: dict[str, float | None] | None = None
    ends: tuple[dict[str, Any], ...] = ()


@dataclass
class State:
    """The state of training that moves; everything else about it is in the plan."""

    backbone: Backbone
    splits: Splits
    plan: Plan
    checkpoints: Checkpoints | None
    position: Position = field(default_factory=Position)
    best: dict[str, Tensor] = field(default_factory=dict)
    optimizer_state: dict[str, Tensor] = field(default_factory=dict)
    optimizer: torch.optim.Optimizer | None = None

    def __post_init__(self) -> None:
        self.engine: Engine = start_engine(self.plan.numerics)
        self.model = make_model(self.backbone, self.plan.make_head(), seed=mix(self.plan.seed, "head"))
        self.model.to(self.engine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.changing = _changing(self.model, self.plan, self.backbone)
        self.frozen = {name for name in self.model.state_dict() if name not in self.changing}
        self.digest = self._frozen_digest()
        self.started = self.saved = time.monotonic()
        self.save_cost = 0.0
        found = self.checkpoints.newest() if self.checkpoints else None
        if found is not None:
            self._load(found)

    @property
    def names(self) -> dict[Tensor, str]:
        return {parameter: name for name, parameter in self.model.named_parameters()}

    def pictures(self, items: Items, augmentation: Preset = "none") -> Pictures:
        return Pictures(
            items, self.backbone.preprocess, preset=augmentation, seed=mix(self.plan.seed, "views")
        )

    def changing_values(self) -> dict[str, Tensor]:
        return copy_tensors(
            {name: value for name, value in self.model.state_dict().items() if name in self.changing}
        )

    def save(self) -> None:
        """Write a checkpoint, from the main process alone."""
        now = time.monotonic()
        self.position = replace(
            self.position,
            saves=self.position.saves + 1,
            seconds=self.position.seconds + now - self.started,
        )
        self.started = self.saved = now
        if self.checkpoints is None or not self.engine.main:
            return
        if self.optimizer is not None:
            self.optimizer_state |= optimizer_tensors(self.optimizer, self.names)
        self.checkpoints.save(
            Checkpoint(self.position, self.changing_values(), self.optimizer_state, self.best)
        )
        self.saved = time.monotonic()
        self.save_cost = self.saved - now

    def save_if_due(self) -> None:
        """Save where the last checkpoint is old, for what it costs."""
        if time.monotonic() - self.saved > max(SAVE_EVERY, self.save_cost / SAVE_SHARE):
            self.save()

    def load_values(self, values: dict[str, Tensor]) -> None:
        self.model.load_state_dict(values, strict=False)

    def finish(self) -> Trained:
        if self._frozen_digest() != self.digest:
            raise TrainingError(
                "Values that were frozen moved during training; the result is not kept. This is a "
                "fault of graft or of a module that writes to itself in evaluation mode."
            )
        seconds = self.position.seconds + time.monotonic() - self.started
        self.engine.wait()
        return Trained(
            model=self.model.cpu().eval(),
            plan=self.plan,
            seconds=seconds,
            frozen_unchanged=len(self.frozen),
            solved=self.position.solved,
            ends=tuple(self.position.ends),
        )

    def _load(self, found: Checkpoint) -> None:
        self.position, self.best = found.position, found.best
        self.optimizer_state = found.optimizer
        self.load_values(found.model)

    def _frozen_digest(self) -> str:
        values = self.model.state_dict()
        return tensors_digest({name: values[name] for name in self.frozen})


def _changing(model: Model, plan: Plan, backbone: Backbone) -> set[str]:
    """Names of the values that the plan lets move: what trains, and statistics that are updated."""
    phases = [phase for phase in plan.phases if isinstance(phase, Phase)]
    names = {name for phase in phases for group in phase.groups for name in group.parameters}
    names |= {name for name in model.state_dict() if name.startswith("head.")}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    moving = {id(parameters[name]) for name in names if name in parameters}
    tied = {name for name, parameter in parameters.items() if id(parameter) in moving}
    return names | tied | _changing_buffers(model, phases, backbone)


def _changing_buffers(model: Model, phases: list[Phase], backbone: Backbone) -> set[str]:
    """Buffers of stages that train in some phase; batch-norm's only where its statistics train."""
    training = {stage for phase in phases for stage in phase.train.stages}
    if not training:
        return set()
    resting = [
        f"trunk.{module}"
        for stage in backbone.stages
        if stage.name not in training
        for module in stage.modules
    ]
    if all(phase.train.batchnorm == "frozen" for phase in phases):
        norms = {id(norm) for norm in running_norms(model)}
        resting += [name for name, module in model.named_modules() if id(module) in norms]
    saved = model.state_dict().keys()
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)} & saved
    return {name for name in buffers if not any(name.startswith(f"{owner}.") for owner in resting)}
