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
        ((PICTURES, LABELS[:9]), "10 pictures and 9 labels"),
        (PICTURES, "is ndarray; a pair"),
        ((PICTURES,), "a pair \\(pictures, labels\\)"),
        ((PICTURES, 3), "must each be an array"),
        ({"train": (PICTURES, LABELS[:9])}, "9 labels of train"),
        ({"trian": (PICTURES, LABELS)}, "'trian' is no split.*Did you mean 'train'"),
        ({"test": (PICTURES, LABELS)}, "test but no train split"),
        (([], []), "no pictures"),
        ({}, "no pictures"),
        ((PICTURES, LABELS.astype(float)), "item 0: label is 3.0; text or a whole number"),
        ((PICTURES, [None] * 10), "item 0: label is empty"),
        ((PICTURES, [*["a"] * 9, ""]), "item 9: label is empty"),
        ((PICTURES, np.eye(10)), "item 0: label is \\[1.0"),
        ((PICTURES / 255, LABELS), "float64; uint8, 0-255, was expected"),
        ((PICTURES, [1] * 10), "There is one class, '1'"),
    ],
)
def test_faulty_arrays(data, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_splits(data)
