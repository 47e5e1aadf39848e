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
from graft.prediction import Predictions
from graft.progress import percent
from graft.steps import Calibrate, Select, Solve, Train

OUT_OF_FOLD = "training, out of fold"


def show_plan(console: Console, plan: Plan, costs: Mapping[int, Cost] | None = None) -> None:
    """The plan as a table, with what stands around it in words; ``costs`` by the phase's number."""
    data = plan.data
    console.print(
        f"[bold]Plan[/]  {escape(plan.strategy)} with {escape(plan.backbone)} "
        f"({plan.parameters:,} parameters, {len(plan.stages)} stages)"
    )
    console.print(
        f"Data  {data.train:,} to train, {data.val:,} to validate, {data.test:,} to test; "
        f"{len(plan.labels)} classes: {escape(_shorten(plan.labels))}"
    )
    console.print(plan_table(plan, costs or {}))
    if plan.adapters is not None:
        show_adapters(console, plan.adapters, plan.parameters)
    numerics = plan.numerics
    processes = f", {numerics.processes} processes" if numerics.processes > 1 else ""
    console.print(
        f"On    {numerics.device} in {numerics.precision}, {_count(numerics.threads, 'thread')}, "
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
        console.print(f"Time  about {_duration(sum(cost.seconds for cost in costs.values()))} in all")
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
        f"In all {_count(len(adapters.targets), 'layer')}, {added:,} parameters "
        f"({100 * added / parameters:.2f} % of the network), rank {settings['rank']}, "
        f"alpha {settings['alpha']}{ways}"
    )


def plan_table(plan: Plan, costs: Mapping[int, Cost]) -> Table:
    """One row for each phase: its name, what it does, and what it will take where that was measured."""
    table = Table("Phase", "What it does")
    for number, phase in enumerate(plan.phases, start=1):
        name = phase.train.name if isinstance(phase, Phase) else phase.name
        lines = [*_lines_of(phase, plan), *_cost_lines(costs.get(number))]
        table.add_row(f"{number} {escape(name)}", escape("\n".join(lines)))
    return table


def _lines_of(phase: Any, plan: Plan) -> list[str]:
    if isinstance(phase, Solve):
        return _solve_lines(phase, plan)
    if isinstance(phase, Select):
        return _select_lines(phase, plan)
    if isinstance(phase, Calibrate):
        return ["probabilities by one temperature, fitted on the validation data"]
    return _phase_lines(phase, plan)


def _cost_lines(cost: Cost | None) -> list[str]:
    if cost is None:
        return []
    how = f"measured on {cost.steps} steps" if cost.steps else "measured on one batch"
    return [f"about {_duration(cost.seconds)}, {_size(cost.bytes)} of memory ({how})"]


def _size(count: int) -> str:
    return f"{count / 2**10:,.0f} KiB" if count < 2**20 else f"{count / 2**20:,.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _select_lines(step: Select, plan: Plan) -> list[str]:
    names = ["the best epoch", "the last"]
    last = next(phase.train for phase in reversed(plan.phases) if isinstance(phase, Phase))
    if last.ema:
        names.append("the running average")
    moving = [
        number
        for number, phase in enumerate(plan.phases)
        if isinstance(phase, Phase) and phase.train.stages and phase.train.objective == "labels"
    ]
    if moving and moving[0]:  # before it, the head was solved or trained
        names.append("the start and blends with it" if step.alphas else "the start")
    if step.checkpoints > 1:
        names.append(f"the average of the best {step.checkpoints}")
    return [f"on the validation data, by {step.score}: {', '.join(names)}"]


def _solve_lines(step: Solve, plan: Plan) -> list[str]:
    head = plan.parameters - sum(stage.parameters for stage in plan.stages)
    return [
        f"solves the head: {_share(head, plan)}; every stage frozen",
        *_adaptation(step.adapt, plan),
        f"one pass of all training {'texts' if plan.takes_text else 'pictures'}, as they are",
        f"best of up to {len(step.strengths)} strengths by {step.folds}-fold cross-validation",
    ]


