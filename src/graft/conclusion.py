"""What is done after training: the network measured, looked back on, saved and reported."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graft.adapters import merge, merged
from graft.bundle import Bundle, load_bundle, make_bundle
from graft.calibration import calibrated_task
from graft.data.inputs import open_inputs
from graft.data.scan import Progress
from graft.diagnosis.findings import Finding
from graft.diagnosis.from_nothing import check_worth
from graft.errors import TrainingError
from graft.files import write_json
from graft.inference import forward_all
from graft.numerics import resolve_device
from graft.plan import Phase
from graft.preparation import Prepared, prepare_again
from graft.reporting import sparing, write_report
from graft.runs import Run, open_run
from graft.state import Trained
from graft.task import Task

if TYPE_CHECKING:
    from graft.reporting.details import Details


def conclude(prepared: Prepared, trained: Trained, run: Run | None, *, report: bool) -> Bundle:
    """Measure what came out, and save it."""
    task = calibrated_task(prepared.splits.task, trained.calibrated)
    whole = prepared.recipe.adapters.bundle == "merged"
    if whole and prepared.backbone.adapters is not None:
        merge(trained.model.trunk)
    metrics, logits = evaluate_trained(prepared, trained, task)
    bundle = make_bundle(
        trained.model,
        task,
        prepared.plan.make_head(),
        replace(prepared.backbone, adapters=None) if whole else prepared.backbone,
        plan=json.loads(prepared.plan.to_json()),
        metrics=metrics,
        tta=prepared.plan.tta,
    )
    if run is None:
        return bundle
    with sparing(run, "What would need no pretraining"):
        for finding in _doubts_on(prepared, task, logits):
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


def _doubts_on(
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
