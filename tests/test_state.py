"""What training may change goes through a checkpoint whole: stopped at any record, a run ends the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graft import records
from graft.backbones.contract import Backbone
from graft.checkpoint import Checkpoints
from graft.data.items import Splits
from graft.errors import Interrupted
from graft.plan import make_plan
from graft.recipe import read_recipe
from graft.records import Record
from graft.state import State, Trained
from graft.training import fit_steps
from small import drain, make_tiny

# Without a solved head, which takes most of a short run's time; its phase begins anew in any case.
BASE: dict[str, Any] = {
    "device": "cpu",
    "train__precision": "fp32",
    "train__batch_size": 8,
    "strategy": "two-phase",
    "head_init": "random",
    "phase": {"1": {"epochs": 1}},
    "epochs": 2,
    "train__lr": 1e-2,
    "train__augmentation": "none",
}
COMBINATIONS: dict[str, dict[str, Any]] = {
    "average, leaders, adapted statistics": {
        "train__ema": 0.8,
        "train__batchnorm": "adaptive",
        "final__checkpoints": 3,
    },
    "another optimiser in each phase": {
        "phase": {"1": {"epochs": 1, "optimizer": "sgd"}, "2": {"optimizer": "adam"}},
        "train__schedule": "one-cycle",
        "train__accumulate": 2,
        "train__mixup": 0.4,
        "train__cutmix": 0.4,
        "train__sampling": "balanced",
        "train__l2sp": 1.0,
    },
    "statistics that follow, thawing, average anew in each phase": {
        "strategy": "gradual:1+stem",
        "epochs": 3,
        "train__ema": 0.5,
        "train__batchnorm": {"top": "train", "stem": "adaptive"},
        "train__select": "accuracy",
        "train__optimizer": "sgd",
    },
    "early stopping": {
        "head": "mlp",
        "train__patience": 1,
        "train__select": "accuracy",
        "epochs": 4,
        "train__lr": 0.1,
    },
}


def plan_for(splits: Splits, **settings: Any) -> Any:
    return make_plan(read_recipe(**(BASE | settings)), make_tiny(), splits)


def same(one: Trained, two: Trained) -> bool:
    first, second = one.model.state_dict(), two.model.state_dict()
    return (
        first.keys() == second.keys()
        and all(torch.equal(first[name], second[name]) for name in first)
        and (one.ends, one.selected, one.calibrated) == (two.ends, two.selected, two.calibrated)
    )


@pytest.mark.parametrize("name", COMBINATIONS)
def test_stopped_at_every_record_a_run_ends_bit_for_bit_the_same(
    splits: Splits, tmp_path: Path, name: str
) -> None:
    """One run that is stopped at each new record it tells, and goes on from the disk alone."""
    plan = plan_for(splits, **COMBINATIONS[name])
    whole, expected = drain(fit_steps(make_tiny(), splits, plan))
    assert expected.selected is not None
    checkpoints = Checkpoints(tmp_path, "run")
    seen: list[Record] = []
    while True:
        trained = next_stop(fit_steps(make_tiny(), splits, plan, checkpoints=checkpoints), seen)
        if trained is not None:
            break
    assert [record for record in seen if record.logged] == [record for record in whole if record.logged]
    assert same(trained, expected)


def next_stop(steps: Any, seen: list[Record]) -> Trained | None:
    """Go on to the first record that was not seen before, and stop there; what came out at the end."""
    while True:
        try:
            record = next(steps)
        except StopIteration as end:
            trained: Trained = end.value
            return trained
        if record not in seen:
            seen.append(record)
            with pytest.raises(Interrupted):
                steps.throw(Interrupted("stop"))
            return None


def test_killed_after_any_checkpoint_a_run_ends_bit_for_bit_the_same(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a checkpoint after every step, drop the run without a word."""
    monkeypatch.setattr("graft.state.SAVE_EVERY", -1.0)
    monkeypatch.setattr("graft.state.SAVE_SHARE", float("inf"))
    plan = plan_for(splits, **COMBINATIONS["average, leaders, adapted statistics"])
    whole, expected = drain(fit_steps(make_tiny(), splits, plan))
    for kill_at in range(2, len(whole) + 1, 4):
        checkpoints = Checkpoints(tmp_path / str(kill_at), "run")
        steps = fit_steps(make_tiny(), splits, plan, checkpoints=checkpoints)
        for _ in range(kill_at):
            next(steps)
        steps.close()  # GeneratorExit saves nothing
        _, trained = drain(fit_steps(make_tiny(), splits, plan, checkpoints=checkpoints))
        assert same(trained, expected), kill_at


# ---------------------------------------------------------------------------------------------
# The start, which blends go back to.


def test_the_start_is_the_pretrained_body_with_the_head_of_then(splits: Splits) -> None:
    plan = plan_for(splits)
    steps = fit_steps(make_tiny(), splits, plan)
    run = start_of(steps)
    start = run.start_values()
    trunk = make_tiny().trunk.state_dict()
    assert start.keys() == run.changing
    for name, value in start.items():
        if name.startswith("trunk."):
            assert torch.equal(value, trunk[name.removeprefix("trunk.")]), name
        else:
            assert not torch.equal(value, run.model.state_dict()[name]), name  # the head moved on


def test_the_start_has_the_statistics_that_its_head_was_fitted_with(splits: Splits) -> None:
    run = start_of(fit_steps(make_tiny(), splits, plan_for(splits, train__batchnorm="adaptive")))
    start, now = run.start_values(), run.model.state_dict()
    name = "trunk.stem.1.running_mean"
    assert torch.equal(start[name], now[name])
    assert not torch.equal(start[name], make_tiny().trunk.state_dict()["stem.1.running_mean"])


def start_of(steps: Any) -> State:
    """The state of a run in its last epoch."""
    for record in steps:
        if isinstance(record, records.Stepped) and record.phase == 1 and record.epoch == 2:
            run: State = steps.gi_frame.f_locals["run"]
            return run
    raise AssertionError


@pytest.mark.parametrize("strategy", ["full", "gradual:1"])
def test_a_body_that_moves_with_a_random_head_from_the_first_has_no_start(
    splits: Splits, strategy: str
) -> None:
    plan = plan_for(splits, strategy=strategy, phase={})
    _, trained = drain(fit_steps(make_tiny(), splits, plan))
    assert trained.selected is not None
    assert ("start" in trained.selected["candidates"]) == (strategy == "gradual:1")


# ---------------------------------------------------------------------------------------------
# What is frozen.


@pytest.mark.parametrize(
    "batchnorm", ["frozen", "adaptive", "train", {"top": "train", "stem": "adaptive"}], ids=str
)
def test_what_may_change_is_named_before_it_does(splits: Splits, batchnorm: Any) -> None:
    """Everything that moves is in ``changing``; the rest is compared by its digest at the end."""
    alone = replace(splits, val=None)
    plan = plan_for(alone, train__batchnorm=batchnorm, strategy="partial:2", phase={})
    backbone: Backbone = make_tiny()
    run = State(backbone, alone, plan, None)
    _, trained = drain(fit_steps(backbone, alone, plan))
    before = State(backbone, alone, plan, None).model.state_dict()
    after = trained.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved <= run.changing
    statistics = {name.split(".")[1] for name in moved if "running" in name}
    expected = {"frozen": set(), "adaptive": {"stem", "middle", "top"}, "train": {"middle", "top"}}
    assert statistics == (expected[batchnorm] if isinstance(batchnorm, str) else {"stem", "top"})
    assert trained.frozen_unchanged == len(before) - len(run.changing)
