"""The main job as one straight flow: recipe, backbone, splits, plan, training, bundle.

``train`` and ``resume`` are what people call; ``prepare`` (preparation.py) and ``carry_out`` are their two
halves for whoever wants to see the plan first and watch the records go by.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import torch

from graft.backbones.contract import Backbone
from graft.bundle import Bundle, load_bundle
from graft.checkpoint import Position
from graft.conclusion import conclude
from graft.diagnosis.training_checks import Watch, rates_are_own
from graft.errors import Interrupted, RecipeError, WorkersLost
from graft.numerics import is_main, world_size
from graft.plan import Phase, Plan
from graft.preparation import Prepared, open_store, prepare, prepare_again
from graft.progress import PlainConsole, reading, showing
from graft.recipe import Recipe, read_recipe
from graft.records import Record, Stepped, Validated
from graft.reporting import Reporter, wants_report
from graft.run_log import Log
from graft.runs import Run, begin, choose_run, count_before, locked, open_run, writing
from graft.state import Trained
from graft.system.launch import find_launch
from graft.system.signals import Stop, interrupts
from graft.training import fit_steps

T = TypeVar("T")


def train(
    data: Any = None,
    *,
    backbone: str | Backbone | None = None,
    strategy: str | None = None,
    out: str | Path | None = None,
    recipe: Recipe | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Bundle:
    """Adapt ``backbone`` to labelled ``data`` and return the bundle, which is also saved in the run.

    ``data`` is a folder, a table, or arrays (see ``read_splits``). ``settings`` are recipe keys, nested
    ones with double underscores: ``train__lr=1e-4``. ``out`` is the run's folder (default: a new one in
    runs/). Progress is shown on standard error unless ``quiet``.

    Raises:
        GraftError: what was asked cannot be done; the message says why and what to do.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; the run was saved, ``resume`` goes on.
    """
    own = backbone if isinstance(backbone, Backbone) else None
    if recipe is None:
        name = backbone.source.id if isinstance(backbone, Backbone) else backbone
        path = str(data) if isinstance(data, str | Path) else None
        recipe = read_recipe(backbone=name, strategy=strategy, data__path=path, **settings)
    elif settings or strategy or isinstance(backbone, str) or isinstance(data, str | Path):
        raise RecipeError("A recipe was given with other settings beside it: put those into the recipe.")
    run = choose_run(out, recipe)
    console = _console(quiet)
    with reading(console) as told:
        prepared = prepare(recipe, backbone=own, data=data, progress=told)
    with showing(console, prepared.splits.task.score_name) as show:
        return drain(carry_out(prepared, run), show)


def resume(
    path: str | Path,
    *,
    backbone: Backbone | None = None,
    data: Any = None,
    workers: int | None = None,
    quiet: bool = False,
) -> Bundle:
    """Go on with an interrupted run; a finished one returns its bundle.

    ``workers``: as many decode, in place of the plan's number; the result is the same.
    ``backbone`` and ``data`` are needed where the run began with values of Python's in place of an id
    and a path.

    Raises:
        RunError: not a run, in use, or its data or weights changed since it began.
    """
    run = open_run(path)
    if run.finished:
        trunk = backbone.trunk if backbone is not None else None
        return load_bundle(run.bundle, factory=None if trunk is None else lambda: copy.deepcopy(trunk))
    prepared = prepare_again(run, backbone=backbone, data=data, workers=workers)
    with showing(_console(quiet), prepared.splits.task.score_name) as show:
        return drain(carry_out(prepared, run), show)


def _console(quiet: bool) -> PlainConsole:
    """Standard error, on which it is said first what of the environment is ignored."""
    console, ignored = PlainConsole(stderr=True, quiet=quiet), find_launch().ignored
    if ignored is not None:
        console.print(f"Note  {ignored}", markup=False, soft_wrap=True)
    return console


def carry_out(
    prepared: Prepared, run: Run, *, report: bool | None = None
) -> Generator[Record, None, Bundle]:
    """Train as planned in the run's folder, yielding records; returns the saved bundle.

    A run that has begun goes on from its last checkpoint. In several processes, the first one writes.
    ``report``: whether the run's page is written, while it goes on and at its end; None: unless the
    environment's GRAFT_REPORT says no.

    Raises:
        GraftError: as ``fit_steps``; RunError where the folder is in use.
    """
    main = is_main()
    with locked(run) if main else contextlib.nullcontext(run) as run, writing(run):
        if main and not run.begun:
            begin(run, prepared.recipe, prepared.plan, prepared.splits, prepared.evidence)
        steps = fit_steps(
            prepared.backbone,
            prepared.splits,
            prepared.plan,
            checkpoints=run.checkpoints if run.begun else None,
            store=open_store(prepared.recipe),
        )
        report = wants_report() if report is None else report
        reporter = Reporter(run) if report else None
        trained = yield from _logged(steps, run, prepared, reporter) if main else steps
        return conclude(prepared, trained, run if main else None, report=report)


def drain(
    steps: Generator[Record, None, T],
    show: Callable[[Record], None] | None = None,
    *,
    asked: Stop | None = None,
) -> T:
    """Run to the end; Ctrl-C, SIGTERM or SIGHUP once finishes the step, saves and raises ``Interrupted``.

    ``asked``: what :func:`interrupts` gave around several runs; it stays set where a run had ended already.
    """
    with interrupts() if asked is None else contextlib.nullcontext(asked) as asked:
        try:
            record = next(steps)
            while True:
                if show is not None:
                    show(record)
                if _agreed(asked.is_set(), record):
                    steps.throw(Interrupted("Interrupted.", asked.number))
                record = next(steps)
        except StopIteration as end:
            value: T = end.value
            return value
        except WorkersLost as lost:
            if not asked.is_set():
                raise
            # The signal went to the workers as well, as from a batch system.
            raise Interrupted(f"Interrupted. {lost}", asked.number) from None


def _logged(
    steps: Generator[Record, None, Trained], run: Run, prepared: Prepared, reporter: Reporter | None
) -> Generator[Record, None, Trained]:
    found = run.checkpoints.newest()
    task, plan = prepared.splits.task, prepared.plan
    watch = Watch(
        plan.data.val,
        0 if task.multi_label else task.classes,
        warmups=[phase.warmup_steps if isinstance(phase, Phase) else 0 for phase in plan.phases],
        own_rates=rates_are_own(prepared.recipe),
    )
    position = found.position if found else Position()
    log = Log(run.folder, position.records, count_before(plan), watch, reached=_reached(plan, position))
    try:
        yield from log.noted
        while True:
            record = next(steps)
            findings = log.write(record)
            if reporter is not None:
                reporter.look()
            try:
                yield record
                yield from findings
            except Interrupted as stop:
                advice = f"the run is saved: go on with graft resume {run.folder}."
                steps.throw(Interrupted(f"Interrupted; {advice}", stop.number))
    except StopIteration as end:
        trained: Trained = end.value
        return trained
    finally:
        log.close()


def _reached(plan: Plan, position: Position) -> tuple[int, int]:
    """The phase and the steps of it that are done."""
    phase = plan.phases[position.phase] if position.phase < len(plan.phases) else None
    done = position.epoch * phase.steps_per_epoch + position.step if isinstance(phase, Phase) else 0
    return position.phase, done


def _agreed(asked: bool, record: Record) -> bool:
    """Whether to stop here: in several processes all of them at the same step, or none."""
    if world_size() == 1:
        return asked
    if not isinstance(record, Stepped | Validated) or not torch.distributed.is_initialized():
        return False
    flag = torch.tensor(float(asked))
    if torch.distributed.get_backend() == "nccl":
        flag = flag.cuda()
    torch.distributed.all_reduce(flag)
    return bool(flag > 0)
