"""Verbs that look before anything trains: advise, rank, check, lr."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graft.cli_options import (
    RECIPES,
    Backbone,
    Data,
    Device,
    Epochs,
    Json,
    RecipeFile,
    Seed,
    Set,
    Strategy,
    Weights,
    asked_recipe,
    check_out,
    make_console,
    print_json,
)


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
    asked = asked_recipe(
        recipe,
        settings,
        data,
        backbone=backbone,
        strategy="auto",
        weights=weights,
        seed=seed,
        device=device,
    )
    if out is not None:
        check_out(out, RECIPES)
    from graft.advice.answer import Limits
    from graft.advice.answer import advise as find_advice
    from graft.advice_tables import show_advice
    from graft.files import write_text
    from graft.preparation import prepare
    from graft.progress import reading
    from graft.terminal import show_problems

    limits = Limits(minutes=minutes, memory=memory, max_latency=max_latency, max_size=max_size)
    console = make_console(stderr=as_json)
    with reading(console) as told:
        prepared = prepare(asked, progress=told)
    with reading(console) as told:
        found = find_advice(prepared, limits, progress=told)
    show_problems(console, prepared.splits.problems)
    show_advice(console, found)
    if as_json:
        print_json(found.model_dump(mode="json"))
    if found.recipe is None:
        raise typer.Exit(1)
    if out is not None:
        write_text(out, found.recipe.to_toml())
        console.print(
            f"The recipe: {out}; train with graft train --recipe {out}", markup=False, soft_wrap=True
        )


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
    asked = asked_recipe(
        recipe, settings, data, backbone=names[0], strategy="probe", seed=seed, device=device
    )
    from graft.advice.ranking import in_order, rate
    from graft.advice_tables import guidance_table, ranking_table
    from graft.numerics import resolve_numerics
    from graft.preparation import fit_preprocess, load_backbone, open_store, read_splits
    from graft.progress import reading
    from graft.reuse.store import NOWHERE

    console, rated, splits = make_console(stderr=as_json), [], None
    numerics, store = resolve_numerics(asked), open_store(asked) or NOWHERE
    for name in names:
        loaded = load_backbone(asked.model_copy(update={"backbone": name}))
        with reading(console) as told:
            splits = read_splits(asked, loaded, progress=told) if splits is None else splits
            loaded = fit_preprocess(loaded, asked, splits)
            rated.append(rate(loaded, splits, numerics, seed=asked.seed, store=store, progress=told))
    console.print(ranking_table(rated))
    console.print(guidance_table(rated))
    if as_json:
        print_json({"ranked": [each.model_dump(mode="json") for each in in_order(rated)]})


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
    asked = asked_recipe(
        recipe,
        settings,
        data,
        backbone=backbone,
        strategy=strategy,
        weights=weights,
        seed=seed,
        epochs=epochs,
        device=device,
    )
    if fix is not None:
        check_out(fix, RECIPES, option="--fix")
    from graft.examination import cure, examine
    from graft.files import write_text
    from graft.preparation import prepare
    from graft.progress import reading
    from graft.terminal import show_findings

    console = make_console(stderr=as_json)
    with reading(console) as told:
        prepared = prepare(asked, progress=told)
    with reading(console) as told:
        found = examine(prepared, progress=told)
    show_findings(console, found)
    if as_json:
        print_json({"findings": [finding.model_dump(mode="json") for finding in found]})
    if fix is not None:
        write_text(fix, cure(asked, found).to_toml())
        cured = [finding.id for finding in found if finding.fix]
        cures = f"with the cures of {', '.join(cured)}"
        which = cures if cured else "as it was: no setting cures what was found"
        console.print(f"The recipe, {which}: {fix}", markup=False, soft_wrap=True)
    if any(finding.severity == "error" for finding in found):
        raise typer.Exit(1)


def find_rate(
    data: Data = None,
    backbone: Backbone = None,
    strategy: Strategy = None,
    sweep: Annotated[
        str | None, typer.Option(help="Train shortly at each of these rates: 1e-2,1e-3,1e-4,1e-5.")
    ] = None,
    low: Annotated[
        float | None, typer.Option(help="The rate that the range test begins with; default 1e-7.")
    ] = None,
    high: Annotated[float | None, typer.Option(help="The rate that it ends with; default 1.")] = None,
    steps: Annotated[int | None, typer.Option(min=10, help="Steps of the test; default 100.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Length of each run of a sweep; default 3.")] = None,
    weights: Weights = None,
    seed: Seed = None,
    device: Device = None,
    recipe: RecipeFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Find a learning rate: by a range test, or by short runs (--sweep)."""
    from graft.errors import RecipeError, quote

    if sweep is not None and not (low is high is steps is None):
        raise RecipeError("--low, --high and --steps are of the range test, and a sweep was asked for.")
    if sweep is None and epochs is not None:
        raise RecipeError("--epochs is the length of a sweep's runs; name its rates: --sweep 1e-2,1e-3.")
    try:
        rates = [float(each) for each in (sweep or "").split(",") if each.strip()]
    except ValueError:
        raise RecipeError(f"--sweep {quote(sweep)}: rates with commas between were expected.") from None
    asked = asked_recipe(
        recipe,
        settings,
        data,
        backbone=backbone,
        strategy=strategy or "full",
        weights=weights,
        seed=seed,
        epochs=epochs or 3,
        device=device,
    )
    from graft.advice_tables import range_table, sweep_table
    from graft.lr_finder import HIGHEST, LOWEST, STEPS, range_test
    from graft.lr_finder import sweep as sweep_rates
    from graft.preparation import open_store, prepare
    from graft.progress import reading

    console, store = make_console(stderr=as_json), open_store(asked)
    with reading(console) as told:
        made = prepare(asked, progress=told)
    backbone_and_data = made.backbone, made.splits
    values: dict[str, Any]
    with reading(console) as told:
        if sweep is not None:
            tried = sweep_rates(asked, *backbone_and_data, rates, store=store, progress=told)
            table, lines = sweep_table(tried), []
            values = {"sweep": [each.model_dump(mode="json") for each in tried]}
        else:
            found = range_test(
                *backbone_and_data,
                made.plan,
                low=LOWEST if low is None else low,
                high=HIGHEST if high is None else high,
                steps=steps or STEPS,
                store=store,
                progress=told,
            )
            table, values = range_table(found), found.model_dump(mode="json")
            shown = ", ".join(f"{rule} {rate:.2g}" for rule, rate in found.suggestions.items())
            lines = [f"No answer: {doubt}" for doubt in found.doubts]
            lines = lines or [f"Suggested for train.lr: {shown}"]
    console.print(table)
    for line in lines:
        console.print(line, markup=False)
    if as_json:
        print_json(values)
