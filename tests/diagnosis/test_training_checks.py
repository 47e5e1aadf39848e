"""What the course of training shows: each once where it must speak, once where it must be silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graft
from graft.diagnosis.findings import Finding
from graft.diagnosis.training_checks import OF_RATES, Watch, rates_are_own
from graft.examination import examine
from graft.preparation import prepare
from graft.recipe import read_recipe
from graft.runs import Run
from small import COLOURS, SETTINGS, make_pictures, make_tiny, write_pictures


def log(
    steps: list[float] | None = None,
    train: list[float] | None = None,
    losses: list[float] | None = None,
    accuracies: list[float] | None = None,
    rates: list[float] | None = None,
    idle: list[tuple[str, ...]] | None = None,
    ranks: list[float] | None = None,
) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = [{"record": "started", "phase": 1, "name": "all stages", "total": 9}]
    for number, loss in enumerate(steps or []):
        rate = rates[number] if rates else 1e-3
        still = idle[number] if idle else ()
        records.append({"record": "stepped", "phase": 1, "loss": loss, "rate": rate, "idle": still})
    train, losses = train or [], losses or [1.0] * (len(train or []) + 1)
    accuracies = accuracies or [0.5] * len(losses)
    for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True)):
        trained = train[epoch - 1] if 0 < epoch <= len(train) else None
        told = {"loss": loss, "accuracy": accuracy, "train_loss": trained}
        told["rank"] = ranks[epoch] if ranks else None
        records.append({"record": "validated", "phase": 1, **told})
    return [*records, {"record": "finished", "phase": 1, "kept_epoch": None, "epochs": 9}]


def course_of(records: list[dict[str, Any]], validated: int = 200, classes: int = 9) -> list[Finding]:
    watch = Watch(validated, classes)
    return [finding for record in records for finding in watch.see(record)]


SPEAK: dict[str, list[dict[str, Any]]] = {
    "run.spike": log(steps=[1.0] * 25 + [6.0, 5.0, 4.0] + [1.0] * 5, rates=[n * 1e-4 for n in range(33)]),
    "run.overfitting": log(train=[1.0, 0.5, 0.2, 0.1], losses=[1.1, 0.7, 0.8, 0.9, 1.0],
                           accuracies=[0.4, 0.7, 0.7, 0.65, 0.65]),
    "run.too-slow": log(train=[1.5, 1.5, 1.499, 1.498, 1.497]),
    "run.forgetting": log(train=[1.0, 0.9, 0.8], losses=[0.5, 0.9, 1.0, 1.1],
                          accuracies=[0.8, 0.6, 0.5, 0.5]),
    "run.dead-gradients": log(steps=[1.0] * 25, idle=[()] * 5 + [("stem", "middle")] * 20),
    "run.collapse": log(train=[1.0, 0.9], ranks=[12.0, 6.0, 1.5]),
}  # fmt: skip
SILENT: dict[str, list[dict[str, Any]]] = {
    "run.spike": log(steps=[1.0] * 25 + [6.0] + [1.0] * 5),  # one odd batch
    "run.overfitting": log(train=[1.0, 0.5, 0.2, 0.1], losses=[1.1, 0.7, 0.8, 0.9, 1.0],
                           accuracies=[0.4, 0.6, 0.7, 0.7, 0.75]),  # surer, and better
    "run.too-slow": log(train=[1.5, 1.4, 1.3, 1.2, 1.1]),
    "run.forgetting": log(train=[1.0, 0.9, 0.8], losses=[0.5] * 4, accuracies=[0.8, 0.78, 0.79, 0.78]),
    "run.dead-gradients": log(steps=[1.0] * 25, idle=[("stem",)] * 12 + [("top",)] + [("stem",)] * 12),
    "run.collapse": log(train=[1.0, 0.9], ranks=[12.0, 8.0, 7.0]),  # as many as nine classes want
}  # fmt: skip


@pytest.mark.parametrize("name", SPEAK)
def test_each_speaks_once_and_is_silent(name: str) -> None:
    twice = SPEAK[name] + [{**record, "phase": 2} for record in SPEAK[name]]
    found = course_of(twice)
    assert [each.id for each in found].count(name) == 1
    assert all(each.measured and each.why and each.cure for each in found)
    assert name not in [each.id for each in course_of(SILENT[name])]


def test_a_spike_after_the_rate_rose_says_so() -> None:
    (finding,) = [each for each in course_of(SPEAK["run.spike"]) if each.id == "run.spike"]
    assert "after the rate rose" in finding.measured


def test_features_that_are_all_alike_have_collapsed_however_many_classes() -> None:
    for classes in (0, 2, 9):
        alike = course_of(log(train=[1.0], ranks=[3.0, 0.0]), validated=4, classes=classes)
        assert "run.collapse" in [each.id for each in alike]
    few = course_of(log(train=[1.0], ranks=[12.0, 1.5]), validated=10)  # ten items cannot spread
    assert "run.collapse" not in [each.id for each in few]


def test_a_finding_comes_with_the_record_that_shows_it() -> None:
    watch, records = Watch(200, 9), SPEAK["run.dead-gradients"]
    places = [number for number, record in enumerate(records) if watch.see(record)]
    assert places == [25]  # the twentieth step without a gradient, after "started" and five others


def test_runs_keep_what_was_found_in_their_result(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", dict.fromkeys(COLOURS, 16))
    wild = SETTINGS | {"strategy": "two-phase", "epochs": 4}
    bundle = graft.train(data, out=tmp_path / "wild", quiet=True, **wild, train__lr=0.3, train__clip=0.0)
    calm = graft.train(data, out=tmp_path / "calm", quiet=True, **wild)
    assert calm.metrics["findings"] == []
    found = bundle.metrics["findings"]
    ids = [each["id"] for each in found]
    assert ids and len(ids) == len(set(ids)) and all(name.startswith("run.") for name in ids)
    logged = [record for record in Run(tmp_path / "wild").read_log() if record["record"] == "found"]
    assert [record["id"] for record in logged] == ids


def test_units_that_died_are_told(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", dict.fromkeys(COLOURS, 40))
    backbone = make_tiny()
    with torch.no_grad():  # nothing passes the ReLU of the middle stage
        backbone.trunk.middle[1].bias.fill_(-100.0)  # type: ignore[union-attr, operator]
        backbone.trunk.middle[1].weight.fill_(0.0)  # type: ignore[union-attr, operator]
    settings = {key: value for key, value in SETTINGS.items() if key != "backbone"}
    bundle = graft.train(data, backbone=backbone, out=tmp_path / "run", quiet=True, **settings)
    (dead,) = [each for each in bundle.metrics["findings"] if each["id"] == "run.dead-gradients"]
    assert dead["measured"].startswith("stem, middle")


def test_a_rise_in_the_warm_up_counts_where_it_does_not_come_back() -> None:
    def said(steps: list[float], warmup: int) -> list[str]:
        watch = Watch(200, 9, warmups=(0, warmup))
        return [finding.id for record in log(steps=steps) for finding in watch.see(record)]

    back = [1.0] * 25 + [6.0] * 5 + [1.0] * 20
    assert said(back, 0) == ["run.spike"]
    assert said(back, 40) == []
    assert said([1.0] * 25 + [6.0] * 30, 40) == ["run.spike"]
    assert said([0.01] * 25 + [0.2] * 5, 0) == []  # next to nothing


@pytest.mark.parametrize(("count", "random"), [(4, True), (12, False)])
def test_no_alarm_speaks_of_what_auto_chose(tmp_path: Path, count: int, random: bool) -> None:
    """Nor of random labels, which nothing can learn; but of the same course with a rate of one's own."""
    pictures = np.concatenate([make_pictures(label, count, 0) for label in COLOURS])
    labels = np.repeat(list(COLOURS), count)
    labels = np.random.default_rng(0).permutation(labels) if random else labels
    auto = {key: value for key, value in SETTINGS.items() if key in ("backbone", "device")}
    prepared = prepare(read_recipe(**auto), data=(pictures, labels.tolist()))
    assert not [each.id for each in examine(prepared) if each.id.startswith("recipe.")]
    bundle = graft.train((pictures, labels.tolist()), out=tmp_path / "run", quiet=True, **auto)
    assert not [each["id"] for each in bundle.metrics["findings"] if each["id"] in OF_RATES]
    assert rates_are_own(read_recipe(**auto))
    assert not rates_are_own(read_recipe(**auto, train__lr=0.1))
    assert not rates_are_own(read_recipe(**SETTINGS))
