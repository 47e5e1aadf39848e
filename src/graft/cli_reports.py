"""Verbs that compare and show: which candidate is better, what a run did, which layers changed."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli_options import (
    Data,
    Device,
    Json,
    RecipeFile,
    Set,
    StoreLimit,
    asked_recipe,
    check_out,
    make_console,
    print_json,
)

if TYPE_CHECKING:
    from graft.recipe import Recipe


def compare(
    data: Data = None,
    strategies: Annotated[
        str, typer.Option(help="With commas between: scratch,probe,partial:1,gradual,full,lora.")
    ] = "",
    backbones: Annotated[
        str | None, typer.Option("--backbones", "--backbone", "-b", help="One, or several with commas.")
    ] = None,
    recipes: Annotated[
        str | None, typer.Option(help="TOML files, with commas between, compared as they are.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each candidate.")] = 3,
    labels: Annotated[
        str | None, typer.Option(help="Numbers of labels to train on: 100,1000; default: all.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps of each run; default: those of full.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the comparison; one that was stopped goes on.")
    ] = None,
    device: Device = None,
    store_limit: StoreLimit = None,
    recipe: RecipeFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Compare strategies, backbones or recipes: same labels, same test items, as many steps."""
    from graft.errors import RecipeError

    names = _listed(strategies)
    asked = asked_recipe(recipe, settings, data, device=device, store_limit=store_limit)
    if "epochs" in asked.model_fields_set:
        raise RecipeError("epochs: every run takes as many steps; say how many with --steps.")
    from graft.comparing import Asked, cells, outcome_file
    from graft.comparison import compare as carry_out
    from graft.comparison import make_candidates
    from graft.comparison_report import write_comparison
    from graft.comparison_table import pair_lines, rows_table
    from graft.progress import following
    from graft.reporting import EVERY
    from graft.runs import make_fresh, name_by_time

    files = [(Path(file).stem, _read(Path(file), asked)) for file in _listed(recipes)]
    chosen = _listed(backbones) or [asked.backbone]
    wanted = Asked(
        data=_absolute(asked.data.path),
        command=shlex.join(["graft", *sys.argv[1:]]),
        candidates=make_candidates(asked, names, chosen, files),
        seeds=tuple(range(asked.seed, asked.seed + seeds)),
        labels=_numbers(labels),
        steps=steps,
    )
    folder = out or make_fresh(name_by_time(wanted.data, "compared"))
    console = make_console(stderr=as_json)
    whole = sum(1 for _ in cells(wanted))
    done = sum(outcome_file(folder, wanted, cell).is_file() for cell in cells(wanted))
    console.print(f"Comparison  {folder}: {done} of {whole} runs are done", markup=False, soft_wrap=True)
    last = [time.monotonic()]

    def write_now_and_then() -> None:
        if time.monotonic() - last[0] > EVERY:
            write_comparison(folder)
            last[0] = time.monotonic()

    with following(console) as show:
        outcomes = carry_out(wanted, folder, show=show, after=write_now_and_then)
    page = write_comparison(folder)
    for table in rows_table(outcomes):
        console.print(table)
    for line in pair_lines(outcomes):
        console.print(line, markup=False)
    console.print(f"Report  {page}", markup=False, soft_wrap=True)
    if as_json:
        print_json({"folder": str(folder), "outcomes": [each.model_dump(mode="json") for each in outcomes]})


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a comparison's.")],
    as_json: Json = False,
) -> None:
    """Write the page of a run or of a comparison (again): report.html in its folder."""
    from graft.comparing import COMPARISON
    from graft.files import follow

    console, run, damage = make_console(stderr=as_json), follow(run), None
    if (run / COMPARISON).is_file():
        from graft.comparison_report import write_comparison

        page = write_comparison(run)
    else:
        from graft.conclusion import report_again
        from graft.progress import reading
        from graft.runs import Run

        with reading(console) as told:
            page = report_again(run, progress=told)
        damage = Run(run).log_damage
    if damage is not None:
        console.print(f"Note  {damage}", markup=False, soft_wrap=True)
    console.print(f"Report  {page}", markup=False, soft_wrap=True)
    if as_json:
        print_json({"report": str(page)})


def show_changes(
    one: Annotated[
        str,
        typer.Argument(metavar="A", help="A run, bundle, checkpoint, file of weights, or a backbone's id."),
    ],
    two: Annotated[str, typer.Argument(metavar="B", help="Likewise; what A became.")],
    out: Annotated[Path | None, typer.Option(help="Picture to write: .svg or .png.")] = None,
    as_json: Json = False,
) -> None:
    """Show which layers differ between two networks; pretrained as A is what B began with."""
    style = check_out(out, {".svg": "svg", ".png": "png"}) if out is not None else ""
    from graft.changes import summarise
    from graft.comparison_table import changes_table
    from graft.networks import compare_networks

    found, notes = compare_networks(one, two)
    console = make_console(stderr=as_json)
    console.print(changes_table(found))
    for line in (summarise(found), *notes):
        console.print(line, markup=False)
    if out is not None:
        from graft.files import new_file
        from graft.reporting.drawing import to_file
        from graft.reporting.run_charts import changes_chart

        with new_file(out) as fresh:
            fresh.write_bytes(to_file(changes_chart(found).figure, style))
        console.print(f"Picture  {out}", markup=False, soft_wrap=True)
    if as_json:
        print_json({"changes": [each.model_dump(mode="json") for each in found], "notes": list(notes)})


def _listed(text: str | None) -> list[str]:
    return [each.strip() for each in (text or "").split(",") if each.strip()]


def _numbers(text: str | None) -> tuple[int, ...]:
    from graft.errors import RecipeError, quote

    try:
        found = tuple(sorted({int(each) for each in _listed(text)}))
    except ValueError:
        found = (0,)
    if any(each < 1 for each in found):
        raise RecipeError(f"--labels {quote(text)}: expected whole numbers, as in 100,1000.")
    return found


def _read(file: Path, asked: Recipe) -> Recipe:
    """A recipe to be compared: how it trains is its own, data and device are the comparison's.

    Raises:
        RecipeError: it reads data in another way, so that it would have other items.
    """
    from graft.errors import RecipeError
    from graft.recipe import read_recipe

    found = read_recipe(file)
    own = {name: getattr(found.data, name) for name in found.data.model_fields_set - {"path"}}
    other = sorted(own.keys() - {"validation", "statistics", "size", "max_length"})
    if other:
        names = ", ".join(f"data.{name}" for name in other)
        raise RecipeError(
            f"{file} sets {names}: that decides which items there are, so give it with --set."
        )
    data = asked.data.model_copy(update=own)
    update: dict[str, Any] = {"data": data}
    update |= {name: getattr(asked, name) for name in ("device", "reuse") if name in asked.model_fields_set}
    return found.model_copy(update=update)


def _absolute(data: str) -> str:
    return data if data.startswith("hf/") else Path(data).absolute().as_posix()
