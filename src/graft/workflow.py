"""The main job as one straight flow: recipe, backbone, splits, plan, training, bundle.

``train`` and ``resume`` are what people call; ``prepare`` and ``carry_out`` are their two halves for
whoever wants to see the plan first and watch the records go by.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from graft.adapters import adapt, merge, merged
from graft.backbones import load_backbone as load_any_backbone
from graft.backbones.contract import Backbone, Encoding, Preprocess
from graft.bundle import Bundle, load_bundle, make_bundle
from graft.calibration import calibrated_task
from graft.data import read_splits as read_any_splits
from graft.data.inputs import open_inputs
from graft.data.items import Splits
from graft.data.scan import Progress
from graft.data.statistics import prepare_for
from graft.data.texts import list_cut
from graft.diagnosis.findings import Finding
from graft.diagnosis.from_nothing import check_worth
from graft.diagnosis.training_checks import Watch
from graft.engine import seeded, start_engine
from graft.errors import Interrupted, RecipeError, RunError, TrainingError
from graft.evidence import LOOKS, Evidence, measure_evidence
from graft.files import write_json
from graft.forward_trial import Choice, choose_forward
from graft.inference import forward_all
from graft.numerics import Forward, is_main, resolve_device, resolve_numerics, world_size
from graft.plan import Phase, Plan, check, make_ask, make_plan, needs_validation
from graft.progress import reading, showing
from graft.rate_trial import try_rates
from graft.recipe import Recipe, read_recipe
from graft.records import Record, Stepped, Validated
from graft.reporting import Reporter, sparing, wants_report, write_report
from graft.reuse.inventory import store_folder
from graft.reuse.store import NOWHERE, Store
from graft.runs import Log, Run, begin, choose_run, count_before, locked, open_run, writing
from graft.seeds import mix
from graft.state import Trained
from graft.steps import Solve
from graft.strategies import decides_by_evidence, entry_of, plan_steps, split_name
from graft.task import Task
from graft.training import fit_steps

if TYPE_CHECKING:
    from graft.reporting.details import Details

T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """All that is known before training: the recipe and what it resolved to."""

    recipe: Recipe
    backbone: Backbone
    splits: Splits
    plan: Plan
    evidence: Evidence | None = None
    """What was measured on the data, where the strategy decides by it."""
    forward: Choice | None = None
    """How the resting backbone computes fastest, where that was tried."""


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
        Interrupted: Ctrl-C; the run was saved, ``resume`` goes on.
    """
    own = backbone if isinstance(backbone, Backbone) else None
    if recipe is None:
        name = backbone.source.id if isinstance(backbone, Backbone) else backbone
        path = str(data) if isinstance(data, str | Path) else None
        recipe = read_recipe(backbone=name, strategy=strategy, data__path=path, **settings)
    elif settings or strategy or isinstance(backbone, str) or isinstance(data, str | Path):
        raise RecipeError("A recipe was given with other settings beside it: put those into the recipe.")
    run = choose_run(out, recipe)
    console = Console(stderr=True, quiet=quiet)
    with reading(console) as told:
        prepared = prepare(recipe, backbone=own, data=data, progress=told)
    with showing(console) as show:
        return drain(carry_out(prepared, run), show)


def resume(
    path: str | Path, *, backbone: Backbone | None = None, data: Any = None, quiet: bool = False
) -> Bundle:
    """Go on with an interrupted run; a finished one returns its bundle.

    ``backbone`` and ``data`` are needed where the run began with values of Python's in place of an id
    and a path.

    Raises:
        RunError: not a run, in use, or its data or weights changed since it began.
    """
    run = open_run(path)
    if run.finished:
        trunk = backbone.trunk if backbone is not None else None
        return load_bundle(run.bundle, factory=None if trunk is None else lambda: copy.deepcopy(trunk))
    prepared = prepare_again(run, backbone=backbone, data=data)
    with showing(Console(stderr=True, quiet=quiet)) as show:
        return drain(carry_out(prepared, run), show)


def prepare(
    recipe: Recipe,
    *,
    backbone: Backbone | None = None,
    data: Any = None,
    progress: Progress | None = None,
) -> Prepared:
    """Load the backbone, refuse what cannot be done, read the data, and make the plan.

    ``backbone`` and ``data`` stand in for what the recipe names; ``progress`` is called with (pictures
    read, all of them).

    Raises:
        GraftError: as the recipe, the backbone or the data are at fault.
    """
    loaded = load_backbone(recipe) if backbone is None else _with_adapters(recipe, backbone)
    check(recipe, loaded)
    return plan_for(recipe, loaded, read_splits(recipe, loaded, data, progress), progress=progress)


