"""The log of a run that is killed again and again is that of one which never was."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from graft import state
from graft.checkpoint import Checkpoints
from graft.preparation import prepare, prepare_again
from graft.recipe import read_recipe
from graft.runs import Run, open_run
from graft.workflow import carry_out
from small import COLOURS, SETTINGS, write_pictures

KILLED, KILLS = 9, 20
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),  # there is one torch thread
]


class Killer:
    """Ends the process at its n-th event: a record, or a checkpoint before or after it is saved."""

    def __init__(self, last: int) -> None:
        self.left = last

    def event(self) -> None:
        self.left -= 1
        if self.left == 0:
            os._exit(KILLED)

    def drive(self, records: Generator[Any, None, Any]) -> None:
        for _ in records:
            self.event()

    def saving(self, save: Callable[..., None]) -> Callable[..., None]:
        def watched(*given: Any) -> None:
            self.event()
            save(*given)
            self.event()

        return watched


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a forked process that does ``work``; 0 where it comes to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights_of(run: Path) -> bytes:
    return (run / "bundle" / "weights.safetensors").read_bytes()


@pytest.mark.odd_input("Training")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_log_holds_each_record_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """A run that is killed at any moment, however often, and resumed: it ends with the same weights, and
    its log holds the same records in the same order as that of a run which was never killed.
    """
    monkeypatch.setattr(state, "SAVE_EVERY", -1.0)  # a checkpoint after every record
    monkeypatch.setattr(state, "SAVE_SHARE", float("inf"))
    monkeypatch.setattr("graft.data.dataset._context", lambda: multiprocessing.get_context("fork"))
    photos = write_pictures(tmp_path / "photos", dict.fromkeys(COLOURS, 8))
    settings: dict[str, Any] = {
        **SETTINGS,
        "strategy": "gradual",
        "epochs": 3,
        "train__batch_size": 8,
        "train__workers": workers,
        "train__batchnorm": "adaptive",
    }

    def begin(folder: Path, events: int) -> Callable[[], None]:
        recipe = read_recipe(data__path=str(photos), **settings)
        return lambda: drive(carry_out(prepare(recipe), Run(folder)), events)

    def go_on(folder: Path, events: int) -> Callable[[], None]:
        run = open_run(folder)
        return lambda: drive(carry_out(prepare_again(run), run), events)

    def drive(records: Generator[Any, None, Any], events: int) -> None:
        killer = Killer(events)
        monkeypatch.setattr(Checkpoints, "save", killer.saving(Checkpoints.save))
        killer.drive(records)

    assert in_child(begin(tmp_path / "whole", 0)) == 0
    folder, gaps = tmp_path / "killed", itertools.cycle([3, 4, 8])
    assert in_child(begin(folder, next(gaps))) == KILLED
    kills = 1
    while (code := in_child(go_on(folder, next(gaps) if kills < KILLS else 0))) == KILLED:
        kills += 1
    assert (code, kills) == (0, KILLS)
    assert log_of(folder) == log_of(tmp_path / "whole")
    assert weights_of(folder) == weights_of(tmp_path / "whole")
