"""The state of training that moves: model, optimiser, position, best weights; saved and restored whole.

Everything else about a run stands in its plan. Between two records of the loop (training.py) this state is
consistent, so a checkpoint can be taken at any of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from graft.adapters import quantize
from graft.backbones.assembly import tensors_digest
from graft.backbones.contract import Backbone
from graft.backbones.modes import set_attention
from graft.backbones.truncation import is_within
from graft.batchnorm import running_norms
from graft.checkpoint import Checkpoint, Checkpoints, Position, copy_tensors, optimizer_tensors
from graft.data.inputs import Inputs, open_inputs
from graft.data.items import Items, Splits
from graft.data.random_views import Augmentation
from graft.engine import Engine, start_engine
from graft.errors import TrainingError
from graft.leaders import Leaders
from graft.model import Model, make_model
from graft.plan import Phase, Plan
from graft.reuse.store import Store
from graft.seeds import mix
from graft.steps import Select, Solve

SAVE_EVERY = 30.0  # seconds between checkpoints within a phase, or longer where saving is slow:
SAVE_SHARE = 0.05  # at most this share of the time goes into checkpoints


@dataclass(frozen=True)
class Trained:
    """What came out of a plan: the model on the CPU, in evaluation mode, and how long it took.

    ``frozen_unchanged``: how many values were frozen throughout; they were compared bit by bit.
    ``solved``: strength, out-of-fold loss and accuracy of the head that was solved, where one was.
    ``ends``: for each phase of gradient steps its name, its epochs, and the one whose weights were kept
    (0: the start of the phase, for no epoch improved on it; None: the last, without validation data).
    ``selected``: which candidate won the choice after training, and what each scored.
    ``calibrated``: the temperature, with error and loss before and after.
    """

    model: Model
    plan: Plan
    seconds: float
    frozen_unchanged: int
    solved: dict[str, float | None] | None = None
    ends: tuple[dict[str, Any], ...] = ()
    selected: dict[str, Any] | None = None
    calibrated: dict[str, Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """What one step came to, over the whole batch.

    ``loss``: its mean. ``idle``: stages that train and were given no gradient. ``right`` of ``counted``
    items were decided as labelled; where the task's score is of all items together, ``rows`` instead:
    logits float32 [B, C] and labels uint8 [B, C], on the CPU.
    """

    loss: float
    idle: tuple[str, ...] = ()
    right: float = 0.0
    counted: int = 0
    rows: tuple[Tensor, Tensor] | None = None


@dataclass
class State:
    """The state of training that moves; everything else about it is in the plan.

    ``leaders``: the best weights of the phase. ``seen``: logits and labels of the epoch's items so far,
    where the task's score is of all of them together, one pair a step. ``average``: the running average of
    the phase's weights, on the device. ``start``: the head and the statistics with which the body began
    to move.
    """

    backbone: Backbone
    splits: Splits
    plan: Plan
    checkpoints: Checkpoints | None
    store: Store | None = None
    position: Position = field(default_factory=Position)
    leaders: Leaders = field(default_factory=Leaders)
    average: dict[str, Tensor] = field(default_factory=dict)
    start: dict[str, Tensor] = field(default_factory=dict)
    optimizer_state: dict[str, Tensor] = field(default_factory=dict)
    optimizer: torch.optim.Optimizer | None = None
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine: Engine = start_engine(self.plan.numerics)
        self.model = make_model(self.backbone, self.plan.make_head(), seed=mix(self.plan.seed, "head"))
        adapters = self.backbone.adapters
        self.quantized = adapters is not None and adapters.settings["quantize"] != "none"
        if self.quantized:
            quantize(self.model.trunk)
        set_attention(self.model.trunk, self.plan.numerics.forward.attention)
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

    @property
    def contrasted(self) -> bool:
        """Whether the body moved by the labels before there was a head."""
        phases = [phase for phase in self.plan.phases if isinstance(phase, Phase)]
        return any(phase.train.objective == "contrast" for phase in phases)

    @property
    def selects_next(self) -> bool:
        """Whether the next step chooses among what this phase leaves."""
        after = self.plan.phases[self.position.phase + 1 :]
        return bool(after) and isinstance(after[0], Select)

    def inputs(
        self, items: Items, augmentation: Augmentation = "none", *, flip: bool = True, keep: bool = True
    ) -> Inputs:
        return open_inputs(
            items,
            self.backbone.preprocess,
            augmentation,
            seed=mix(self.plan.seed, "views"),
            flip=flip,
            keep=keep,
        )

    def begin_phase(self, phase: Phase) -> None:
        """What a phase keeps of its course is made ready, where it was not restored."""
        after = self.plan.phases[self.position.phase + 1 :]
        self.leaders.most = after[0].checkpoints if after and isinstance(after[0], Select) else 1
        if phase.train.ema and not self.average:
            self.average = {name: value.detach().clone() for name, value in self.moving_values().items()}
        before = self.plan.phases[: self.position.phase]
        headed = any(
            isinstance(step, Solve) or (isinstance(step, Phase) and step.train.objective == "labels")
            for step in before
        )
        if phase.train.stages and headed and not self.start:
            body = self.backbone.trunk.named_parameters(remove_duplicate=False)
            weights = set() if self.contrasted else {f"trunk.{name}" for name, _ in body}
            self.start = copy_tensors({n: v for n, v in self.moving_values().items() if n not in weights})

    def next_phase(self) -> None:
        """Move on, leaving behind what only the phase that ended needed."""
        if not self.selects_next:
            self.leaders, self.average = Leaders(), {}
        if not any(isinstance(phase, Phase) for phase in self.plan.phases[self.position.phase + 1 :]):
            self.optimizer_state = {}  # twice the size of what trained, for nobody
        self.position = self.position.next_phase()

    def count_step(self, outcome: Outcome) -> None:
        """Move the position past a step, with what it adds to the epoch's running sums."""
        position = self.position
        self.position = replace(
            position,
            step=position.step + 1,
            loss_sum=position.loss_sum + outcome.loss,
            right=position.right + outcome.right,
            counted=position.counted + outcome.counted,
        )
        if outcome.rows is not None:
            self.seen.append(outcome.rows)

    def end_epoch(self, *, epoch: int, waited: int) -> None:
        """Move the position to the end of ``epoch``, with running sums that begin anew."""
        position = replace(self.position, epoch=epoch, validated=True, waited=waited)
        self.position = replace(position, step=0, loss_sum=0.0, right=0.0, counted=0)
        self.seen = []

    def running_accuracy(self) -> float | None:
        """The task's score of the epoch's training items as the steps met them; None before the first."""
        if self.seen:
            logits, labels = (torch.cat(rows) for rows in zip(*self.seen, strict=True))
            score = float(self.splits.task.score(logits, labels))
            return score if math.isfinite(score) else None
        return self.position.right / self.position.counted if self.position.counted else None

    def keep_optimizer(self) -> None:
        """The optimiser's state, for the phases that follow."""
        assert self.optimizer is not None
        self.optimizer_state |= optimizer_tensors(self.optimizer, self.names)
        self.optimizer = None

    def moving_values(self) -> dict[str, Tensor]:
        """The values that the plan lets change, as they are on the device."""
        return {name: value for name, value in self.model.state_dict().items() if name in self.changing}

    def changing_values(self) -> dict[str, Tensor]:
        """Copies of them on the CPU."""
        return copy_tensors(self.moving_values())

    def share_average(self) -> None:
        """The main process's running average for all: statistics that train differ by process."""
        if self.engine.processes > 1:
            self.average = {name: self.engine.broadcast(value) for name, value in self.average.items()}

    def start_values(self) -> dict[str, Tensor]:
        """The changing values as they were when the body began to move: pretrained, with the head of then.

        So are statistics: where they were adapted, the head was fitted to what they make of pictures.

        Empty where the head was random then, or never moved with the body.
        """
        if not self.start:
            return {}
        trunk = {f"trunk.{name}": value for name, value in self.backbone.trunk.state_dict().items()}
        return copy_tensors({name: (trunk | self.start)[name] for name in self.changing})

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
            Checkpoint(
                replace(self.position, leaders=self.leaders.entries),
                self.changing_values(),
                self.optimizer_state,
                self.leaders.tensors(),
                copy_tensors(self.average),
                self.start,
                self._seen_tensors(),
            )
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
        model = self.model.cpu().eval()
        if self.quantized:  # what was learnt goes with the weights as they are
            values = self.changing_values()
            model = make_model(self.backbone, self.plan.make_head(), seed=0).eval()
            model.load_state_dict(values, strict=False)
        return Trained(
            model=model,
            plan=self.plan,
            seconds=seconds,
            frozen_unchanged=len(self.frozen),
            solved=self.position.solved,
            ends=tuple(self.position.ends),
            selected=self.position.selected,
            calibrated=self.position.calibrated,
        )

    def _load(self, found: Checkpoint) -> None:
        self.position, self.optimizer_state = found.position, found.optimizer
        self.leaders.restore(found.position.leaders, found.best)
        self.average = {name: value.to(self.engine.device) for name, value in found.average.items()}
        self.start = found.start
        self.seen = [(found.seen["logits"], found.seen["labels"])] if found.seen else []
        self.load_values(found.model)

    def _seen_tensors(self) -> dict[str, Tensor]:
        if not self.seen:
            return {}
        logits, labels = (torch.cat(rows) for rows in zip(*self.seen, strict=True))
        return {"logits": logits, "labels": labels}

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
    return names | tied | _changing_buffers(model, plan, backbone)


