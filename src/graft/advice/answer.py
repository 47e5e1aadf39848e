"""What to do with this data and this backbone, and why: rules, evidence, and a recipe that follows.

The recipe is what the strategy auto does, written out, unless the rules say otherwise and nothing measured
decides against them (verdict.py), or a limit forbids it: then it is the richest strategy that keeps the
limits, by time and memory as measured on a few steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from graft.advice.doubts import list_doubts
from graft.advice.rules import Likeness, Rule, look_up
from graft.advice.survey import Survey, survey_data
from graft.advice.verdict import SIMPLEST, agreeing, judge, kind_of
from graft.backbones.contract import Backbone
from graft.costs import Cost, measure_costs
from graft.errors import RecipeError
from graft.evidence import Evidence
from graft.looking import Progress
from graft.numerics import resolve_device, resolve_numerics
from graft.options import Frozen
from graft.plan import Phase, Plan, make_ask, make_plan
from graft.preparation import Prepared, open_store
from graft.recipe import Recipe, make_recipe
from graft.reuse.store import NOWHERE
from graft.steps import Solve, Train
from graft.strategies import notes_of
from graft.strategies.auto import decide

LOWER = ("partial:2", "partial:1", "probe")  # what else is considered where a limit forbids the rest
LATENCY_PASSES = 5


class Limits(Frozen):
    """What may not be exceeded; None: no limit."""

    minutes: float | None = None
    """Of training."""
    memory: float | None = None
    """Gigabytes while training."""
    max_latency: float | None = None
    """Milliseconds that the network may take for one item on this machine."""
    max_size: float | None = None
    """Megabytes of the weights."""


class Measured(Frozen):
    """What training and the trained model take here."""

    seconds: float
    gigabytes: float
    latency: float
    """Milliseconds for one item."""
    megabytes: float
    """Of the weights, in 32 bits."""


class Advice(Frozen):
    """The answer, with all that it rests on.

    ``recipe``: what ``graft train`` takes; None where nothing keeps the limits. ``expected``: accuracy from
    and to, as measured on labels that were held out; None where nothing could be. ``warnings``: why
    transfer with this backbone may be the wrong tool, or which limit cannot be kept.
    """

    labels: int
    likeness: Likeness
    rules: tuple[Rule, ...]
    agreed: bool | None
    """Whether the answer is of a kind that the rules name."""
    decided: str
    """Between the rules and the strategy auto: what decided, in words."""
    evidence: Evidence | None
    survey: Survey | None
    recipe: Recipe | None
    strategy: str
    reasons: tuple[str, ...]
    expected: tuple[float, float] | None
    measured: Measured | None
    warnings: tuple[str, ...] = ()
    takes_text: bool = False


def advise(prepared: Prepared, limits: Limits | None = None, *, progress: Progress | None = None) -> Advice:
    """Advice on what ``prepared`` holds (see :func:`graft.preparation.prepare`, with the strategy auto).

    Raises:
        TrainingError: features are not finite.
    """
    recipe, backbone, splits = prepared.recipe, prepared.backbone, prepared.splits
    evidence, bounds = prepared.evidence, limits or Limits()
    seen = None
    if backbone.source.pretrained:
        store = open_store(recipe) or NOWHERE
        numerics = resolve_numerics(recipe)
        seen = survey_data(
            backbone, splits, numerics, evidence, seed=recipe.seed, store=store, progress=progress
        )
    likeness = _likeness(evidence, seen, takes_text=backbone.takes_text)
    labels = len(splits.train)
    rules = look_up(labels, likeness, takes_text=backbone.takes_text)
    first, words = _decide(prepared, rules)
    plan, measured, broken = _within(prepared, first, bounds)
    warnings = (*list_doubts(backbone, splits, seen, likeness), *broken)
    told = recipe_of(plan, recipe) if plan is not None else None
    chosen = "none" if told is None else told.strategy
    return Advice(
        labels=labels,
        likeness=likeness,
        rules=rules,
        agreed=None if told is None else bool(agreeing(chosen, rules)),
        evidence=evidence,
        survey=seen,
        recipe=told,
        strategy=chosen,
        reasons=tuple(_reasons(prepared, plan, first, seen)),
        decided=words if plan is first else "the richest strategy that keeps the limits",
        expected=_expected(evidence, seen, chosen),
        measured=measured,
        warnings=warnings,
        takes_text=backbone.takes_text,
    )


def recipe_of(plan: Plan, recipe: Recipe) -> Recipe:
    """A recipe that says outright what the plan of ``recipe`` came to.

    Its own plan has the same phases; what the person set stays.
    """
    values: dict[str, Any] = recipe.model_dump(exclude_unset=True, mode="json")
    phases = [phase for phase in plan.phases if isinstance(phase, Solve | Phase)]
    trained = [phase for phase in phases if isinstance(phase, Phase)]
    if trained:  # else nothing looks at it
        values.setdefault("data", {}).setdefault("validation", "auto")
    if plan.strategy != "auto":
        values["strategy"] = plan.strategy
        return make_recipe(values)
    train = values.setdefault("train", {})
    if plan.tta != "none":
        values.setdefault("final", {}).setdefault("tta", plan.tta)
    if not trained:
        values["strategy"] = "probe"
        if any(phase.adapt for phase in phases if isinstance(phase, Solve)):
            train.setdefault("batchnorm", "adaptive")
        return make_recipe(values)
    main = trained[-1].train
    values["strategy"] = "two-phase"
    values.setdefault("epochs", main.epochs)
    drawn = [phase.train for phase in trained if phase.train.objective == "contrast"]
    if drawn:
        values.setdefault("contrast", drawn[0].epochs)
    else:  # after a contrast both are two-phase's own, and what is named would be the contrast's as well
        _name_steps(train, main, recipe)
    if not plan.takes_text:
        for name in ("augmentation", "flip", "batchnorm"):
            train.setdefault(name, getattr(main, name))
    return make_recipe(values)


def _name_steps(train: dict[str, Any], main: Train, recipe: Recipe) -> None:
    """Put the phase's rate and its batches into ``train``, where the recipe has others."""
    if not {"rates", "lr"} & train.keys():
        train["lr"] = main.rates.stages[next(reversed(main.rates.stages))]
    if main.batch_size != recipe.train.batch_size:
        train["batch_size"] = main.batch_size


