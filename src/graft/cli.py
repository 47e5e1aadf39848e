"""The ``graft`` command: one short function a verb.

Everything heavy is imported inside the verb that needs it, so that help answers at once. Errors of
ours become one message on standard error and an exit code: 1 failed, 2 wrong use or input, 130
interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from graft.errors import FAILED, GraftError, Interrupted

if TYPE_CHECKING:
    from rich.console import Console

    from graft.bundle import Bundle
    from graft.recipe import Recipe
    from graft.runs import Run
    from graft.workflow import Prepared


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
    help="Adapt a pretrained model to your own labelled data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path | None, typer.Option(help="Folder of the run; default: a new one in runs/.")]
Seed = Annotated[int | None, typer.Option(help="Everything random is a function of this number.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Epochs = Annotated[int | None, typer.Option(help="Length of the main phase.")]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="A TOML file with recipe keys.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any recipe key: --set train.lr=1e-4.")]
DataSet = Annotated[
    list[str] | None, typer.Option("--set", help="How data is read: --set data.label=species.")
]
Backbone = Annotated[
    str | None, typer.Option("--backbone", "-b", help="library/name[:weights]; see graft models.")
]
Strategy = Annotated[
    str | None,
    typer.Option("--strategy", "-s", help="auto (default), probe, full, gradual …: see graft strategies."),
]
Weights = Annotated[Path | None, typer.Option(help="Local file with the backbone's weights.")]
Targets = Annotated[
    str | None,
    typer.Option(help="Of lora: which layers get an adapter: all, attention, or a regular expression."),
]
StoreLimit = Annotated[
    float | None,
    typer.Option(metavar="GB", help="Most that the store of what frozen stages made may take on disk."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a bundle's.")]
Data = Annotated[
    str | None,
    typer.Argument(metavar="DATA", help="Folder of class folders, or a table of paths or texts."),
]


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
    asked = _recipe(
        recipe, settings, data, backbone, strategy, weights, targets, seed, epochs, device, store_limit
    )
    from graft.progress import reading
    from graft.runs import choose_run
    from graft.workflow import prepare

    run = choose_run(out, asked)
    console = _console(stderr=as_json)
    with reading(console) as told:
        prepared = prepare(asked, progress=told)
    _follow(prepared, run, console, as_json=as_json)


@app.command()
def resume(run: RunFolder, as_json: Json = False) -> None:
    """Go on with an interrupted run, as if it had never stopped."""
    from graft.bundle import load_bundle
    from graft.progress import reading
    from graft.runs import open_run
    from graft.workflow import prepare_again

    found = open_run(run)
    console = _console(stderr=as_json)
    if found.finished:
        console.print(f"{found.folder} is finished; nothing is left to do.", markup=False, soft_wrap=True)
        _show_result(load_bundle(found.bundle), found, console, as_json=as_json)
        return
    with reading(console) as told:
        prepared = prepare_again(found, progress=told)
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
    asked = _recipe(
        recipe, settings, data, backbone, strategy, weights, targets, seed, epochs, device, store_limit
    )
    from graft.costs import measure_costs
    from graft.progress import reading
    from graft.terminal import show_plan, show_problems
    from graft.workflow import prepare

    console = _console(stderr=as_json)
    with reading(console) as told:
        prepared = prepare(asked, progress=told)
    show_problems(console, prepared.splits.problems)
    costs = measure_costs(prepared.backbone, prepared.splits, prepared.plan)
    show_plan(console, prepared.plan, costs)
    if as_json:
        values = json.loads(prepared.plan.to_json())
        _print_json(values | {"costs": {number: asdict(cost) for number, cost in costs.items()}})


@app.command()
def advise(
    data: Data = None,
    backbone: Backbone = None,
    minutes: Annotated[float | None, typer.Option(help="Most that training may take.")] = None,
    memory: Annotated[float | None, typer.Option(help="Most memory while training, in GB.")] = None,
    max_latency: Annotated[float | None, typer.Option(help="Most milliseconds for one item.")] = None,
    max_size: Annotated[float | None, typer.Option(help="Most megabytes of weights.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="TOML file for the recipe, which graft train --recipe takes.")
    ] = None,
    weights: Weights = None,
    seed: Seed = None,
    device: Device = None,
    recipe: RecipeFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Say what to do with this data, and why: rules, evidence, a recipe."""
    asked = _recipe(recipe, settings, data, backbone, "auto", weights, None, seed, None, device, None)
    from graft.advice.answer import Limits
    from graft.advice.answer import advise as find_advice
    from graft.advice_tables import show_advice
    from graft.files import write_text
    from graft.progress import reading
    from graft.terminal import show_problems
    from graft.workflow import prepare

    limits = Limits(minutes=minutes, memory=memory, max_latency=max_latency, max_size=max_size)
    console = _console(stderr=as_json)
    with reading(console) as told:
        prepared = prepare(asked, progress=told)
    with reading(console) as told:
        found = find_advice(prepared, limits, progress=told)
    show_problems(console, prepared.splits.problems)
    show_advice(console, found)
    if as_json:
        _print_json(json.loads(found.model_dump_json()))
    if found.recipe is None:
        raise typer.Exit(1)
    if out is not None:
        write_text(out, found.recipe.to_toml())
        console.print(
            f"The recipe: {out}; train with graft train --recipe {out}", markup=False, soft_wrap=True
        )