def _changing_buffers(model: Model, plan: Plan, backbone: Backbone) -> set[str]:
    """Buffers that may move: of batch-norms that adapt or follow, and of other modules that train."""
    phases = [phase.train for phase in plan.phases if isinstance(phase, Phase)]
    adapted = {stage for phase in plan.phases if isinstance(phase, Solve) for stage in phase.adapt}
    adapted |= {stage for train in phases for stage in train.adapt}
    moving = _owners(backbone, adapted | {stage for train in phases for stage in train.following})
    training = {stage for train in phases for stage in train.stages}
    resting = _owners(backbone, set(backbone.stage_names) - training) if training else ("trunk",)
    norms = [name for name, child in model.named_modules() if child in set(running_norms(model))]
    saved = model.state_dict().keys()
    return {
        name
        for name, _ in model.named_buffers(remove_duplicate=False)
        if name in saved
        and (
            _holds(moving, owner)
            if (owner := _norm_of(name, norms)) is not None
            else not any(is_within(name, leaf) for leaf in resting)
        )
    }


def _owners(backbone: Backbone, stages: Collection[str]) -> tuple[str, ...]:
    """The leaf modules of ``stages``, by their names in the model."""
    return tuple(
        f"trunk.{leaf}" for stage in backbone.stages if stage.name in stages for leaf in stage.modules
    )


def _norm_of(buffer: str, norms: Sequence[str]) -> str | None:
    """The batch-norm layer that a buffer belongs to."""
    owner = buffer.rpartition(".")[0]
    return owner if owner in norms else None


def _holds(leaves: Sequence[str], owner: str) -> bool:
    """Whether a layer is one of ``leaves``, or holds one (an activation inside a norm)."""
    return any(is_within(leaf, owner) for leaf in leaves)
