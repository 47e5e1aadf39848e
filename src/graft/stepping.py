"""One optimiser step, and the optimiser that takes it.

Everything random in a step (dropout, mixing) is drawn from generators that are seeded by (seed, phase,
step, process).

Shapes: B pictures in this process's part of a batch, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from graft.averaging import update_average
from graft.backbones.modes import recomputing
from graft.checkpoint import load_optimizer
from graft.contrast import contrast_losses
from graft.data.balance import class_weights
from graft.engine import seeded
from graft.errors import Diverged
from graft.mixing import main_labels, mix_batch
from graft.numerics import to_device
from graft.plan import Phase
from graft.schedule import count_parts, cycle_momentum, rate_factor
from graft.seeds import mix
from graft.state import Outcome, State
from graft.steps import Train
from graft.stochastic_depth import set_drop_path
from graft.surgery import set_training_mode, undecayed

IDLE = 1e-9  # a stage whose gradient is so small a share of the whole one's learns nothing
_STATE_KEYS = {
    "adamw": {"step", "exp_avg", "exp_avg_sq"},
    "adam": {"step", "exp_avg", "exp_avg_sq"},
    "sgd": {"momentum_buffer"},
}


@dataclass
class Stepper:
    """What a phase steps with: the wrapped network, its optimiser, and what the loss and pulls need.

    ``network``: gives logits, or features where the phase contrasts these.
    ``weights``: of the classes in the loss, [C], or None. ``anchors``: pairs of a parameter and the
    pretrained value that it is pulled to, with the place of its optimiser group. ``stages``: what trains,
    by stage.
    """

    run: State
    phase: Phase
    network: nn.Module
    optimizer: torch.optim.Optimizer
    weights: Tensor | None
    anchors: list[tuple[int, Tensor, Tensor]]
    stages: dict[str, list[nn.Parameter]]

    def step(
        self, batch: list[int], tensors: Tensor, targets: Tensor, *, factor: float | None = None
    ) -> Outcome:
        """One step on this process's part [B, …] of ``batch``, and what it came to.

        ``factor``: of the planned rates, in place of what the schedule says.

        Raises:
            Diverged: the loss or the gradient is not finite.
        """
        run, train = self.run, self.phase.train
        number = run.position.epoch * self.phase.steps_per_epoch + run.position.step
        self._set_rates(number, factor)
        with seeded(mix(run.plan.seed, run.position.phase, number, run.engine.rank), run.engine.device):
            outcome = self._backward(batch, tensors, targets)
        self._refuse_nonfinite(outcome.loss, "loss", batch)
        norms = self._gradient_norms()
        norm = math.hypot(*norms.values())
        self._refuse_nonfinite(norm, "gradient norm", batch)
        if train.clip and norm > train.clip:
            trained = [parameter for parameters in self.stages.values() for parameter in parameters]
            nn.utils.clip_grads_with_norm_(trained, train.clip, torch.tensor(norm))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._pull()
        if train.ema:
            update_average(run.average, run.moving_values(), train.ema, number + 1)
        idle = tuple(stage for stage, own in norms.items() if own <= IDLE * norm)
        return replace(outcome, idle=idle)

    def _gradient_norms(self) -> dict[str, float]:
        """The length of each stage's gradient; one look at the device for all of them."""
        norms = [
            nn.utils.get_total_norm([each.grad for each in own if each.grad is not None])
            for own in self.stages.values()
        ]
        found = torch.stack([norm.to(self.run.engine.device) for norm in norms]).tolist()
        return dict(zip(self.stages, found, strict=True))

    def _set_rates(self, number: int, factor: float | None = None) -> None:
        train, steps, warmup = self.phase.train, self.phase.steps, self.phase.warmup_steps
        if factor is None:
            factor = rate_factor(
                number,
                steps=steps,
                warmup=warmup,
                schedule=train.schedule,
                drop_every=train.drop_epochs * self.phase.steps_per_epoch,
                drop_factor=train.drop_factor,
            )
        for group, planned in zip(self.optimizer.param_groups, self.phase.groups, strict=True):
            group["lr"] = planned.rate * factor
            if train.schedule == "one-cycle":
                momentum = cycle_momentum(number, steps=steps, warmup=warmup)
                group |= {"momentum": momentum} if "momentum" in group else {"betas": (momentum, 0.999)}

    def _backward(self, batch: list[int], tensors: Tensor, targets: Tensor) -> Outcome:
        """Gradients of the whole batch's mean loss, in parts where so asked."""
        engine, train = self.run.engine, self.phase.train
        tensors, targets = to_device(tensors, engine.device), targets.to(engine.device)
        if train.mixup or train.cutmix:
            rows = self.run.splits.task.target_rows(targets)
            tensors, targets = mix_batch(tensors, rows, mixup=train.mixup, cutmix=train.cutmix)
        count = count_parts(
            len(tensors), train.batch_size, accumulate=train.accumulate, processes=engine.processes
        )
        sums = torch.zeros(2, device=engine.device)  # of losses by the batch's size, and of what was right
        logits: list[Tensor] = []
        parts = list(zip(tensors.tensor_split(count), targets.tensor_split(count), strict=True))
        for number, (inputs, truth) in enumerate(parts, start=1):
            inputs = to_device(inputs, engine.device)  # mixing, or a cut, may have changed the layout
            with engine.gather_only_if(number == len(parts), self.network):
                losses, given = self._losses(inputs, truth)
                # DDP averages gradients over processes; this makes them those of the whole batch.
                share = losses.sum() / len(batch)
                engine.accelerator.backward(share * engine.processes)
                sums[0] += share.detach()
            if given is not None:
                logits.append(given.detach().float())
        if not logits:
            return Outcome(float(engine.total(sums)[0]))
        return self._outcome(len(batch), sums, torch.cat(logits), targets)

    def _outcome(self, items: int, sums: Tensor, logits: Tensor, targets: Tensor) -> Outcome:
        """What a batch of ``items`` came to, with one look at the device for all of it."""
        engine, task = self.run.engine, self.run.splits.task
        labels = targets
        if targets.is_floating_point():
            labels = main_labels(targets, several=task.multi_label)
        if task.multi_label:
            pair = (logits.cpu(), labels.to(torch.uint8).cpu())
            rows = (engine.gather_rows(pair[0], items), engine.gather_rows(pair[1], items))
            return Outcome(float(engine.total(sums)[0]), rows=rows)
        sums[1] += (logits.argmax(dim=-1) == labels).sum()
        loss, right = engine.total(sums).tolist()
        return Outcome(loss, right=right, counted=items)

    def _losses(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """The loss of each item [B], and its logits [B, C] where there is a head."""
        train = self.phase.train
        with self.run.engine.autocast():
            outputs = self.network(inputs)
        if train.objective == "contrast":
            return contrast_losses(outputs, targets), None
        losses = self.run.splits.task.losses(
            outputs,
            targets,
            smoothing=train.label_smoothing,
            weights=self.weights,
            gamma=train.focal,
        )
        return losses, outputs

    @torch.no_grad()
    def _pull(self) -> None:
        """L2-SP, apart from the gradient as AdamW has its decay: a share of the way back to the start."""
        for place, parameter, start in self.anchors:
            rate = self.optimizer.param_groups[place]["lr"]
            parameter.lerp_(start, min(1.0, rate * self.phase.train.l2sp))

    def _refuse_nonfinite(self, value: float, what: str, batch: list[int]) -> None:
        if math.isfinite(value):
            return
        run, train = self.run, self.phase.train
        ids = [run.splits.train.ids[item] for item in batch]
        more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
        fastest = max([train.rates.head, *train.rates.stages.values()])
        raise Diverged(
            f"The {what} is {value} in phase {train.name!r}, epoch {run.position.epoch + 1}, "
            f"step {run.position.step + 1} of the epoch. The batch: {', '.join(ids[:8])}{more}. "
            "Begin a new run with a smaller rate "
            f"(train.lr; the largest rate was {fastest:g}), train.precision=fp32 or train.clip=1.0."
        )


def set_modes(run: State, train: Train) -> None:
    """What trains in training mode, with its drop-path; what rests in eval mode."""
    trunk = run.model.trunk
    set_training_mode(trunk, run.backbone.stages, train.stages, statistics=train.following)
    set_drop_path(trunk, train.drop_path, run.backbone.trunk)
    run.model.head.train()


@contextmanager
def stepper_for(run: State, phase: Phase) -> Iterator[Stepper]:
    """A stepper for the phase: freezes what rests, and gives the optimiser what it knew before."""
    trained = {name for group in phase.groups for name in group.parameters}
    for name, parameter in run.model.named_parameters():
        parameter.requires_grad_(name in trained)
        parameter.grad = None
    # Frozen before it is wrapped: processes exchange the gradients of what trains, and of nothing else.
    by_features = phase.train.objective == "contrast"
    network = run.engine.wrap(run.model.trunk if by_features else run.model)
    optimizer = run.optimizer = _make_optimizer(run, phase)
    stepper = Stepper(
        run,
        phase,
        network,
        optimizer,
        _class_weights(run, phase),
        _anchors(run, phase),
        _by_stage(run, phase),
    )
    trunk, numerics = run.model.trunk, run.plan.numerics
    recomputes = numerics.recompute and bool(phase.train.stages)
    with recomputing(trunk) if recomputes else nullcontext():
        yield stepper
    run.keep_optimizer()
    run.engine.accelerator.free_memory()


def _make_optimizer(run: State, phase: Phase) -> torch.optim.Optimizer:
    """The phase's optimiser, with the state of parameters that trained before."""
    parameters = dict(run.model.named_parameters())
    groups = [
        {
            "params": [parameters[name] for name in group.parameters],
            "lr": group.rate,
            "weight_decay": group.weight_decay,
        }
        for group in phase.groups
    ]
    fused = run.engine.device.type in ("cpu", "cuda")
    optimizer = _new_optimizer(phase.train.optimizer, groups, fused=fused)
    kinds = {name.partition("::")[0] for name in run.optimizer_state}
    if not kinds <= _STATE_KEYS[phase.train.optimizer]:
        run.optimizer_state = {}  # of another kind; beside this one's it would spoil a checkpoint
    load_optimizer(optimizer, run.optimizer_state, parameters)
    if phase.train.optimizer == "sgd" and optimizer.state:
        # The fused kernel takes a momentum for every parameter or for none; none is as good as zero.
        for parameter in (each for group in optimizer.param_groups for each in group["params"]):
            optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
    return optimizer


def _new_optimizer(name: str, groups: list[dict[str, Any]], *, fused: bool) -> torch.optim.Optimizer:
    """One kernel for all parameters of a group where the device has one (``fused``)."""
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=fused)
    return (torch.optim.AdamW if name == "adamw" else torch.optim.Adam)(groups, fused=fused)


