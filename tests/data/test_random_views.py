"""Random views are functions of their seeds, and change pictures as torchvision would."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from odd_pictures import noise, waves
from torchvision.transforms.v2.functional import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    affine,
    horizontal_flip,
)

from graft.backbones.contract import Preprocess
from graft.data import random_views
from graft.data.image import decode
from graft.data.random_views import DEGREES, DRAWN, SHIFT, Preset, _jittered, _moved, augment
from graft.data.transforms import preprocess
from graft.errors import DataError

PRESETS: list[Preset] = ["light", "standard", "aggressive"]
SMALL = Preprocess(size=(24, 24), resize=28)


def smooth(height: int, width: int) -> torch.Tensor:
    return decode(waves(height, width))


def view(picture: torch.Tensor, how: Preprocess, preset: Preset, seed: int) -> torch.Tensor:
    return augment([picture], how, preset, [seed])[0]


@pytest.mark.parametrize("shape", [(1, 9, 9), (4, 9, 9)])
@pytest.mark.parametrize("preset", ["none", *PRESETS])
def test_wrong_channels_are_refused(preset: Preset, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=f"has {shape[0]} channels, the network takes 3"):
        augment([noise(3, 9, 9), noise(*shape)], SMALL, preset, [0, 1])


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(DataError, match=r"'wild'.*none, light, standard and aggressive"):
        augment([noise(3, 9, 9)], SMALL, "wild", [0])  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_view_does_not_depend_on_what_is_computed_beside_it(
    preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [noise(3, 20 + 5 * seed, 60 - 4 * seed, seed=seed) for seed in range(9)]
    alone = [view(picture, SMALL, preset, seed) for seed, picture in enumerate(pictures)]
    for at_once in (1, 4 * 24 * 24, 2**20):
        monkeypatch.setattr(random_views, "AT_ONCE", at_once)
        assert torch.equal(augment(iter(pictures), SMALL, preset, range(9)), torch.stack(alone))


@pytest.mark.parametrize("preset", ["light", "standard"])
def test_a_view_does_not_depend_on_the_number_of_threads(preset: Preset) -> None:
    how, threads = Preprocess(size=(224, 224), resize=256), torch.get_num_threads()
    views = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            views.append(augment([noise(3, 250, 300)] * 8, how, preset, range(8)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, views[0]) for each in views)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("preset", PRESETS)
def test_view_is_a_function_of_its_seed(preset: Preset, channels: int) -> None:
    how = dataclasses.replace(SMALL, mean=(0.4,) * channels, std=(0.2,) * channels)
    picture = noise(channels, 20, 33)
    torch.manual_seed(1)
    first = [view(picture, how, preset, seed) for seed in range(12)]
    torch.manual_seed(2)
    again = [view(picture, how, preset, seed) for seed in range(12)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(each.shape == (channels, 24, 24) for each in first)
    assert all(each.dtype == torch.float32 and each.isfinite().all() for each in first)
    assert len({each.numpy().tobytes() for each in first}) > 9


@pytest.mark.parametrize("preset", ["none", *PRESETS])
def test_global_generator_is_left_alone(preset: Preset) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    view(noise(3, 20, 20), SMALL, preset, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_cuda_is_never_seeded(monkeypatch) -> None:
    def forbid(_seed: int) -> None:
        raise AssertionError("CUDA was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", forbid)
    view(noise(3, 20, 20), SMALL, "aggressive", 3)
    assert not torch.cuda.is_initialized()


def test_none_is_the_evaluation_picture() -> None:
    picture = noise(3, 20, 33)
    assert torch.equal(view(picture, SMALL, "none", 7), preprocess(picture, SMALL))


def test_strong_presets_change_more() -> None:
    picture = smooth(60, 60)
    plain = preprocess(picture, SMALL)
    change = {
        preset: np.mean([(view(picture, SMALL, preset, s) - plain).abs().mean() for s in range(40)])
        for preset in PRESETS
    }
    assert 0 < change["light"] < change["standard"] < change["aggressive"]


@pytest.mark.parametrize(
    ("preset", "number", "means"),
    [
        ("light", 2, [0.398, 0.218, 0.352]),
        ("standard", 3, [0.493, 0.313, 0.206]),
        ("aggressive", 1, [0.616, -0.107, 0.337]),
    ],
)
def test_what_a_seed_draws_is_pinned(preset: Preset, number: int, means: list[float]) -> None:
    """Stored features rest on it: where this fails, DRAWN gets another number, too."""
    assert DRAWN[preset] == number
    picture = smooth(30, 40)
    found = [float(view(picture, SMALL, preset, seed).mean()) for seed in (1, 2, 3)]
    assert found == pytest.approx(means, abs=2e-3)


def test_light_keeps_colours() -> None:
    flat = torch.tensor([10, 120, 240], dtype=torch.uint8)[:, None, None].repeat(1, 30, 30)
    want = preprocess(flat, SMALL)
    assert all(torch.equal(view(flat, SMALL, "light", seed), want) for seed in range(5))


@pytest.mark.parametrize("preset", ["standard", "aggressive"])
def test_colours_stay_where_channels_are_no_colours(preset: Preset) -> None:
    how = dataclasses.replace(SMALL, mean=(0.0,) * 4, std=(1.0,) * 4)
    flat = torch.full((4, 30, 30), 200, dtype=torch.uint8)
    for seed in range(10):
        values = view(flat, how, preset, seed)
        known = (values - 200 / 255).abs() < 0.01  # the picture's own value
        assert (known | (values < 200 / 255)).all()  # or what fills corners and erased parts
        assert known.any()


def draws(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("drawn", [(0.5, 0.5, 0.5), (0.9, 0.5, 0.5), (0.5, 0.0, 0.9), (0.1, 1.0, 0.2)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_movement_is_torchvisions(drawn: tuple[float, ...], mirrored: bool) -> None:
    picture, fill = smooth(40, 60) / 255, torch.tensor([0.2, 0.5, 0.9])
    turn, right, down = (2 * each - 1 for each in drawn)
    wanted = affine(
        horizontal_flip(picture) if mirrored else picture,
        angle=DEGREES * turn,
        translate=[SHIFT * 60 * right, SHIFT * 40 * down],
        scale=1.0,
        shear=[0.0, 0.0],
        interpolation=2,
        fill=fill.tolist(),
    )
    found = _moved(picture[None], draws((0.0, *drawn)), torch.tensor([mirrored]), fill)[0]
    off = (found - wanted).abs().amax(0) > 1e-4
    assert off.float().mean() < 0.05, "but for the border, which torchvision darkens twice"
    assert (found[:, 0, 0] - wanted[:, 0, 0]).abs().max() < 1e-4


JITTERS = [
    (0.5,) * 4,
    (0.0, 0.5, 0.5, 0.5),
    (0.5, 0.75, 0.5, 0.5),
    (0.5, 0.5, 0.25, 0.5),
    (0.5, 0.5, 0.5, 0.9),
    (0.1, 0.7, 0.2, 0.0),
    (0.9, 0.2, 0.9, 1.0),
]


def test_jitter_is_torchvisions_in_one_order() -> None:
    picture = smooth(16, 24) // 2 + 40  # nothing to be clamped
    found = _jittered((picture / 255).expand(len(JITTERS), -1, -1, -1), draws(*JITTERS))
    for each, drawn in zip(found, JITTERS, strict=True):
        bright, contrast, saturation = (0.8 + 0.4 * value for value in drawn[:3])
        wanted = adjust_contrast(adjust_brightness(picture / 255, bright), contrast)
        wanted = adjust_hue(adjust_saturation(wanted, saturation), 0.1 - 0.2 * drawn[3])
        assert torch.allclose(each, wanted, atol=1e-3), drawn


def test_jitter_ends_at_black_and_white() -> None:
    picture = torch.tensor([0, 250]).expand(1, 3, 1, 2) / 255
    found = _jittered(picture, draws((1.0, 1.0, 0.5, 0.5)))
    assert found[0, :, 0].tolist() == [[0.0, 1.0]] * 3


def test_flip_happens_half_the_time() -> None:
    picture = torch.zeros(3, 24, 24, dtype=torch.uint8)
    picture[:, :, 12:] = 255
    left = [view(picture, SMALL, "light", s)[0, :, :6].mean() > 0 for s in range(60)]
    assert 15 < sum(left) < 45


@pytest.mark.parametrize("size", [(20, 20), (20, 80), (80, 20), (1, 300), (300, 1), (2, 2)])
def test_crop_moves_over_pictures_of_any_shape(size: tuple[int, int]) -> None:
    """Torchvision's crop of a wide picture is the same centre crop every time."""
    how = Preprocess(size=(16, 24), resize=20)
    picture = noise(3, *size)
    views = {view(picture, how, "light", seed).numpy().tobytes() for seed in range(30)}
    assert len(views) > (20 if size[0] * size[1] > 100 else 1)


def test_crop_stays_near_the_inputs_shape() -> None:
    """At least 80 % of the largest crop, not squeezed by more than a third."""
    how = Preprocess(size=(100, 100), resize=100, mean=(0.0,) * 3, std=(1.0,) * 3)
    column, row = torch.meshgrid(torch.arange(100), torch.arange(200), indexing="ij")
    picture = torch.stack([column, row, row]).to(torch.uint8)
    for seed in range(30):
        shown = view(picture, how, "light", seed) * 255
        h, w = (
            (shown[0].max() - shown[0].min() + 1).item(),
            (shown[1].max() - shown[1].min() + 1).item(),
        )
        assert 0.76 < h * w / 10_000 < 1.02
        assert 0.72 < w / h < 1.38
