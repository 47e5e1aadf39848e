"""Which items when, and at which share of the rate: properties over all sizes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.schedule import (
    CYCLE_MOMENTUM,
    CYCLE_START,
    count_warmup,
    cut_batches,
    cycle_momentum,
    epoch_order,
    geometric_rates,
    parse_warmup,
    rate_factor,
    steps_in_epoch,
)
from graft.seeds import mix

SIZES = st.integers(min_value=1, max_value=300)
SCHEDULES = ["cosine", "linear", "step", "one-cycle", "constant"]


def course(schedule: str, steps: int, warmup: int, **more: Any) -> list[float]:
    return [
        rate_factor(step, steps=steps, warmup=warmup, schedule=schedule, **more) for step in range(steps)
    ]


# ---------------------------------------------------------------------------------------------
# Order and batches.


@given(items=SIZES, batch=SIZES, epoch=st.integers(0, 5))
def test_an_epoch_sees_every_item_once_in_even_batches(items: int, batch: int, epoch: int) -> None:
    order = epoch_order(items, seed=3, epoch=epoch)
    batches = cut_batches(order, batch)
    assert [item for part in batches for item in part] == order
    assert sorted(order) == list(range(items))
    assert len(batches) == steps_in_epoch(items, batch)
    sizes = {len(part) for part in batches}
    assert max(sizes) <= (3 if batch == 2 else batch)
    assert min(sizes) > 1 or batch == 1 or items == 1  # none of one is left over
    assert max(sizes) - min(sizes) <= 1


def test_order_is_a_function_of_seed_and_epoch_alone() -> None:
    first = epoch_order(100, seed=1, epoch=2)
    assert first == epoch_order(100, seed=1, epoch=2)
    assert first != epoch_order(100, seed=1, epoch=3)
    assert first != epoch_order(100, seed=2, epoch=2)


# ---------------------------------------------------------------------------------------------
# Warm-up.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, (0.0, "share")),
        (0.1, (0.1, "share")),
        ("0.1", (0.1, "share")),
        ("5 %", (0.05, "share")),
        ("5%", (0.05, "share")),
        (".5 %", (0.005, "share")),
        ("2 epochs", (2.0, "epochs")),
        ("1 epoch", (1.0, "epochs")),
        ("1.5epochs", (1.5, "epochs")),
        ("100 steps", (100.0, "steps")),
        (" 1 step ", (1.0, "steps")),
    ],
)
def test_the_forms_of_a_warm_up(text: float | str, expected: tuple[float, str]) -> None:
    assert parse_warmup(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", [1, 1.0, -0.1, "1", "100 %", "-1 epochs", "two epochs", "2 weeks", "", "%"]
)
def test_what_is_no_warm_up_is_refused(text: float | str) -> None:
    with pytest.raises(ValueError, match="2 epochs"):
        parse_warmup(text)


def test_a_warm_up_in_steps() -> None:
    assert count_warmup("2 epochs", epochs=10, per_epoch=7) == 14
    assert count_warmup("1.5 epochs", epochs=10, per_epoch=7) == 10
    assert count_warmup("60 steps", epochs=10, per_epoch=7) == 60
    assert count_warmup("5 %", epochs=10, per_epoch=7) == round(0.05 * 70)
    assert count_warmup(0, epochs=10, per_epoch=7) == 0


@given(epochs=st.integers(1, 50), per_epoch=st.integers(1, 50), amount=st.integers(0, 3000))
def test_at_least_one_step_runs_at_the_full_rate(epochs: int, per_epoch: int, amount: int) -> None:
    total = epochs * per_epoch
    for unit, steps in (("steps", amount), ("epochs", amount * per_epoch)):
        if steps >= total:
            with pytest.raises(ValueError, match=f"{epochs} epochs .{total} steps"):
                count_warmup(f"{amount} {unit}", epochs=epochs, per_epoch=per_epoch)
        else:
            assert count_warmup(f"{amount} {unit}", epochs=epochs, per_epoch=per_epoch) == steps
    assert count_warmup(0.999999, epochs=epochs, per_epoch=per_epoch) < total


# ---------------------------------------------------------------------------------------------
# Courses.


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(steps=st.integers(2, 300), share=st.floats(0, 0.9))
def test_every_course_rises_to_one_and_never_rises_again(schedule: str, steps: int, share: float) -> None:
    warmup = min(round(share * steps), steps - 1)
    factors = course(schedule, steps, warmup, drop_every=max(1, steps))
    peak = factors.index(max(factors))
    assert max(factors) == pytest.approx(1.0)
    # The linear rise gets to the peak with its last step, the cycle one step later.
    assert peak == (warmup if schedule == "one-cycle" else max(0, warmup - 1))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert factors[warmup] == pytest.approx(1.0)
    assert min(factors) > 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_courses_are_continuous(schedule: str) -> None:
    """Ten times as many steps make the largest move from step to step about ten times smaller."""
    moves = []
    for steps in (100, 1000):
        factors = course(schedule, steps, steps // 10, drop_every=steps)
        moves.append(max(abs(one - two) for one, two in itertools.pairwise(factors)))
    assert moves[1] == pytest.approx(moves[0] / 10, rel=0.1)


def test_end_points() -> None:
    for schedule in SCHEDULES:
        first = rate_factor(0, steps=1000, warmup=100, schedule=schedule, drop_every=1000)
        assert first == pytest.approx(CYCLE_START if schedule == "one-cycle" else 1 / 100)
    for schedule in ("cosine", "linear", "one-cycle"):
        assert course(schedule, 1000, 100)[-1] == pytest.approx(0.0, abs=2e-3)
        # Where the next step would be, nothing is left.
        assert rate_factor(1000, steps=1000, warmup=100, schedule=schedule) == pytest.approx(0.0)
    assert course("constant", 1000, 100)[-1] == 1.0


def test_known_points_of_the_schedules() -> None:
    assert rate_factor(0, steps=10, warmup=4, schedule="constant") == 0.25
    assert rate_factor(7, steps=10, warmup=4, schedule="constant") == 1.0
    assert rate_factor(5, steps=10, warmup=0, schedule="cosine") == pytest.approx(0.5)
    assert rate_factor(2, steps=8, warmup=0, schedule="cosine") == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert rate_factor(2, steps=8, warmup=0, schedule="linear") == 0.75
    assert rate_factor(6, steps=10, warmup=2, schedule="linear") == 0.5


@pytest.mark.parametrize("factor", [0.1, 0.5])
def test_step_drops_at_its_epochs(factor: float) -> None:
    per_epoch = 5
    factors = course("step", 30 * per_epoch, 3, drop_every=7 * per_epoch, drop_factor=factor)
    for epoch in range(1, 30):
        for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            assert factors[step] == pytest.approx(factor ** (epoch // 7)), (epoch, step)
    assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1])


@pytest.mark.parametrize(("steps", "warmup"), [(50, 5), (50, 15), (200, 60), (7, 1)])
def test_one_cycle_is_torchs(steps: int, warmup: int) -> None:
    """Torch's ends in its last step; ours one step later, so that no step is without effect."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=2.0,
        total_steps=steps + 1,
        pct_start=(warmup + 1) / (steps + 1),
        div_factor=1 / CYCLE_START,
        final_div_factor=math.inf,
        base_momentum=CYCLE_MOMENTUM[1],
        max_momentum=CYCLE_MOMENTUM[0],
    )
    rates, momenta = [], []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    assert course("one-cycle", steps, warmup) == pytest.approx([rate / 2 for rate in rates])
    mine = [cycle_momentum(step, steps=steps, warmup=warmup) for step in range(steps)]
    assert mine == pytest.approx(momenta)


