"""Comparisons: everyone has the same labels, test items and steps; what was stopped goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graft
from graft.comparing import Asked, read_outcomes
from graft.comparison import _most, compare, make_candidates
from graft.comparison_report import write_comparison
from graft.data.splits import divide, read_splits
from graft.data.validation import draw
from graft.errors import Interrupted, RecipeError, RunError
from graft.records import Record, Solved, Validated
from graft.runs import Run
from small import COLOURS, SETTINGS, launched, make_pictures, make_tiny, write_pictures

BASE = {key: value for key, value in SETTINGS.items() if key not in ("strategy", "epochs")}
STRATEGIES = ("probe", "partial:1", "full", "lora", "scratch", "auto")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared") / "photos"
    write_pictures(folder / "train", dict.fromkeys(COLOURS, 20))
    write_pictures(folder / "test", dict.fromkeys(COLOURS, 6), seed=1)
    return folder


def asked(data: Path, *strategies: str, **more: Any) -> Asked:
    recipe = graft.read_recipe(**BASE)
    candidates = make_candidates(recipe, strategies, [recipe.backbone])
    return Asked(data=str(data), candidates=candidates, **{"seeds": (0,), "steps": 24} | more)


def test_every_strategy_has_as_many_steps_as_fit(data: Path, tmp_path: Path) -> None:
    found = compare(asked(data, *STRATEGIES), tmp_path / "out")
    steps = {each.candidate: each.steps for each in found}
    assert steps["probe"] == 0 and all(steps[name] <= 24 for name in STRATEGIES)
    assert all(steps[name] > 12 for name in ("partial:1", "full", "lora", "scratch"))
    assert steps["scratch, 3 times the steps"] == 3 * steps["scratch"]
    assert all(len(each.right) == 18 and each.labels == 60 for each in found)
    assert all(each.score == pytest.approx(np.mean(each.right)) for each in found)
    parameters = {each.candidate: each.parameters for each in found}
    assert parameters["probe"] < parameters["partial:1"] < parameters["full"] == found[0].whole
    assert all(each.memory and each.seconds > 0 for each in found)
    whole = graft.read_recipe(data__path=str(data), strategy="probe", **BASE)
    probe = Run(tmp_path / "out" / "runs" / "01-probe-all-0")
    assert len(_items(probe, "train")) == len(graft.read_splits(whole, make_tiny()).train) == 60, "as alone"
    runs = {Run(path.parent) for path in (tmp_path / "out" / "runs").glob("*/plan.json")}
    assert len({frozenset(_items(run, "test")) for run in runs}) == 1
    assert len({frozenset(_items(run, "train") | _items(run, "val")) for run in runs}) == 1


def _items(run: Run, part: str) -> set[str]:
    facts = json.loads((run.folder / "data.json").read_text())
    return {digest for name, (_, digest) in facts["items"].items() if name.startswith(f"{part}/")}


def test_fewer_labels_are_among_more_and_seeds_draw_others(data: Path, tmp_path: Path) -> None:
    compare(asked(data, "probe", "full", labels=(9, 30), seeds=(0, 1), steps=6), tmp_path / "out")
    _, outcomes = read_outcomes(tmp_path / "out")
    assert [each.labels for each in outcomes] == [9, 9, 30, 30] * 2
    used = {}
    for path in (tmp_path / "out" / "runs").iterdir():
        if not path.is_symlink():
            used[path.name] = _items(Run(path), "train") | _items(Run(path), "val")
    assert used["01-probe-9-0"] == used["02-full-9-0"] < used["01-probe-30-0"]
    assert used["01-probe-9-0"] != used["01-probe-9-1"]


def test_a_fifth_is_held_out_where_there_is_no_test_part(tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", dict.fromkeys(COLOURS, 20))
    compare(asked(photos, "probe", "full", seeds=(0, 1), steps=6), tmp_path / "out")
    parts = [_items(Run(p), "test") for p in (tmp_path / "out" / "runs").iterdir() if not p.is_symlink()]
    assert all(part == parts[0] and len(part) == 12 for part in parts)
    for path in (tmp_path / "out" / "runs").iterdir():
        assert not _items(Run(path), "test") & (_items(Run(path), "train") | _items(Run(path), "val"))


def stop_at(count: int) -> Callable[[str, Record | None], None]:
    seen = [0]

    def show(_: str, record: Record | None) -> None:
        seen[0] += isinstance(record, Validated)
        if seen[0] == count:
            raise KeyboardInterrupt

    return show


def test_what_was_stopped_goes_on_and_ends_alike(data: Path, tmp_path: Path) -> None:
    wanted = asked(data, "probe", "partial:1", "full", steps=16)
    whole = compare(wanted, tmp_path / "whole")
    for count in (1, 4):
        with pytest.raises((KeyboardInterrupt, Interrupted)):
            compare(wanted, tmp_path / "parts", show=stop_at(count))
    runs = [path for path in (tmp_path / "parts" / "runs").iterdir() if not path.is_symlink()]
    stopped = next(path for path in runs if not (path / "result.json").exists())
    with pytest.raises(RunError, match="is a run of the comparison"):
        graft.resume(stopped, data=str(data / "train"), quiet=True)
    told: list[str] = []

    def note(name: str, record: Record | None) -> None:
        if record is None:
            told.append(name)

    parts = compare(wanted, tmp_path / "parts", show=note)
    assert 0 < len(told) < 3, "what was done is not done again"
    assert [each.right for each in parts] == [each.right for each in whole]
    assert compare(wanted, tmp_path / "parts", show=lambda *_: pytest.fail("nothing is left")) == parts
    with pytest.raises(RunError, match="holds another comparison"):
        compare(wanted.model_copy(update={"steps": 17}), tmp_path / "parts")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty"):
        compare(wanted, tmp_path / "taken")


def test_ctrl_c_at_the_end_of_a_run_keeps_it_and_stops(data: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def show(name: str, record: Record | None) -> None:
        seen.append(name)
        if isinstance(record, Solved):  # after which a probe has nothing more to do but to be measured
            os.kill(os.getpid(), signal.SIGINT)

    wanted = asked(data, "probe", "full", steps=6)
    with pytest.raises(Interrupted, match=r"same command with --out .*out goes on"):
        compare(wanted, tmp_path / "out", show=show)
    assert not any(name.startswith("full") for name in seen)
    assert len(compare(wanted, tmp_path / "out")) == 2


def test_recipes_are_compared_as_they_are(data: Path, tmp_path: Path) -> None:
    short = graft.read_recipe(**BASE, strategy="full", epochs=1)
    other = graft.read_recipe(**BASE, strategy="full", train__lr=1e-3)
    candidates = make_candidates(short, (), (), [("short", short), ("other", other)])
    found = compare(Asked(data=str(data), candidates=candidates, seeds=(0,), steps=24), tmp_path / "out")
    assert [each.steps for each in found] == [6, 24]  # one epoch as it says; as long as asked


def test_what_makes_no_comparison_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = graft.read_recipe(**BASE)
    with pytest.raises(RecipeError, match="two candidates"):
        make_candidates(recipe, ("probe",), [recipe.backbone])
    with pytest.raises(RecipeError, match="Named twice"):
        make_candidates(recipe, ("probe", "probe"), [recipe.backbone])
    for name, value in launched(0, 2).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match="in one process"):
        compare(asked(data, "probe", "full"), tmp_path / "out")
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(RecipeError, match="there are 60 items"):
        compare(asked(data, "probe", "full", labels=(61,)), tmp_path / "out")


def test_candidates_on_several_backbones_say_which() -> None:
    recipe = graft.read_recipe(**BASE)
    found = make_candidates(recipe, ("probe", "full"), ["tiny/net", "tiny/net:none"])
    assert [each.name for each in found] == [
        "probe tiny/net", "full tiny/net", "probe tiny/net:none", "full tiny/net:none"
    ]  # fmt: skip


def test_the_page_of_a_comparison_also_while_it_goes_on(data: Path, tmp_path: Path) -> None:
    wanted = asked(data, "probe", "full", seeds=(0, 1), labels=(12, 30), steps=6)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        compare(wanted, tmp_path / "out", show=stop_at(2))
    text = write_comparison(tmp_path / "out").read_text()
    assert "a comparison that goes on" in text and 'http-equiv="refresh"' in text
    compare(wanted, tmp_path / "out")
    text = write_comparison(tmp_path / "out").read_text()
    assert "refresh" not in text and "points ahead of" in text
    for name in ("scores", "time", "parameters", "labels"):
        assert f'id="chart-{name}"' in text and (tmp_path / "out" / "report" / f"{name}.csv").is_file()
    assert graft.read_recipe(tmp_path / "out" / "report" / "02-full.toml").strategy == "full"


@pytest.mark.parametrize("wanted", [1, 5, 6, 7, 100])
def test_the_longest_training_within_the_steps(wanted: int) -> None:
    found = _most(lambda epochs: 3 * epochs + 2, wanted)
    assert found == max(1, (wanted - 2) // 3)


def test_drawn_labels_are_nested_and_of_every_class() -> None:
    labels = [label for label, count in (("red", 30), ("green", 12), ("blue", 3)) for _ in range(count)]
    pictures = [make_pictures(label, 1, seed=number)[0] for number, label in enumerate(labels)]
    items = read_splits((pictures, labels), graft.read_recipe(data__validation=0).data).train
    assert items.targets is not None
    before: set[int] = set()
    for count in (3, 5, 15, 30, 45):
        drawn = draw(items, count, seed=0)
        assert len(drawn) == count and drawn == sorted(drawn) and before <= set(drawn)
        assert set(items.targets[drawn]) == {0, 1, 2}
        before = set(drawn)
    shares = np.bincount(items.targets[draw(items, 15, seed=0)]) / 15
    assert shares == pytest.approx(np.bincount(items.targets) / 45, abs=0.1)
    assert draw(items, 15, seed=1) != draw(items, 15, seed=0)


def test_divided_splits_keep_the_test_part(data: Path) -> None:
    pool = read_splits(str(data), graft.read_recipe(data__validation=0).data)
    found = divide(pool, pool.train.select(range(0, 60, 2)), pool.test, 0.2, 0)
    assert found.val is not None and len(found.train) + len(found.val) == 30
    assert found.test is pool.test and found.fingerprint != pool.fingerprint
