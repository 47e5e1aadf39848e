"""Temperatures: the best there is, decisions untouched, and finite whatever the logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graft.calibration import Calibration, calibrate, calibrated_task, fit_temperature
from graft.task import Task

SINGLE = Task(("a", "b", "c"))
SEVERAL = Task(("a", "b", "c"), "multi-label")


def made_up(
    seed: int, items: int, sharpness: float, *, several: bool = False
) -> tuple[Task, Tensor, Tensor]:
    """Labels drawn from probabilities, and logits that are ``sharpness`` times as sure of them."""
    generator = torch.Generator().manual_seed(seed)
    honest = 2 * torch.randn(items, 3, generator=generator)
    if several:
        targets = (torch.rand(items, 3, generator=generator) < honest.sigmoid()).to(torch.uint8)
        return SEVERAL, honest * sharpness, targets
    targets = torch.multinomial(honest.softmax(1), 1, generator=generator).squeeze(1)
    return SINGLE, honest * sharpness, targets


def cost(task: Task, logits: Tensor, targets: Tensor, temperature: float) -> float:
    """What is minimised, written down once more: summed loss in double precision, and the prior."""
    wide = (logits.double() / temperature).numpy()
    if task.multi_label:
        signed = np.where(targets.numpy().astype(bool), wide, -wide)
        losses = np.logaddexp(0.0, -signed).mean(axis=1)
    else:
        losses = np.logaddexp.reduce(wide, axis=1) - wide[np.arange(len(wide)), targets.numpy()]
    return float(losses.sum()) + math.log(temperature) ** 2 / 2


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    items=st.sampled_from([1, 5, 60]),
    sharpness=st.floats(0.05, 20),
    several=st.booleans(),
)
def test_no_temperature_of_a_fine_grid_is_better(
    seed: int, items: int, sharpness: float, several: bool
) -> None:
    task, logits, targets = made_up(seed, items, sharpness, several=several)
    found = fit_temperature(task, logits, targets)
    grid = [math.exp(power / 100) for power in range(-400, 401)]
    costs = [cost(task, logits, targets, temperature) for temperature in grid]
    best = grid[int(np.argmin(costs))]
    assert cost(task, logits, targets, found) <= min(costs) + 1e-3
    assert abs(math.log(found / best)) < 0.03


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("several", [False, True])
def test_what_was_sharpened_is_cooled_by_as_much(sharpness: float, several: bool) -> None:
    task, logits, targets = made_up(0, 4000, sharpness, several=several)
    assert fit_temperature(task, logits, targets) == pytest.approx(sharpness, rel=0.08)


@given(seed=st.integers(0, 1000), sharpness=st.floats(0.1, 10))
@settings(max_examples=25)
def test_decisions_between_labels_stay(seed: int, sharpness: float) -> None:
    task, logits, targets = made_up(seed, 30, sharpness)
    cooled, found = calibrate(task, logits, targets)
    assert torch.equal(cooled.decisions(logits), task.decisions(logits))
    assert cooled.temperature == found.temperature
    assert found.loss_after <= found.loss_before + 1e-4
    assert found.thresholds is None


def test_error_and_loss_before_and_after_are_those_of_the_probabilities() -> None:
    task, logits, targets = made_up(1, 2000, 5.0)
    cooled, found = calibrate(task, logits, targets)
    before, after = (task.probabilities(logits), cooled.probabilities(logits))
    assert found.loss_before == pytest.approx(float(-before[range(2000), targets].log().mean()), rel=1e-4)
    assert found.loss_after == pytest.approx(float(-after[range(2000), targets].log().mean()), rel=1e-4)
    assert found.error_before > 0.1
    assert found.error_after < 0.04
    assert found.error_before == pytest.approx(task.measure(logits.numpy(), targets.numpy()).ece)
    assert found.error_after == pytest.approx(cooled.measure(logits.numpy(), targets.numpy()).ece)
    assert found.n == 2000


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("several", [False, True])
def test_where_every_decision_was_right_or_wrong_it_stays_finite(
    scale: float, right: bool, several: bool
) -> None:
    rows = torch.eye(3)[[0, 1, 2, 0]]
    logits = scale * (rows if right else -rows)
    targets = rows.to(torch.uint8) if several else torch.tensor([0, 1, 2, 0])
    cooled, found = calibrate(SEVERAL if several else SINGLE, logits, targets)
    assert math.exp(-4) <= found.temperature <= math.exp(4) * 1.001
    assert cooled.probabilities(logits).isfinite().all()
    if scale == 1.0:
        assert (found.temperature < 1) == right


def test_a_single_item_does_not_carry_the_temperature_away() -> None:
    found = fit_temperature(SINGLE, torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0]))
    assert 0.4 < found < 1.0


def test_thresholds_of_several_labels_are_those_of_the_cooled_probabilities() -> None:
    task, logits, targets = made_up(3, 300, 4.0, several=True)
    logits = logits - 2.0
    cooled, found = calibrate(task, logits, targets)
    assert found.thresholds == cooled.thresholds
    assert found.thresholds is not None
    assert any(abs(value - 0.5) > 0.05 for value in found.thresholds)
    again = task.with_temperature(found.temperature).choose_thresholds(logits, targets)
    assert again == cooled


@pytest.mark.parametrize("several", [False, True])
def test_what_is_written_down_makes_the_same_task(several: bool) -> None:
    task, logits, targets = made_up(4, 50, 3.0, several=several)
    cooled, found = calibrate(task, logits, targets)
    assert calibrated_task(task, found.to_dict()) == cooled
    assert calibrated_task(task, None) == task
    assert Calibration(**found.to_dict()) == found
