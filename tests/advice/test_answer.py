"""Advice on small data: what it rests on, that limits are kept, and that its recipe does what auto does."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graft
from graft.advice.answer import Advice, Limits, advise, recipe_of
from graft.advice.ranking import guidance, in_order, rate, weighted_tau
from graft.advice.survey import survey_data
from graft.backbones.contract import Backbone
from graft.errors import DataError
from graft.numerics import Numerics
from graft.plan import make_plan
from graft.preparation import prepare
from graft.recipe import make_recipe, read_recipe
from small import COLOURS, SETTINGS, make_pictures, make_tiny, write_pictures
from small_text import write_model

CPU = Numerics(device="cpu", precision="fp32", workers=0, threads=1, processes=1)
ASKED = {name: value for name, value in SETTINGS.items() if name not in ("strategy", "epochs")}


def coloured(count: int = 20) -> tuple[np.ndarray, list[str]]:
    pictures = np.concatenate([make_pictures(label, count, 0) for label in COLOURS])
    return pictures, [label for label in COLOURS for _ in range(count)]


def advice(data: Any = None, limits: Limits | None = None, **settings: Any) -> Advice:
    recipe = read_recipe(**(ASKED | settings))
    return advise(prepare(recipe, data=coloured() if data is None else data), limits)


def test_what_is_measured_tells_easy_labels_from_random_ones() -> None:
    easy = advice().survey
    pictures, labels = coloured()
    noise = advice((pictures, np.random.default_rng(0).permutation(labels).tolist())).survey
    assert easy is not None and noise is not None
    assert easy.top.accuracy > 0.9 > 0.6 > noise.top.accuracy
    for name in ("neighbours", "h_score", "logme", "separability"):
        assert getattr(easy, name) > getattr(noise, name), name
    assert [depth.stage for depth in easy.depths] == list(make_tiny().stage_names)
    assert easy.shift is not None and easy.shift > 0
    assert [point.labels for point in easy.curve] == sorted(point.labels for point in easy.curve)
    assert all(0 < pair.share <= 1 and pair.label != pair.taken_for for pair in noise.confusions)
    assert noise.confusions


def test_labels_that_nothing_knows_are_warned_of() -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (80, 8, 8, 3), dtype=np.uint8)
    found = advice((pictures, ["a", "b"] * 40))
    assert any("No depth of the backbone knows anything" in words for words in found.warnings)
    assert not any("No depth" in words for words in advice().warnings)


@pytest.mark.parametrize("settings", [{}, {"train__batchnorm": "frozen"}, {"head": "mlp"}])
def test_the_recipe_plans_what_auto_plans(settings: dict, tmp_path: Path) -> None:
    prepared = prepare(read_recipe(**(ASKED | settings)), data=coloured())
    file = tmp_path / "recipe.toml"
    file.write_text(recipe_of(prepared.plan, prepared.recipe).to_toml(), encoding="utf-8")
    again = prepare(read_recipe(file), data=coloured()).plan
    assert again.strategy in ("two-phase", "probe")
    assert [phase.kind for phase in again.phases] == [phase.kind for phase in prepared.plan.phases]
    for one, two in zip(again.phases, prepared.plan.phases, strict=True):
        if one.kind == "phase":
            assert one.groups == two.groups and one.steps == two.steps
            assert one.train.augmentation == two.train.augmentation
            assert one.train.batchnorm == two.train.batchnorm
    assert again.tta == prepared.plan.tta and again.data == prepared.plan.data


@pytest.mark.parametrize("times", [4, 24])  # 12 labels a class are few, 72 are not
def test_the_recipe_for_texts_plans_what_auto_plans(times: int, tmp_path: Path) -> None:
    said = [f"the film was {word}" for word in ("good", "great", "fine", "bad", "awful", "dull")]
    rows = [
        f"{text} {number},{'yes' if number % 6 < 3 else 'no'}" for number, text in enumerate(said * times)
    ]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    name = f"hf/{write_model(tmp_path / 'model', 'bert')}"
    recipe = read_recipe(backbone=name, data__path=str(tmp_path / "reviews.csv"), device="cpu")
    prepared = prepare(recipe)
    (tmp_path / "recipe.toml").write_text(recipe_of(prepared.plan, recipe).to_toml(), encoding="utf-8")
    again = prepare(read_recipe(tmp_path / "recipe.toml")).plan
    assert [phase.kind for phase in again.phases] == [phase.kind for phase in prepared.plan.phases]
    batches = {phase.train.batch_size for phase in prepared.plan.phases if phase.kind == "phase"}
    assert batches == ({32} if times == 4 else {8})
    phases = [(a.groups, a.steps) for a in again.phases if a.kind == "phase"]
    assert phases == [(b.groups, b.steps) for b in prepared.plan.phases if b.kind == "phase"]
    found = advise(prepared)
    assert found.takes_text and found.likeness != "very different"


def test_limits_are_kept_by_lighter_strategies_and_in_the_end_refused() -> None:
    free = advice(epochs=200)
    assert free.measured is not None and free.strategy == "two-phase"
    bound = advice(limits=Limits(minutes=free.measured.seconds / 60 / 4), epochs=200)
    assert bound.strategy != "two-phase" and bound.measured is not None
    assert bound.measured.seconds <= free.measured.seconds / 4
    for limits in ({"minutes": 1e-9}, {"memory": 1e-9}, {"max_latency": 1e-6}, {"max_size": 1e-6}):
        found = advice(limits=Limits(**limits))
        assert found.recipe is None and found.strategy == "none" and found.warnings


def test_expected_accuracy_holds_on_new_pictures(tmp_path: Path) -> None:
    found = advice()
    assert found.expected is not None
    low, high = found.expected
    bundle = graft.train(coloured(), recipe=found.recipe, out=tmp_path / "run", quiet=True)
    test = write_pictures(tmp_path / "test", dict.fromkeys(COLOURS, 30), seed=3)
    assert low - 0.05 <= bundle.evaluate(test, device="cpu").accuracy <= max(high, 1.0)


def test_random_weights_are_told_without_evidence() -> None:
    found = advice(backbone="tiny/net:none")
    assert found.survey is None and found.expected is None and found.recipe is not None


def test_everything_can_be_printed_and_kept() -> None:
    found = advice()
    assert Advice.model_validate(json.loads(found.model_dump_json())) == found


def test_recipes_survive_toml() -> None:
    values = {
        "strategy": "gradual",
        "thaw": {"0": ["top"], "3": ["middle"]},
        "data": {"path": 'a "folder"/ü', "label": ["one", "two"]},
        "train": {"lr": 1e-4, "flip": False, "rates": {"layer[1-3]": 1e-4, "head": 0.001}},
        "phase": {"2": {"augmentation": "none"}},
    }
    values["train"].pop("lr")  # beside rates it says the same twice
    recipe = make_recipe(values)
    assert make_recipe(tomllib.loads(recipe.to_toml())) == recipe


def rated(backbone: Backbone, seed: int = 0) -> Any:
    splits = graft.read_splits(read_recipe(**ASKED), backbone, coloured())
    return rate(backbone, splits, CPU, seed=seed)


def test_backbones_are_ranked_by_what_they_know() -> None:
    good = rated(make_tiny())
    blind = make_tiny()
    for parameter in blind.trunk.parameters():
        parameter.data.zero_()
    bad = rated(blind)
    assert in_order([bad, good]) == [good, bad]
    assert good.parameters == sum(p.numel() for p in make_tiny().trunk.parameters())
    assert good.multiplications == pytest.approx(
        (64 * 8 * 27 + 16 * 12 * 72 + 16 * 16 * 108) / 1e6, rel=1e-6
    )
    needs = dict(guidance([bad, good]))
    assert set(needs.values()) <= {good.backbone, bad.backbone} and len(needs) == 4
    with pytest.raises(DataError, match="a single item"):
        splits = graft.read_splits(read_recipe(**ASKED), make_tiny(), (coloured(1)[0], list(COLOURS)))
        rate(make_tiny(), splits, CPU)


@pytest.mark.parametrize(("follows", "total"), [(True, 2 * 60 + 20), (False, 60)])
def test_a_look_tells_how_far_it_is(follows: bool, total: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network with batch-norms, items pass twice, and some of them for the statistics."""
    monkeypatch.setattr("graft.advice.ranking.MOST", 60)
    monkeypatch.setattr("graft.advice.ranking.ADAPTED", 20)
    backbone, told = make_tiny(), []
    if not follows:
        source = replace(backbone.source, weights="none")
        backbone = replace(backbone, source=source)
    splits = graft.read_splits(read_recipe(**ASKED), backbone, coloured(30))
    rate(backbone, splits, CPU, progress=lambda *counts: told.append(counts))
    assert told[-1] == (total, total)
    assert all(done <= of == total for done, of in told)


def test_agreement_of_rankings() -> None:
    assert weighted_tau([3, 2, 1], [0.9, 0.5, 0.1]) == pytest.approx(1)
    assert weighted_tau([1, 2, 3], [0.9, 0.5, 0.1]) == pytest.approx(-1)


def test_a_lighter_recipe_validates_on_what_the_first_one_would() -> None:
    prepared = prepare(read_recipe(**ASKED), data=coloured())
    lighter = prepared.recipe.model_copy(update={"strategy": "partial:1"})
    plan = make_plan(lighter, prepared.backbone, prepared.splits)
    again = prepare(recipe_of(plan, prepared.recipe), data=coloured()).plan
    assert again.data == plan.data and again.strategy == "partial:1"


def test_the_top_is_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from graft.looking import Look

    seen: list[int] = []
    solve = Look.solve
    monkeypatch.setattr(Look, "solve", lambda self, states: seen.append(1) or solve(self, states))
    prepared = prepare(read_recipe(**ASKED), data=coloured())
    seen.clear()
    survey_data(prepared.backbone, prepared.splits, CPU, prepared.evidence)
    assert len(seen) == len(prepared.backbone.stages)
