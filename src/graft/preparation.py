"""What is done before training: the recipe's backbone and data, what is measured on them, and the plan."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from graft.adapters import adapt
from graft.backbones import load_backbone as load_any_backbone
from graft.backbones.contract import Backbone, Encoding, Preprocess
from graft.data import read_splits as read_any_splits
from graft.data.items import Splits
from graft.data.scan import Progress
from graft.data.statistics import prepare_for
from graft.data.texts import list_cut
from graft.engine import meet, seeded, start_engine
from graft.errors import RunError
from graft.evidence import LOOKS, Evidence, measure_evidence
from graft.forward_trial import Choice, choose_forward
from graft.numerics import Forward, resolve_device, resolve_numerics
from graft.plan import Plan, check, make_ask, make_plan, needs_validation
from graft.rate_trial import try_rates
from graft.recipe import Recipe
from graft.reuse.inventory import store_folder
from graft.reuse.store import NOWHERE, Store
from graft.runs import Run
from graft.seeds import mix
from graft.steps import Solve
from graft.strategies import decides_by_evidence, entry_of, plan_steps, split_name


@dataclass(frozen=True)
class Prepared:
    """All that is known before training: the recipe and what it resolved to."""

    recipe: Recipe
    backbone: Backbone
    splits: Splits
    plan: Plan
    evidence: Evidence | None = None
    """What was measured on the data, where the strategy decides by it."""
    forward: Choice | None = None
    """How the resting backbone computes fastest, where that was tried."""


def prepare(
    recipe: Recipe,
    *,
    backbone: Backbone | None = None,
    data: Any = None,
    progress: Progress | None = None,
) -> Prepared:
    """Load the backbone, refuse what cannot be done, read the data, and make the plan.

    ``backbone`` and ``data`` stand in for what the recipe names; ``progress`` is called with (pictures
    read, all of them).

    Raises:
        GraftError: as the recipe, the backbone or the data are at fault.
    """
    meet()
    loaded = load_backbone(recipe) if backbone is None else _with_adapters(recipe, backbone)
    check(recipe, loaded)
    return plan_for(recipe, loaded, read_splits(recipe, loaded, data, progress), progress=progress)


def plan_for(
    recipe: Recipe,
    backbone: Backbone,
    splits: Splits,
    like: Prepared | None = None,
    *,
    progress: Progress | None = None,
) -> Prepared:
    """What is planned on these splits; ``like``: where what was measured for another recipe holds as well.

    Raises:
        GraftError: as :func:`prepare`.
    """
    backbone = fit_preprocess(backbone, recipe, splits)
    forward = try_forward(recipe, backbone, splits) if like is None else like.forward
    evidence = measure(recipe, backbone, splits, progress, forward) if like is None else like.evidence
    plan = make_plan(recipe, backbone, splits, evidence, forward)
    return Prepared(recipe, backbone, splits, plan, evidence, forward)


def prepare_again(
    run: Run,
    *,
    backbone: Backbone | None = None,
    data: Any = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """A run's recipe, plan, data and backbone, as they were when it began.

    ``workers``: how many decode from now on, which changes no result; None: as planned.

    Raises:
        RunError: the data or the weights are not what they were, or only Python has them.
    """
    recipe, plan = run.recipe, run.plan
    if data is None and not recipe.data.path:
        raise RunError(f"{run.folder} was trained on arrays; go on with graft.resume(path, data=...).")
    if backbone is None and recipe.backbone.startswith("plain/"):
        raise RunError(
            f"{run.folder} trains a module of your own; go on with graft.resume(path, backbone=...)."
        )
    resolve_device(plan.numerics.device)
    meet()
    backbone = load_backbone(recipe) if backbone is None else _with_adapters(recipe, backbone)
    splits = read_splits(recipe, backbone, data, progress)
    run.check_data(splits)
    backbone = fit_preprocess(backbone, recipe, splits)
    run.check_network(backbone)
    if workers is not None:
        numerics = plan.numerics.model_copy(update={"workers": workers})
        plan = plan.model_copy(update={"numerics": numerics})
    return Prepared(recipe, backbone, splits, plan)


def load_backbone(what: str | Recipe | Backbone, **options: Any) -> Backbone:
    """Load a backbone by its id, or as a recipe asks for it; a ``Backbone`` is returned as it is.

    Of a recipe, random weights are a function of its seed, the strategy scratch has no others, and for the
    strategy lora adapters are put in.
    ``options`` for an id are those of ``graft.backbones.load_backbone``: weights, channels, size.

    Raises:
        BackboneError: unknown, or its weights cannot be loaded.
    """
    if not isinstance(what, Recipe):
        return load_any_backbone(what, **options)
    recipe = what
    if split_name(recipe.strategy)[0] == "scratch":
        library_and_name = recipe.backbone.rpartition(":")[0] or recipe.backbone
        recipe = recipe.model_copy(update={"backbone": f"{library_and_name}:none", "weights": None})
    with seeded(mix(recipe.seed, "trunk"), torch.device("cpu")):
        return _with_adapters(recipe, load_any_backbone(recipe))


def _with_adapters(recipe: Recipe, backbone: Backbone) -> Backbone:
    """The backbone with adapters where the recipe's strategy trains those."""
    adapts = entry_of(recipe).adapts
    if adapts is None or backbone.adapters is not None:
        return backbone
    stages = adapts(backbone.stage_names, split_name(recipe.strategy)[1])
    return adapt(backbone, recipe.adapters, stages, seed=recipe.seed)


