"""Many runs, fairly: the same training labels, the same test items, as many optimiser steps.

Every cell of a comparison (a candidate, a number of labels, a seed) is a run of its own in the
comparison's folder, so that it can be looked at, and gone on with after an interruption:

    comparison.json   what is compared; outcomes/CELL.json  what came out; runs/CELL/  each run; report.html

Candidates train as ``graft train`` would; only their length is made equal. Where the data brings no test
part, a fifth of every class is held out for it by the first seed, the same for all.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from graft.backbones.contract import Backbone
from graft.comparing import (
    Asked,
    Candidate,
    Outcome,
    cells,
    outcome_file,
    read_outcomes,
    read_value,
    run_name,
)
from graft.costs import measure_costs
from graft.data.items import Items, Splits
from graft.data.splits import divide
from graft.data.validation import draw, split_off
from graft.errors import RecipeError, RunError
from graft.evidence import Evidence
from graft.files import write_json
from graft.plan import Phase, make_ask
from graft.recipe import Recipe, make_recipe
from graft.records import Record
from graft.reporting import wants_report
from graft.runs import Run, locked
from graft.schedule import steps_in_epoch
from graft.steps import Train
from graft.strategies import decides_by_evidence, plan_steps, split_name
from graft.task import Task
from graft.workflow import (
    Prepared,
    carry_out,
    drain,
    load_backbone,
    plan_for,
    read_splits,
)

HELD_OUT = 0.2  # of every class, to test, where the data brings no test part
LONGER = 3  # times as many steps that training from scratch is also given
_LONGEST = 10_000  # epochs that are considered
Show = Callable[[str, Record | None], None]


def make_candidates(
    asked: Recipe,
    strategies: Sequence[str],
    backbones: Sequence[str],
    recipes: Sequence[tuple[str, Recipe]] = (),
) -> tuple[Candidate, ...]:
    """Every strategy on every backbone, as ``asked`` otherwise; and recipes by their names.

    Training from scratch is a candidate twice, the second time with three times as many steps.

    Raises:
        RecipeError: a name stands twice, or there is nothing to compare.
    """
    found = []
    for backbone in backbones:
        for strategy in strategies:
            name = " ".join([strategy, *([backbone] if len(backbones) > 1 else [])])
            values = _open(asked) | {"strategy": strategy, "backbone": backbone}
            found.append(Candidate(name=name, recipe=values))
            if split_name(strategy)[0] == "scratch":
                more = {"name": f"{name}, {LONGER} times the steps", "times": LONGER}
                found.append(found[-1].model_copy(update=more))
    for name, recipe in recipes:
        found.append(Candidate(name=name, recipe=_open(recipe), own_length=recipe.epochs is not None))
    names = [each.name for each in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(f"Named twice in the comparison: {', '.join(twice)}.")
    if len(found) < 2:
        raise RecipeError("A comparison wants two candidates or more: --strategies probe,full")
    return tuple(found)


def _open(recipe: Recipe) -> dict[str, Any]:
    """What a recipe sets, but for the data's place and the seed, which are the comparison's."""
    values = recipe.model_dump(mode="json", exclude_unset=True)
    values.pop("seed", None)
    values["data"] = {key: value for key, value in values.get("data", {}).items() if key != "path"}
    return values


def compare(asked: Asked, folder: Path, *, show: Show | None = None) -> list[Outcome]:
    """Carry out what is not done yet, and return every outcome.

    ``show`` is called with the name of a cell and each of its records (None as it begins).

    Raises:
        RunError: the folder holds another comparison, or something else.
        GraftError: as training does.
    """
    with locked(Run(folder)):
        _begin(asked, folder)
        pools: dict[str, tuple[Items, Splits]] = {}
        for labels, candidate, seed in cells(asked):
            done = outcome_file(folder, asked, candidate, labels, seed)
            if not done.is_file():
                _carry_out(asked, folder, candidate, labels, seed, pools, show)
    return read_outcomes(folder)[1]


def _begin(asked: Asked, folder: Path) -> None:
    """Write what is compared, or see that it is what the folder was begun with."""
    file = folder / "comparison.json"
    if file.is_file():
        if read_value(file, Asked) != asked:
            raise RunError(
                f"{folder} holds another comparison (other candidates, seeds, labels, steps or data); "
                "name a "
                "new folder with --out, or ask for the same to go on with it."
            )
        return
    others = sorted(path.name for path in folder.iterdir() if path.name != "lock")
    if others:
        raise RunError(f"{folder} is not empty ({others[0]}); name a new folder with --out.")
    (folder / "outcomes").mkdir(exist_ok=True)
    write_json(file, asked.model_dump(mode="json"))


def _carry_out(
    asked: Asked,
    folder: Path,
    candidate: Candidate,
    labels: int | None,
    seed: int,
    pools: dict[str, tuple[Items, Splits]],
    show: Show | None,
) -> None:
    """One cell: prepared, trained in its own run, and measured on the test items."""
    name = f"{candidate.name}, {'all' if labels is None else labels} labels, seed {seed}"
    if show is not None:
        show(name, None)
    recipe = _recipe(asked, candidate, seed)
    run = Run(folder / "runs" / run_name(asked, candidate, labels, seed))
    backbone = load_backbone(recipe)
    key = recipe.data.model_dump_json() + backbone.preprocess.modality
    if key not in pools:
        pools[key] = _read_pool(asked, recipe, backbone)
    test, pool = pools[key]
    drawn = pool.train if labels is None else pool.train.select(draw(pool.train, labels, seed))
    if labels is not None and labels > len(pool.train):
        raise RecipeError(f"--labels {labels}: there are {len(pool.train)} items to train on.")
    began = time.perf_counter()
    prepared = _prepare(asked, candidate, recipe, backbone, divide(pool, drawn, test, _share(recipe), seed))
    if run.begun:  # and stopped: it goes on as it was planned
        run.check_data(prepared.splits)
        prepared = Prepared(run.recipe, prepared.backbone, prepared.splits, run.plan)
    planned = time.perf_counter() - began
    first = seed == asked.seeds[0]  # whose pages are written, and memory is measured
    steps = carry_out(prepared, run, report=first and wants_report())
    bundle = drain(steps, None if show is None else lambda record: show(name, record))
    outcome = Outcome(
        candidate=candidate.name,
        labels=len(drawn),
        seed=seed,
        **_measure(bundle.task, run, test),
        steps=sum(record["record"] == "stepped" for record in run.read_log()),
        seconds=planned + bundle.metrics["seconds"],
        parameters=prepared.plan.trained,
        whole=prepared.plan.parameters,
        memory=_memory(prepared) if first else None,
        plan=prepared.plan.strategy,
    )
    write_json(outcome_file(folder, asked, candidate, labels, seed), outcome.model_dump(mode="json"))
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)


def _recipe(asked: Asked, candidate: Candidate, seed: int) -> Recipe:
    values = candidate.recipe | {"seed": seed}
    return make_recipe(values | {"data": values["data"] | {"path": asked.data}})


def _read_pool(asked: Asked, recipe: Recipe, backbone: Backbone) -> tuple[Items, Splits]:
    """The test items, and splits that hold all others to train on, for every candidate alike."""
    settings = recipe.data.model_copy(update={"validation": 0.0})
    whole = read_splits(recipe.model_copy(update={"data": settings}), backbone)
    if whole.test is not None:
        return whole.test, whole
    kept, taken, _ = split_off(whole.train, whole.task.labels, HELD_OUT, asked.seeds[0])
    return whole.train.select(taken), divide(whole, whole.train.select(kept), None, 0.0, 0)


def _share(recipe: Recipe) -> Any:
    """The share of training items that validates: as ``graft train`` has it."""
    if decides_by_evidence(recipe) and "validation" not in recipe.data.model_fields_set:
        return "auto"
    return recipe.data.validation


def _prepare(
    asked: Asked, candidate: Candidate, recipe: Recipe, backbone: Backbone, splits: Splits
) -> Prepared:
    """The plan, made as long as all others are."""
    if candidate.own_length:
        return plan_for(recipe, backbone, splits)
    steps = asked.steps or _usual_steps(asked, splits)
    first = plan_for(recipe, backbone, splits)
    if not any(isinstance(phase, Phase) for phase in first.plan.phases):
        return first
    wanted = steps * candidate.times

    def length(epochs: int) -> int:
        longer = recipe.model_copy(update={"epochs": epochs})
        return _count_steps(longer, backbone, splits, first.evidence)

    epochs = _most(length, wanted)
    return plan_for(recipe.model_copy(update={"epochs": epochs}), backbone, splits, first)


def _most(length: Callable[[int], int], wanted: int) -> int:
    """The most epochs that take no more than the steps ``wanted``; one at least."""
    low, high = 1, 2
    while high < _LONGEST and length(high) <= wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if length(middle) <= wanted else (low, middle)
    return low


def _usual_steps(asked: Asked, splits: Splits) -> int:
    """How many steps ``full`` takes by default on these items, with the first candidate's backbone."""
    recipe = _recipe(asked, asked.candidates[0], asked.seeds[0])
    recipe = recipe.model_copy(update={"strategy": "full", "epochs": None})
    return _count_steps(recipe, load_backbone(recipe), splits)


def _count_steps(
    recipe: Recipe, backbone: Backbone, splits: Splits, evidence: Evidence | None = None
) -> int:
    items = len(splits.train)
    return sum(
        step.epochs * steps_in_epoch(items, step.batch_size)
        for step in plan_steps(make_ask(recipe, backbone, splits, evidence))
        if isinstance(step, Train)
    )


def _measure(task: Task, run: Run, test: Items) -> dict[str, Any]:
    """The score on the test items, and what is right of each."""
    logits, truth = torch.from_numpy(run.read_logits()["test"]), torch.from_numpy(test.targets)
    right = (task.decisions(logits) == truth).double()
    right = right.mean(1) if right.ndim == 2 else right
    return {"score": float(task.score(logits, truth)), "right": tuple(right.tolist())}


def _memory(prepared: Prepared) -> int:
    costs = measure_costs(prepared.backbone, prepared.splits, prepared.plan)
    return max(cost.bytes for cost in costs.values())