@app.command()
def rank(
    data: Data = None,
    backbones: Annotated[
        str, typer.Option(help="Ids, with commas between: graft/resnet18-half-64,torchvision/resnet50.")
    ] = "",
    seed: Seed = None,
    device: Device = None,
    recipe: RecipeFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Compare backbones on this data, without training any."""
    from graft.errors import RecipeError

    names = [name.strip() for name in backbones.split(",") if name.strip()]
    if not names:
        raise RecipeError("Name the backbones: --backbones graft/resnet18-half-64,torchvision/resnet50.")
    asked = _recipe(recipe, settings, data, names[0], "probe", None, None, seed, None, device, None)
    from graft.advice.ranking import in_order, rate
    from graft.advice_tables import guidance_table, ranking_table
    from graft.numerics import resolve_numerics
    from graft.progress import reading
    from graft.reuse.store import NOWHERE
    from graft.workflow import load_backbone, open_store, read_splits

    console, rated, splits = _console(stderr=as_json), [], None
    numerics, store = resolve_numerics(asked), open_store(asked) or NOWHERE
    for name in names:
        loaded = load_backbone(asked.model_copy(update={"backbone": name}))
        with reading(console) as told:
            splits = read_splits(asked, loaded, progress=told) if splits is None else splits
            rated.append(rate(loaded, splits, numerics, seed=asked.seed, store=store, progress=told))
    console.print(ranking_table(rated))
    console.print(guidance_table(rated))
    if as_json:
        _print_json({"ranked": [json.loads(each.model_dump_json()) for each in in_order(rated)]})


@app.command()
def check(
    data: Data = None,
    backbone: Backbone = None,
    strategy: Strategy = None,
    fix: Annotated[Path | None, typer.Option(help="TOML file for a recipe with the cures in it.")] = None,
    weights: Weights = None,
    seed: Seed = None,
    epochs: Epochs = None,
    device: Device = None,
    recipe: RecipeFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Look for the known mistakes in data and recipe: the doctor."""
    asked = _recipe(recipe, settings, data, backbone, strategy, weights, None, seed, epochs, device, None)
    from graft.examination import cure, examine
    from graft.files import write_text
    from graft.progress import reading
    from graft.terminal import show_findings
    from graft.workflow import prepare

    console = _console(stderr=as_json)
    with reading(console) as told:
        prepared = prepare(asked, progress=told)
    with reading(console) as told:
        found = examine(prepared, progress=told)
    show_findings(console, found)
    if as_json:
        _print_json({"findings": [finding.model_dump(mode="json") for finding in found]})
    if fix is not None:
        write_text(fix, cure(asked, found).to_toml())
        console.print(f"The recipe with the cures: {fix}", markup=False, soft_wrap=True)
    if any(finding.severity == "error" for finding in found):
        raise typer.Exit(1)


@app.command("lr")
def find_rate(
    data: Data = None,
    backbone: Backbone = None,
    strategy: Strategy = None,
    sweep: Annotated[
        str | None, typer.Option(help="Train shortly at each of these rates: 1e-2,1e-3,1e-4,1e-5.")
    ] = None,
    low: Annotated[float, typer.Option(help="The rate that the test begins with.")] = 1e-7,
    high: Annotated[float, typer.Option(help="The rate that it ends with.")] = 1.0,
    steps: Annotated[int, typer.Option(min=10, help="Steps of the test.")] = 100,
    epochs: Annotated[int | None, typer.Option(help="Length of each run of a sweep; default 3.")] = None,
    weights: Weights = None,
    seed: Seed = None,
    device: Device = None,
    recipe: RecipeFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Find a learning rate: by a range test, or by short runs (--sweep)."""
    asked = _recipe(
        recipe, settings, data, backbone, strategy or "full", weights, None, seed, epochs or 3, device, None
    )
    from graft.advice_tables import range_table, sweep_table
    from graft.errors import RecipeError
    from graft.lr_finder import range_test
    from graft.lr_finder import sweep as sweep_rates
    from graft.progress import reading
    from graft.workflow import open_store, prepare

    console = _console(stderr=as_json)
    try:
        rates = [float(each) for each in (sweep or "").split(",") if each.strip()]
    except ValueError:
        raise RecipeError(f"--sweep {sweep!r}: rates with commas between were expected.") from None
    with reading(console) as told:
        made = prepare(asked, progress=told)
    with reading(console) as told:
        store = open_store(asked)
        if sweep is not None:
            tried = sweep_rates(asked, made.backbone, made.splits, rates, store=store, progress=told)
        else:
            found = range_test(
                made.backbone,
                made.splits,
                made.plan,
                low=low,
                high=high,
                steps=steps,
                store=store,
                progress=told,
            )
    if sweep is not None:
        console.print(sweep_table(tried))
    else:
        console.print(range_table(found))
        for doubt in found.doubts:
            console.print(f"No answer: {doubt}", markup=False)
        if not found.doubts:
            shown = ", ".join(f"{rule} {rate:.2g}" for rule, rate in found.suggestions.items())
            console.print(f"Suggested for train.lr: {shown}", markup=False)
    if as_json:
        values = [json.loads(each.model_dump_json()) for each in tried] if sweep is not None else None
        _print_json({"sweep": values} if values is not None else json.loads(found.model_dump_json()))


@app.command()
def predict(
    run: RunFolder,
    items: Annotated[
        list[Path] | None,
        typer.Argument(help="Pictures, or folders of them; of texts: tables, or files with one a line."),
    ] = None,
    texts: Annotated[
        list[str] | None, typer.Option("--text", help="A text itself.", metavar="TEXT")
    ] = None,
    style: Annotated[
        str | None, typer.Option("--format", help="table, jsonl or csv.", metavar="FORMAT")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write in place of the screen.")] = None,
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
        raise RecipeError(f"--format {style!r} is not table, jsonl or csv.")
    if style and as_json:
        raise RecipeError("--json prints one JSON object; leave --format out, or --json.")
    asked = _reading_recipe(recipe, settings, device)
    bundle = load_bundle(run)
    if texts and not bundle.takes_text:
        raise RecipeError("--text: this bundle labels pictures; name their files.")
    given = [*(items or ()), *(texts or ())]
    found = bundle.predict(given, device=asked.device, settings=asked.data)
    if style is None and out is not None:
        style = "jsonl" if out.suffix == ".jsonl" else "csv"
    text = found.to_jsonl() if style == "jsonl" else found.to_csv()
    if as_json:
        _print_json({"predictions": [row.to_dict() for row in found]})
    if out is not None:
        write_text(out, text)
    elif style in ("csv", "jsonl"):
        sys.stdout.write(text)
    elif not as_json:
        _console().print(prediction_table(found))
    show_problems(_console(stderr=True), found.problems)
    if found.failed:
        _console(stderr=True).print(f"{len(found.failed)} of {len(found)} could not be read.")
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
    from graft.runs import Run
    from graft.terminal import metrics_tables

    asked = _reading_recipe(recipe, settings, device)
    found = load_bundle(run).evaluate(
        data, device=asked.device, settings=asked.data, trained_on=Run(run).trained_on
    )
    metrics = found.to_dict()
    if as_json:
        _print_json(metrics)
        return
    for problem in metrics["problems"]:
        _console(stderr=True).print(f"Data  {problem}", markup=False)
    for table in metrics_tables(metrics):
        _console().print(table)


@app.command()
def embed(
    items: Annotated[
        list[Path],
        typer.Argument(help="Pictures, or folders of them; of texts: tables, or files with one a line."),
    ],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
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
    asked = _reading_recipe(recipe, settings, device)
    # Now, and not after minutes of computing.
    if not out.parent.is_dir() or out.is_dir() or not os.access(out.parent, os.W_OK):
        raise RecipeError(f"--out {out}: a file in a folder that is there and can be written to is needed.")
    if out.exists() and any(item.exists() and item.samefile(out) for item in items):
        raise RecipeError(f"--out {out} is one of the items, which it would replace.")
    from graft.bundle import load_bundle
    from graft.data.items import show
    from graft.embedding import embed as embed_items
    from graft.progress import reading
    from graft.terminal import show_problems
    from graft.workflow import open_store

    source = str(backbone) if run is None else load_bundle(run)
    console, store = _console(stderr=True), open_store(asked)
    with reading(console) as told:
        found = embed_items(
            source, items, device=asked.device, settings=asked.data, store=store, progress=told
        )
    found.save(out)
    show_problems(console, found.problems)
    failed = [{"id": fault.id, "error": fault.reason} for fault in found.faults]
    width = found.features.shape[1]
    if as_json:
        _print_json({"file": str(out), "items": len(found), "features": width, "failed": failed})
    else:
        words = f"{len(found):,} items, {width} features each: {out}"
        _console().print(words, markup=False, soft_wrap=True)
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
        _print_json({"queries": [{"query": q, "nearest": r} for q, r in zip(queries, rows, strict=True)]})
        return
    for query, nearest in zip(queries, rows, strict=True):
        _console().print(neighbours_table(query, nearest))


@app.command("merge")
def merge_adapter(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="Folder for the new bundle.")],
    weights: Weights = None,
) -> None:
    """Make a whole network of a bundle that is an adapter alone."""
    from graft.bundle import load_bundle

    path = load_bundle(run, base=weights).merged().save(out)
    _console().print(f"The whole network: {path}", markup=False, soft_wrap=True)


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
    from graft.runs import choose_run
    from graft.terminal import prediction_table, result_table
    from graft.workflow import prepare

    console = _console(stderr=as_json)
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
        _print_json({"results": dict(rows), "bundle": str(kept)})


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or a pattern: timm/vit_*.")] = "",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only with weights.")] = False,
    as_json: Json = False,
) -> None:
    """List and search the backbones that can be adapted."""
    from graft.backbones.catalog import find_models
    from graft.catalog_tables import models_table

    found = find_models(pattern, pretrained=pretrained)
    if as_json:
        _print_json({"models": [asdict(entry) for entry in found]})
        return
    _console().print(models_table(found))


@app.command()
def strategies(as_json: Json = False) -> None:
    """List the strategies: what each trains, and how."""
    from graft.strategies import strategy_table
    from graft.terminal import strategies_table

    found = strategy_table()
    if as_json:
        _print_json({"strategies": found})
        return
    _console().print(strategies_table(found))


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
        _print_json(asdict(description))
        return
    show_description(_console(), description)


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
    console = _console(stderr=as_json)
    if clear:
        if uses and not yes:
            typer.confirm(f"Remove {gigabytes(size)} from {folder}?", abort=True, err=True)
        freed = clear_store(folder)
        console.print(f"{gigabytes(freed)} freed in {folder}.", markup=False, soft_wrap=True)
        if as_json:
            _print_json({"folder": str(folder), "freed": freed})
        return
    if as_json:
        _print_json({"folder": str(folder), "bytes": size, "spaces": [asdict(use) for use in uses]})
        return
    console.print(f"The store {folder} holds {gigabytes(size)}.", markup=False, soft_wrap=True)
    if uses:
        console.print(uses_table(uses))


def main() -> None:
    """Run the command line; the entry point of ``graft``."""
    try:
        app()
    except GraftError as error:
        print(f"graft: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except OSError as error:
        print(f"graft: {error.filename or 'A file'}: {error.strerror or error}.", file=sys.stderr)
        sys.exit(FAILED)


def _recipe(
    file: Path | None,
    settings: list[str] | None,
    data: str | None,
    backbone: str | None,
    strategy: str | None,
    weights: Path | None,
    targets: str | None,
    seed: int | None,
    epochs: int | None,
    device: str | None,
    store_limit: float | None,
) -> Recipe:
    from graft.errors import DataError
    from graft.recipe import read_recipe
    from graft.strategies import split_name

    asked = read_recipe(
        file,
        settings or (),
        data__path=data,
        backbone=backbone,
        strategy=strategy,
        weights=None if weights is None else str(weights),
        adapters__targets=targets,
        seed=seed,
        epochs=epochs,
        device=device,
        reuse__limit=store_limit,
    )
    # Before torch is imported, which takes longer than reading the answer.
    split_name(asked.strategy)
    if not asked.data.path:
        raise DataError("No data was named; give a folder of class folders or a table: graft train photos/")
    return asked


def _reading_recipe(file: Path | None, settings: list[str] | None, device: str | None) -> Recipe:
    """A recipe of which only the device and the way data is read matter, and nothing else is set."""
    from graft.errors import RecipeError
    from graft.recipe import read_recipe

    asked = read_recipe(file, settings or (), device=device)
    others = sorted(asked.model_fields_set - {"data", "device"})
    if others:
        raise RecipeError(f"Of no effect here: {', '.join(others)}; only data.* and device can be set.")
    return asked


def _follow(prepared: Prepared, run: Run, console: Console, *, as_json: bool) -> None:
    """Carry out a run before a person's eyes, and show what came out."""
    _show_result(_carry_out(prepared, run, console), run, console, as_json=as_json)


def _show_result(bundle: Bundle, run: Run, console: Console, *, as_json: bool) -> None:
    from graft.terminal import finding_lines, kept_lines, result_table

    if as_json:
        folder = str(run.folder)
        _print_json({"run": folder, "bundle": str(bundle.path), **bundle.metrics})
        return
    console.print(result_table([(bundle.plan["strategy"], bundle.metrics)]))
    for line in (*kept_lines(bundle.metrics), *finding_lines(bundle.metrics.get("findings", ()))):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"The bundle is {bundle.path}; the run, {run.folder}.", markup=False, soft_wrap=True)


def _carry_out(prepared: Prepared, run: Run, console: Console) -> Bundle:
    from graft.progress import showing
    from graft.terminal import show_plan, show_problems
    from graft.workflow import carry_out, drain

    show_problems(console, prepared.splits.problems)
    show_plan(console, prepared.plan)
    with showing(console) as show:
        return drain(carry_out(prepared, run), show)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    shown = sys.stderr if stderr else sys.stdout
    width = None if shown.isatty() or "COLUMNS" in os.environ else 160  # a file has no edge to wrap at
    return Console(stderr=stderr, highlight=False, quiet=not _speaks(), width=width)


def _speaks() -> bool:
    """Whether this is the only process, or the first of several."""
    return int(os.environ.get("RANK", "0")) == 0


def _print_json(values: dict[str, Any]) -> None:
    if _speaks():
        print(json.dumps(values, indent=2, allow_nan=False))
