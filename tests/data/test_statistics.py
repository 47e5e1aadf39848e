"""Mean and deviation of the training data: exact, and put where the weights' own mean nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graft.backbones.contract import Preprocess
from graft.data.dataset import Pictures
from graft.data.splits import read_splits
from graft.data.statistics import channel_statistics, prepare_for, with_statistics
from graft.errors import DataError
from graft.recipe import DataSettings

FIVE = Preprocess(size=(6, 6), resize=None, mean=(0.5,) * 5, std=(0.25,) * 5)
ASKED = DataSettings(channels=5, validation=0)


def draw(count: int = 70, channels: int = 5) -> list[np.ndarray]:
    """Pictures of different sizes, more than are decoded at once."""
    generator = np.random.default_rng(0)
    top = np.arange(1, channels + 1) * 50
    sizes = generator.integers(3, 9, (count, 2))
    return [generator.integers(0, top, (h, w, channels)).astype(np.uint8) for h, w in sizes]


def test_statistics_are_those_of_all_pixels() -> None:
    pictures = draw()
    items = read_splits((pictures, ["a", "b"] * 35), ASKED).train
    mean, std = channel_statistics(items, 5)
    pixels = np.concatenate([each.reshape(-1, 5) for each in pictures]) / 255
    assert mean == pytest.approx(pixels.mean(0), abs=1e-12)
    assert std == pytest.approx(pixels.std(0), abs=1e-12)
    back = items.select(range(69, -1, -1))
    assert channel_statistics(back, 5) == (mean, std)


def test_normalised_training_data_has_mean_zero_and_deviation_one() -> None:
    pictures = [each[:6, :6] for each in draw(40, 5) if min(each.shape[:2]) >= 6]
    items = read_splits((pictures, [f"{i % 2}" for i in range(len(pictures))]), ASKED).train
    ready = Pictures(items, prepare_for(FIVE, items, ASKED))
    values = np.stack([ready[number][0].numpy() for number in range(len(items))])
    assert np.abs(values.mean((0, 2, 3))).max() < 1e-5
    assert np.abs(values.std((0, 2, 3)) - 1).max() < 1e-5


def test_what_is_asked_decides() -> None:
    items = read_splits((draw(channels=5), ["a", "b"] * 35), ASKED).train
    assert prepare_for(FIVE, items, ASKED).mean != FIVE.mean
    assert prepare_for(FIVE, items, ASKED.model_copy(update={"statistics": "weights"})) == FIVE
    colour = Preprocess(size=(6, 6), resize=None)
    three = read_splits((draw(channels=3), ["a", "b"] * 35), DataSettings(validation=0)).train
    assert prepare_for(colour, three, DataSettings()) == colour
    assert prepare_for(colour, three, DataSettings(statistics="data")).mean != colour.mean
    read = replace(three, max_value=9.0, background="white")
    assert prepare_for(colour, read, DataSettings()) == replace(colour, max_value=9.0, background="white")


def test_a_constant_channel_is_not_scaled() -> None:
    pictures = [np.dstack([np.full((4, 4), 51), np.full((4, 4), i)]).astype(np.uint8) for i in (0, 255)]
    items = read_splits((pictures, ["a", "b"]), DataSettings(channels=2, validation=0)).train
    mean, std = channel_statistics(items, 2)
    assert mean == pytest.approx((0.2, 0.5))
    assert std == pytest.approx((1.0, 0.5))


def test_pictures_that_are_gone_are_named(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        np.save(tmp_path / label / "x.npy", draw(1)[0])
    items = read_splits(tmp_path, ASKED).train
    (tmp_path / "b" / "x.npy").unlink()
    with pytest.raises(DataError, match=r"b/x\.npy cannot be read any more: there is no such file"):
        channel_statistics(items, 5)
    with pytest.raises(DataError, match="no training pictures"):
        channel_statistics(items.select([]), 5)


def test_statistics_that_do_not_fit_are_refused() -> None:
    for mean, std in (((0.5,) * 4, (0.2,) * 5), ((0.5,) * 5, (0.0,) * 5)):
        with pytest.raises(ValueError, match="5 channels"):
            with_statistics(FIVE, mean, std)


def test_how_pictures_are_read_survives_being_written_down() -> None:
    for how in (FIVE, with_statistics(FIVE, (0.1,) * 5, (0.3,) * 5), Preprocess((6, 6), 8, max_value=10.0)):
        assert Preprocess.from_dict(json.loads(json.dumps(how.to_dict()))) == how
    assert "max_value" not in FIVE.to_dict()