def _by_stage(run: State, phase: Phase) -> dict[str, list[nn.Parameter]]:
    """The parameters that train, of each stage and of the head."""
    owners = {f"trunk.{name}": stage.name for stage in run.backbone.stages for name in stage.parameters}
    parameters = dict(run.model.named_parameters())
    found: dict[str, list[nn.Parameter]] = {}
    for name in (name for group in phase.groups for name in group.parameters):
        found.setdefault(owners.get(name, "head"), []).append(parameters[name])
    return found


def _class_weights(run: State, phase: Phase) -> Tensor | None:
    if phase.train.class_weights == "none":
        return None
    targets = run.splits.train.targets
    assert targets is not None
    return class_weights(targets, run.splits.task.classes).to(run.engine.device)


def _anchors(run: State, phase: Phase) -> list[tuple[int, Tensor, Tensor]]:
    """What L2-SP pulls: the body's weights that would decay, each with its pretrained value."""
    if not phase.train.l2sp:
        return []
    parameters = dict(run.model.named_parameters())
    start = dict(run.backbone.trunk.named_parameters())
    spared = undecayed(run.model)
    return [
        (place, parameters[name], start[name.removeprefix("trunk.")].detach().to(run.engine.device))
        for place, group in enumerate(phase.groups)
        for name in group.parameters
        if name.startswith("trunk.") and name not in spared
    ]
