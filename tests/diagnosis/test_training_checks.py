"""What the course of training shows: each once where it must speak, once where it must be silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import graft
from graft.diagnosis.training_checks import read_course
from small import COLOURS, SETTINGS, write_pictures


def log(
    steps: list[float] | None = None,
    train: list[float] | None = None,
    losses: list[float] | None = None,
    accuracies: list[float] | None = None,
    rates: list[float] | None = None,
) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = [{"record": "started", "phase": 1, "name": "all stages", "total": 9}]
    for number, loss in enumerate(steps or []):
        rate = rates[number] if rates else 1e-3
        records.append({"record": "stepped", "phase": 1, "loss": loss, "rate": rate})
    train, losses = train or [], losses or [1.0] * (len(train or []) + 1)
    accuracies = accuracies or [0.5] * len(losses)
    for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True)):
        trained = train[epoch - 1] if 0 < epoch <= len(train) else None
        told = {"loss": loss, "accuracy": accuracy, "train_loss": trained}
        records.append({"record": "validated", "phase": 1, **told})
    return records


SPEAK: dict[str, list[dict[str, Any]]] = {
    "run.spike": log(steps=[1.0] * 25 + [6.0, 5.0, 4.0] + [1.0] * 5, rates=[n * 1e-4 for n in range(33)]),
    "run.overfitting": log(train=[1.0, 0.5, 0.2, 0.1], losses=[1.1, 0.7, 0.8, 0.9, 1.0],
                           accuracies=[0.4, 0.7, 0.7, 0.65, 0.65]),
    "run.too-slow": log(train=[1.5, 1.5, 1.499, 1.498, 1.497]),
    "run.forgetting": log(train=[1.0, 0.9, 0.8], losses=[0.5, 0.9, 1.0, 1.1],
                          accuracies=[0.8, 0.6, 0.5, 0.5]),
}  # fmt: skip
SILENT: dict[str, list[dict[str, Any]]] = {
    "run.spike": log(steps=[1.0] * 25 + [6.0] + [1.0] * 5),  # one odd batch
    "run.overfitting": log(train=[1.0, 0.5, 0.2, 0.1], losses=[1.1, 0.7, 0.8, 0.9, 1.0],
                           accuracies=[0.4, 0.6, 0.7, 0.7, 0.75]),  # surer, and better
    "run.too-slow": log(train=[1.5, 1.4, 1.3, 1.2, 1.1]),
    "run.forgetting": log(train=[1.0, 0.9, 0.8], losses=[0.5] * 4, accuracies=[0.8, 0.78, 0.79, 0.78]),
}  # fmt: skip


@pytest.mark.parametrize("name", SPEAK)
def test_each_speaks_once_and_is_silent(name: str) -> None:
    twice = SPEAK[name] + [{**record, "phase": 2} for record in SPEAK[name]]
    found = read_course(twice, 200)
    assert [each.id for each in found].count(name) == 1
    assert all(each.measured and each.why and each.cure for each in found)
    assert name not in [each.id for each in read_course(SILENT[name], 200)]


def test_a_spike_after_the_rate_rose_says_so() -> None:
    (finding,) = [each for each in read_course(SPEAK["run.spike"]) if each.id == "run.spike"]
    assert "after the rate rose" in finding.measured


def test_an_empty_log_tells_nothing() -> None:
    assert read_course([]) == ()


def test_runs_keep_what_was_found_in_their_result(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", dict.fromkeys(COLOURS, 16))
    wild = SETTINGS | {"strategy": "two-phase", "epochs": 4}
    bundle = graft.train(data, out=tmp_path / "wild", quiet=True, **wild, train__lr=0.3, train__clip=0.0)
    calm = graft.train(data, out=tmp_path / "calm", quiet=True, **wild)
    assert calm.metrics["findings"] == []
    ids = [each["id"] for each in bundle.metrics["findings"]]
    assert ids and set(ids) <= {"run.forgetting", "run.spike", "run.overfitting", "run.too-slow"}
