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
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.backbones.contract import Backbone
from graft.comparing import (
    COMPARISON,
    Asked,
    Candidate,
    Cell,
    Outcome,
    cells,
    measure_items,
    outcome_file,
    read_outcomes,
    read_value,
    run_name,
)
from graft.costs import measure_costs
from graft.data.items import Items, Splits
from graft.data.splits import divide
from graft.data.validation import draw, split_off
from graft.errors import Interrupted, RecipeError, RunError
from graft.evidence import Evidence
from graft.files import write_json
from graft.numerics import world_size
from graft.plan import Phase, check, make_ask
from graft.preparation import Prepared, load_backbone, plan_for, read_splits, validation_share
from graft.recipe import Recipe, make_recipe
from graft.records import Record
from graft.reporting import wants_report
from graft.runs import Run, locked
from graft.schedule import steps_in_epoch
from graft.steps import Train
from graft.strategies import plan_steps, split_name
from graft.system.signals import Stop, interrupts
from graft.workflow import carry_out, drain

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
    names = Counter(each.name for each in found)
    twice = sorted(name for name, count in names.items() if count > 1)
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


def compare(
    asked: Asked, folder: Path, *, show: Show | None = None, after: Callable[[], object] | None = None
) -> list[Outcome]:
    """Carry out what is not done yet, and return every outcome.

    ``show`` is called with the name of a cell and each of its records (None as it begins); ``after`` when a
    cell is done.

    Raises:
        RunError: the folder holds another comparison, or something else.
        Interrupted: Ctrl-C; the same call goes on.
        GraftError: as training does.
    """
    if world_size() > 1:
        raise RecipeError("A comparison runs in one process; torchrun is for graft train.")
    with locked(Run(folder)):
        _begin(asked, folder)
        work = _Work(asked, folder, show)
        todo = [cell for cell in cells(asked) if not outcome_file(folder, asked, cell).is_file()]
        for candidate in {cell.candidate.name: cell.candidate for cell in todo}.values():
            recipe = work.recipe(candidate, asked.seeds[0])  # refused now, and not after hours
            check(recipe, load_backbone(recipe))
        advice = f"Interrupted; what is done is kept: the same command with --out {folder} goes on."
        with interrupts() as asked_to_stop:
            for cell in todo:
                try:
                    work.carry_out(cell, asked_to_stop)
                except Interrupted as stop:
                    raise Interrupted(advice, stop.number) from None
                if asked_to_stop.is_set():
                    raise Interrupted(advice, asked_to_stop.number)
                if after is not None:
                    after()
    return read_outcomes(folder)[1]


def _begin(asked: Asked, folder: Path) -> None:
    """Write what is compared, or see that it is what the folder was begun with."""
    file = folder / COMPARISON
    if file.is_file():
        before = read_value(file, Asked)
        if before.model_copy(update={"command": asked.command}) != asked:
            raise RunError(
                f"{folder} holds another comparison (other candidates, seeds, labels, steps or data); name "
                "a new folder with --out, or ask for the same to go on with it."
            )
        return
    others = sorted(path.name for path in folder.iterdir() if path.name != "lock")
    if others:
        raise RunError(f"{folder} is not empty ({others[0]}); name a new folder with --out.")
    write_json(file, asked.model_dump(mode="json"))


