"""Pages: one HTML file each that needs nothing else, no script among them.

Whatever comes from data is escaped by jinja2, shown without what cannot be printed, and cut where it is
long; a policy in the page forbids scripts and everything from elsewhere.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from graft.files import write_text
from graft.plan import Phase
from graft.progress import percent
from graft.reporting import run_charts
from graft.reporting.drawing import shorten
from graft.reporting.drawn import write_files
from graft.reporting.story import FOLDER, Story
from graft.system.escaping import printable
from graft.wording import count_of, duration, kept_lines, phase_lines

PAGE = "report.html"
RECIPE = "recipe.toml"
REFRESH = 20  # seconds after which a page of a run that goes on is loaded anew
_LOOKS = "Beside each, where the network looks: bright places speak for the decision (Grad-CAM's way)."
_WORDS = "Blue words speak for the decision, orange ones against it (gradient times embedding)."


class Tile(NamedTuple):
    """A number that stands on top of a page."""

    name: str
    value: str
    note: str = ""


class Sheet(NamedTuple):
    """A table: the first column holds names."""

    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def write_run_page(story: Story) -> Path:
    """``report.html`` in the run's folder; once the run has ended, its charts as files too."""
    charts = {
        "plan_charts": list(run_charts.plan_charts(story)),
        "course_charts": list(run_charts.course_charts(story)),
        "result_charts": list(run_charts.result_charts(story, story.details)) if story.details else [],
        "network_charts": list(run_charts.network_charts(story, story.details)) if story.details else [],
    }
    if story.result is not None:
        write_files([each for group in charts.values() for each in group], story.folder / FOLDER)
        write_text(story.folder / FOLDER / RECIPE, story.recipe.to_toml())
    page = story.folder / PAGE
    write_text(page, render("run.html", **_run_values(story), **charts))
    return page


def render(template: str, **values: Any) -> str:
    """A page's text."""
    return _pages().get_template(template).render(**values)


