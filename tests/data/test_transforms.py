"""Preprocessing equals the library's own; augmentation is a function of its seed."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms.v2.functional import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
)

from graft.backbones.contract import Preprocess
from graft.data.image import decode, decode_reduced
from graft.data.transforms import DRAWN, Preset, _jitter, augment, preprocess
from graft.errors import DataError

PRESETS = ["light", "standard", "aggressive"]
SMALL = Preprocess(size=(24, 24), resize=28)
SIZES = [(8, 8), (37, 91), (300, 420), (420, 40), (1, 5)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9 + i) * np.cos(y / 13) for i in range(3)]
    return (np.stack(waves, axis=2) * 100 + 128).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "name",
    [
        "ResNet50_Weights.IMAGENET1K_V1",
        "ResNet50_Weights.IMAGENET1K_V2",
        "EfficientNet_B0_Weights.IMAGENET1K_V1",  # bicubic
        "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1",  # bicubic, resized to the size of the crop
        "Inception_V3_Weights.IMAGENET1K_V1",
        "EfficientNet_V2_S_Weights.IMAGENET1K_V1",
    ],
)
def test_equals_torchvisions_own(name: str, size: tuple[int, int]) -> None:
    own = torchvision.models.get_weight(name).transforms()
    how = Preprocess(
        size=(own.crop_size[0], own.crop_size[0]),
        resize=own.resize_size[0],
        interpolation=own.interpolation.value,
        mean=tuple(own.mean),
        std=tuple(own.std),
    )
    picture = noise(3, *size)
    assert torch.equal(preprocess(picture, how), own(picture))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(60, 80), (150, 100), (20, 24)])
def test_close_to_timms_pillow_pipeline(interpolation: str, size: tuple[int, int]) -> None:
    from timm.data import create_transform

    array = smooth(*size)
    own = create_transform((3, 48, 48), interpolation=interpolation, crop_pct=0.875)
    how = Preprocess(size=(48, 48), resize=54, interpolation=interpolation)
    found = preprocess(decode(array), how)
    levels = (found - own(Image.fromarray(array))).abs() * torch.tensor(how.std)[:, None, None]
    assert levels.max() * 255 < 1.5  # of 255: both round to 8 bits, Pillow after each direction


def test_pair_resizes_exactly_and_none_not_at_all() -> None:
    exact = preprocess(noise(3, 10, 30), Preprocess(size=(24, 24), resize=(24, 24)))
    assert exact.shape == (3, 24, 24)
    plain = Preprocess(size=(24, 24), resize=None, mean=(0.0,) * 3, std=(1.0,) * 3)
    picture = noise(3, 24, 24)
    assert torch.equal(preprocess(picture, plain), picture / 255)


def test_small_picture_is_padded_with_black() -> None:
    how = Preprocess(size=(8, 8), resize=None, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = preprocess(torch.full((3, 4, 4), 255, dtype=torch.uint8), how)
    assert found.sum() == 3 * 16
    assert found[:, 2:6, 2:6].min() == 1


def test_ribbon_does_not_exhaust_memory() -> None:
    ribbon = torch.full((3, 1, 200_000), 77, dtype=torch.uint8)  # 256 x 51 million if resized whole
    found = preprocess(ribbon, Preprocess(size=(224, 224), resize=256))
    assert found.shape == (3, 224, 224)
    assert len(found[0].unique()) == 1


@pytest.mark.parametrize("shape", [(1, 9, 9), (4, 9, 9)])
@pytest.mark.parametrize("preset", ["none", *PRESETS])
def test_wrong_channels_are_refused(preset: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=f"has {shape[0]} channels, the network takes 3"):
        augment(noise(*shape), SMALL, preset, 0)


def test_float_picture_is_refused() -> None:
    with pytest.raises(DataError, match=r"float32.*uint8"):
        preprocess(torch.zeros(3, 9, 9), SMALL)


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(DataError, match=r"'wild'.*none, light, standard and aggressive"):
        augment(noise(3, 9, 9), SMALL, "wild", 0)  # type: ignore[arg-type]


# --- augmentation -----------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("preset", PRESETS)
def test_view_is_a_function_of_its_seed(preset: str, channels: int) -> None:
    how = dataclasses.replace(SMALL, mean=(0.4,) * channels, std=(0.2,) * channels)
    picture = noise(channels, 20, 33)
    torch.manual_seed(1)
    first = [augment(picture, how, preset, seed) for seed in range(12)]
    torch.manual_seed(2)
    again = [augment(picture, how, preset, seed) for seed in range(12)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(view.shape == (channels, 24, 24) for view in first)
    assert all(view.dtype == torch.float32 and view.isfinite().all() for view in first)
    assert len({view.numpy().tobytes() for view in first}) > 9


@pytest.mark.parametrize("preset", ["none", *PRESETS])
def test_global_generator_is_left_alone(preset: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    augment(noise(3, 20, 20), SMALL, preset, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_cuda_is_never_seeded(monkeypatch) -> None:
    def forbid(_seed: int) -> None:
        raise AssertionError("CUDA was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", forbid)
    augment(noise(3, 20, 20), SMALL, "aggressive", 3)
    assert not torch.cuda.is_initialized()


def test_none_is_the_evaluation_picture() -> None:
    picture = noise(3, 20, 33)
    assert torch.equal(augment(picture, SMALL, "none", 7), preprocess(picture, SMALL))


def test_strong_presets_change_more() -> None:
    picture = decode(smooth(60, 60))
    plain = preprocess(picture, SMALL)
    change = {
        preset: np.mean([(augment(picture, SMALL, preset, s) - plain).abs().mean() for s in range(40)])
        for preset in PRESETS
    }
    assert 0 < change["light"] < change["standard"] < change["aggressive"]


@pytest.mark.parametrize(
    ("preset", "number", "means"),
    [
        ("light", 1, [0.398, 0.218, 0.352]),
        ("standard", 2, [0.324, -0.149, -0.012]),
        ("aggressive", 1, [0.616, -0.107, 0.337]),
    ],
)
def test_what_a_seed_draws_is_pinned(preset: Preset, number: int, means: list[float]) -> None:
    """Stored features rest on it: where this fails, DRAWN gets another number, too."""
    assert DRAWN[preset] == number
    picture = torch.from_numpy(smooth(30, 40)).permute(2, 0, 1)
    found = [float(augment(picture, SMALL, preset, seed).mean()) for seed in (1, 2, 3)]
    assert found == pytest.approx(means, abs=2e-3)


def test_light_keeps_colours() -> None:
    flat = torch.tensor([10, 120, 240], dtype=torch.uint8)[:, None, None].repeat(1, 30, 30)
    want = preprocess(flat, SMALL)
    assert all(torch.equal(augment(flat, SMALL, "light", seed), want) for seed in range(5))


@pytest.mark.parametrize("preset", ["standard", "aggressive"])
def test_colours_stay_where_channels_are_no_colours(preset: str) -> None:
    how = dataclasses.replace(SMALL, mean=(0.0,) * 4, std=(1.0,) * 4)
    flat = torch.full((4, 30, 30), 200, dtype=torch.uint8)
    for seed in range(10):
        values = augment(flat, how, preset, seed)
        known = (values - 200 / 255).abs() < 0.01  # the picture's own value
        assert (known | (values < 200 / 255)).all()  # or what fills corners and erased parts
        assert known.any()


def jittered(picture: torch.Tensor, monkeypatch: pytest.MonkeyPatch, *drawn: float) -> torch.Tensor:
    """With these draws of [0, 1) for brightness, contrast, saturation and hue."""
    monkeypatch.setattr("torch.rand", lambda *_, **__: torch.tensor(drawn, dtype=torch.float64))
    return _jitter(picture)


@pytest.mark.parametrize(
    "drawn",
    [
        (0.5,) * 4,
        (0.0, 0.5, 0.5, 0.5),
        (0.5, 0.75, 0.5, 0.5),
        (0.5, 0.5, 0.25, 0.5),
        (0.5, 0.5, 0.5, 0.9),
        (0.1, 0.7, 0.2, 0.0),
        (0.9, 0.2, 0.9, 1.0),
    ],
)
def test_jitter_is_torchvisions_in_one_order(
    drawn: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = torch.from_numpy(smooth(16, 24)).permute(2, 0, 1) // 2 + 40  # nothing to be clamped
    bright, contrast, saturation = (0.8 + 0.4 * each for each in drawn[:3])
    wanted = adjust_contrast(adjust_brightness(picture / 255, bright), contrast)
    wanted = adjust_hue(adjust_saturation(wanted, saturation), 0.1 - 0.2 * drawn[3])
    assert torch.allclose(jittered(picture, monkeypatch, *drawn), wanted, atol=1e-3)


def test_jitter_ends_at_black_and_white(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = torch.tensor([0, 250], dtype=torch.uint8).expand(3, 1, 2)
    found = jittered(picture, monkeypatch, 1.0, 1.0, 0.5, 0.5)
    assert found[:, 0].tolist() == [[0.0, 1.0]] * 3


def test_flip_happens_half_the_time() -> None:
    picture = torch.zeros(3, 24, 24, dtype=torch.uint8)
    picture[:, :, 12:] = 255
    left = [augment(picture, SMALL, "light", s)[0, :, :6].mean() > 0 for s in range(60)]
    assert 15 < sum(left) < 45


@pytest.mark.parametrize("size", [(20, 20), (20, 80), (80, 20), (1, 300), (300, 1), (2, 2)])
def test_crop_moves_over_pictures_of_any_shape(size: tuple[int, int]) -> None:
    """Torchvision's crop of a wide picture is the same centre crop every time."""
    how = Preprocess(size=(16, 24), resize=20)
    picture = noise(3, *size)
    views = {augment(picture, how, "light", seed).numpy().tobytes() for seed in range(30)}
    assert len(views) > (20 if size[0] * size[1] > 100 else 1)