def _likeness(evidence: Evidence | None, seen: Survey | None, *, takes_text: bool) -> Likeness:
    """How like the pretraining's the data is, from what probes know at which depth.

    Of texts only from the top: that it knows little is mostly that the question is another, not the words.
    """
    if evidence is None:
        return "different" if seen is None else "somewhat similar"
    if takes_text and evidence.top.information < 0.6:
        return "somewhat similar" if evidence.top.information > 0.1 else "different"
    decided = decide(evidence).domain
    if decided == "far":
        return "very different"
    if decided == "between":
        return "different"
    return "similar" if evidence.top.information > 0.6 else "somewhat similar"


def _decide(prepared: Prepared, rules: tuple[Rule, ...]) -> tuple[Plan, str]:
    """The plan to begin with, that of auto or of a rule, and what decided between them."""
    recipe, backbone, plan = prepared.recipe, prepared.backbone, prepared.plan
    own = recipe_of(plan, recipe).strategy
    if backbone.takes_text:
        return plan, "by graft's own trials on texts; the rules are taught for pictures"
    if not backbone.source.pretrained:
        return plan, "the weights are random, so there is nothing to transfer"
    verdict = judge(own, rules, prepared.evidence)
    if verdict.strategy is None:
        return plan, verdict.words
    try:
        wanted = make_recipe(_with_strategy(recipe, verdict.strategy, prepared.evidence))
        return make_plan(wanted, backbone, prepared.splits), verdict.words
    except RecipeError:  # of a single stage nothing can stay frozen, and settings may belong to auto's
        return plan, f"the rule {verdict.strategy} does not fit this recipe and backbone"


def _with_strategy(recipe: Recipe, strategy: str, evidence: Evidence | None) -> dict[str, Any]:
    """The recipe's values with another strategy, and with the batch-norm statistics that were measured."""
    values: dict[str, Any] = recipe.model_dump(exclude_unset=True, mode="json") | {"strategy": strategy}
    if evidence is not None and evidence.adapted is not None and decide(evidence).adapts:
        values.setdefault("train", {}).setdefault("batchnorm", "adaptive")
    return values


