"""What a person sees in the terminal: plan and results, as tables.

Names from data are shown as text, never as markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graft.backbones.contract import Adapters, Target
from graft.costs import Cost
from graft.data.items import Problem, Text, display
from graft.diagnosis.findings import Finding
from graft.plan import Phase, Plan
from graft.prediction import Prediction, Predictions
from graft.progress import percent
from graft.wording import OUT_OF_FOLD, count_of, duration, name_some, phase_lines, scores_of, size_of


def show_plan(console: Console, plan: Plan, costs: Mapping[int, Cost] | None = None) -> None:
    """The plan as a table, with what stands around it in words; ``costs`` by the phase's number."""
    data = plan.data
    console.print(
        f"[bold]Plan[/]  {escape(plan.strategy)} with {escape(plan.backbone)} "
        f"({plan.parameters:,} parameters, {len(plan.stages)} stages)"
    )
    console.print(
        f"Data  {data.train:,} to train, {data.val:,} to validate, {data.test:,} to test; "
        f"{len(plan.labels)} classes: {escape(name_some(plan.labels))}"
    )
    console.print(plan_table(plan, costs or {}))
    if plan.adapters is not None:
        show_adapters(console, plan.adapters, plan.parameters)
    numerics = plan.numerics
    processes = f", {numerics.processes} processes" if numerics.processes > 1 else ""
    console.print(
        f"On    {numerics.device} in {numerics.precision}, {count_of(numerics.threads, 'thread')}, "
        f"{numerics.workers} decoding workers{processes}; seed {plan.seed}"
    )
    if plan.tta != "none":
        views = {
            "flip": "its mirror image",
            "zoom": "its middle",
            "flip+zoom": "its middle, both mirrored too",
        }
        console.print(f"Views  a prediction is the mean over the picture and {views[plan.tta]}")
    if costs:
        console.print(f"Time  about {duration(sum(cost.seconds for cost in costs.values()))} in all")
    for note in plan.notes:
        console.print(f"Note  {escape(note)}")


def show_adapters(console: Console, adapters: Adapters, parameters: int) -> None:
    """Every layer with an adapter and what that adds; layers that differ by a number alone as one row."""
    settings = adapters.settings
    table = Table("Adapters around", "Weight")
    for head in ("Added", "Fewer"):
        table.add_column(head, justify="right")
    alike: dict[tuple[str, tuple[int, ...]], list[Target]] = {}
    for target in adapters.targets:
        alike.setdefault((re.sub(r"\d+", "*", target.name), target.shape), []).append(target)
    for (pattern, shape), targets in alike.items():
        first, count = targets[0], len(targets)
        name = f"{pattern} ({count} of them)" if count > 1 else first.name
        each = " each" if count > 1 else ""
        weight = "×".join(map(str, shape))
        table.add_row(escape(name), weight, f"{first.parameters:,}{each}", f"{first.fewer:.0f}×")
    added = sum(target.parameters for target in adapters.targets)
    console.print(table)
    extra = [name for name in ("dora", "rslora") if settings[name]]
    ways = "".join(f", {name}" for name in extra)
    ways += f", dropout {settings['dropout']:g}" if settings["dropout"] else ""
    ways += f", biases of {settings['bias']}" if settings["bias"] != "none" else ""
    ways += ", frozen weights in 4 bits" if settings["quantize"] != "none" else ""
    console.print(
        f"In all {count_of(len(adapters.targets), 'layer')}, {added:,} parameters "
        f"({100 * added / parameters:.2f} % of the network), rank {settings['rank']}, "
        f"alpha {settings['alpha']}{ways}"
    )


def plan_table(plan: Plan, costs: Mapping[int, Cost]) -> Table:
    """One row for each phase: its name, what it does, and what it will take where that was measured."""
    table = Table("Phase", "What it does")
    for number, phase in enumerate(plan.phases, start=1):
        name = phase.train.name if isinstance(phase, Phase) else phase.name
        lines = [*phase_lines(phase, plan), *_cost_lines(costs.get(number))]
        table.add_row(f"{number} {escape(name)}", escape("\n".join(lines)))
    return table


def _cost_lines(cost: Cost | None) -> list[str]:
    if cost is None:
        return []
    how = f"measured on {cost.steps} steps" if cost.steps else "measured on one batch"
    return [f"about {duration(cost.seconds)}, {size_of(cost.bytes)} of memory ({how})"]


def strategies_table(strategies: Mapping[str, str]) -> Table:
    """Names of strategies and what they do."""
    table = Table("Strategy", "What it does")
    for name, words in strategies.items():
        table.add_row(escape(name), escape(words))
    return table


def show_problems(console: Console, problems: Iterable[Problem]) -> None:
    """What was odd about the data, each with its count and examples."""
    for problem in problems:
        console.print(f"[yellow]Data[/]  {escape(str(problem))}")


