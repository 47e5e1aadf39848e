"""The ``graft`` command: one short function a verb.

Everything heavy is imported inside the verb that needs it, so that help answers at once. Errors of
ours become one message on standard error and an exit code: 1 failed, 2 wrong use or input, 130
interrupted.
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from graft import cli_advice, cli_reports
from graft.cli_options import (
    Backbone,
    Data,
    DataSet,
    Device,
    Epochs,
    Json,
    Out,
    RecipeFile,
    RunFolder,
    Seed,
    Set,
    StoreLimit,
    Strategy,
    Targets,
    Weights,
    asked_recipe,
    check_out,
    make_console,
    paths_of,
    print_json,
    reading_recipe,
)
from graft.errors import DONE, FAILED, GraftError, Interrupted, quote
from graft.system.escaping import printable, say
from graft.system.launch import find_launch
from graft.system.streams import guarded_streams

if TYPE_CHECKING:
    from rich.console import Console

    from graft.bundle import Bundle
    from graft.preparation import Prepared
    from graft.runs import Run

_UsageError: Any = typer.BadParameter.__mro__[2]  # that of click, which some versions of typer bring along


_PREDICTIONS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}


class Commands(TyperGroup):
    """The verbs, with Ctrl-C as an error of ours, so that it exits with 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted.") from None


app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,  # typer's rich help takes three times as long to come up
    context_settings={"max_content_width": 108},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"graft {version('graft-ml')}")
        raise typer.Exit


