"""What every epoch says of training: loss and score, free of a pass of its own, the same after a resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graft.checkpoint import Checkpoints
from graft.data import read_splits
from graft.data.dataset import Pictures
from graft.data.items import Splits
from graft.errors import Interrupted
from graft.inference import forward_all
from graft.mixing import main_labels
from graft.model import make_model
from graft.plan import Plan, make_plan
from graft.progress import epoch_line
from graft.recipe import DataSettings, read_recipe
from graft.records import Record, Stepped, Validated
from graft.seeds import mix
from graft.training import fit_steps
from small import COLOURS, SETTINGS, drain, make_pictures, make_tiny

STILL = {
    "train__lr": 1e-12,
    "train__head_lr": 1e-12,
    "train__augmentation": "none",
    "train__weight_decay": 0.0,
    "epochs": 1,
}


def splits_of(kind: str) -> Splits:
    pictures = np.concatenate([make_pictures(label, 7, seed=0) for label in COLOURS])
    labels: list[Any] = [label for label in COLOURS for _ in range(7)]
    if kind == "several":
        labels = [[label, "cold"] if label != "red" else [label] for label in labels]
    return read_splits((list(pictures), labels), DataSettings(), seed=0)


def plan_of(splits: Splits, **settings: Any) -> Plan:
    values = {key: value for key, value in SETTINGS.items() if key != "backbone"}
    recipe = read_recipe(**(values | {"strategy": "full", "head_init": "random"} | settings))
    return make_plan(recipe, make_tiny(), splits)


def course(splits: Splits, plan: Plan) -> list[Record]:
    return drain(fit_steps(make_tiny(), splits, plan))[0]


def scores(found: list[Record]) -> list[float | None]:
    return [each.train_accuracy for each in found if isinstance(each, Validated)]


@pytest.mark.parametrize("kind", ["one", "several"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_weights_that_stand_still_score_what_they_score(kind: str, accumulate: int) -> None:
    splits = splits_of(kind)
    plan = plan_of(splits, **STILL, train__accumulate=accumulate)
    backbone = make_tiny()
    for module in backbone.trunk.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    found, _ = drain(fit_steps(backbone, splits, plan))
    model = make_model(backbone, plan.make_head(), seed=mix(plan.seed, "head")).eval()
    logits = forward_all(model, Pictures(splits.train, backbone.preprocess), torch.device("cpu"))
    assert splits.train.targets is not None
    expected = splits.task.score(logits, torch.from_numpy(splits.train.targets))
    first, second = scores(found)
    assert first is None  # before the first step
    assert second == pytest.approx(expected)
    assert 0 < expected < 1  # or nothing would be shown


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("one", {"train__mixup": 0.4, "train__cutmix": 1.0}),
        ("several", {}),
        ("several", {"train__mixup": 0.4}),
    ],
)
def test_a_resume_within_an_epoch_gives_the_same_records(
    tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    splits = splits_of(kind)
    plan = plan_of(splits, **settings)
    whole = [each for each in course(splits, plan) if each.logged]
    kept = Checkpoints(tmp_path, run="r")
    steps = fit_steps(make_tiny(), splits, plan, checkpoints=kept)
    before: list[Record] = []
    while sum(isinstance(each, Stepped) for each in before) < 4:  # one into the second epoch
        before.append(next(steps))
    with pytest.raises(Interrupted):
        steps.throw(Interrupted("now"))
    after, _ = drain(fit_steps(make_tiny(), splits, plan, checkpoints=kept))
    again = [each for each in (*before, *after) if each.logged]
    assert [each for each in again if isinstance(each, Validated)] == [
        each for each in whole if isinstance(each, Validated)
    ]
    assert None not in scores(whole)[1:]


def test_a_contrast_has_no_accuracy(splits: Splits) -> None:
    plan = plan_of(replace(splits, val=None), strategy="two-phase", head_init="auto", contrast=1)
    found = [each for each in course(replace(splits, val=None), plan) if isinstance(each, Validated)]
    by_phase = {each.phase: each.train_accuracy for each in found if each.epoch}
    assert by_phase.pop(0) is None
    assert by_phase and None not in by_phase.values()


def test_mixed_items_count_by_the_label_of_the_larger_share() -> None:
    shares = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.4, 0.6]])
    assert main_labels(shares, several=False).tolist() == [0, 2]
    assert main_labels(shares, several=True).tolist() == [[True, False, False], [False, False, True]]


def test_an_epoch_is_one_line() -> None:
    record = Validated(1, 3, 30, 0.25, 0.9, True, 0.5, None, 0.875)
    assert epoch_line(record) == (
        "Phase 2, epoch 3: training loss 0.500, accuracy 87.5 %; validation loss 0.250, accuracy 90.0 % "
        "(best so far)"
    )
    alone = Validated(0, 1, 10, None, None, True, 0.5, None, None)
    assert epoch_line(alone, "mean average precision") == "Phase 1, epoch 1: training loss 0.500"


@pytest.mark.odd_input("Training")
def test_patience_begins_where_the_warm_up_of_a_phase_ends(splits: Splits) -> None:
    """Patience shorter than the warm-up: epochs of the warm-up do not count, in every phase and after a
    resume."""
    settings = {"train__lr": 50.0, "train__clip": None, "train__patience": 1, "epochs": 8}
    for warmup, expected in ((0, 1), ("1 steps", 2), ("3 epochs", 4), ("7 steps", 4)):
        plan = plan_of(splits, strategy="two-phase", head_init="auto", train__warmup=warmup, **settings)
        assert [each.steps_per_epoch for each in plan.phases if each.kind == "phase"] == [3]
        waits = [each for each in course(splits, plan) if isinstance(each, Validated) and each.phase == 1]
        assert waits[-1].epoch == expected, warmup


def test_patience_in_the_warm_up_survives_a_resume(splits: Splits, tmp_path: Path) -> None:
    """Stopped at every new record, a run ends after as many epochs as one that was never stopped."""
    settings = {"train__lr": 50.0, "train__clip": None, "train__patience": 1, "epochs": 8}
    plan = plan_of(splits, strategy="two-phase", head_init="auto", train__warmup="3 epochs", **settings)
    checkpoints, seen = Checkpoints(tmp_path, "run"), []
    while len(seen) < 100:
        steps = fit_steps(make_tiny(), splits, plan, checkpoints=checkpoints)
        new = next((record for record in steps if record not in seen), None)
        if new is None:
            break
        seen.append(new)
        with pytest.raises(Interrupted):
            steps.throw(Interrupted("now"))
    epochs = [each.epoch for each in seen if isinstance(each, Validated) and each.phase == 1]
    assert epochs == [0, 1, 2, 3, 4]
