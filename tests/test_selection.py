"""The choice after training: who may stand, who wins, and what is kept."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from graft import records
from graft.averaging import average, interpolate
from graft.backbones.contract import Backbone
from graft.data.content import read_content
from graft.data.items import Splits
from graft.errors import TrainingError
from graft.inference import forward_all
from graft.plan import Plan, make_plan
from graft.recipe import read_recipe
from graft.records import Record
from graft.selection import Candidate, _choose, _describe, _judged, _seeing_features
from graft.state import State, Trained
from graft.steps import Calibrate, Select
from graft.task import Task
from graft.training import fit, fit_steps
from small import make_tiny

BASE: dict[str, Any] = {
    "device": "cpu",
    "strategy": "two-phase",
    "head_init": "random",
    "phase": {"1": {"epochs": 1}},
    "epochs": 3,
    "train__precision": "fp32",
    "train__batch_size": 8,
    "train__lr": 1e-2,
}


def plan_for(backbone: Backbone, splits: Splits, **settings: Any) -> Plan:
    return make_plan(read_recipe(**(BASE | settings)), backbone, splits)


def run_to_the_end(splits: Splits, **settings: Any) -> tuple[list[Record], Trained, dict[str, Any]]:
    """All records, what came out, and what stood for choice when that began."""
    backbone = make_tiny()
    steps = fit_steps(backbone, splits, plan_for(backbone, splits, **settings))
    found: list[Record] = []
    stood: dict[str, Any] = {}
    while True:
        try:
            record = next(steps)
        except StopIteration as end:
            return found, end.value, stood
        found.append(record)
        run: State = steps.gi_frame.f_locals["run"]
        if isinstance(record, records.Started) and record.name == "choice":
            stood = {
                "leaders": [dict(each) for each in run.leaders.weights],
                "entries": list(run.leaders.entries),
                "average": {name: value.clone() for name, value in run.average.items()},
                "start": run.start_values(),
                "last": run.changing_values(),
            }


def loss_with(splits: Splits, trained: Trained, weights: dict[str, Tensor]) -> float:
    """The validation loss of the trained network with other weights."""
    backbone = make_tiny()
    run = State(backbone, splits, trained.plan, None)
    run.model.load_state_dict(trained.model.state_dict())
    run.load_values(weights)
    assert splits.val is not None
    logits = forward_all(run.model, run.inputs(splits.val), torch.device("cpu"))
    return float(splits.task.losses(logits, torch.from_numpy(splits.val.targets)).double().mean())


# ---------------------------------------------------------------------------------------------
# The rule: one standard error of the paired difference.


def trial(costs: list[float]) -> Candidate:
    values = torch.tensor(costs, dtype=torch.float64)
    return Candidate({}, values, float(values.mean()), 0.0)


COSTS = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0]), min_size=5, max_size=5)


@given(first=COSTS, others=st.lists(COSTS, max_size=4))
def test_the_first_stays_unless_beaten_clearly_and_then_the_best_of_these_wins(
    first: list[float], others: list[list[float]]
) -> None:
    trials = {str(number): trial(costs) for number, costs in enumerate([first, *others])}
    winner = _choose(trials)
    clearly = []
    for costs in others:
        gains = [one - two for one, two in zip(first, costs, strict=True)]
        mean = sum(gains) / 5
        error = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / 4 / 5)
        assume(costs == first or abs(mean - error) > 1e-9)  # rounding decides there
        if mean > error:
            clearly.append(sum(costs) / 5)
    if clearly:
        assert float(winner.costs.mean()) == pytest.approx(min(clearly))
    else:
        assert winner is trials["0"]


def test_differences_count_item_by_item() -> None:
    """Two sets whose scores scatter widely, but differ by the same on each item."""
    first = trial([0.0, 1.0, 5.0, 9.0])
    steady, shaky = trial([-0.1, 0.9, 4.9, 8.9]), trial([0.0, 0.0, 7.0, 7.0])
    assert steady.beats(first)
    assert steady.gain_over(first) == pytest.approx((0.1, 0.0), abs=1e-9)
    assert not shaky.beats(first)
    assert not first.beats(first)


def test_a_single_item_or_broken_weights_decide_nothing() -> None:
    assert not trial([0.0]).beats(trial([5.0]))
    for broken in (math.nan, math.inf, -math.inf):
        trials = {"best": trial([1.0, 1.0]), "other": trial([broken, 0.0])}
        assert _choose(trials) is trials["best"]
        told = _describe(trials["other"], trials["best"])
        assert told["loss"] is None
        assert told["gain"] is None


# ---------------------------------------------------------------------------------------------
# Who stands for choice.

BLENDS = {f"{share} % of the way" for share in (20, 40, 60, 80)}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"best", "last", "start", "average of the best"} | BLENDS),
        ({"train__ema": 0.9}, {"best", "last", "running average", "start", "average of the best"} | BLENDS),
        ({"final__interpolate": False}, {"best", "last", "start", "average of the best"}),
        ({"final__checkpoints": 1}, {"best", "last", "start"} | BLENDS),
        ({"strategy": "full", "phase": {}}, {"best", "last", "average of the best"}),
        ({"strategy": "probe:steps", "phase": {}}, {"best", "last", "average of the best"}),
    ],
)
def test_candidates_are_those_that_there_are(
    splits: Splits, settings: dict[str, Any], expected: set[str]
) -> None:
    found, trained, _ = run_to_the_end(splits, **settings)
    assert trained.selected is not None
    assert set(trained.selected["candidates"]) == expected
    (told,) = [record for record in found if isinstance(record, records.Selected)]
    assert told.candidates == trained.selected["candidates"]
    assert told.winner == trained.selected["winner"]


def test_every_candidate_is_what_its_name_says(splits: Splits) -> None:
    """Each one's loss in the report is that of the weights it stands for, computed anew."""
    _, trained, stood = run_to_the_end(splits, train__ema=0.9)
    assert trained.selected is not None
    best, start = stood["leaders"][0], stood["start"]
    weights = {
        "best": best,
        "last": stood["last"],
        "running average": stood["average"],
        "start": start,
        **{f"{share} % of the way": interpolate(start, best, share / 100) for share in (20, 40, 60, 80)},
    }
    for name, values in weights.items():
        told = trained.selected["candidates"][name]
        assert told["loss"] == pytest.approx(loss_with(splits, trained, values), rel=1e-5), name
    blend = weights["40 % of the way"]["trunk.stem.0.weight"]
    pretrained = make_tiny().trunk.state_dict()["stem.0.weight"]
    assert torch.allclose(blend, 0.6 * pretrained + 0.4 * best["trunk.stem.0.weight"], atol=1e-6)


