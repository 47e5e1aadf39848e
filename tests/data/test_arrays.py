"""Arrays, tensors, images and paths in memory as data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from odd_pictures import colours, write_tree
from PIL import Image

from graft.data.splits import read_splits
from graft.errors import DataError
from graft.recipe import DataSettings

PICTURES = np.stack([colours(i) for i in range(10)])
LABELS = np.array([3, 20, 3, 20, 3, 20, 3, 20, 3, 20])
WHOLE = DataSettings(validation=0)


def test_pair_of_arrays() -> None:
    splits = read_splits((PICTURES, LABELS), WHOLE)
    assert splits.task.labels == ("3", "20")
    assert splits.train.targets.tolist() == [0, 1] * 5
    assert splits.train.targets.dtype == np.int64
    assert splits.train.ids[7] == "item 7"
    assert (splits.val, splits.test, splits.problems) == (None, None, ())


def test_every_kind_of_picture_is_the_same_content(tmp_path: Path) -> None:
    tensors = torch.from_numpy(PICTURES).permute(0, 3, 1, 2)
    images = [Image.fromarray(each) for each in PICTURES]
    digests = {
        read_splits((kind, LABELS.tolist()), WHOLE).train.digests
        for kind in (PICTURES, list(PICTURES), tensors, images)
    }
    assert len(digests) == 1
    write_tree(tmp_path, {"a.png": 0, "b.png": 1})
    paths = [str(tmp_path / "a.png"), tmp_path / "b.png", tmp_path / "b.png"]
    items = read_splits((paths, ["x", "y", "y"]), WHOLE).train
    assert len(set(items.ids)) == 3


def test_splits_by_name() -> None:
    data = {
        "train": (PICTURES[:6], list("ababab")),
        "validation": (PICTURES[6:8], np.array(["a", "b"])),
        "test": (PICTURES[8:], torch.tensor([0, 1])),
    }
    with pytest.raises(DataError, match=r"2 classes are not known to the train split"):
        read_splits(data)
    data["test"] = (PICTURES[8:], ("a", "b"))
    splits = read_splits(data)
    assert [len(items) for _, items in splits.parts()] == [6, 2, 2]


def test_grey_arrays_and_channels() -> None:
    grey = PICTURES[:, :, :, 0]
    assert len(read_splits((grey, LABELS), WHOLE).train) == 10
    assert len(read_splits((grey, LABELS), DataSettings(channels=1)).train) == 8
    assert len(read_splits((PICTURES[..., :2], LABELS), DataSettings(channels=2)).train) == 8
    with pytest.raises(DataError, match=r"item 0: it has 2 channels where 3 are expected"):
        read_splits((PICTURES[..., :2], LABELS))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((PICTURES, LABELS[:9]), "10 items and 9 labels"),
        (PICTURES, "is ndarray; a pair"),
        ((PICTURES,), "a pair \\(pictures or texts, labels\\)"),
        ((PICTURES, 3), "must each be an array"),
        ({"train": (PICTURES, LABELS[:9])}, "9 labels of train"),
        (
            {"trian": (PICTURES, LABELS)},
            "'trian' is not a split; expected train, val or test.*Did you mean 'train'",
        ),
        ({"test": (PICTURES, LABELS)}, "test but no train split"),
        (([], []), "no items"),
        ({}, "no items"),
        ((PICTURES, np.full(10, np.inf)), "item 0: label is inf; text or a number"),
        ((PICTURES, [None] * 10), "item 0: label is empty"),
        ((PICTURES, [*["a"] * 9, ""]), "item 9: label is empty"),
        ((PICTURES, 2 * np.eye(10)), "no matrix of zeros and ones"),
        ((PICTURES, np.zeros((10, 2, 2))), "item 0: label is \\[0.0"),
        ((PICTURES.astype(float), LABELS), r"float64 values lie in 0\.\.255; 0\.\.1 was expected"),
        ((PICTURES, [1] * 10), "There is one class, '1'"),
    ],
)
def test_faulty_arrays(data, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_splits(data)


# --- several labels a picture -----------------------------------------------------------------

MATRIX = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]] * 2)


@pytest.mark.parametrize("kind", [np.uint8, bool, np.float32, "torch"])
def test_a_matrix_of_zeros_and_ones(kind) -> None:
    labels = torch.from_numpy(MATRIX) if kind == "torch" else MATRIX.astype(kind)
    splits = read_splits((PICTURES, labels), WHOLE)
    assert (splits.task.kind, splits.task.labels) == ("multi-label", ("0", "1", "2"))
    assert splits.train.targets.tolist() == MATRIX.tolist()
    assert splits.train.targets.dtype == np.uint8


def test_a_matrix_with_names_and_lists_of_names_are_the_same() -> None:
    names = ["owl", "crow", "emu"]
    lists = [[name for name, one in zip(names, row, strict=True) if one] for row in MATRIX]
    first = read_splits((PICTURES, MATRIX, names), WHOLE)
    for other in ((PICTURES, lists), (list(PICTURES), [set(each) for each in lists])):
        second = read_splits(other, WHOLE)
        assert first.task == second.task
        assert first.fingerprint == second.fingerprint
        assert np.array_equal(first.train.targets, second.train.targets)
    assert read_splits((PICTURES, MATRIX.tolist(), names), WHOLE).fingerprint == first.fingerprint


def test_a_column_without_ones_is_an_empty_class() -> None:
    splits = read_splits((PICTURES, MATRIX * [1, 1, 0]), WHOLE)
    (problem,) = splits.problems
    assert (problem.code, problem.examples, splits.task.labels) == ("empty-class", ("2",), ("0", "1"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((PICTURES, MATRIX * 2), "no matrix of zeros and ones"),
        ((PICTURES, [*MATRIX.tolist()[:9], [1]], ["a", "b", "c"]), "no matrix of zeros and ones"),
        ((PICTURES, LABELS, ["a", "b"]), "no matrix of zeros and ones"),
        ((PICTURES, MATRIX, ["a", "b"]), r"3 columns and the names 'a', 'b'"),
        ((PICTURES, MATRIX, ["a", "b", "a"]), "no two alike"),
        ((PICTURES, MATRIX, ["a", "b", ""]), "item 2: label is empty"),
        ((PICTURES, [*[["a"]] * 9, "b"]), "item 9: label is 'b'; a list of labels"),
        ((PICTURES, [*[["a"]] * 9, [1j]]), r"item 9: label is 1j; text or a number"),
        ((PICTURES, MATRIX * 0), "No readable training picture has a label"),
        ({"train": (PICTURES, MATRIX), "val": (PICTURES, LABELS)}, "Some splits have one label"),
        ({"train": (PICTURES, [["a"]] * 10), "val": (PICTURES, [["b"]] * 10)}, "1 class is not known"),
    ],
)
def test_faulty_arrays_of_several_labels(data, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_splits(data)


# --- data frames, and what is missing ---------------------------------------------------------

TEXTS = [f"text {number}" for number in range(12)]
NAMES = ["good", "bad"] * 6
CAREFUL = DataSettings(validation=0, bad_share=0.2)


def without(values, place: int = 3) -> list:
    return [None if number == place else value for number, value in enumerate(values)]


@pytest.mark.odd_input("Cells and labels")
def test_missing_values_of_frames() -> None:
    """Missing labels in memory (None, NaN, NaT, pandas' NA, in columns of any type): exit 2 with the items;
    whole numbers beside them stay 0 and 1. A missing text or picture is an unreadable item."""
    for kind in ("string", "object", "category", "Int64", "boolean", "Float64", "float64"):
        values = NAMES if kind in ("string", "object", "category") else [0, 1] * 6
        values = [bool(each) for each in values] if kind == "boolean" else values
        whole = read_splits((TEXTS, pd.Series(values, dtype=kind)), WHOLE, modality="text")
        assert whole.task.labels in {("bad", "good"), ("0", "1"), ("False", "True")}
        with pytest.raises(DataError, match=r"1 labels cannot be used:\n  item 3: label is empty$"):
            read_splits((TEXTS, pd.Series(without(values), dtype=kind)), WHOLE, modality="text")
    with pytest.raises(DataError, match=r"item 0: label is .*text or a number was expected"):
        read_splits((TEXTS, pd.Series(pd.date_range("2020-01-01", periods=12))), WHOLE, modality="text")
    for texts in (without(TEXTS), pd.Series(without(TEXTS), dtype="string"), without(TEXTS, 3)[:]):
        splits = read_splits((texts, NAMES), CAREFUL, modality="text")
        assert len(splits.train) == 11
        assert splits.problems[0].examples == ("item 3: it is empty",)
    splits = read_splits((without(PICTURES), LABELS), CAREFUL)
    assert splits.problems[0].examples == ("item 3: it is missing",)


def test_frames_of_one_and_two_columns() -> None:
    frame = pd.DataFrame({"first": TEXTS, "second": TEXTS, "third": TEXTS}, index=range(50, 62))
    labels = pd.DataFrame({"label": [0, 1] * 6})
    one = read_splits((frame[["first"]], labels), WHOLE, modality="text")
    assert (one.task.labels, one.train.sources[2].first) == (("0", "1"), "text 2")
    assert read_splits((frame[["first", "second"]], labels), WHOLE, modality="text").train.sources[0].second
    with pytest.raises(DataError, match="a frame of 3 columns; one, or two of texts"):
        read_splits((frame, labels), WHOLE, modality="text")
    column = np.array(NAMES)[:, None]
    assert read_splits((TEXTS, column), WHOLE, modality="text").task.labels == ("bad", "good")


@pytest.mark.odd_input("Cells and labels")
def test_one_hot_labels() -> None:
    """Columns of zeros and ones, as a matrix, lists, a frame or columns of a table: one label an item where
    every row holds exactly one 1 (said), any number otherwise; a frame's columns name the labels."""
    single = np.eye(3, dtype=int)[[0, 1, 2, 0, 1, 2, 0, 1, 2, 0]]
    frame = pd.DataFrame(single, columns=["owl", "crow", "emu"])
    for labels, names in (
        (single, ("0", "1", "2")),
        (single.tolist(), ("0", "1", "2")),
        (single.astype(np.float32), ("0", "1", "2")),
        (torch.from_numpy(single), ("0", "1", "2")),
        (frame, ("crow", "emu", "owl")),
        (frame.astype(bool), ("crow", "emu", "owl")),
        (pd.get_dummies(pd.Series(["a", "b"] * 5)), ("a", "b")),
    ):
        splits = read_splits((PICTURES, labels), WHOLE)
        assert (splits.task.kind, splits.task.labels) == ("single-label", names)
        assert [each.code for each in splits.problems] == ["one-hot"]
    for row in ([0, 0, 0], [1, 1, 0]):
        several = np.vstack([single[:9], [row]])
        assert read_splits((PICTURES, several), WHOLE).task.kind == "multi-label"
        assert read_splits((PICTURES, several.tolist()), WHOLE).task.kind == "multi-label"
        data = {"train": (PICTURES, single), "test": (PICTURES, several)}
        assert read_splits(data, WHOLE).task.kind == "multi-label"
    with pytest.raises(DataError, match=r"zeros and ones .*\(item 1: <NA>\)"):
        read_splits((PICTURES, frame.astype("Int64").replace({"crow": {1: pd.NA}})), WHOLE)


def test_arrays_of_measurements_are_no_classes() -> None:
    with pytest.raises(DataError, match="12 different ones of 12 items"):
        read_splits((TEXTS, np.linspace(0, 1, 12)), WHOLE, modality="text")
    asked = DataSettings(validation=0, task="classes")
    assert read_splits((TEXTS, np.linspace(0, 1, 12)), asked, modality="text").task.classes == 12
