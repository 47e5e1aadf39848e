"""Comparisons and changes as a person sees them in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from graft.changes import StageChange
from graft.comparing import Outcome, Row, gaps_to_leader, rows_of
from graft.progress import percent
from graft.wording import duration, size_of

UNSURE = 0.05  # p from which on a difference may be chance


def rows_table(outcomes: Sequence[Outcome]) -> Iterator[Table]:
    """One table for each number of labels, the best candidate first."""
    rows = rows_of(outcomes)
    for labels in sorted({row.labels for row in rows}):
        table = Table(title=f"{labels:,} labels", title_justify="left")
        table.add_column("Candidate")
        for name in ("Score", "95 % interval", "Seeds", "Steps", "Seconds", "Trained", "Memory"):
            table.add_column(name, justify="right")
        for row in (row for row in rows if row.labels == labels):
            table.add_row(*map(escape, cells_of(row)))
        yield table


def cells_of(row: Row) -> list[str]:
    """A row of the table, as text."""
    return [
        row.candidate,
        percent(row.score.mean),
        f"{percent(row.score.low)} to {percent(row.score.high)}",
        str(row.seeds),
        f"{row.steps:,}",
        duration(row.seconds),
        f"{row.parameters:,} ({percent(row.parameters / row.whole)})",
        "" if row.memory is None else size_of(row.memory),
    ]


def pair_lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Whether the leader of each number of labels is really ahead of the next."""
    for labels in sorted({each.labels for each in outcomes}):
        for first, other, pair in gaps_to_leader(outcomes, labels):
            sure = "chance explains it badly" if pair.p < UNSURE else "which may be chance"
            yield (
                f"{labels:,} labels: {first} is {100 * pair.gain:.1f} ± {100 * pair.error:.1f} points "
                f"ahead of {other} on the same items (p = {pair.p:.2g}: {sure})"
            )


def changes_table(found: Sequence[StageChange]) -> Table:
    """What became of each stage."""
    table = Table("Stage")
    names = {"weights": "Weights moved", "shift": "Norm means moved", "spread": "Norm deviations times"}
    seen = {
        name: title for name, title in names.items() if any(getattr(c, name) is not None for c in found)
    }
    for title in ("Parameters", *seen.values()):
        table.add_column(title, justify="right")
    table.add_column("Moved most")
    for each in found:
        cells = {"weights": f"{100 * each.weights:.3g} %", "shift": _number(each.shift),
                 "spread": _number(each.spread)}  # fmt: skip
        shown = [cells[name] for name in seen]
        table.add_row(escape(each.stage), f"{each.parameters:,}", *shown, escape(each.largest or ""))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
