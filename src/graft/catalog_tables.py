"""Backbones in the terminal: the list to choose from, and what one consists of."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graft.backbones.catalog import Description, ModelInfo, Part
from graft.backbones.contract import Encoding, Intake


def models_table(models: Sequence[ModelInfo]) -> Table:
    """One row a model, with what is known of it; the default weights come first."""
    table = Table()
    table.add_column("Backbone", no_wrap=True)  # a name that is cut is no use
    for title in ("Parameters", "GMACs", "Input", "Top-1 %", "MB"):
        table.add_column(title, justify="right")
    table.add_column("Licence", overflow="fold")
    table.add_column("Weights (default first)", overflow="fold")
    for model in models:
        table.add_row(
            escape(model.id),
            _millions(model.parameters),
            _number(model.gmacs, 2),
            "×".join(map(str, model.input_size)),
            _number(model.accuracy, 1),
            _number(model.megabytes, 0),
            escape(model.licence or "?"),
            escape(", ".join(model.weights) or "random only"),
        )
    table.caption = f"{len(models)} backbones; ? is not known"
    return table


def show_description(console: Console, found: Description) -> None:
    """Children, stages and preprocessing of a backbone."""
    console.print(
        f"[bold]{escape(found.id)}[/]  {found.parameters:,} parameters, {found.feature_dim} features; "
        f"head was {escape(found.head or 'nowhere')}, {found.labels or '?'} classes"
    )
    console.print(f"Licence  {escape(found.licence or '?')}; top-1 {_number(found.accuracy, 1)} %")
    if found.average:
        console.print(f"Weights  the average that the file calls {escape(found.average)}, not the raw ones")
    console.print(_parts("Child", "Class", found.children, found.parameters))
    console.print(_parts("Stage, input to top", "Begins at", found.stages, found.parameters))
    for name in found.unused[:5]:
        console.print(f"Unused   {escape(name)}")
    console.print(_intake(found.preprocess))


def _intake(how: Intake) -> str:
    """How items become inputs, in one line."""
    if isinstance(how, Encoding):
        return f"Texts    up to {how.max_length} tokens of {how.vocabulary:,}"
    return (
        f"Pictures resize {how.resize}, centre crop {how.size}, {how.interpolation}; "
        f"mean {_values(how.mean)}, deviation {_values(how.std)}"
    )


def _parts(title: str, kind: str, parts: Sequence[Part], total: int) -> Table:
    table = Table(title, kind, "Parameters", "%")
    for part in parts:
        share = f"{100 * part.parameters / max(1, total):.1f}"
        table.add_row(escape(part.name), escape(part.kind), f"{part.parameters:,}", share)
    return table


def _millions(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e6:.1f} M"


def _number(value: float | None, digits: int) -> str:
    return "?" if value is None else f"{value:.{digits}f}"


def _values(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