@app.callback()
def begin(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """Adapt a pretrained model to your own labelled data."""
    ignored = find_launch().ignored
    if ignored is not None:
        say(f"Note  {ignored}", sys.stderr)


@app.command()
def train(
    data: Data = None,
    backbone: Backbone = None,
    strategy: Strategy = None,
    weights: Weights = None,
    targets: Targets = None,
    out: Out = None,
    seed: Seed = None,
    epochs: Epochs = None,
    device: Device = None,
    store_limit: StoreLimit = None,
    recipe: RecipeFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Adapt a backbone to labelled pictures or texts: plan, training, bundle."""
    asked = asked_recipe(
        recipe,
        settings,
        data,
        backbone=backbone,
        strategy=strategy,
        weights=weights,
        targets=targets,
        seed=seed,
        epochs=epochs,
        device=device,
        store_limit=store_limit,
    )
    from graft.preparation import prepare
    from graft.progress import reading
    from graft.runs import choose_run

    run = choose_run(out, asked)
    console = make_console(stderr=as_json)
    with reading(console) as told:
        prepared = prepare(asked, progress=told)
    _follow(prepared, run, console, as_json=as_json)


@app.command()
def resume(
    run: RunFolder,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode; default: as planned.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Go on with an interrupted run, as if it had never stopped."""
    from graft.bundle import load_bundle
    from graft.preparation import prepare_again
    from graft.progress import reading
    from graft.runs import open_run

    found = open_run(run)
    console = make_console(stderr=as_json)
    if found.finished:
        console.print(f"{found.folder} is finished; nothing is left to do.", markup=False, soft_wrap=True)
        _show_result(load_bundle(found.bundle), found, console, as_json=as_json)
        return
    with reading(console) as told:
        prepared = prepare_again(found, workers=workers, progress=told)
    _follow(prepared, found, console, as_json=as_json)


@app.command("plan")
def show_planned(
    data: Data = None,
    backbone: Backbone = None,
    strategy: Strategy = None,
    weights: Weights = None,
    targets: Targets = None,
    seed: Seed = None,
    epochs: Epochs = None,
    device: Device = None,
    store_limit: StoreLimit = None,
    recipe: RecipeFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Show exactly what training would do, without doing it."""
    asked = asked_recipe(
        recipe,
        settings,
        data,
        backbone=backbone,
        strategy=strategy,
        weights=weights,
        targets=targets,
        seed=seed,
        epochs=epochs,
        device=device,
        store_limit=store_limit,
    )
    from graft.costs import measure_costs
    from graft.preparation import prepare
    from graft.progress import reading
    from graft.terminal import show_plan, show_problems

    console = make_console(stderr=as_json)
    with reading(console) as told:
        prepared = prepare(asked, progress=told)
    show_problems(console, prepared.splits.problems)
    costs = measure_costs(
        prepared.backbone, prepared.splits, prepared.plan, limit=prepared.recipe.reuse.limit_bytes
    )
    show_plan(console, prepared.plan, costs)
    if as_json:
        values = json.loads(prepared.plan.to_json())
        print_json(values | {"costs": {number: asdict(cost) for number, cost in costs.items()}})


app.command()(cli_advice.advise)
app.command()(cli_advice.rank)
app.command()(cli_advice.check)
app.command("lr")(cli_advice.find_rate)
app.command()(cli_reports.compare)
app.command()(cli_reports.report)
app.command("changes")(cli_reports.show_changes)


@app.command()
def predict(
    run: RunFolder,
    items: Annotated[
        list[str] | None,
        typer.Argument(help="Pictures, or folders of them; of texts: tables, or files with one a line."),
    ] = None,
    texts: Annotated[
        list[str] | None, typer.Option("--text", help="A text itself.", metavar="TEXT")
    ] = None,
    style: Annotated[
        str | None, typer.Option("--format", help="table, jsonl or csv.", metavar="FORMAT")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File in place of the screen: .csv, .jsonl or .json.")
    ] = None,
    recipe: RecipeFile = None,
    settings: DataSet = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Label pictures or texts, with the probability of every class."""
    from graft.bundle import load_bundle
    from graft.errors import RecipeError
    from graft.files import write_text
    from graft.terminal import prediction_table, show_problems

    if style not in (None, "table", "jsonl", "csv"):
        raise RecipeError(f"--format {quote(style)} is not table, jsonl or csv.")
    if style and as_json:
        raise RecipeError("--json prints one JSON object; leave --format out, or --json.")
    if out is not None:
        style = check_out(out, _PREDICTIONS, style, items=items or ())
    asked = reading_recipe(recipe, settings, device)
    bundle = load_bundle(run)
    if texts and not bundle.takes_text:
        raise RecipeError("--text: this bundle labels pictures; name their files.")
    given = [*paths_of(items or ()), *(texts or ())]
    found = bundle.predict(given, device=asked.device, settings=asked.data)
    if as_json:
        print_json(found.to_dict())
    if out is not None:
        write_text(out, found.to_text(style or "csv"))
    elif style in ("csv", "jsonl"):
        _write(found.to_text(style))
    elif not as_json:
        make_console().print(prediction_table(found))
    show_problems(make_console(stderr=True), found.problems)
    if found.failed:
        make_console(stderr=True).print(f"{len(found.failed)} of {len(found)} could not be read.")
        raise typer.Exit(1)


@app.command()
def evaluate(
    run: RunFolder,
    data: Annotated[str, typer.Argument(help="Folder of class folders, or a table of paths or texts.")],
    recipe: RecipeFile = None,
    settings: DataSet = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure a bundle on labelled pictures or texts."""
    from graft.bundle import load_bundle
    from graft.files import follow
    from graft.runs import Run
    from graft.terminal import metrics_tables

    asked = reading_recipe(recipe, settings, device)
    found = load_bundle(run).evaluate(
        data, device=asked.device, settings=asked.data, trained_on=Run(follow(run)).trained_on
    )
    metrics = found.to_dict()
    if as_json:
        print_json(metrics)
        return
    for problem in metrics["problems"]:
        make_console(stderr=True).print(f"Data  {problem}", markup=False)
    for table in metrics_tables(metrics):
        make_console().print(table)


@app.command()
def embed(
    items: Annotated[
        list[str],
        typer.Argument(help="Pictures, or folders of them; of texts: tables, or files with one a line."),
    ],
    out: Annotated[Path, typer.Option(help="Parquet file to write: .parquet.")],
    backbone: Backbone = None,
    run: Annotated[
        Path | None, typer.Option(help="A run's folder, whose adapted backbone is taken.")
    ] = None,
    recipe: RecipeFile = None,
    settings: DataSet = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Write features of pictures or texts, one row an item."""
    from graft.errors import RecipeError

    if (backbone is None) == (run is None):
        raise RecipeError("Name one thing to make the features: --backbone library/name, or --run RUN.")
    asked = reading_recipe(recipe, settings, device, also=("pooling",))
    check_out(out, {".parquet": "parquet"}, items=items)
    from graft.bundle import load_bundle
    from graft.data.items import show
    from graft.embedding import embed as embed_items
    from graft.preparation import open_store
    from graft.progress import reading
    from graft.terminal import show_problems

    source = str(backbone) if run is None else load_bundle(run)
    console, store = make_console(stderr=True), open_store(asked)
    with reading(console) as told:
        found = embed_items(
            source,
            paths_of(items),
            device=asked.device,
            settings=asked.data,
            pooling=asked.pooling,
            store=store,
            progress=told,
        )
    found.save(out)
    show_problems(console, found.problems)
    failed = [{"id": fault.id, "error": fault.reason} for fault in found.faults]
    width = found.features.shape[1]
    if as_json:
        print_json({"file": str(out), "items": len(found), "features": width, "failed": failed})
    else:
        words = f"{len(found):,} items, {width} features each: {out}"
        make_console().print(words, markup=False, soft_wrap=True)
    if failed:
        words = show([f"{row['id']}: {row['error']}" for row in failed])
        told_of = f"{len(failed)} of {len(found) + len(failed)} could not be read and were left out:{words}"
        console.print(told_of, markup=False, soft_wrap=True)
        raise typer.Exit(1)


@app.command()
def search(
    table: Annotated[Path, typer.Argument(help="What graft embed wrote.")],
    queries: Annotated[list[str], typer.Argument(metavar="QUERY", help="A text, or a picture's path.")],
    top: Annotated[int, typer.Option(min=1, help="How many items are shown for each query.")] = 5,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Find the items of a table that are nearest to a text or a picture."""
    from graft.embedding import embed_queries, load_maker, read_embedding
    from graft.terminal import neighbours_table

    found = read_embedding(table)
    asked = embed_queries(load_maker(found), queries, device=device or "auto")
    rows = [found.neighbours(query, top) for query in asked]
    if as_json:
        print_json({"queries": [{"query": q, "nearest": r} for q, r in zip(queries, rows, strict=True)]})
        return
    for query, nearest in zip(queries, rows, strict=True):
        make_console().print(neighbours_table(query, nearest))


@app.command("merge")
def merge_adapter(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="Folder for the new bundle.")],
    weights: Weights = None,
) -> None:
    """Make a whole network of a bundle that is an adapter alone."""
    from graft.bundle import load_bundle

    path = load_bundle(run, base=weights).merged().save(out)
    make_console().print(f"The whole network: {path}", markup=False, soft_wrap=True)


@app.command("demo")
def run_demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the runs.")] = Path("demo"),
    seed: Seed = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Try it on scanned digits: probe, fine-tuned, from scratch."""
    from graft.bundle import load_bundle
    from graft.demo import STRATEGIES, make_demo
    from graft.preparation import prepare
    from graft.runs import choose_run
    from graft.terminal import prediction_table, result_table

    console = make_console(stderr=as_json)
    shown = make_demo(out)
    console.print(
        f"Scanned digits of scikit-learn as a folder of pictures: {shown.pictures}\n", markup=False
    )
    rows = []
    for name, strategy in STRATEGIES.items():
        asked = shown.recipe(strategy, seed=seed or 0, device=device or "auto")
        run = choose_run(shown.run_folder(strategy), asked)
        bundle = _carry_out(prepare(asked), run, console)
        rows.append((name, {key: bundle.metrics[key] for key in ("test", "seconds")}))
    console.print(result_table(rows))
    kept = shown.run_folder(STRATEGIES["fine-tuned"]) / "bundle"
    console.print(f"\nThe fine-tuned bundle is {kept}. Five test pictures:", markup=False)
    console.print(prediction_table(load_bundle(kept).predict(shown.examples())))
    advice = f"\nNow your own: graft train photos/   then: graft predict {kept} picture.jpg"
    console.print(advice, markup=False, soft_wrap=True)
    if as_json:
        print_json({"results": dict(rows), "bundle": str(kept)})


@app.command()
def models(
    patterns: Annotated[
        list[str] | None, typer.Argument(help="Parts of names, or patterns: timm/vit_* resnet.")
    ] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only with weights.")] = False,
    as_json: Json = False,
) -> None:
    """List and search the backbones that can be adapted."""
    from graft.backbones.catalog import find_models
    from graft.catalog_tables import models_table

    found = find_models(*(patterns or ()), pretrained=pretrained)
    if as_json:
        print_json({"models": [asdict(entry) for entry in found]})
        return
    make_console().print(models_table(found))


@app.command()
def strategies(as_json: Json = False) -> None:
    """List the strategies: what each trains, and how."""
    from graft.strategies import strategy_table
    from graft.terminal import strategies_table

    found = strategy_table()
    if as_json:
        print_json({"strategies": found})
        return
    make_console().print(strategies_table(found))


@app.command()
def inspect(
    backbone: Annotated[str, typer.Argument(metavar="BACKBONE", help="library/name[:weights].")],
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Print a backbone's parts: head, stages, sizes, preprocessing."""
    from graft.backbones import load_backbone
    from graft.backbones.catalog import describe
    from graft.catalog_tables import show_description

    description = describe(load_backbone(backbone, weights=weights))
    if as_json:
        print_json(asdict(description))
        return
    show_description(make_console(), description)


@app.command("store")
def show_store(
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything in it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Clear without asking.")] = False,
    as_json: Json = False,
) -> None:
    """List what is kept of what frozen stages made, or remove it."""
    from graft.reuse.inventory import clear_store, list_uses, store_folder
    from graft.store_table import gigabytes, uses_table

    folder, uses = store_folder(), list_uses(store_folder())
    size = sum(use.bytes for use in uses)
    console = make_console(stderr=as_json)
    if clear:
        if uses and not yes:
            typer.confirm(f"Remove {gigabytes(size)} from {folder}?", abort=True, err=True)
        freed = clear_store(folder)
        console.print(f"{gigabytes(freed)} freed in {folder}.", markup=False, soft_wrap=True)
        if as_json:
            print_json({"folder": str(folder), "freed": freed})
        return
    if as_json:
        print_json({"folder": str(folder), "bytes": size, "spaces": [asdict(use) for use in uses]})
        return
    console.print(f"The store {folder} holds {gigabytes(size)}.", markup=False, soft_wrap=True)
    if uses:
        console.print(uses_table(uses))


def main() -> None:
    """Run the command line; the entry point of ``graft``.

    Output that cannot be written ends no work; the exit code is 1 when the work is done.
    """
    with guarded_streams() as streams:
        code, lost = _call(), streams.why_incomplete()
        if lost is not None and code == DONE:
            code = FAILED
            if lost:
                say(f"graft: Standard output could not be written: {lost}.", sys.stderr)
    sys.exit(code)


def _call() -> int:
    """The command that the words on the command line name; its exit code."""
    try:
        code = app(standalone_mode=False)
        return code if isinstance(code, int) else DONE
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else DONE if end.code is None else FAILED
    except _UsageError as error:
        usage = io.StringIO()
        error.show(usage)
        say(usage.getvalue(), sys.stderr, end="")
        return int(error.exit_code)
    except typer.Abort:
        say("Aborted.", sys.stderr)
        return FAILED
    except GraftError as error:
        say(f"graft: {error}", sys.stderr)
        return error.exit_code
    except MemoryError:
        say(
            "graft: Memory ran out. A smaller batch (train.batch_size) or size (data.size) needs less.",
            sys.stderr,
        )
        return FAILED
    except OSError as error:
        say(f"graft: {error.filename or 'A file'}: {error.strerror or error}.", sys.stderr)
        return FAILED


def _write(text: str) -> None:
    """Write what programs read to standard output; to a terminal, as it can be shown."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)


def _follow(prepared: Prepared, run: Run, console: Console, *, as_json: bool) -> None:
    """Carry out a run before a person's eyes, and show what came out."""
    from graft.runs import Run

    bundle = _carry_out(prepared, run, console)
    held = Run(bundle.path.parent) if bundle.path is not None else run  # named when it was begun
    _show_result(bundle, held, console, as_json=as_json)


def _show_result(bundle: Bundle, run: Run, console: Console, *, as_json: bool) -> None:
    from graft.terminal import result_table
    from graft.wording import finding_lines, kept_lines, scores_of

    if as_json:
        folder = str(run.folder)
        print_json({"run": folder, "bundle": str(bundle.path), **bundle.metrics})
        return
    if any(scores_of(bundle.metrics)):
        console.print(result_table([(bundle.plan["strategy"], bundle.metrics)]))
    for line in (*kept_lines(bundle.metrics), *finding_lines(bundle.metrics.get("findings", ()))):
        console.print(line, markup=False, soft_wrap=True)
    page = run.folder / "report.html"
    told = f"; what happened, {page}" if page.is_file() else ""
    console.print(
        f"The bundle is {bundle.path}; the run, {run.folder}{told}.", markup=False, soft_wrap=True
    )


def _carry_out(prepared: Prepared, run: Run, console: Console) -> Bundle:
    from graft.progress import showing
    from graft.terminal import show_plan, show_problems
    from graft.workflow import carry_out, drain

    show_problems(console, prepared.splits.problems)
    show_plan(console, prepared.plan)
    with showing(console, prepared.splits.task.score_name) as show:
        return drain(carry_out(prepared, run), show)
