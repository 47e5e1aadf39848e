"""Odd pictures are counted, and what all of them agree on counts as full."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from odd_pictures import colours
from PIL import Image

from graft.backbones.contract import Preprocess
from graft.data.bands import Depth
from graft.data.items import Problem, Splits
from graft.data.oddities import agreed_full
from graft.data.splits import read_splits
from graft.data.statistics import prepare_for
from graft.data.unlabelled import read_items
from graft.notes import notes_on_pixels
from graft.recipe import DataSettings, Recipe

RAMP = np.arange(64).reshape(8, 8)


def write(folder: Path, highest: Iterable[int], *, suffix: str = ".png") -> Path:
    """Two classes of 16-bit pictures, each from 0 to one of the highest values."""
    for number, most in enumerate(highest):
        path = folder / "ab"[number % 2] / f"{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = (RAMP * (most / 63)).round().astype(np.uint16)
        values[0, 1] = number  # no two alike
        if suffix == ".png":
            Image.fromarray(values).save(path)
        elif suffix == ".npy":
            np.save(path, values)
        else:
            tifffile.imwrite(path, values, photometric="minisblack")
    return folder


def read(folder: Path, **settings) -> Splits:
    return read_splits(folder, DataSettings(validation=0, **settings))


def codes(problems: Iterable[Problem]) -> list[str]:
    return [each.code for each in problems]


@pytest.mark.odd_input("Pictures")
@pytest.mark.parametrize("suffix", [".png", ".npy", ".tif"])
@pytest.mark.parametrize(
    ("highest", "full"),
    [
        ([255, 200, 180, 255], 255),
        ([900, 800, 1000, 300], 1023),
        ([4000, 3000, 900, 4095], 4095),
        ([10_000, 9_000, 16_000, 8_000], 16_383),
        ([65_000, 40_000, 30_000, 60_000], None),
    ],
)
def test_what_all_pictures_agree_on_counts_as_full(tmp_path: Path, highest, full, suffix: str) -> None:
    """16-bit pictures none of which uses more than 8, 10, 12 or 14 bits, and each more than a 16th of that:
    the largest such value counts as full; the plan says so, and the bundle keeps it for predictions."""
    splits = read(write(tmp_path, highest, suffix=suffix))
    assert splits.train.max_value == full
    assert splits.problems == ()


@pytest.mark.odd_input("Pictures")
@pytest.mark.parametrize("highest", [[255, 4000, 3000, 200], [60_000, 255, 50_000, 200], [12, 15, 10, 9]])
def test_where_pictures_disagree_those_that_come_out_black_are_named(tmp_path: Path, highest) -> None:
    """16-bit pictures that use a 16th of their range or less, where not all agree on a smaller one: all 16
    bits count, and a warning counts them and names `data.max_value`."""
    splits = read(write(tmp_path, highest))
    assert splits.train.max_value is None
    problem = next(each for each in splits.problems if each.code == "range")
    assert problem.count == sum(each <= 65535 / 16 for each in highest)
    most = {4000: 4095, 15: 15}.get(
        max(highest), max(highest)
    )  # the usual depth, unless that were dark, too
    assert f"data.max_value={most:g} " in problem.message


def test_a_value_that_is_given_is_taken_and_what_is_beyond_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, [4000, 3000, 2000, 1900])
    splits = read(folder, max_value=2000)
    assert splits.train.max_value == 2000
    (problem,) = splits.problems
    assert problem.code == "beyond"
    assert problem.count == 2
    for by_depth in (None, 65535):
        (problem,) = read(folder, max_value=by_depth).problems
        assert (problem.code, problem.count) == ("range", 4)
    assert read(folder, max_value=4095).problems == ()


def test_other_kinds_of_pixels_leave_the_range_as_it_is() -> None:
    deep = [Depth(0, 200, 65535.0), Depth(0, 250, 65535.0)]
    assert agreed_full(deep) == 255
    assert agreed_full([*deep, Depth(0, 0, 65535.0)]) == 255  # of a single value
    assert agreed_full([*deep, Depth(0.0, 1.0, 1.0)]) is None  # floating point
    assert agreed_full([*deep, Depth(0, 255, 65535.0, fixed=True)]) is None  # of which 8 bits are read
    assert agreed_full([Depth(0, 4000, 4095.0)]) is None  # 12 bits, as the file says
    assert agreed_full([Depth(0, 4000, 4095.0), Depth(0, 3000, 65535.0)]) == 4095
    assert agreed_full([]) is agreed_full([Depth(7, 7, 65535.0)]) is None


@pytest.mark.parametrize("high", [255, 4095])
def test_colours_of_16_bits_in_tiffs_agree_as_grey_does(tmp_path: Path, high: int) -> None:
    for number, label in enumerate("abab"):
        (tmp_path / label).mkdir(exist_ok=True)
        values = np.dstack([RAMP * (high // 63)] * 3).astype(np.uint16)
        values[0, 0, 0], values[7, 7] = number, high
        tifffile.imwrite(tmp_path / label / f"{number}.tif", values, photometric="rgb")
    splits = read(tmp_path)
    assert (splits.train.max_value, splits.problems) == (high, ())


def test_pictures_are_read_by_what_they_agree_on_once_it_is_known(tmp_path: Path) -> None:
    """By depth they would all be black, and so of a single value."""
    folder = write(tmp_path, [255, 250, 245, 240])
    assert codes(read(folder, max_value=None).problems) == ["uniform", "range"]
    assert read(folder).problems == ()


@pytest.mark.odd_input("Pictures")
def test_oddities_are_said_of_labelled_data_and_of_predictions_alike(tmp_path: Path) -> None:
    """Odd pictures in a prediction: counted and named as in training."""
    for name, kind in (("blank", "a"), ("stack", "b")):
        (tmp_path / kind).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / kind / f"{name}.png")
    pages = [Image.fromarray(colours(seed)) for seed in range(3)]
    pages[0].save(tmp_path / "b" / "stack.tif", save_all=True, append_images=pages[1:])
    for problems in (read(tmp_path).problems, read_items(tmp_path).problems):
        odd = {each.code: each for each in problems if each.code in ("uniform", "pages")}
        assert "2 of 3" in odd["uniform"].message
        assert odd["pages"].examples[0].endswith("b/stack.tif: the first of 3 pages")


def test_what_counts_as_full_is_in_the_plan_and_in_what_predicts(tmp_path: Path) -> None:
    splits = read(write(tmp_path, [4000, 3000, 2000, 1900]))
    intake = prepare_for(Preprocess(size=(8, 8), resize=None), splits.train, DataSettings())
    assert intake.max_value == intake.reading["max_value"] == 4095
    backbone = SimpleNamespace(preprocess=intake)
    (note,) = notes_on_pixels(Recipe(), backbone)  # type: ignore[arg-type]
    assert "data.max_value = 4095 (auto)" in note
    given = Recipe(data=DataSettings(max_value=4095))
    assert not list(notes_on_pixels(given, backbone))  # type: ignore[arg-type]


@pytest.mark.odd_input("Pictures")
def test_how_pictures_were_read_is_kept_with_what_was_trained_on_them() -> None:
    """A bundle from before transparent pictures could be laid over black: it lays them over white, as in
    its training."""
    saved = Preprocess(size=(8, 8), resize=None)
    assert Preprocess.from_dict(json.loads(json.dumps(saved.to_dict()))) == saved
    former = {name: value for name, value in saved.to_dict().items() if name != "background"}
    assert Preprocess.from_dict(former).background == "white"
    assert Preprocess.from_dict(former).to_dict() == former
