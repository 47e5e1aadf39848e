"""The page of a comparison, from its folder alone: also of one that is still going on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graft.bundle import provenance
from graft.comparing import (
    Asked,
    Outcome,
    Row,
    cells,
    file_name,
    gaps_to_leader,
    read_outcomes,
    rows_of,
    run_name,
)
from graft.comparison_table import UNSURE, cells_of, pair_lines
from graft.files import write_text
from graft.progress import percent
from graft.recipe import make_recipe
from graft.reporting import charts
from graft.reporting.drawing import shorten
from graft.reporting.drawn import Drawn, chart, write_files
from graft.reporting.pages import PAGE, REFRESH, Sheet, Tile, render
from graft.reporting.story import FOLDER

_HEADER = ("candidate", "score", "95 % interval", "seeds", "steps", "time", "trained", "memory")


def write_comparison(folder: Path) -> Path:
    """``report.html`` in the comparison's folder, its charts as files, and each candidate's recipe.

    Raises:
        RunError: it is not a comparison.
    """
    asked, outcomes = read_outcomes(folder)
    rows = rows_of(outcomes)
    drawn = list(_charts(rows)) if rows else []
    write_files(drawn, folder / FOLDER)
    for each in asked.candidates:
        file = folder / FOLDER / f"{file_name(asked, each)}.toml"
        write_text(file, make_recipe(each.recipe).to_toml())
    page = folder / PAGE
    write_text(page, render("comparison.html", charts=drawn, **_values(folder, asked, outcomes, rows)))
    return page


def _values(folder: Path, asked: Asked, outcomes: list[Outcome], rows: list[Row]) -> dict[str, Any]:
    whole = len(asked.seeds) * max(1, len(asked.labels)) * len(asked.candidates)
    finished = len(outcomes) == whole
    sizes = sorted({row.labels for row in rows})
    return {
        "title": f"graft: {shorten(asked.data, 60)} compared",
        "heading": shorten(Path(asked.data).name or asked.data, 80),
        "subtitle": f"{len(asked.candidates)} candidates, {len(asked.seeds)} seeds",
        "refresh": None if finished else REFRESH,
        "finished": finished,
        "tiles_found": list(_tiles(outcomes, rows, whole)),
        "lines": list(pair_lines(outcomes)),
        "sheets": [
            (labels, Sheet(_HEADER, [tuple(cells_of(row)) for row in rows if row.labels == labels]))
            for labels in sizes
        ],
        "runs": list(_runs(folder, asked)),
        "command": asked.command,
        "candidates": [(each.name, make_recipe(each.recipe).to_toml()) for each in asked.candidates],
        "provenance": list(provenance().items()),
    }


def _tiles(outcomes: list[Outcome], rows: list[Row], whole: int) -> Iterator[Tile]:
    yield Tile("runs", f"{len(outcomes)}", f"of {whole}")
    if outcomes:
        yield Tile("test items", f"{outcomes[0].items:,}", "the same for all")
    for labels in sorted({row.labels for row in rows}):
        best = next(row for row in rows if row.labels == labels)
        yield Tile(f"best of {labels:,} labels", percent(best.score.mean), shorten(best.candidate, 40))
        ahead = gaps_to_leader(outcomes, labels, most=1)
        if ahead:
            _, other, pair = ahead[0]
            sure = "" if pair.p < UNSURE else "; may be chance"
            behind = f"± {100 * pair.error:.1f}, of {shorten(other, 40)}{sure}"
            yield Tile("ahead by", f"{100 * pair.gain:.1f} points", behind)


def _charts(rows: list[Row]) -> Iterator[Drawn]:
    sizes = sorted({row.labels for row in rows})
    last = [row for row in rows if row.labels == sizes[-1]]
    yield chart(
        "scores",
        f"Score with {sizes[-1]:,} labels",
        charts.results([charts.Bar(row.candidate, *row.score) for row in last], "Score on the test items"),
        "The mean over seeds, and where the true one lies with 95 % confidence: runs vary with their "
        "seed, and another set of test items would give another score.",
        ("candidate", "score", "low", "high"),
        [(row.candidate, *row.score) for row in last],
    )
    yield chart(
        "time",
        "What it takes",
        charts.trade({row.candidate: (row.seconds, row.score.mean) for row in last}, "seconds", "score"),
        "Up and to the left is better. What frozen stages make of the items is computed once for all: the "
        "first candidate that needs it waits for it.",
        ("candidate", "seconds", "score"),
        [(row.candidate, row.seconds, row.score.mean) for row in last],
    )
    yield chart(
        "parameters",
        "How much it trains",
        charts.trade(
            {row.candidate: (float(row.parameters), row.score.mean) for row in last},
            "parameters trained",
            "score",
        ),
        "Fewer trained parameters make a smaller thing to keep for each task.",
        ("candidate", "parameters", "score"),
        [(row.candidate, row.parameters, row.score.mean) for row in last],
    )
    if len(sizes) > 1:
        names = dict.fromkeys(row.candidate for row in last)
        series = {
            name: [(row.labels, *row.score) for row in rows if row.candidate == name] for name in names
        }
        yield chart(
            "labels",
            "With more labels",
            charts.label_curves(series),
            "Where lines cross, another strategy is the better one from that many labels on.",
            ("candidate", "labels", "score", "low", "high"),
            [(name, *point) for name, points in series.items() for point in points],
        )


def _runs(folder: Path, asked: Asked) -> Iterator[tuple[str, str]]:
    """Each run that has a page of its own, and where that is."""
    for cell in cells(asked):
        place = f"runs/{run_name(asked, cell)}/{PAGE}"
        if (folder / place).is_file():
            yield cell.title, place