def test_gains_are_over_the_best_checkpoint(splits: Splits) -> None:
    _, trained, stood = run_to_the_end(splits, final__calibrate=False)
    assert trained.selected is not None
    told = trained.selected
    assert told["best_epoch"] == stood["entries"][0]["epoch"]
    assert told["by"] == "loss"
    first = told["candidates"]["best"]
    assert (first["gain"], first["gain_error"]) == (0.0, 0.0)
    for each in told["candidates"].values():
        assert each["gain"] == pytest.approx(first["loss"] - each["loss"], abs=1e-6)


def test_a_network_too_sure_of_itself_is_judged_as_if_it_were_calibrated() -> None:
    """Where it will be: a temperature takes that fault away, and decisions are what they were."""
    task, generator = Task(("a", "b", "c")), torch.Generator().manual_seed(0)
    logits, targets = torch.randn(200, 3, generator=generator), torch.arange(200) % 3
    logits[torch.arange(200), targets] += 1.0
    runs = {
        fits: SimpleNamespace(
            splits=SimpleNamespace(task=task), plan=SimpleNamespace(phases=[Calibrate()] * fits)
        )
        for fits in (True, False)
    }
    found = {
        (fits, sure): float(_judged(run, sure * logits, targets).mean())
        for fits, run in runs.items()
        for sure in (1.0, 8.0)
    }
    assert found[True, 8.0] == pytest.approx(found[True, 1.0], rel=1e-3)
    assert found[True, 1.0] <= found[False, 1.0] + 1e-3
    assert found[False, 8.0] > 2 * found[False, 1.0]
    assert found[False, 1.0] == pytest.approx(float(task.losses(logits, targets).mean()), rel=1e-6)