def plan_for(
    recipe: Recipe,
    backbone: Backbone,
    splits: Splits,
    like: Prepared | None = None,
    *,
    progress: Progress | None = None,
) -> Prepared:
    """What is planned on these splits; ``like``: where what was measured for another recipe holds as well.

    Raises:
        GraftError: as :func:`prepare`.
    """
    backbone = fit_preprocess(backbone, recipe, splits)
    forward = try_forward(recipe, backbone, splits) if like is None else like.forward
    evidence = measure(recipe, backbone, splits, progress, forward) if like is None else like.evidence
    plan = make_plan(recipe, backbone, splits, evidence, forward)
    return Prepared(recipe, backbone, splits, plan, evidence, forward)


def prepare_again(
    run: Run,
    *,
    backbone: Backbone | None = None,
    data: Any = None,
    progress: Progress | None = None,
) -> Prepared:
    """A run's recipe, plan, data and backbone, as they were when it began.

    Raises:
        RunError: the data or the weights are not what they were, or only Python has them.
    """
    recipe, plan = run.recipe, run.plan
    if data is None and not recipe.data.path:
        raise RunError(f"{run.folder} was trained on arrays; go on with graft.resume(path, data=...).")
    if backbone is None and recipe.backbone.startswith("plain/"):
        raise RunError(
            f"{run.folder} trains a module of your own; go on with graft.resume(path, backbone=...)."
        )
    resolve_device(plan.numerics.device)
    backbone = load_backbone(recipe) if backbone is None else _with_adapters(recipe, backbone)
    splits = read_splits(recipe, backbone, data, progress)
    run.check_data(splits)
    backbone = fit_preprocess(backbone, recipe, splits)
    run.check_network(backbone)
    return Prepared(recipe, backbone, splits, plan)


def load_backbone(what: str | Recipe | Backbone, **options: Any) -> Backbone:
    """Load a backbone by its id, or as a recipe asks for it; a ``Backbone`` is returned as it is.

    Of a recipe, random weights are a function of its seed, the strategy scratch has no others, and for the
    strategy lora adapters are put in.
    ``options`` for an id are those of ``graft.backbones.load_backbone``: weights, channels, size.

    Raises:
        BackboneError: unknown, or its weights cannot be had.
    """
    if not isinstance(what, Recipe):
        return load_any_backbone(what, **options)
    recipe = what
    if split_name(recipe.strategy)[0] == "scratch":
        library_and_name = recipe.backbone.rpartition(":")[0] or recipe.backbone
        recipe = recipe.model_copy(update={"backbone": f"{library_and_name}:none", "weights": None})
    with seeded(mix(recipe.seed, "trunk"), torch.device("cpu")):
        return _with_adapters(recipe, load_any_backbone(recipe))


def _with_adapters(recipe: Recipe, backbone: Backbone) -> Backbone:
    """The backbone with adapters where the recipe's strategy trains those."""
    adapts = entry_of(recipe).adapts
    if adapts is None or backbone.adapters is not None:
        return backbone
    stages = adapts(backbone.stage_names, split_name(recipe.strategy)[1])
    return adapt(backbone, recipe.adapters, stages, seed=recipe.seed)


def read_splits(
    recipe: Recipe,
    backbone: Backbone,
    data: Any = None,
    progress: Progress | None = None,
) -> Splits:
    """The labelled data; a validation part is split off only where a step of the plan needs one.

    Raises:
        DataError: the data is missing or cannot be used.
    """
    settings = recipe.data.model_copy(update={"validation": validation_share(recipe, backbone)})
    given = settings.path if data is None else data
    intake = backbone.preprocess
    if not isinstance(intake, Encoding):
        return read_any_splits(given, settings, recipe.seed, progress)
    splits = read_any_splits(given, settings, recipe.seed, progress, "text")
    return replace(splits, problems=(*splits.problems, *list_cut(splits.train, intake)))


def validation_share(recipe: Recipe, backbone: Backbone) -> float | Literal["auto"]:
    """The share of training items that is set aside to validate with: none where no step would use it."""
    if not needs_validation(recipe, backbone):
        return 0.0
    if decides_by_evidence(recipe) and "validation" not in recipe.data.model_fields_set:
        return "auto"
    return recipe.data.validation


def fit_preprocess(backbone: Backbone, recipe: Recipe, splits: Splits) -> Backbone:
    """The backbone with mean and deviation of the training data, where recipe or channels ask so."""
    if not isinstance(backbone.preprocess, Preprocess):
        return backbone
    return replace(backbone, preprocess=prepare_for(backbone.preprocess, splits.train, recipe.data))