def show_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Each finding with what was measured, why it matters, what to do and some examples."""
    colours = {"error": "red", "warning": "yellow", "note": "cyan"}
    for each in findings:
        console.print(f"[{colours[each.severity]}]{each.severity}[/] [bold]{escape(each.id)}[/]")
        console.print(f"  {escape(each.measured)}. {escape(each.why)}")
        console.print(f"  Cure: {escape(each.cure)}")
        for example in each.examples:
            console.print(f"    {escape(example)}", soft_wrap=True)
    if not findings:
        console.print("Nothing wrong was found.")


def result_table(rows: Iterable[tuple[str, dict[str, Any]]]) -> Table:
    """Named results beside each other: where each number was measured, and how good it is.

    Of multi-label results the score is the mean average precision, of others the accuracy.
    """
    rows = list(rows)
    several = any(
        "mean_average_precision" in found for _, metrics in rows for _, found in scores_of(metrics)
    )
    score = "Mean AP" if several else "Accuracy"
    table = Table("Model", "Measured on", "Items", score, "Loss", "Seconds")
    for name, metrics in rows:
        seconds = f"{metrics['seconds']:.1f}" if "seconds" in metrics else ""
        for place, found in scores_of(metrics):
            reached, loss = percent(_score(found)), f"{found['loss']:.3f}"
            if place == OUT_OF_FOLD:
                table.add_row("solved head", place, "", reached, loss, "")
                continue
            items = f"{found['n']:,}" if "n" in found else ""
            start = _start(metrics) if place == "validation" else None
            if start is not None:
                table.add_row("before training", place, items, *start, "")
            table.add_row(escape(name), place, items, reached, loss, seconds)
            name = seconds = ""
    return table


def _start(metrics: dict[str, Any]) -> tuple[str, str] | None:
    """Score and loss of what training began with, where that was a candidate of the choice."""
    start = ((metrics.get("selected") or {}).get("candidates") or {}).get("start")
    if not start or start["loss"] is None:
        return None
    # The loss of the result is that of calibrated probabilities, beside which this one would mislead.
    return percent(start["accuracy"]), "" if metrics.get("calibrated") else f"{start['loss']:.3f}"


def neighbours_table(query: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """The items nearest to a query, best first; of texts, as much as a line holds."""
    table = Table()
    table.add_column(_one_line(str(Text(query))), overflow="fold")
    table.add_column("Cosine", no_wrap=True)
    if rows and "text" in rows[0]:
        table.add_column("Text")
    for row in rows:
        said = [_one_line(str(Text(row["text"])))] if "text" in row else []
        table.add_row(escape(row["id"]), f"{row['cosine']:.3f}", *said)
    return table


def _one_line(text: str) -> str:
    """Text that may be of anybody, without what would move a terminal's cursor."""
    return escape(display(" ".join(text.split())))


def _score(found: dict[str, Any]) -> float:
    """The headline of one place; of a solved head ``accuracy`` is the task's own score."""
    return float(found.get("mean_average_precision", found["accuracy"]))


_TOTALS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced",
    "mean_average_precision": "Mean AP",
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "ece": "Calibration error",
}
_SHARES = {
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "average_precision": "Average precision",
}


def metrics_tables(metrics: dict[str, Any]) -> Iterator[Table]:
    """Of one evaluation: the totals, then every class, the worst first."""
    several = "mean_average_precision" in metrics
    names = {key: name for key, name in _TOTALS.items() if key in metrics}
    if several:
        names["accuracy"] = "All labels right"
    totals = Table("Items", *names.values(), "Loss")
    totals.add_row(f"{metrics['n']:,}", *(percent(metrics[key]) for key in names), f"{metrics['loss']:.3f}")
    yield totals
    shown = {key: name for key, name in _SHARES.items() if several or key != "average_precision"}
    table = Table("Label, worst first" if several else "Class, worst first", "Items", *shown.values())
    for label, found in sorted(metrics["per_class"].items(), key=lambda entry: entry[1]["f1"]):
        table.add_row(escape(label), f"{found['n']:,}", *(percent(found[key]) for key in shown))
    yield table


def prediction_table(predictions: Predictions, most: int = 3) -> Table:
    """Each picture with what was decided, and the next most probable labels."""
    several = predictions.kind == "multi-label"
    decided = "Labels" if several else "Label"
    table = Table("Item", decided, "Probability", "Next, or why it cannot be read")
    for row in predictions:
        if row.probabilities is None:
            table.add_row(_item_cell(row), "[red]unreadable[/]", "", escape(row.error or ""))
            continue
        ranked = sorted(row.probabilities.items(), key=lambda entry: -entry[1])
        chosen = (row.labels or ()) if several else (ranked[0][0],)
        first = [(label, share) for label, share in ranked if label in chosen]
        rest = [(label, share) for label, share in ranked if label not in chosen]
        others = ", ".join(f"{label} {percent(share)}" for label, share in rest[: most - 1])
        names = ", ".join(label for label, _ in first) or "none"
        table.add_row(
            _item_cell(row), escape(names), ", ".join(percent(share) for _, share in first), escape(others)
        )
    return table


def _item_cell(row: Prediction) -> str:
    """What a row is called; of a line of texts also how it begins."""
    begins = "" if row.text is None else _one_line(str(Text(row.text)))
    return escape(row.id) if begins in ("", escape(row.id)) else f"{escape(row.id)}: {begins}"
