"""What a person sees in the terminal: plan and results, as tables.

Names from data are shown as text, never as markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graft.data.items import Problem
from graft.plan import Phase, Plan
from graft.prediction import Predictions
from graft.progress import percent
from graft.steps import Solve

OUT_OF_FOLD = "training, out of fold"


def show_plan(console: Console, plan: Plan) -> None:
    """The plan as a table, with what stands around it in words."""
    data = plan.data
    console.print(
        f"[bold]Plan[/]  {escape(plan.strategy)} with {escape(plan.backbone)} "
        f"({plan.parameters:,} parameters, {len(plan.stages)} stages)"
    )
    console.print(
        f"Data  {data.train:,} to train, {data.val:,} to validate, {data.test:,} to test; "
        f"{len(plan.labels)} classes: {escape(_shorten(plan.labels))}"
    )
    console.print(plan_table(plan))
    numerics = plan.numerics
    processes = f", {numerics.processes} processes" if numerics.processes > 1 else ""
    console.print(
        f"On    {numerics.device} in {numerics.precision}, {numerics.threads} threads, "
        f"{numerics.workers} decoding workers{processes}; seed {plan.seed}"
    )
    for note in plan.notes:
        console.print(f"Note  {escape(note)}")


def plan_table(plan: Plan) -> Table:
    """One row for each phase: its name, and what it does in lines."""
    table = Table("Phase", "What it does")
    for number, phase in enumerate(plan.phases, start=1):
        name = phase.name if isinstance(phase, Solve) else phase.train.name
        lines = _solve_lines(phase, plan) if isinstance(phase, Solve) else _phase_lines(phase, plan)
        table.add_row(f"{number} {escape(name)}", escape("\n".join(lines)))
    return table


def _solve_lines(step: Solve, plan: Plan) -> list[str]:
    head = plan.parameters - sum(stage.parameters for stage in plan.stages)
    return [
        f"solves the head: {_share(head, plan)}; every stage frozen",
        "one pass of all training pictures, as they are",
        f"best of {len(step.strengths)} strengths by {step.folds}-fold cross-validation",
    ]


def _phase_lines(phase: Phase, plan: Plan) -> list[str]:
    train = phase.train
    decay = f", decay {train.weight_decay:g}" if train.weight_decay else ""
    extras = f", label smoothing {train.label_smoothing:g}" if train.label_smoothing else ""
    stopping = f", stops after {train.patience} without gain" if train.patience else ""
    return [
        f"trains {_trains(phase, plan)}: {_share(sum(group.count for group in phase.groups), plan)}",
        f"rates: {_rates(phase)}; {train.optimizer}{decay}, {train.schedule}",
        f"batch-norm {train.batchnorm}, augmentation {train.augmentation}{extras}",
        f"{phase.steps:,} steps ({train.epochs} epochs, batches of {train.batch_size}), "
        f"{phase.warmup_steps} of warm-up{stopping}",
    ]


def _trains(phase: Phase, plan: Plan) -> str:
    stages = phase.train.stages
    if not stages:
        return "head"
    if len(stages) == len(plan.stages):
        return f"head, all {len(stages)} stages"
    return f"head, {_shorten(stages)}"


def _rates(phase: Phase) -> str:
    rates = phase.train.rates
    if not phase.train.stages:
        return f"head {rates.head:g}"
    body = f"{rates.top:g}" if rates.lowest == rates.top else f"{rates.lowest:g} … {rates.top:g}"
    return f"head {rates.head:g}, stages {body}"


def _share(count: int, plan: Plan) -> str:
    return f"{count:,} parameters ({100 * count / plan.parameters:.1f} %)"


def _shorten(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    more = f" … ({len(names)})" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def show_problems(console: Console, problems: Iterable[Problem]) -> None:
    """What was odd about the data, each with its count and examples."""
    for problem in problems:
        console.print(f"[yellow]Data[/]  {escape(str(problem))}")


def result_table(rows: Iterable[tuple[str, dict[str, Any]]]) -> Table:
    """Named results beside each other: where each number was measured, and how good it is."""
    table = Table("Model", "Measured on", "Items", "Accuracy", "Loss", "Seconds")
    for name, metrics in rows:
        seconds = f"{metrics['seconds']:.1f}" if "seconds" in metrics else ""
        for place, found in _scores(metrics):
            if place == OUT_OF_FOLD:
                table.add_row(
                    "solved head", place, "", percent(found["accuracy"]), f"{found['loss']:.3f}", ""
                )
                continue
            items = f"{found['n']:,}" if "n" in found else ""
            accuracy, loss = percent(found["accuracy"]), f"{found['loss']:.3f}"
            table.add_row(escape(name), place, items, accuracy, loss, seconds)
            name = seconds = ""
    return table


def kept_lines(metrics: dict[str, Any]) -> Iterator[str]:
    """For each phase of gradient steps, whose weights were kept."""
    for end in metrics.get("phases", ()):
        kept, epochs = end["kept_epoch"], end["epochs"]
        if kept is None:
            which = f"the last of {epochs} epochs, for there was no validation data"
        elif kept == 0:
            which = f"the start: none of {epochs} epochs was better on the validation data"
        else:
            which = f"epoch {kept} of {epochs}, the best on the validation data"
        yield f"Kept  {end['phase']}: {which}"


def _scores(metrics: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    names = {
        "probe": OUT_OF_FOLD,
        "validation": "validation",
        "test": "test",
    }
    for key, name in names.items():
        if metrics.get(key, {}).get("accuracy") is not None:
            yield name, metrics[key]


def metrics_tables(metrics: dict[str, Any]) -> Iterator[Table]:
    """Of one evaluation: the totals, then every class, the worst first."""
    totals = Table("Items", "Accuracy", "Balanced", "Loss")
    totals.add_row(
        f"{metrics['n']:,}",
        percent(metrics["accuracy"]),
        percent(metrics["balanced_accuracy"]),
        f"{metrics['loss']:.3f}",
    )
    yield totals
    table = Table("Class, worst first", "Items", "Precision", "Recall", "F1")
    for label, found in sorted(metrics["per_class"].items(), key=lambda entry: entry[1]["f1"]):
        shares = [percent(found[key]) for key in ("precision", "recall", "f1")]
        table.add_row(escape(label), f"{found['n']:,}", *shares)
    yield table


def prediction_table(predictions: Predictions, most: int = 3) -> Table:
    """Each picture with its most probable labels."""
    table = Table("Picture", "Label", "Probability", "Next, or why it cannot be read")
    for row in predictions:
        if row.probabilities is None:
            table.add_row(escape(row.id), "[red]unreadable[/]", "", escape(row.error or ""))
            continue
        ranked = sorted(row.probabilities.items(), key=lambda entry: -entry[1])
        others = ", ".join(f"{label} {percent(share)}" for label, share in ranked[1:most])
        label, share = ranked[0]
        table.add_row(escape(row.id), escape(label), percent(share), escape(others))
    return table
