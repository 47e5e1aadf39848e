"""The loop: a generator of step records, and ``fit`` which drains it.

Every phase of every strategy runs through here. Between two records the state is whole: whoever
iterates can stop at any of them by throwing ``Interrupted`` into the generator, which saves a
checkpoint and ends. Randomness is a function of (seed, phase, step, process), so a run that goes on
from a checkpoint ends bit for bit like one that was never stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import TypeVar

from graft import records
from graft.adaptation import adapt_statistics
from graft.backbones.contract import Backbone
from graft.checkpoint import Checkpoints
from graft.contrast import contrast_batches
from graft.data.balance import balanced_order
from graft.data.items import Splits
from graft.errors import Interrupted, WorkersLost
from graft.feeding import Feed, feed_for
from graft.plan import Phase, Plan
from graft.records import Record
from graft.reuse.store import Store
from graft.schedule import epoch_order
from graft.seeds import mix
from graft.selection import calibrate_phase, select_phase, settle, validate
from graft.solving import solve_phase
from graft.state import State, Trained
from graft.stepping import Stepper, set_modes, stepper_for
from graft.steps import Calibrate, Select, Solve

T = TypeVar("T")
Records = Generator[Record, None, Trained]


def fit(
    backbone: Backbone,
    splits: Splits,
    plan: Plan,
    *,
    checkpoints: Checkpoints | None = None,
    store: Store | None = None,
    show: Callable[[Record], None] | None = None,
) -> Trained:
    """Carry out the plan and return what it made; ``show`` is called with what happens.

    Raises as :func:`fit_steps`.
    """
    steps = fit_steps(backbone, splits, plan, checkpoints=checkpoints, store=store)
    while True:
        try:
            record = next(steps)
            if show is not None:
                show(record)
        except StopIteration as end:
            trained: Trained = end.value
            return trained


def fit_steps(
    backbone: Backbone,
    splits: Splits,
    plan: Plan,
    *,
    checkpoints: Checkpoints | None = None,
    store: Store | None = None,
) -> Records:
    """Carry out the plan, yielding a record for everything that happens; returns ``Trained``.

    The backbone itself is not changed. With ``checkpoints`` the run goes on from the newest one. With a
    ``store`` what is frozen is computed once; the result is that without it.

    Raises:
        TrainingError: a loss or gradient is not finite, a checkpoint cannot be written, or
            something frozen moved.
        Interrupted: thrown in by the caller; the state was saved.
    """
    run = State(backbone, splits, plan, checkpoints, store)
    try:
        for record in _phases(run):
            if record.logged:
                run.position = replace(run.position, records=run.position.records + 1)
            yield record
    except Interrupted:
        if run.position.begun:  # what had not begun, or cannot be stopped half-way, begins anew
            run.save()
        raise
    return run.finish()


def _phases(run: State) -> Iterator[Record]:
    while run.position.phase < len(run.plan.phases):
        phase = run.plan.phases[run.position.phase]
        if isinstance(phase, Solve):
            yield from solve_phase(run, phase)
        elif isinstance(phase, Select):
            yield from select_phase(run, phase)
        elif isinstance(phase, Calibrate):
            yield from calibrate_phase(run, phase)
        else:
            yield from _train(run, phase)
        run.next_phase()
        run.save()


def _train(run: State, phase: Phase) -> Iterator[Record]:
    """One phase: validate the start, train and validate every epoch, keep the best."""
    train = phase.train
    if run.position.ended:
        return
    yield from adapt_statistics(run, train.adapt)
    run.begin_phase(phase)
    with feed_for(run, phase) as feed, stepper_for(run, phase) as stepper:
        index, done = run.position.phase, run.position.epoch * phase.steps_per_epoch + run.position.step
        start = records.Resumed if run.position.begun else records.Started
        run.position = replace(run.position, begun=True)
        yield start(index, train.name, phase.steps, done)
        val = None if train.objective == "contrast" else feed.val  # of which only a head could tell
        if not run.position.validated:
            yield validate(run, phase, val)
        while run.position.epoch < train.epochs and not _exhausted(run, phase):
            yield from _epoch(run, phase, stepper, feed)
            yield validate(run, phase, val)
            run.save_if_due()
    kept, what = settle(run, phase)
    end = records.Finished(index, kept, run.position.epoch)
    told = {
        "number": index + 1,
        "phase": train.name,
        "kept": what,
        "kept_epoch": end.kept_epoch,
        "epochs": end.epochs,
    }
    run.position = replace(run.position, ends=[*run.position.ends, told], ended=True)
    yield end


def _exhausted(run: State, phase: Phase) -> bool:
    """Whether early stopping ends the phase."""
    patience = phase.train.patience
    return patience is not None and run.position.waited >= patience


def _epoch(run: State, phase: Phase, stepper: Stepper, feed: Feed) -> Iterator[Record]:
    """The steps of one epoch that are still to do, each a record."""
    train, position = phase.train, run.position
    number = position.epochs_before + position.epoch
    batches = _batches(run, phase, feed, number)[position.step :]
    mine = [run.engine.share(batch) for batch in batches]
    set_modes(run, train)
    loading = _saved_when_lost(run, feed.train.batches(mine, run.plan.numerics.workers))
    for batch, (tensors, targets, _) in zip(batches, loading, strict=True):
        outcome = stepper.step([item for item, _ in batch], tensors, targets)
        position = run.position
        run.count_step(outcome)
        step = position.epoch * phase.steps_per_epoch + position.step + 1
        rate = stepper.optimizer.param_groups[-1]["lr"]
        yield records.Stepped(position.phase, position.epoch + 1, step, outcome.loss, rate, outcome.idle)
        run.save_if_due()  # after the record is yielded and counted


def _saved_when_lost(run: State, loading: Iterator[T]) -> Iterator[T]:
    """The batches; where a worker that decodes them is lost, the steps before are saved."""
    try:
        yield from loading
    except WorkersLost:
        run.save()
        raise


def _batches(run: State, phase: Phase, feed: Feed, epoch: int) -> list[list[tuple[int, int]]]:
    """An epoch's batches of items, each with the number of the view that is drawn of it."""
    train, seed = phase.train, run.plan.seed
    if train.objective == "labels":
        return feed.train.cut(_draws(run, phase, epoch), train.batch_size, mix(seed, epoch))
    targets = run.splits.train.targets
    assert targets is not None
    batches = contrast_batches(targets, train.batch_size, seed=seed, epoch=epoch)
    return [[(item, epoch) for item in batch] for batch in batches]


def _draws(run: State, phase: Phase, epoch: int) -> list[tuple[int, int]]:
    """An epoch's items in their order, each with the number of the view that is drawn of it."""
    items = run.splits.train
    view = epoch if phase.views is None else epoch % phase.views
    if phase.train.sampling == "shuffled":
        return [(item, view) for item in epoch_order(len(items), seed=run.plan.seed, epoch=epoch)]
    assert items.targets is not None
    order = balanced_order(items.targets, run.plan.seed, epoch)
    most = max(Counter(order).values())  # an item that is drawn again is seen in another view
    seen: Counter[int] = Counter()
    draws = []
    for item in order:
        draws.append((item, view * most + seen[item]))
        seen[item] += 1
    return draws