def read_splits(
    recipe: Recipe,
    backbone: Backbone,
    data: Any = None,
    progress: Progress | None = None,
) -> Splits:
    """The labelled data; a validation part is split off only where a step of the plan needs one.

    Raises:
        DataError: the data is missing or cannot be used.
    """
    settings = recipe.data.model_copy(update={"validation": validation_share(recipe, backbone)})
    given = settings.path if data is None else data
    intake = backbone.preprocess
    if not isinstance(intake, Encoding):
        return read_any_splits(given, settings, recipe.seed, progress)
    splits = read_any_splits(given, settings, recipe.seed, progress, "text")
    return replace(splits, problems=(*splits.problems, *list_cut(splits.train, intake)))


def validation_share(recipe: Recipe, backbone: Backbone) -> float | Literal["auto"]:
    """The share of training items that is set aside to validate with: none where no step would use it."""
    if not needs_validation(recipe, backbone):
        return 0.0
    if decides_by_evidence(recipe) and "validation" not in recipe.data.model_fields_set:
        return "auto"
    return recipe.data.validation


def fit_preprocess(backbone: Backbone, recipe: Recipe, splits: Splits) -> Backbone:
    """The backbone with mean and deviation of the training data, where recipe or channels ask so."""
    if not isinstance(backbone.preprocess, Preprocess):
        return backbone
    return replace(backbone, preprocess=prepare_for(backbone.preprocess, splits.train, recipe.data))


def try_forward(recipe: Recipe, backbone: Backbone, splits: Splits) -> Choice | None:
    """How the resting backbone computes features fastest; None where too few pass to try it.

    Of several processes the first one decides.
    """
    looks = LOOKS if decides_by_evidence(recipe) and backbone.source.pretrained else 0
    anyhow = recipe.model_copy(
        update={"phase": {}}
    )  # which phases there are may rest on what is measured yet
    steps = plan_steps(make_ask(anyhow, backbone, splits))
    passes = looks + sum(isinstance(step, Solve) for step in steps)
    if not passes:
        return None
    numerics = resolve_numerics(recipe)
    engine = start_engine(numerics)
    found = choose_forward(backbone, splits.train, numerics, passes=passes, seed=recipe.seed)
    shared = json.loads(engine.share_text(json.dumps(found and [found.forward.model_dump(), found.gain])))
    return shared and Choice(Forward.model_validate(shared[0]), shared[1])


def measure(
    recipe: Recipe,
    backbone: Backbone,
    splits: Splits,
    progress: Progress | None = None,
    forward: Choice | None = None,
) -> Evidence | None:
    """What the recipe's strategy decides by, measured on training data; None where it decides nothing.

    ``forward``: how the resting backbone computes, as :func:`try_forward` found (None: plainly).
    Of several processes all measure, and the first one's numbers count, so that all make the same plan.
    """
    if not decides_by_evidence(recipe) or not backbone.source.pretrained:
        return None
    numerics = resolve_numerics(recipe, forward.forward if forward else None)
    engine = start_engine(numerics)
    evidence = measure_evidence(
        backbone, splits, numerics, seed=recipe.seed, progress=progress, store=open_store(recipe) or NOWHERE
    )
    if evidence is not None:
        evidence = Evidence.model_validate_json(engine.share_text(evidence.model_dump_json()))
    given = {"lr", "rates"} & {name for name, value in recipe.train if value is not None}
    tries = entry_of(recipe).tries
    if evidence is None or given or tries is None:
        return evidence
    trying = tries(make_ask(recipe, backbone, splits, evidence))
    if trying is None:
        return evidence
    trial = try_rates(recipe, backbone, splits, evidence, trying, progress=progress)
    evidence = evidence.model_copy(update={"trial": trial})
    return Evidence.model_validate_json(engine.share_text(evidence.model_dump_json()))


def open_store(recipe: Recipe) -> Store | None:
    """The store of what frozen stages make of pictures, unless the recipe wants none."""
    return Store(store_folder(), recipe.reuse.limit_bytes) if recipe.reuse.store else None
