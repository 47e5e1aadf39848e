"""The loop: a generator of step records, and ``fit`` which drains it.

Every phase of every strategy runs through here. Between two records the state is whole: whoever
iterates can stop at any of them by throwing ``Interrupted`` into the generator, which saves a
checkpoint and ends. Randomness is a function of (seed, phase, step, process), so a run that goes on
from a checkpoint ends bit for bit like one that was never stopped.

Shapes: B pictures in this process's part of a batch, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from graft import records
from graft.backbones.contract import Backbone
from graft.checkpoint import Checkpoints, load_optimizer, optimizer_tensors
from graft.data.dataset import loader
from graft.data.items import Items, Splits
from graft.engine import seeded
from graft.errors import Interrupted, TrainingError
from graft.inference import forward_batches
from graft.model import set_linear_head
from graft.plan import Phase, Plan
from graft.probe import solve_head
from graft.records import Record
from graft.schedule import epoch_batches, rate_factor
from graft.seeds import mix
from graft.state import State, Trained
from graft.steps import Solve
from graft.surgery import set_training_mode

Records = Generator[Record, None, Trained]


def fit(
    backbone: Backbone, splits: Splits, plan: Plan, *, checkpoints: Checkpoints | None = None
) -> Trained:
    """Carry out the plan and return what it made. Raises as :func:`fit_steps`."""
    steps = fit_steps(backbone, splits, plan, checkpoints=checkpoints)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            trained: Trained = end.value
            return trained


def fit_steps(
    backbone: Backbone, splits: Splits, plan: Plan, *, checkpoints: Checkpoints | None = None
) -> Records:
    """Carry out the plan, yielding a record for everything that happens; returns ``Trained``.

    The backbone itself is not changed. With ``checkpoints`` the run goes on from the newest one.

    Raises:
        TrainingError: a loss or gradient is not finite, a checkpoint cannot be written, or
            something frozen moved.
        Interrupted: thrown in by the caller; the state was saved.
    """
    run = State(backbone, splits, plan, checkpoints)
    try:
        for record in _phases(run):
            if record.logged:
                run.position = replace(run.position, records=run.position.records + 1)
            yield record
    except Interrupted:
        if isinstance(plan.phases[run.position.phase], Phase):  # solving begins anew
            run.save()
        raise
    return run.finish()


def _phases(run: State) -> Iterator[Record]:
    while run.position.phase < len(run.plan.phases):
        phase = run.plan.phases[run.position.phase]
        yield from _solve(run, phase) if isinstance(phase, Solve) else _train(run, phase)
        run.best = {}
        run.position = run.position.next_phase()
        run.save()


def _solve(run: State, step: Solve) -> Iterator[Record]:
    """Features of the training items, one pass; then the head, solved to its optimum."""
    engine, index = run.engine, run.position.phase
    yield records.Started(index, step.name, 1)
    features = yield from _features(run, run.splits.train)
    targets = run.splits.train.targets
    assert targets is not None
    _refuse_nonfinite_features(features, run)
    solution = solve_head(
        features,
        targets,
        run.splits.task.classes,
        strengths=step.strengths,
        folds=step.folds,
        seed=run.plan.seed,
        groups=run.splits.train.digests,
    )
    weight, bias = engine.broadcast(solution.weight), engine.broadcast(solution.bias)
    set_linear_head(run.model, weight, bias)
    found = {"strength": solution.strength, "loss": solution.loss, "accuracy": solution.accuracy}
    run.position = replace(run.position, solved=found)
    yield records.Solved(index, solution.strength, solution.loss, solution.accuracy, len(solution.path))
    yield records.Finished(index, None, 0)


def _refuse_nonfinite_features(features: Tensor, run: State) -> None:
    broken = (~torch.isfinite(features).all(dim=1)).nonzero().flatten().tolist()
    if broken:
        ids = ", ".join(run.splits.train.ids[item] for item in broken[:8])
        raise TrainingError(
            f"The backbone gives features that are not finite for {len(broken)} of {len(features)} "
            f"pictures ({ids}); its weights or its preprocessing are not right for them."
        )


def _features(run: State, items: Items) -> Generator[Record, None, Tensor]:
    """Trunk outputs [N, D] of all items, each process taking its share."""
    engine = run.engine
    mine = engine.share(list(range(len(items))))
    parts, done = [], 0
    for _, outputs in forward_batches(
        run.model.trunk,
        run.pictures(items),
        engine.device,
        indices=mine,
        workers=run.plan.numerics.workers,
    ):
        parts.append(outputs)
        done += len(outputs) * engine.processes
        yield records.Extracted(run.position.phase, min(done, len(items)), len(items))
    return engine.gather_rows(torch.cat(parts).clone(), len(items))


def _train(run: State, phase: Phase) -> Iterator[Record]:
    """One phase: validate the start, train and validate every epoch, keep the best."""
    train = phase.train
    network = _prepare(run, phase)
    optimizer = run.optimizer = _make_optimizer(run, phase)
    index, done = run.position.phase, run.position.epoch * phase.steps_per_epoch + run.position.step
    yield records.Started(index, train.name, phase.steps, done)
    if not run.position.validated:
        yield _validate(run, phase)
    while run.position.epoch < train.epochs and not _exhausted(run, phase):
        yield from _epoch(run, phase, network, optimizer)
        yield _validate(run, phase)
        run.save_if_due()
    kept = run.position.kept
    if kept is not None:
        run.load_values(run.best)
    run.optimizer_state |= optimizer_tensors(optimizer, run.names)
    run.optimizer = None
    run.engine.accelerator.free_memory()
    end = records.Finished(index, int(kept["epoch"]) if kept else None, run.position.epoch)
    told = {"number": index + 1, "phase": train.name, "kept_epoch": end.kept_epoch, "epochs": end.epochs}
    # Once, also where the run was stopped and resumed just here.
    ends = [*(each for each in run.position.ends if each["number"] <= index), told]
    run.position = replace(run.position, ends=ends)
    yield end


def _exhausted(run: State, phase: Phase) -> bool:
    """Whether early stopping ends the phase."""
    patience = phase.train.patience
    return patience is not None and run.position.waited >= patience


def _prepare(run: State, phase: Phase) -> nn.Module:
    """Freeze, then wrap: processes exchange the gradients of what trains, and of nothing else."""
    trained = {name for group in phase.groups for name in group.parameters}
    for name, parameter in run.model.named_parameters():
        parameter.requires_grad_(name in trained)
        parameter.grad = None
    return run.engine.wrap(run.model)


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
    optimizer = _new_optimizer(phase.train.optimizer, groups)
    kinds = {name.partition("::")[0] for name in run.optimizer_state}
    if kinds <= _STATE_KEYS[phase.train.optimizer]:
        load_optimizer(optimizer, run.optimizer_state, parameters)
    return optimizer


def _new_optimizer(name: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    return (torch.optim.AdamW if name == "adamw" else torch.optim.Adam)(groups)


_STATE_KEYS = {
    "adamw": {"step", "exp_avg", "exp_avg_sq"},
    "adam": {"step", "exp_avg", "exp_avg_sq"},
    "sgd": {"momentum_buffer"},
}


def _epoch(
    run: State, phase: Phase, network: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[Record]:
    """The steps of one epoch that are still to do, each a record."""
    train, position = phase.train, run.position
    view = position.epochs_before + position.epoch
    batches = epoch_batches(len(run.splits.train), train.batch_size, seed=run.plan.seed, epoch=view)[
        position.step :
    ]
    mine = [[(item, view) for item in run.engine.share(batch)] for batch in batches]
    pictures = run.pictures(run.splits.train, train.augmentation)
    set_training_mode(run.model.trunk, run.backbone.stages, train.stages, batchnorm=train.batchnorm)
    run.model.head.train()
    loading = loader(pictures, mine, run.plan.numerics.workers)
    for batch, (tensors, targets, _) in zip(batches, loading, strict=True):
        loss = _step(run, phase, network, optimizer, batch, tensors, targets)
        position = run.position
        run.position = replace(position, step=position.step + 1, loss_sum=position.loss_sum + loss)
        step = position.epoch * phase.steps_per_epoch + position.step + 1
        rate = optimizer.param_groups[-1]["lr"]
        yield records.Stepped(position.phase, position.epoch + 1, step, loss, rate)
        run.save_if_due()  # now that the record is told, and counted


def _step(
    run: State,
    phase: Phase,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: list[int],
    tensors: Tensor,
    targets: Tensor,
) -> float:
    """One optimiser step on this process's part [B, …] of ``batch``; the whole batch's mean loss."""
    engine, train, position = run.engine, phase.train, run.position
    step = position.epoch * phase.steps_per_epoch + position.step
    factor = rate_factor(step, steps=phase.steps, warmup=phase.warmup_steps, schedule=train.schedule)
    for group, planned in zip(optimizer.param_groups, phase.groups, strict=True):
        group["lr"] = planned.rate * factor
    total = torch.zeros((), device=engine.device)
    parts = list(zip(tensors.chunk(train.accumulate), targets.chunk(train.accumulate), strict=True))
    with seeded(mix(run.plan.seed, position.phase, step, engine.rank), engine.device):
        for number, (pictures, truth) in enumerate(parts, start=1):
            pictures = pictures.to(engine.device, memory_format=torch.channels_last)
            with engine.gather_only_if(number == len(parts), network):
                with engine.autocast():
                    logits = network(pictures)
                losses = run.splits.task.losses(
                    logits, truth.to(engine.device), smoothing=train.label_smoothing
                )
                # DDP averages gradients over processes; this makes them those of the whole batch.
                share = losses.sum() / len(batch)
                engine.accelerator.backward(share * engine.processes)
                total += share.detach()
    loss = float(engine.total(total))
    _refuse_nonfinite(loss, "loss", run, phase, batch)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(trained, train.clip or math.inf))
    _refuse_nonfinite(norm, "gradient norm", run, phase, batch)
    optimizer.step()
    optimizer.zero_grad()
    return loss


def _refuse_nonfinite(value: float, what: str, run: State, phase: Phase, batch: list[int]) -> None:
    if math.isfinite(value):
        return
    ids = [run.splits.train.ids[item] for item in batch]
    more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
    raise TrainingError(
        f"The {what} is {value} in phase {phase.train.name!r}, epoch {run.position.epoch + 1}, "
        f"step {run.position.step + 1} of the epoch. The batch: {', '.join(ids[:8])}{more}. "
        "Begin a new run with a smaller rate "
        f"(train.lr, now {phase.train.rates.top:g}), train.precision=fp32 or train.clip=1.0."
    )


def _validate(run: State, phase: Phase) -> Record:
    """Meet the validation data and move the position past this epoch, keeping the best weights."""
    position = run.position
    run.engine.share_buffers(run.model)
    first = not position.validated
    epoch = position.epoch if first else position.epoch + 1
    scores = _validation_scores(run)
    better = True
    if scores is not None:
        loss, accuracy = scores
        score = -accuracy if phase.train.select == "accuracy" else loss
        better = math.isfinite(loss) and (position.kept is None or score < position.kept["score"])
    if scores is not None and better:
        kept = {"score": score, "loss": loss, "accuracy": accuracy, "epoch": float(epoch)}
        position = replace(position, kept=kept)
        run.best = run.changing_values()
    run.position = replace(
        position,
        epoch=epoch,
        step=0,
        loss_sum=0.0,
        validated=True,
        waited=0 if better else position.waited + 1,
    )
    return records.Validated(
        phase=position.phase,
        epoch=epoch,
        step=epoch * phase.steps_per_epoch,
        loss=scores[0] if scores else None,
        accuracy=scores[1] if scores else None,
        best=better,
        train_loss=None if first or not position.step else position.loss_sum / position.step,
    )


def _validation_scores(run: State) -> tuple[float, float] | None:
    """Mean loss (nats) and accuracy on the validation items; None where there are none."""
    val = run.splits.val
    if val is None:
        return None
    engine, task = run.engine, run.splits.task
    sums = torch.zeros(2, dtype=torch.float64)
    targets = torch.from_numpy(val.targets)
    for places, logits in forward_batches(
        run.model,
        run.pictures(val),
        engine.device,
        indices=engine.share(list(range(len(val)))),
        workers=run.plan.numerics.workers,
    ):
        truth = targets[places]
        sums[0] += task.losses(logits, truth).double().sum()
        sums[1] += (logits.argmax(1) == truth).sum()
    loss, accuracy = (engine.total(sums) / len(val)).tolist()
    return loss, accuracy
