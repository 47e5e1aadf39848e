"""Which items when, and at which share of the rate: properties over all sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.schedule import epoch_batches, geometric_rates, rate_factor, steps_in_epoch
from graft.seeds import mix

SIZES = st.integers(min_value=1, max_value=300)


@given(items=SIZES, batch=SIZES, epoch=st.integers(0, 5))
def test_an_epoch_sees_every_item_once_in_even_batches(items: int, batch: int, epoch: int) -> None:
    batches = epoch_batches(items, batch, seed=3, epoch=epoch)
    assert sorted(item for part in batches for item in part) == list(range(items))
    assert len(batches) == steps_in_epoch(items, batch)
    sizes = {len(part) for part in batches}
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1


def test_order_is_a_function_of_seed_and_epoch_alone() -> None:
    first = epoch_batches(100, 10, seed=1, epoch=2)
    assert first == epoch_batches(100, 10, seed=1, epoch=2)
    assert first != epoch_batches(100, 10, seed=1, epoch=3)
    assert first != epoch_batches(100, 10, seed=2, epoch=2)


@given(steps=st.integers(2, 500), share=st.floats(0, 0.9))
def test_cosine_rises_to_the_peak_then_falls_to_nearly_nothing(steps: int, share: float) -> None:
    warmup = min(round(share * steps), steps - 1)
    factors = [rate_factor(step, steps=steps, warmup=warmup, schedule="cosine") for step in range(steps)]
    peak = max(range(steps), key=factors.__getitem__)
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert factors[peak] == pytest.approx(1.0)
    assert min(factors) > 0
    if warmup <= steps - 2:
        assert factors[-1] < factors[warmup]


def test_known_points_of_the_schedules() -> None:
    assert rate_factor(0, steps=10, warmup=4, schedule="constant") == 0.25
    assert rate_factor(7, steps=10, warmup=4, schedule="constant") == 1.0
    assert rate_factor(5, steps=10, warmup=0, schedule="cosine") == pytest.approx(0.5)


def test_rates_between_stages_are_geometric() -> None:
    assert geometric_rates(1e-5, 1e-3, 3) == pytest.approx([1e-5, 1e-4, 1e-3])
    assert geometric_rates(1e-5, 1e-3, 1) == [1e-3]


def test_seeds_depend_on_every_part_and_its_kind() -> None:
    seeds = {mix(0), mix("0"), mix(0, 1), mix(1, 0), mix(0, "1"), mix("01")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix(0, "epoch", 3) == 7039563144158230850  # the same on every machine