@dataclass
class _Work:
    """A comparison while it is carried out; ``pools``: items that were read, by how they were."""

    asked: Asked
    folder: Path
    show: Show | None
    pools: dict[str, tuple[Items, Splits]] = field(default_factory=dict)

    def carry_out(self, cell: Cell, asked_to_stop: Stop) -> None:
        """One cell: prepared, trained in its own run, and measured on the test items."""
        show = self.show or (lambda *_: None)
        show(cell.title, None)
        run = Run(self.folder / "runs" / run_name(self.asked, cell))
        recipe = self.recipe(cell.candidate, cell.seed)
        backbone = load_backbone(recipe)
        test, drawn, pool = self._items(cell, recipe, backbone)
        splits = divide(pool, drawn, test, validation_share(recipe, backbone), cell.seed)
        steps = self._steps(cell, drawn, pool)
        began = time.perf_counter()
        prepared = _prepare(cell.candidate, recipe, backbone, splits, steps)
        planned = time.perf_counter() - began
        if run.begun:  # and stopped: it goes on as it was planned
            run.check_data(splits)
            run.check_network(prepared.backbone)
            prepared = Prepared(run.recipe, prepared.backbone, splits, run.plan)
        first = cell.seed == self.asked.seeds[0]  # whose pages are written, and memory is measured
        memory = _memory(prepared) if first else None
        training = carry_out(prepared, run, report=first and wants_report())
        bundle = drain(training, lambda record: show(cell.title, record), asked=asked_to_stop)
        assert test.targets is not None
        score, right = measure_items(bundle.task, run.read_logits()["test"], test.targets)
        outcome = Outcome(
            candidate=cell.candidate.name,
            labels=len(drawn),
            seed=cell.seed,
            items=len(test),
            score=score,
            right=right,
            steps=sum(record["record"] == "stepped" for record in run.read_log()),
            seconds=planned + bundle.metrics["seconds"],
            parameters=prepared.plan.trained,
            whole=prepared.plan.parameters,
            memory=memory,
        )
        file = outcome_file(self.folder, self.asked, cell)
        file.parent.mkdir(exist_ok=True)
        write_json(file, outcome.model_dump(mode="json"))
        shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)

    def recipe(self, candidate: Candidate, seed: int) -> Recipe:
        values = candidate.recipe | {"seed": seed}
        return make_recipe(values | {"data": values["data"] | {"path": self.asked.data}})

    def _items(self, cell: Cell, recipe: Recipe, backbone: Backbone) -> tuple[Items, Items, Splits]:
        """The test items, those to train on, and all there are."""
        key = recipe.data.model_dump_json(exclude={"validation"}) + backbone.preprocess.modality
        if key not in self.pools:
            self.pools[key] = _read_pool(recipe, backbone, self.asked.seeds[0])
        test, pool = self.pools[key]
        if cell.labels is None:
            return test, pool.train, pool
        if cell.labels > len(pool.train):
            raise RecipeError(f"--labels {cell.labels}: there are {len(pool.train)} items to train on.")
        return test, pool.train.select(draw(pool.train, cell.labels, cell.seed)), pool

    def _steps(self, cell: Cell, drawn: Items, pool: Splits) -> int:
        """As asked, or as many as ``full`` takes on these items: the same for every candidate."""
        if self.asked.steps is not None:
            return self.asked.steps * cell.candidate.times
        recipe = self.recipe(self.asked.candidates[0], cell.seed)
        recipe = recipe.model_copy(update={"strategy": "full", "epochs": None})
        backbone = load_backbone(recipe)
        splits = divide(pool, drawn, None, validation_share(recipe, backbone), cell.seed)
        return _count_steps(recipe, backbone, splits) * cell.candidate.times


def _read_pool(recipe: Recipe, backbone: Backbone, seed: int) -> tuple[Items, Splits]:
    """The test items, and splits that hold all others to train on, for every candidate alike."""
    settings = recipe.data.model_copy(update={"validation": 0.0})
    whole = read_splits(recipe.model_copy(update={"data": settings}), backbone)
    if whole.test is not None:
        return whole.test, whole
    kept, taken, _ = split_off(whole.train, whole.task.labels, HELD_OUT, seed)
    return whole.train.select(taken), divide(whole, whole.train.select(kept), None, 0.0, 0)


def _prepare(
    candidate: Candidate, recipe: Recipe, backbone: Backbone, splits: Splits, steps: int
) -> Prepared:
    """The plan, as long as whole epochs allow within the steps; one epoch of each phase at least."""
    first = plan_for(recipe, backbone, splits)
    if candidate.own_length or not any(isinstance(phase, Phase) for phase in first.plan.phases):
        return first

    def length(epochs: int) -> int:
        longer = recipe.model_copy(update={"epochs": epochs})
        return _count_steps(longer, backbone, splits, first.evidence)

    epochs = _most(length, steps)
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


def _count_steps(
    recipe: Recipe, backbone: Backbone, splits: Splits, evidence: Evidence | None = None
) -> int:
    items = len(splits.train)
    return sum(
        step.epochs * steps_in_epoch(items, step.batch_size)
        for step in plan_steps(make_ask(recipe, backbone, splits, evidence))
        if isinstance(step, Train)
    )


def _memory(prepared: Prepared) -> int:
    costs = measure_costs(
        prepared.backbone, prepared.splits, prepared.plan, limit=prepared.recipe.reuse.limit_bytes
    )
    return max(cost.bytes for cost in costs.values())
