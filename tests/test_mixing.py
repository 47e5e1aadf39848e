"""MixUp and CutMix: pixels and labels are mixed alike, by shares that follow the generator."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graft.mixing import mix_batch

SHAPES = st.tuples(st.integers(2, 6), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12))


def batch(count: int, channels: int = 3, height: int = 8, width: int = 8) -> tuple[Tensor, Tensor]:
    """Pictures whose every pixel is their own number, and one-hot labels."""
    numbers = torch.arange(1.0, count + 1)
    return numbers[:, None, None, None].expand(count, channels, height, width).clone(), torch.eye(count)


def mixed(seed: int, shape: tuple[int, int, int, int], **strengths: float) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    pictures, rows = batch(*shape)
    return mix_batch(pictures, rows, **({"mixup": 0.0, "cutmix": 0.0} | strengths))


@given(seed=st.integers(0, 10_000), shape=SHAPES, strength=st.sampled_from([0.01, 0.2, 1.0, 5.0]))
def test_mixup_blends_pictures_and_labels_by_the_same_share(
    seed: int, shape: tuple[int, int, int, int], strength: float
) -> None:
    pictures, rows = mixed(seed, shape, mixup=strength)
    whole, _ = batch(*shape)
    shares = rows.diagonal()
    assert torch.allclose(shares, shares[0].expand_as(shares))
    share = float(shares[0])
    assert 0 <= share <= 1
    assert torch.allclose(rows.sum(1), torch.ones(len(rows)))
    expected = share * whole + (1 - share) * whole.roll(1, 0)
    assert torch.allclose(pictures, expected, atol=1e-5)


@given(seed=st.integers(0, 10_000), shape=SHAPES, strength=st.sampled_from([0.01, 0.2, 1.0, 5.0]))
def test_cutmix_pastes_one_rectangle_and_labels_count_its_pixels(
    seed: int, shape: tuple[int, int, int, int], strength: float
) -> None:
    pictures, rows = mixed(seed, shape, cutmix=strength)
    whole, _ = batch(*shape)
    other = whole.roll(1, 0)
    pasted = pictures == other
    assert torch.equal(torch.where(pasted, other, whole), pictures)  # every pixel is of one of the two
    place = pasted[0, 0]
    assert (pasted == place).all()  # the same place in all channels and pictures
    rows_hit, columns_hit = place.any(1), place.any(0)
    assert torch.equal(place, rows_hit[:, None] & columns_hit[None])  # a rectangle: a product, with no gaps
    for hit in (rows_hit, columns_hit):
        assert int((hit[1:] != hit[:-1]).sum()) <= 2 - int(hit[0]) - int(hit[-1])
    share = 1 - float(place.float().mean())
    assert torch.allclose(rows.diagonal(), torch.full((len(rows),), share), atol=1e-6)
    assert torch.allclose(rows.sum(1), torch.ones(len(rows)))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_is_a_function_of_torchs_generator_alone(kind: str) -> None:
    one, two, other = (mixed(seed, (4, 3, 8, 8), **{kind: 1.0}) for seed in (5, 5, 6))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[1], other[1])


@pytest.mark.parametrize(("strength", "deviation"), [(0.2, 0.4226), (1.0, 0.2887), (4.0, 0.1667)])
def test_shares_are_drawn_from_beta(strength: float, deviation: float) -> None:
    """The deviation of Beta(a, a) is 1 / (2 sqrt(2a + 1))."""
    torch.manual_seed(0)
    pictures, rows = batch(2, 1, 1, 1)
    shares = torch.stack(
        [mix_batch(pictures, rows, mixup=strength, cutmix=0.0)[1][0, 0] for _ in range(3000)]
    )
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.std()) == pytest.approx(deviation, abs=0.02)


def test_where_both_are_asked_a_coin_decides() -> None:
    kinds = []
    for seed in range(200):
        pictures, _ = mixed(seed, (2, 1, 8, 8), mixup=1.0, cutmix=1.0)
        kinds.append(bool(((pictures == 1) | (pictures == 2)).all()))  # no blended pixel
    assert 60 < sum(kinds) < 140


def test_without_strength_nothing_happens() -> None:
    pictures, rows = batch(3)
    found = mix_batch(pictures, rows, mixup=0.0, cutmix=0.0)
    assert found[0] is pictures
    assert found[1] is rows


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_what_is_mixed_is_left_alone(kind: str) -> None:
    pictures, rows = batch(4)
    mix_batch(pictures, rows, **({"mixup": 0.0, "cutmix": 0.0} | {kind: 1.0}))
    again, same = batch(4)
    assert torch.equal(pictures, again)
    assert torch.equal(rows, same)


def test_labels_of_several_a_picture_mix_alike() -> None:
    torch.manual_seed(1)
    pictures, _ = batch(2)
    rows = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    _, found = mix_batch(pictures, rows, mixup=1.0, cutmix=0.0)
    share = float(found[0, 0])
    assert torch.allclose(found, torch.tensor([[share, 1.0, 1 - share], [1 - share, 1.0, share]]))