def _phase_lines(phase: Phase, plan: Plan) -> list[str]:
    train = phase.train
    decay = f", decay {train.weight_decay:g}" if train.weight_decay else ""
    extras = [f"{words} {value:g}" for words, value in _extras(train).items() if value]
    extras += [words for words, asked in _balances(train).items() if asked == "balanced"]
    stopping = f", stops after {train.patience} without gain" if train.patience and plan.data.val else ""
    aim = ", so that features of one label come together" if train.objective == "contrast" else ""
    return [
        *_adaptation(train.adapt, plan),
        f"trains {_trains(phase, plan)}: {_share(sum(group.count for group in phase.groups), plan)}{aim}",
        f"rates: {_rates(phase)}",
        f"{train.optimizer}{decay}, schedule {_schedule(train)}",
        *([] if plan.takes_text else [_of_pictures(train)]),
        *([f"with {', '.join(extras)}"] if extras else []),
        f"{_count(phase.steps, 'step')} ({_count(train.epochs, 'epoch')}, batches of {train.batch_size}), "
        f"{phase.warmup_steps} of warm-up{stopping}",
    ]


def _of_pictures(train: Train) -> str:
    mirrored = "" if train.flip or train.augmentation == "none" else " without mirroring"
    return f"batch-norm {_batchnorm(train)}; augmentation {train.augmentation}{mirrored}"


def _trains(phase: Phase, plan: Plan) -> str:
    stages = phase.train.stages
    head = [] if phase.train.objective == "contrast" else ["head"]
    moving = [f"all {len(stages)} stages"] if len(stages) == len(plan.stages) else []
    moving = moving or ([_shorten(stages)] if stages else [])
    if plan.adapters is not None:
        moving = [f"adapters in {which}" for which in moving]
    return ", ".join([*head, *moving])


def _rates(phase: Phase) -> str:
    """Each stage's rate from the top; stages in a row with the same one together."""
    rates = phase.train.rates
    runs: list[tuple[list[str], float]] = []
    for stage, rate in reversed(rates.stages.items()):
        if runs and runs[-1][1] == rate:
            runs[-1][0].append(stage)
        else:
            runs.append(([stage], rate))
    shown = [f"{_range(names)} {rate:.3g}" for names, rate in runs]
    head = [] if phase.train.objective == "contrast" else [f"head {rates.head:.3g}"]
    return ", ".join([*head, *shown])