@given(steps=st.integers(2, 300), share=st.floats(0, 0.9))
def test_the_momentum_goes_against_the_rate(steps: int, share: float) -> None:
    warmup = min(round(share * steps), steps - 1)
    rates = course("one-cycle", steps, warmup)
    momenta = [cycle_momentum(step, steps=steps, warmup=warmup) for step in range(steps)]
    high, low = CYCLE_MOMENTUM
    assert all(low <= value <= high + 1e-12 for value in momenta)
    assert momenta[warmup] == pytest.approx(low)
    for step in range(1, steps):
        assert (rates[step] - rates[step - 1]) * (momenta[step] - momenta[step - 1]) <= 1e-12


# ---------------------------------------------------------------------------------------------
# Rates and seeds.


@given(
    lowest=st.floats(1e-7, 1e-2),
    factor=st.floats(1.0, 1e3),
    count=st.integers(2, 30),
)
def test_rates_between_stages_are_geometric(lowest: float, factor: float, count: int) -> None:
    rates = geometric_rates(lowest, lowest * factor, count)
    assert len(rates) == count
    assert rates[0] == lowest
    assert rates[-1] == pytest.approx(lowest * factor)
    ratios = [two / one for one, two in itertools.pairwise(rates)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))


def test_a_stage_alone_gets_the_top_rate() -> None:
    assert geometric_rates(1e-5, 1e-3, 1) == [1e-3]


def test_seeds_depend_on_every_part_and_its_kind() -> None:
    seeds = {mix(0), mix("0"), mix(0, 1), mix(1, 0), mix(0, "1"), mix("01")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix(0, "epoch", 3) == 7039563144158230850  # the same on every machine