# ---------------------------------------------------------------------------------------------
# Who wins, and what is kept.


@pytest.mark.parametrize("select", ["loss", "accuracy"])
def test_the_winners_weights_are_kept_and_beat_the_best_clearly_or_are_it(
    splits: Splits, select: str
) -> None:
    for lr in (3e-3, 3e-2, 0.3):
        _, trained, _ = run_to_the_end(splits, train__lr=lr, train__select=select, train__ema=0.7)
        assert trained.selected is not None
        winner = trained.selected["winner"]
        told = trained.selected["candidates"][winner]
        assert loss_with(splits, trained, {}) == pytest.approx(told["loss"], rel=1e-5)
        assert winner == "best" or told["gain"] > told["gain_error"]
        if winner == "best":
            assert not any(
                each["gain"] > each["gain_error"] for each in trained.selected["candidates"].values()
            )


def test_a_blend_wins_where_the_end_went_too_far(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the end spoilt on purpose, the way back is worth going, and those weights are kept."""
    from graft import selection

    original = selection._candidates

    def spoilt(run: State, step: Select) -> dict[str, Any]:
        start = run.start_values()
        far = {name: value + 30 * (value - start[name]) for name, value in run.leaders.weights[0].items()}
        run.leaders.weights[0] = far
        return original(run, step)

    monkeypatch.setattr(selection, "_candidates", spoilt)
    _, trained, _ = run_to_the_end(splits, train__lr=1e-3, epochs=4, final__checkpoints=1)
    assert trained.selected is not None
    assert trained.selected["winner"] != "best"
    told = trained.selected["candidates"][trained.selected["winner"]]
    assert told["gain"] > told["gain_error"] >= 0
    assert loss_with(splits, trained, {}) == pytest.approx(told["loss"], rel=1e-5)


def test_the_greedy_average_is_never_worse_than_the_best(splits: Splits) -> None:
    averaged = False
    for rate, seed in product((0.5, 0.3, 0.05), (0, 1)):  # where weights jump about
        _, trained, stood = run_to_the_end(
            splits,
            train__lr=rate,
            train__schedule="constant",
            train__augmentation="aggressive",
            train__batch_size=4,
            epochs=6,
            seed=seed,
            final__calibrate=False,
        )
        assert trained.selected is not None
        told = trained.selected["candidates"]
        assert told["average of the best"]["loss"] <= told["best"]["loss"]
        averaged |= told["average of the best"]["loss"] < told["best"]["loss"]
        # The greedy rule, once more by hand.
        taken, loss = [stood["leaders"][0]], told["best"]["loss"]
        for weights in stood["leaders"][1:]:
            tried = loss_with(splits, trained, average([*taken, weights]))
            if tried < loss:
                taken, loss = [*taken, weights], tried
        assert told["average of the best"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert averaged, "no average helped: this test shows nothing"


def test_the_features_looked_at_are_of_every_class() -> None:
    """Items come class by class: the first of them would be of the first classes alone."""
    head = nn.Linear(1, 2)
    for items in (10, 512, 513, 3000):
        with _seeing_features(head, items) as seen:
            for part in torch.arange(float(items))[:, None].split(64):
                head(part)
        rows = torch.cat(seen).flatten()
        assert len(rows) <= 512 and len(rows) > min(items, 512) / 2
        assert rows.diff().unique().numel() <= 1 and rows[0] == 0 and rows[-1] > 0.9 * items - 8


def test_leaders_are_the_best_epochs(splits: Splits) -> None:
    found, _, stood = run_to_the_end(splits, epochs=5, final__checkpoints=3)
    scores = [
        (record.loss, record.epoch)
        for record in found
        if isinstance(record, records.Validated) and record.phase == 1
    ]
    assert [(each["loss"], each["epoch"]) for each in stood["entries"]] == sorted(scores)[:3]  # type: ignore[type-var]


def test_where_no_validation_loss_is_finite_nothing_is_kept(splits: Splits) -> None:
    from graft.backbones import from_module

    class Dividing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3)

        def forward(self, pictures: Tensor) -> Tensor:
            return self.conv(pictures).mean((2, 3)) / (pictures.std((1, 2, 3)) > 0.2)[:, None]

    assert splits.val is not None
    flat = np.full((8, 8, 3), 100, np.uint8)
    digests = (read_content(flat, max_pixels=64)[1], *splits.val.digests[1:])
    val = replace(splits.val, sources=(flat, *splits.val.sources[1:]), digests=digests)
    spoilt = replace(splits, val=val)
    backbone = from_module(Dividing(), preprocess=make_tiny().preprocess, head=None)
    plan = plan_for(backbone, spoilt, strategy="full", phase={})
    with pytest.raises(TrainingError, match=r"not finite at any time of phase 'all stages'.*train\.lr"):
        fit(backbone, spoilt, plan)


# ---------------------------------------------------------------------------------------------
# Without validation data, and between phases.


def test_without_validation_data_nothing_is_chosen_and_the_average_is_kept(splits: Splits) -> None:
    alone = replace(splits, val=None)
    plan = plan_for(make_tiny(), alone, train__ema=0.7)
    assert not any(isinstance(step, Select | Calibrate) for step in plan.phases)
    ends = {}
    for ema in (0.0, 0.7):
        _, trained, _ = run_to_the_end(alone, train__ema=ema, phase={"1": {"epochs": 1, "ema": 0.0}})
        assert (trained.selected, trained.calibrated) == (None, None)
        ends[ema] = trained.model.state_dict()
    assert not torch.equal(ends[0.0]["trunk.stem.0.weight"], ends[0.7]["trunk.stem.0.weight"])


@pytest.mark.parametrize("ema", [0.0, 0.7])
def test_a_phase_that_another_follows_hands_on_its_best(splits: Splits, ema: float) -> None:
    """Or its running average, where that is clearly better."""
    settings = {"phase": {"1": {"epochs": 4, "ema": ema}}, "train__head_lr": 1.0, "epochs": 1}
    settings["final__calibrate"] = False
    found, _, _ = run_to_the_end(splits, **settings)
    validated = [record for record in found if isinstance(record, records.Validated)]
    best = min(record.loss for record in validated if record.phase == 0 and record.loss is not None)
    handed_on = next(record.loss for record in validated if record.phase == 1 and record.epoch == 0)
    assert handed_on is not None
    if ema:
        assert handed_on <= best + 1e-6
    else:
        assert handed_on == pytest.approx(best, rel=1e-5)


def test_the_temperature_is_fitted_for_what_was_kept(splits: Splits) -> None:
    from graft.calibration import fit_temperature

    found, trained, _ = run_to_the_end(splits)
    assert trained.calibrated is not None
    assert splits.val is not None
    run = State(make_tiny(), splits, trained.plan, None)
    logits = forward_all(trained.model, run.inputs(splits.val), torch.device("cpu"))
    expected = fit_temperature(splits.task, logits, torch.from_numpy(splits.val.targets))
    assert trained.calibrated["temperature"] == pytest.approx(expected, rel=1e-4)
    assert trained.calibrated["n"] == 6
    (told,) = [record for record in found if isinstance(record, records.Calibrated)]
    assert told.temperature == trained.calibrated["temperature"]
    assert told.error_before == trained.calibrated["error_before"]
