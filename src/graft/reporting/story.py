"""What a report tells, read from the files of a run: also of one that is still going on.

recipe.json  plan.json  data.json  evidence.json  metrics.jsonl  result.json  report/details.json
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.errors import RunError
from graft.files import read_json
from graft.plan import Phase, Plan
from graft.recipe import Recipe
from graft.reporting.charts import Epoch, Span
from graft.reporting.details import Details
from graft.run_log import read_log
from graft.runs import Run, count_before
from graft.schedule import rate_factor

FOLDER, DETAILS = "report", "details.json"
_POINTS = 120  # of a schedule that are drawn


@dataclass(frozen=True)
class Story:
    """A run as plain values; ``result`` and ``details`` are None until it has come to its end."""

    folder: Path
    recipe: Recipe
    plan: Plan
    log: list[dict[str, Any]]
    result: dict[str, Any] | None = None
    details: Details | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    """Of the bundle: what it was made with, and hashes."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Training items of each label."""
    problems: tuple[str, ...] = ()
    """What was odd about the data."""
    multi_label: bool = False
    comparison: Path | None = None
    """The folder of the comparison that it is a run of."""

    @property
    def findings(self) -> list[dict[str, Any]]:
        return [record for record in self.log if record["record"] == "found"]

    @property
    def measured(self) -> dict[str, Any] | None:
        """The metrics of the part that says most: test, else validation."""
        result = self.result or {}
        return next((result[part] for part in ("test", "validation") if part in result), None)


def read_story(run: Run) -> Story:
    """The run's files.

    Raises:
        RunError: a file is missing or damaged.
    """
    details = run.folder / FOLDER / DETAILS
    manifest = run.bundle / "graft.json"
    try:
        found = Details.model_validate(read_json(details, RunError)) if details.is_file() else None
    except ValueError as error:
        raise RunError(
            f"{details} is damaged: {error}. Remove it, then graft report makes it anew."
        ) from None
    log = read_log(run.log)
    facts = read_json(run.folder / "data.json", RunError, most=None)
    return Story(
        sizes=_sizes(facts),
        multi_label=any(isinstance(label, list) for label, _ in facts["items"].values()),
        comparison=run.comparison,
        problems=(*facts.get("problems", ()), *filter(None, [log.damage])),
        folder=run.folder,
        recipe=run.recipe,
        plan=run.plan,
        log=log.records,
        result=read_json(run.folder / "result.json", RunError, most=None) if run.finished else None,
        details=found,
        manifest=read_json(manifest, RunError, most=None) if manifest.is_file() else {},
    )


def _sizes(facts: dict[str, Any]) -> dict[str, int]:
    found = Counter[str]()
    for name, (label, _) in facts["items"].items():
        if name.startswith("train/"):
            found.update(label if isinstance(label, list) else [label])
    return dict(found)


def spans_of(plan: Plan) -> list[Span]:
    """Each phase on the time line of optimiser steps."""
    return [
        _span(phase, begin) if isinstance(phase, Phase) else Span(phase.name, begin, begin, (), {})
        for phase, begin in zip(plan.phases, count_before(plan), strict=True)
    ]


def _span(phase: Phase, begin: int) -> Span:
    train = phase.train
    head = () if train.objective == "contrast" else ("head",)
    rates: dict[str, list[tuple[int, float]]] = {}
    runs = _alike([*train.rates.stages.items(), *((name, train.rates.head) for name in head)])
    for names, rate in runs:
        name = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        rates[name] = [(begin + step, rate * share) for step, share in _shares(phase)]
    return Span(train.name, begin, begin + phase.steps, (*train.stages, *head), rates)


def _alike(pairs: Sequence[tuple[str, float]]) -> list[tuple[list[str], float]]:
    """Stages in a row with one rate together."""
    found: list[tuple[list[str], float]] = []
    for name, rate in pairs:
        if found and found[-1][1] == rate and name != "head":
            found[-1][0].append(name)
        else:
            found.append(([name], rate))
    return found


def _shares(phase: Phase) -> Iterator[tuple[int, float]]:
    """Of the peak rate, at some of the phase's steps, the last among them."""
    train, steps = phase.train, phase.steps
    wanted = {round(place * (steps - 1) / (_POINTS - 1)) for place in range(_POINTS)}
    for step in sorted(wanted):
        yield (
            step,
            rate_factor(
                step,
                steps=steps,
                warmup=phase.warmup_steps,
                schedule=train.schedule,
                drop_every=train.drop_epochs * phase.steps_per_epoch,
                drop_factor=train.drop_factor,
            ),
        )


def losses_of(story: Story) -> list[tuple[int, float]]:
    """(step of the whole run, loss) of every batch so far."""
    before = count_before(story.plan)
    return [
        (before[record["phase"]] + record["step"], record["loss"])
        for record in story.log
        if record["record"] == "stepped" and record["loss"] is not None
    ]


def epochs_of(story: Story) -> list[Epoch]:
    """What each epoch came to."""
    before = count_before(story.plan)
    return [
        Epoch(
            before[record["phase"]] + record["step"],
            record["train_loss"],
            record["loss"],
            record["accuracy"],
            record.get("train_accuracy"),  # which runs of older versions did not log
        )
        for record in story.log
        if record["record"] == "validated"
    ]


def borders_of(plan: Plan) -> dict[str, int]:
    """The step at which each phase of steps begins, by its name."""
    pairs = zip(plan.phases, count_before(plan), strict=True)
    return {phase.train.name: begin for phase, begin in pairs if isinstance(phase, Phase)}