def _range(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _adaptation(stages: tuple[str, ...], plan: Plan) -> list[str]:
    if not stages:
        return []
    which = "all stages" if len(stages) == len(plan.stages) else ", ".join(stages)
    return [f"first gives the batch-norms of {which} the statistics of the training pictures"]


def _schedule(train: Train) -> str:
    if train.schedule == "step":
        return f"step (times {train.drop_factor:g} every {train.drop_epochs} epochs)"
    return train.schedule


def _batchnorm(train: Train) -> str:
    if isinstance(train.batchnorm, str):
        return train.batchnorm
    return ", ".join(f"{mode} in {stage}" for stage, mode in train.batchnorm.items())


def _extras(train: Train) -> dict[str, float]:
    return {
        "label smoothing": train.label_smoothing,
        "focal loss": train.focal,
        "MixUp": train.mixup,
        "CutMix": train.cutmix,
        "stochastic depth": train.drop_path or 0.0,
        "L2-SP": train.l2sp,
        "running average": train.ema,
    }


def _balances(train: Train) -> dict[str, str]:
    return {"balanced loss": train.class_weights, "balanced sampling": train.sampling}


def _share(count: int, plan: Plan) -> str:
    return f"{count:,} parameters ({100 * count / plan.parameters:.1f} %)"


def _shorten(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    more = f" … ({len(names)})" if len(names) > most else ""
    return ", ".join(names[:most]) + more


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


def finding_lines(findings: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What the doctor found in the course of training, a line each."""
    for each in findings:
        yield f"Doctor  {each['id']}: {each['measured']}. {each['why']} {each['cure']}"


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
    several = any("mean_average_precision" in found for _, metrics in rows for _, found in _scores(metrics))
    score = "Mean AP" if several else "Accuracy"
    table = Table("Model", "Measured on", "Items", score, "Loss", "Seconds")
    for name, metrics in rows:
        seconds = f"{metrics['seconds']:.1f}" if "seconds" in metrics else ""
        for place, found in _scores(metrics):
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
    return percent(start["accuracy"]), f"{start['loss']:.3f}"


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


def kept_lines(metrics: dict[str, Any]) -> Iterator[str]:
    """Whose weights were kept after each phase, what was chosen in the end, and by how much."""
    ends, selected = list(metrics.get("phases", ())), metrics.get("selected")
    for end in ends[:-1] if selected else ends:
        yield f"Kept  {end['phase']}: {_kept_epoch(end)}"
    if selected:
        yield f"Kept  {ends[-1]['phase']}: {_chosen(selected, ends[-1])}"
    if ends and not any(place != OUT_OF_FOLD for place, _ in _scores(metrics)):
        yield (
            "Unmeasured  every label trained, so none is left to tell how good the result is; measure it "
            "on others: graft evaluate RUN FOLDER"
        )
    found = metrics.get("calibrated")
    if found:
        yield (
            f"Calibrated  temperature {found['temperature']:.2f}: calibration error on {found['n']} "
            f"validation items {percent(found['error_before'])}, now {percent(found['error_after'])}"
        )


def _kept_epoch(end: dict[str, Any]) -> str:
    kept, epochs = end["kept_epoch"], end["epochs"]
    if end.get("kept") == "average":
        return f"the running average of the weights over {_count(epochs, 'epoch')}"
    if kept is None and end["phase"] == "contrast":
        return f"the last of {_count(epochs, 'epoch')}, before there was a head to judge by"
    if kept is None:
        return f"the last of {_count(epochs, 'epoch')}, for there was no validation data"
    if kept == 0:
        return f"the start, for no epoch of {epochs} was better on the validation data"
    return f"epoch {kept} of {epochs}, the best on the validation data"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _chosen(selected: dict[str, Any], end: dict[str, Any]) -> str:
    """The winner of the choice, with its lead over the best epoch, or why that was kept."""
    winner, candidates = selected["winner"], selected["candidates"]
    if winner == "best":
        others = len(candidates) - 1
        return f"{_kept_epoch(end)}; none of {others} other candidates was better by a standard error"
    found = candidates[winner]
    what = "loss" if selected["by"] == "loss" else "share of wrong decisions"
    return (
        f"the candidate {winner!r}: its {what} on the validation data is {found['gain']:.3g} ± "
        f"{found['gain_error']:.2g} lower than that of the best epoch "
        f"({selected['best_epoch']} of {end['epochs']})"
    )


def _scores(metrics: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    names = {
        "probe": OUT_OF_FOLD,
        "validation": "validation",
        "test": "test",
    }
    for key, name in names.items():
        if metrics.get(key, {}).get("accuracy") is not None:
            yield name, metrics[key]


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
            table.add_row(escape(row.id), "[red]unreadable[/]", "", escape(row.error or ""))
            continue
        ranked = sorted(row.probabilities.items(), key=lambda entry: -entry[1])
        chosen = (row.labels or ()) if several else (ranked[0][0],)
        first = [(label, share) for label, share in ranked if label in chosen]
        rest = [(label, share) for label, share in ranked if label not in chosen]
        others = ", ".join(f"{label} {percent(share)}" for label, share in rest[: most - 1])
        names = ", ".join(label for label, _ in first) or "none"
        table.add_row(
            escape(row.id), escape(names), ", ".join(percent(share) for _, share in first), escape(others)
        )
    return table