def try_forward(recipe: Recipe, backbone: Backbone, splits: Splits) -> Choice | None:
    """How the resting backbone computes features fastest; None where too few pass to try it.

    Of several processes the first one decides.
    """
    looks = LOOKS if decides_by_evidence(recipe) and backbone.source.pretrained else 0
    steps = plan_steps(make_ask(recipe, backbone, splits))
    passes = looks + sum(isinstance(step, Solve) for step in steps)
    if not passes:
        return None
    numerics = resolve_numerics(recipe)
    engine = start_engine(numerics)
    found = choose_forward(backbone, splits.train, numerics, passes=passes, seed=recipe.seed)
    shared = json.loads(engine.share_text(json.dumps(found and [found.forward.model_dump(), found.gain])))
    return shared and Choice(Forward.model_validate(shared[0]), shared[1])


def measure(
    recipe: Recipe,
    backbone: Backbone,
    splits: Splits,
    progress: Progress | None = None,
    forward: Choice | None = None,
) -> Evidence | None:
    """What the recipe's strategy decides by, measured on training data; None where it decides nothing.

    ``forward``: how the resting backbone computes, as :func:`try_forward` found (None: plainly).
    Of several processes all measure, and the first one's numbers count, so that all make the same plan.
    """
    if not decides_by_evidence(recipe) or not backbone.source.pretrained:
        return None
    numerics = resolve_numerics(recipe, forward.forward if forward else None)
    engine = start_engine(numerics)
    evidence = measure_evidence(
        backbone, splits, numerics, seed=recipe.seed, progress=progress, store=open_store(recipe) or NOWHERE
    )
    if evidence is not None:
        evidence = Evidence.model_validate_json(engine.share_text(evidence.model_dump_json()))
    given = {"lr", "rates"} & {name for name, value in recipe.train if value is not None}
    tries = entry_of(recipe).tries
    if evidence is None or given or tries is None:
        return evidence
    trying = tries(make_ask(recipe, backbone, splits, evidence))
    if trying is None:
        return evidence
    trial = try_rates(recipe, backbone, splits, evidence, trying, progress=progress)
    evidence = evidence.model_copy(update={"trial": trial})
    return Evidence.model_validate_json(engine.share_text(evidence.model_dump_json()))


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
    with locked(run) if main else contextlib.nullcontext(), writing(run):
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
        return _conclude(prepared, trained, run if main else None, report=report)


def open_store(recipe: Recipe) -> Store | None:
    """The store of what frozen stages make of pictures, unless the recipe wants none."""
    return Store(store_folder(), recipe.reuse.limit_bytes) if recipe.reuse.store else None


def drain(
    steps: Generator[Record, None, T],
    show: Callable[[Record], None] | None = None,
    *,
    asked: threading.Event | None = None,
) -> T:
    """Run to the end; Ctrl-C once finishes the step, saves and raises ``Interrupted``.

    ``asked``: what :func:`interrupts` gave around several runs; it stays set where a run had ended already.
    """
    with interrupts() if asked is None else contextlib.nullcontext(asked) as asked:
        try:
            record = next(steps)
            while True:
                if show is not None:
                    show(record)
                if _agreed(asked.is_set(), record):
                    steps.throw(Interrupted("Interrupted."))
                record = next(steps)
        except StopIteration as end:
            value: T = end.value
            return value


def _logged(
    steps: Generator[Record, None, Trained], run: Run, prepared: Prepared, reporter: Reporter | None
) -> Generator[Record, None, Trained]:
    found = run.checkpoints.newest()
    task, plan = prepared.splits.task, prepared.plan
    watch = Watch(plan.data.val, 0 if task.multi_label else task.classes)
    log = Log(run, found.position.records if found else 0, count_before(plan), watch)
    try:
        while True:
            record = next(steps)
            findings = log.write(record)
            if reporter is not None:
                reporter.look()
            try:
                yield record
                yield from findings
            except Interrupted:
                advice = f"the run is saved: go on with graft resume {run.folder}."
                steps.throw(Interrupted(f"Interrupted; {advice}"))
    except StopIteration as end:
        trained: Trained = end.value
        return trained
    finally:
        log.close()


