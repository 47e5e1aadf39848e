"""Arrays, tensors, images and paths in memory as data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
        ({"trian": (PICTURES, LABELS)}, "'trian' is no split.*Did you mean 'train'"),
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
