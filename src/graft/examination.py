"""Data and recipe before the doctor, and the recipe that is cured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from graft.diagnosis import data_checks, recipe_checks
from graft.diagnosis.data_checks import MOST_PAIRS, Gathered
from graft.diagnosis.findings import Finding
from graft.embedding import compute_features
from graft.looking import Progress
from graft.numerics import resolve_numerics
from graft.preparation import Prepared, open_store
from graft.recipe import Recipe, make_recipe, put
from graft.reuse.store import NOWHERE
from graft.seeds import mix

_ORDER = {"error": 0, "warning": 1, "note": 2}


def examine(prepared: Prepared, *, progress: Progress | None = None) -> tuple[Finding, ...]:
    """All findings on the data and the plan, the gravest first.

    Raises:
        TrainingError: features are not finite.
    """
    seen = gather(prepared, progress=progress)
    written = recipe_checks.Written(prepared.recipe, prepared.plan, prepared.backbone, prepared.splits)
    every = [each for check in data_checks.CHECKS for each in check(seen)]
    every += [each for look in recipe_checks.CHECKS for each in look(written)]
    done = prepared.recipe.train.class_weights == "balanced" or prepared.recipe.train.sampling == "balanced"
    kept = [each for each in every if not (done and each.id == "data.imbalance")]
    return tuple(sorted(kept, key=lambda each: _ORDER[each.severity]))


def gather(prepared: Prepared, *, progress: Progress | None = None) -> Gathered:
    """Features of some items of every part, through the frozen backbone."""
    recipe, backbone, splits = prepared.recipe, prepared.backbone, prepared.splits
    seen = Gathered(backbone, splits, seed=recipe.seed)
    numerics, store = resolve_numerics(recipe), open_store(recipe) or NOWHERE
    for name, part in splits.parts():
        items = part.sample(MOST_PAIRS, mix(recipe.seed, "doctor"))
        seen.looked[name] = items
        seen.features[name] = compute_features(backbone, items, numerics, store=store, progress=progress)
    return seen


def cure(recipe: Recipe, findings: Iterable[Finding]) -> Recipe:
    """The recipe with the settings that cure what was found, as far as settings can.

    Raises:
        RecipeError: the cures exclude each other.
    """
    values: dict[str, Any] = recipe.model_dump(exclude_unset=True, mode="json")
    fixes = {key: value for finding in findings for key, value in finding.fix.items()}
    for key, value in fixes.items():
        put(values, key, value)
    if fixes.keys() & {"train.lr", "train.lowest_lr"}:  # which say what these would say
        values["train"].pop("rates", None)
        if values.get("strategy", "").startswith("full:"):
            values["strategy"] = "full"
    if "train.lowest_lr" in fixes:
        values["train"].pop("layer_decay", None)
    return make_recipe(values)