def _conclude(prepared: Prepared, trained: Trained, run: Run | None, *, report: bool) -> Bundle:
    """Measure what came out, and save it."""
    task = calibrated_task(prepared.splits.task, trained.calibrated)
    merged = prepared.recipe.adapters.bundle == "merged"
    if merged and prepared.backbone.adapters is not None:
        merge(trained.model.trunk)
    metrics, logits = evaluate_trained(prepared, trained, task)
    bundle = make_bundle(
        trained.model,
        task,
        prepared.plan.make_head(),
        replace(prepared.backbone, adapters=None) if merged else prepared.backbone,
        plan=json.loads(prepared.plan.to_json()),
        metrics=metrics,
        tta=prepared.plan.tta,
    )
    if run is None:
        return bundle
    with sparing(run, "What would need no pretraining"):
        for finding in _look_back(prepared, task, logits):
            run.add_finding(finding, len(prepared.plan.phases) - 1)
    metrics["findings"] = run.findings
    if not run.bundle.exists():  # else a run killed between its last two files
        bundle.save(run.bundle)
    run.keep_logits(logits)
    write_json(run.folder / "result.json", metrics)
    if report:
        with sparing(run, "The report"):
            write_report(run, look_back(prepared, bundle, logits))
    return replace(bundle, path=run.bundle)


def look_back(prepared: Prepared, bundle: Bundle, logits: Mapping[str, NDArray[np.float32]]) -> Details:
    """What a report shows of items and layers; ``logits``: of validation and test, where measured."""
    from graft.reporting.details import gather_details  # matplotlib and captum come up slowly

    return gather_details(
        merged(prepared.backbone),
        (bundle if bundle.adapters is None else bundle.merged()).model,
        bundle.task,
        prepared.plan.numerics,
        dict(prepared.splits.parts()),
        logits,
        seed=prepared.recipe.seed,
    )


def _look_back(
    prepared: Prepared, task: Task, logits: Mapping[str, NDArray[np.float32]]
) -> Iterator[Finding]:
    """What only the end shows: whether a body that moved was worth its pretraining."""
    moved = any(isinstance(phase, Phase) and phase.train.stages for phase in prepared.plan.phases)
    backbone = prepared.backbone
    if moved and backbone.source.pretrained and "val" in logits:
        splits = replace(prepared.splits, task=task)
        yield from check_worth(splits, backbone.preprocess, logits["val"], seed=prepared.recipe.seed)


def report_again(path: str | Path, *, progress: Progress | None = None) -> Path:
    """The page of a run, written anew; what was looked at when it ended is kept, or looked at now.

    Raises:
        RunError: it is not a run; of a finished one without what is kept, its data is gone or changed.
    """
    from graft.reporting.story import DETAILS, FOLDER

    run = open_run(path)
    if not run.finished or (run.folder / FOLDER / DETAILS).is_file():
        return write_report(run)
    prepared, bundle = prepare_again(run, progress=progress), load_bundle(run.bundle)
    return write_report(run, look_back(prepared, bundle, run.read_logits()))


def evaluate_trained(
    prepared: Prepared, trained: Trained, task: Task
) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Metrics of the trained model on validation and test data, where there are any; and the logits.

    ``task`` is the data's, with the temperature and thresholds that were fitted. The calibration error
    without them stands beside as ``ece_uncalibrated``.

    Raises:
        TrainingError: a loss is not finite.
    """
    device = resolve_device(prepared.plan.numerics.device)
    results: dict[str, Any] = {
        "seconds": trained.seconds,
        "frozen_unchanged": trained.frozen_unchanged,
        "phases": list(trained.ends),
    }
    told = {"probe": trained.solved, "selected": trained.selected, "calibrated": trained.calibrated}
    results |= {key: values for key, values in told.items() if values is not None}
    found: dict[str, NDArray[np.float32]] = {}
    for name, items in prepared.splits.parts():
        if name == "train" or items.targets is None:
            continue
        source = open_inputs(items, prepared.backbone.preprocess)
        logits = forward_all(trained.model, source, device, tta=prepared.plan.tta).numpy()
        found[name] = logits
        metrics = task.measure(logits, items.targets)
        if not math.isfinite(metrics.loss):
            raise TrainingError(
                f"The trained model's loss on the {name} split is {metrics.loss}: training diverged, and "
                "the result is not kept. Usual cures: a smaller rate (train.lr), train.precision=fp32."
            )
        plain = prepared.splits.task.measure(logits, items.targets).ece
        results["validation" if name == "val" else name] = metrics.to_dict() | {"ece_uncalibrated": plain}
    trained.model.cpu()
    return results, found


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


@contextlib.contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one ends the process as usual."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(*_: object) -> None:
        asked.set()
        if world_size() == 1:  # torchrun passes one Ctrl-C on several times, and kills after a while
            signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