def _within(
    prepared: Prepared, first: Plan, limits: Limits
) -> tuple[Plan | None, Measured | None, tuple[str, ...]]:
    """The richest plan that keeps the limits, what it takes, and which limits none keeps."""
    backbone, plan = prepared.backbone, prepared.plan
    latency = measure_latency(backbone, prepared.recipe.device)
    megabytes = 4 * plan.parameters / 1e6
    hard = []
    if limits.max_latency is not None and latency > limits.max_latency:
        hard.append(
            f"One item takes {latency:.1f} ms here, and {limits.max_latency:g} are allowed: choose a "
            "smaller backbone (graft rank compares several)."
        )
    if limits.max_size is not None and megabytes > limits.max_size:
        hard.append(
            f"The weights take {megabytes:.0f} MB, and {limits.max_size:g} are allowed: choose a smaller "
            "backbone (graft rank compares several)."
        )
    if hard:
        return None, None, tuple(hard)
    least: Measured | None = None
    for tried in _candidates(prepared, first):
        costs = measure_costs(backbone, prepared.splits, tried, limit=prepared.recipe.reuse.limit_bytes)
        least = _measured(costs, latency, megabytes)
        slow = limits.minutes is not None and least.seconds > 60 * limits.minutes
        large = limits.memory is not None and least.gigabytes > limits.memory
        if not slow and not large:
            return tried, least, ()
    assert least is not None
    return None, None, (
        f"Even a probe takes {least.seconds:.0f} s and {least.gigabytes:.2f} GB here, more than is "
        "allowed: choose a smaller backbone, or fewer items.",
    )  # fmt: skip


def _candidates(prepared: Prepared, first: Plan) -> Iterator[Plan]:
    """The plan to begin with, then ever lighter ones."""
    yield first
    stages = len(prepared.backbone.stages)
    kind = SIMPLEST.index(kind_of(recipe_of(first, prepared.recipe).strategy))
    for strategy in LOWER:
        count = int(strategy.partition(":")[2] or 0)
        if count < stages and SIMPLEST.index(kind_of(strategy)) < kind:
            recipe = prepared.recipe.model_copy(update={"strategy": strategy})
            yield make_plan(recipe, prepared.backbone, prepared.splits)


def _measured(costs: dict[int, Cost], latency: float, megabytes: float) -> Measured:
    return Measured(
        seconds=sum(cost.seconds for cost in costs.values()),
        gigabytes=max(cost.bytes for cost in costs.values()) / 1e9,
        latency=latency,
        megabytes=megabytes,
    )


def measure_latency(backbone: Backbone, device: str = "auto") -> float:
    """Milliseconds that the network takes for one item, the median of a few."""
    where = resolve_device(device)
    trunk: nn.Module = backbone.trunk.eval().to(where)
    item = backbone.preprocess.noise(1).to(where)
    taken = []
    with torch.inference_mode():
        for _ in range(LATENCY_PASSES + 1):
            began = time.perf_counter()
            trunk(item).cpu()
            taken.append(time.perf_counter() - began)
    trunk.cpu()
    return 1000 * sorted(taken[1:])[LATENCY_PASSES // 2]


def _expected(evidence: Evidence | None, seen: Survey | None, strategy: str) -> tuple[float, float] | None:
    """From and to: what was measured on held-out labels, two standard errors around it."""
    if seen is None or strategy == "none":
        return None
    low = high = seen.top.accuracy
    trial = evidence.trial if evidence is not None else None
    if trial is not None and trial.trained is not None and strategy != "probe":
        high = max(high, trial.trained)
    if seen.curve:
        high = max(high, seen.curve[-1].accuracy)

    def error(share: float) -> float:
        return 2 * math.sqrt(max(share * (1 - share), 0.0) / seen.items)

    return max(0.0, low - error(low)), min(1.0, high + error(high))


def _reasons(prepared: Prepared, plan: Plan | None, first: Plan, seen: Survey | None) -> Iterator[str]:
    if plan is prepared.plan:
        ask = make_ask(prepared.recipe, prepared.backbone, prepared.splits, prepared.evidence)
        yield from notes_of(ask)
    elif plan is not None and plan is not first:
        yield f"{plan.strategy}: the richest strategy that keeps the limits."
    if seen is None:
        return
    if seen.best.stage != seen.top.stage and seen.best.information > seen.top.information + 0.02:
        yield (
            f"After {seen.best.stage} a probe knows {100 * seen.best.information:.0f} % of the labels, at "
            f"the top {100 * max(0.0, seen.top.information):.0f} %: the upper stages belong to the task of "
            "the pretraining, and are what has to move."
        )
    if seen.forecast is not None:
        yield (
            f"With twice the labels a probe would come to about {100 * seen.forecast:.0f} %, after "
            f"{100 * seen.curve[-1].accuracy:.0f} % with {seen.curve[-1].labels}."
        )


__all__ = ["Advice", "Limits", "Measured", "advise", "agreeing", "kind_of", "measure_latency", "recipe_of"]