@cache
def _pages() -> Environment:
    pages = Environment(
        loader=PackageLoader("graft.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_as_shown,
    )
    pages.filters |= {"percent": percent, "shown": shorten, "cell": show_cell}
    return pages


def _as_shown(value: Any) -> Any:
    """What a page shows of a value: text that cannot act; charts, which are markup, stay markup."""
    return type(value)(printable(value)) if isinstance(value, str) else value


def show_cell(value: Any) -> str:
    """A value in a table: shares and lengths to three digits, names cut."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return shorten(str(value), 160)


def score_interval(share: float, n: int) -> tuple[float, float]:
    """Where the true share lies with 95 % confidence, of ``n`` items (Wilson, 1927)."""
    z = 1.96
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))  # but for rounding


def _run_values(story: Story) -> dict[str, Any]:
    plan, result = story.plan, story.result
    finished = result is not None
    names = story.recipe.data.path or "arrays"
    sheet = class_sheet(story.measured) if story.measured else None
    phases = [
        (phase.train.name if isinstance(phase, Phase) else phase.name, phase_lines(phase, plan))
        for phase in plan.phases
    ]
    return {
        "title": f"graft: {shorten(names, 60)}",
        "heading": shorten(Path(names).name or names, 80),
        "subtitle": f"{plan.strategy} with {plan.backbone}, seed {plan.seed}",
        "refresh": None if finished else REFRESH,
        "finished": finished,
        "contents": list(_contents(story)),
        "tiles_found": list(_tiles(story)),
        "kept": list(kept_lines(result)) if result else [],
        "findings": story.findings,
        "phases": phases,
        "notes": plan.notes,
        "classes": sheet,
        "multi_label": story.multi_label,
        "details": story.details,
        "looks": _WORDS if plan.takes_text else _LOOKS,
        "texts": plan.takes_text,
        "data": _data_sheet(story),
        "problems": story.problems,
        "fingerprint": plan.data.fingerprint,
        "command": f"graft train --recipe {shlex.quote(str((story.folder / FOLDER / RECIPE).absolute()))}"
        if story.comparison is None
        else f"graft compare (see {story.comparison / PAGE})",
        "recipe_file": RECIPE,
        "recipe": story.recipe.to_toml(),
        "provenance": list(_provenance(story)),
    }


def _contents(story: Story) -> Iterator[tuple[str, str]]:
    details = story.details
    if story.findings:
        yield "doctor", "Doctor"
    yield "plan", "Plan"
    if any(record["record"] in ("stepped", "validated") for record in story.log):
        yield "course", "Course"
    if story.measured:
        yield "classes", "Classes"
    if details is not None and details.wrong:
        yield "wrong", "Wrong"
    if details is not None and details.unsure:
        yield "unsure", "Unsure"
    if details is not None and (details.changes or details.map):
        yield "network", "Network"
    yield from (("data", "Data"), ("provenance", "Again"))


def _tiles(story: Story) -> Iterator[Tile]:
    result = story.result
    if result is None:
        done = sum(record["record"] == "stepped" for record in story.log)
        whole = sum(phase.steps for phase in story.plan.phases if isinstance(phase, Phase))
        yield Tile("steps", f"{done:,}", f"of {whole:,}")
        best = [
            r["accuracy"] for r in story.log if r["record"] == "validated" and r["accuracy"] is not None
        ]
        if best:
            yield Tile("validation so far", percent(max(best)), "the best epoch")
        return
    for part in ("test", "validation"):
        if part in result:
            yield from _score_tiles(part, result[part])
    if "probe" in result and result["probe"].get("accuracy") is not None:
        yield Tile("a head alone", percent(result["probe"]["accuracy"]), "training items, out of fold")
    yield Tile("trained", duration(result["seconds"]), f"on {story.plan.numerics.device}")
    yield Tile("parameters trained", f"{story.plan.trained:,}", f"of {story.plan.parameters:,}")


def _score_tiles(part: str, found: dict[str, Any]) -> Iterator[Tile]:
    if "mean_average_precision" in found:
        yield Tile(f"mean AP, {part}", percent(found["mean_average_precision"]), f"{found['n']:,} items")
    else:
        low, high = score_interval(found["accuracy"], found["n"])
        between = f"{percent(low)} to {percent(high)} of {found['n']:,}"
        yield Tile(f"accuracy, {part}", percent(found["accuracy"]), between)
    if part == "test":
        yield Tile("calibration error", percent(found["ece"]), "of probabilities, test")


def class_sheet(measured: dict[str, Any]) -> Sheet:
    """Every class, the worst first."""
    several = "mean_average_precision" in measured
    shown = ["precision", "recall", "f1", *(["average_precision"] if several else [])]
    names = {"f1": "F1", "average_precision": "average precision"}
    rows = [
        (shorten(label, 80), found["n"], *(percent(found[key]) for key in shown))
        for label, found in sorted(measured["per_class"].items(), key=lambda entry: entry[1]["f1"])
    ]
    return Sheet(("class", "items", *(names.get(key, key) for key in shown)), rows)


def _data_sheet(story: Story) -> Sheet:
    data = story.plan.data
    rows: list[tuple[Any, ...]] = [
        ("to train on", data.train),
        ("to validate with", data.val),
        ("to test", data.test),
        ("classes", len(story.plan.labels)),
    ]
    sizes = sorted(story.sizes.items(), key=lambda entry: entry[1])
    if sizes:
        (smallest, few), (largest, many) = sizes[0], sizes[-1]
        rows += [
            (f"the smallest, {shorten(smallest, 60)}", few),
            (f"the largest, {shorten(largest, 60)}", many),
        ]
    return Sheet(("", ""), rows)


def _provenance(story: Story) -> Iterator[tuple[str, str]]:
    plan = story.plan
    yield "backbone", plan.backbone
    yield "sha256 of its values", str(plan.network.get("sha256", ""))
    yield "seed", str(plan.seed)
    numerics = plan.numerics
    yield "arithmetic", f"{numerics.precision} on {numerics.device}, {count_of(numerics.threads, 'thread')}"
    for name, version in story.manifest.get("provenance", {}).items():
        yield name, str(version)
    for name, digest in story.manifest.get("files", {}).items():
        yield f"sha256 of bundle/{name}", str(digest)
