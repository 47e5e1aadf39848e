"""Each check of recipes once where it must speak, and once where it must be silent; auto trips none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graft.diagnosis import recipe_checks
from graft.diagnosis.recipe_checks import Written
from graft.examination import cure, examine
from graft.preparation import prepare
from graft.recipe import Recipe, read_recipe
from small import SETTINGS
from small_text import write_model
from test_evidence import coloured

ASKED = {name: value for name, value in SETTINGS.items() if name not in ("strategy", "epochs")}


def data(count: int) -> Any:
    splits = coloured(count)
    pictures = np.stack([np.asarray(source) for source in splits.train.sources])
    return pictures, [splits.task.labels[target] for target in splits.train.targets]


def written(count: int = 20, **settings: Any) -> Written:
    prepared = prepare(read_recipe(**(ASKED | settings)), data=data(count))
    return Written(prepared.recipe, prepared.plan, prepared.backbone, prepared.splits)


CASES: tuple[tuple[str, str, dict[str, Any], dict[str, Any]], ...] = (
    ("high_rate", "high-rate", {"strategy": "full:1e-1"}, {"strategy": "full"}),
    ("high_rate", "high-rate", {"strategy": "full:5e-1", "train__optimizer": "sgd"},
     {"strategy": "full:1e-2", "train__optimizer": "sgd"}),
    ("even_rate", "even-rate", {"strategy": "full:1e-3"}, {"strategy": "full:1e-4"}),
    ("batch_statistics", "small-batches", {"strategy": "full", "train__batchnorm": "train"},
     {"strategy": "full", "train__batchnorm": "train", "train__batch_size": 16}),
    ("augmentation", "no-augmentation", {"strategy": "full", "train__augmentation": "none"},
     {"strategy": "partial:1", "train__augmentation": "none", "epochs": 4}),
    ("tiny_data", "tiny-data", {"strategy": "full", "head_init": "random", "count": 5},
     {"strategy": "full", "count": 5}),
    ("tiny_data", "tiny-data", {"strategy": "full", "head": "mlp", "count": 55},
     {"strategy": "full", "head": "mlp", "count": 75}),
    ("tiny_data", "tiny-data", {"strategy": "full", "head_init": "random", "count": 20},
     {"strategy": "two-phase", "head_init": "random", "count": 20}),
    ("length", "few-steps", {"strategy": "full", "epochs": 3}, {"strategy": "full", "epochs": 25}),
    ("head", "wide-head", {"strategy": "full", "head": "mlp"}, {"strategy": "full"}),
    ("normalisation", "normalisation", {"strategy": "full", "data__statistics": "data"},
     {"strategy": "full"}),
)  # fmt: skip


@pytest.mark.parametrize(("check", "name", "wrong", "right"), CASES)
def test_each_speaks_and_is_silent(check: str, name: str, wrong: dict, right: dict) -> None:
    look = getattr(recipe_checks, check)
    (finding,) = look(written(**wrong))
    assert finding.id == f"recipe.{name}" and finding.measured and finding.why and finding.cure
    assert list(look(written(**right))) == []


def test_a_size_far_from_the_pretrainings() -> None:
    settings = {"backbone": "graft/resnet18-half-64", "strategy": "partial:1", "count": 6}
    (finding,) = recipe_checks.size(written(**settings, data__size=160))
    assert finding.id == "recipe.input-size" and "64" in finding.measured
    assert list(recipe_checks.size(written(**settings, data__size=96))) == []


def test_every_check_is_tested() -> None:
    tested = {getattr(recipe_checks, check) for check, *_ in CASES} | {recipe_checks.size}
    assert set(recipe_checks.CHECKS) == tested


@pytest.mark.parametrize("count", [4, 12, 40, 160])
@pytest.mark.parametrize("settings", [{}, {"head": "linear", "train__batch_size": 32}])
def test_auto_trips_nothing(count: int, settings: dict) -> None:
    seen = written(count, **settings)
    assert [each.id for check in recipe_checks.CHECKS for each in check(seen)] == []


@pytest.mark.parametrize("count", [4, 40])
def test_auto_for_texts_trips_nothing(count: int, tmp_path: Path) -> None:
    said = ("good", "great", "fine", "bad", "awful", "dull")
    rows = [f"the film was {said[n % 6]} {n},{'yes' if n % 6 < 3 else 'no'}" for n in range(2 * count)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    name = f"hf/{write_model(tmp_path / 'model', 'bert')}"
    prepared = prepare(read_recipe(backbone=name, data__path=str(tmp_path / "reviews.csv"), device="cpu"))
    seen = Written(prepared.recipe, prepared.plan, prepared.backbone, prepared.splits)
    assert [each.id for check in recipe_checks.CHECKS for each in check(seen)] == []


def cured(**settings: Any) -> tuple[list[str], Recipe]:
    recipe = read_recipe(**(ASKED | settings))
    found = examine(prepare(recipe, data=data(20)))
    return [each.id for each in found], cure(recipe, found)


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "full:1e-1", "epochs": 2},
        {"strategy": "full", "train__batchnorm": "train", "train__augmentation": "none", "epochs": 8},
        {"strategy": "two-phase", "head": "mlp", "data__statistics": "data"},
    ],
)
def test_the_cured_recipe_is_healthy(settings: dict) -> None:
    before, recipe = cured(**settings)
    assert any(each.startswith("recipe.") for each in before)
    after = examine(prepare(recipe, data=data(20)))
    assert [each.id for each in after if each.fix] == []


def test_findings_come_with_the_gravest_first() -> None:
    recipe = read_recipe(**(ASKED | {"strategy": "full:1e-1", "epochs": 2}))
    found = examine(prepare(recipe, data=data(20)))
    order = [("error", "warning", "note").index(each.severity) for each in found]
    assert order == sorted(order) and found[0].severity == "error"


def test_a_healthy_rate_is_left_and_a_table_of_high_ones_goes() -> None:
    before, recipe = cured(strategy="full:1e-4", epochs=25, train__augmentation="none")
    assert before == ["recipe.no-augmentation"] and recipe.strategy == "full:1e-4"
    rates = {"head": 1e-3, "*": 0.1}
    before, recipe = cured(strategy="full", epochs=25, train__rates=rates)
    assert "recipe.high-rate" in before
    assert recipe.train.rates is None and recipe.train.lr == pytest.approx(2e-4)