def test_crop_stays_near_the_inputs_shape() -> None:
    """At least 80 % of the largest crop, not squeezed by more than a third."""
    how = Preprocess(size=(100, 100), resize=100, mean=(0.0,) * 3, std=(1.0,) * 3)
    column, row = torch.meshgrid(torch.arange(100), torch.arange(200), indexing="ij")
    picture = torch.stack([column, row, row]).to(torch.uint8)
    for seed in range(30):
        view = augment(picture, how, "light", seed) * 255
        h, w = (
            (view[0].max() - view[0].min() + 1).item(),
            (view[1].max() - view[1].min() + 1).item(),
        )
        assert 0.76 < h * w / 10_000 < 1.02
        assert 0.72 < w / h < 1.38


@pytest.mark.parametrize("quality", [60, 95])
@pytest.mark.parametrize("size", [(333, 500), (599, 799), (1025, 771), (2600, 120)])
def test_a_reduced_picture_is_cut_and_looks_like_the_whole_one(size: tuple[int, int], quality: int) -> None:
    """Sides that are no multiple of the factor would move the cut, were it not for the whole size."""
    buffer = io.BytesIO()
    y, x = np.mgrid[0 : size[0], 0 : size[1]] / min(size)
    grey = (100 * np.sin(9 * x) * np.cos(7 * y) + 128).astype(np.uint8)
    Image.fromarray(grey).save(buffer, "JPEG", quality=quality)
    how = Preprocess(size=(24, 24), resize=28)
    reduced, whole = decode_reduced(buffer.getvalue(), how.least_side)
    assert reduced.shape[-1] < size[1]
    levels = torch.tensor(how.std)[:, None, None] * 255
    differences = levels * (
        preprocess(reduced, how, whole=whole) - preprocess(decode(buffer.getvalue()), how)
    )
    assert differences.abs().mean() < 2
    assert differences.abs().max() < 16
