"""Reading data as a whole: what is refused, what is set aside, and the same split every time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_pictures import colours, encode, picture_bytes, small_tree, write_tree
from PIL import Image

from graft.backbones.contract import Preprocess
from graft.data.dataset import Pictures, loader
from graft.data.items import Items, Splits
from graft.data.splits import read_labelled, read_splits
from graft.errors import DataError
from graft.recipe import DataSettings
from graft.task import Task

TASK = Task(("crow", "owl"))


def problems(found) -> dict[str, int]:
    return {p.code: p.count for p in (found.problems if isinstance(found, Splits) else found)}


def contents(items: Items | None) -> set[str]:
    return set(items.digests) if items is not None else set()


# --- the validation split ---------------------------------------------------------------------


def test_validation_is_a_share_of_every_class(tmp_path: Path) -> None:
    tree = {**small_tree(("crow",), 20), **{f"owl/{i}.png": 500 + i for i in range(10)}}
    splits = read_splits(write_tree(tmp_path, tree))
    assert np.bincount(splits.val.targets).tolist() == [4, 2]
    assert np.bincount(splits.train.targets).tolist() == [16, 8]
    assert not contents(splits.train) & contents(splits.val)
    assert splits.problems == ()


def test_seed_draws_another_validation_split(tmp_path: Path) -> None:
    write_tree(tmp_path, small_tree(each=20))
    drawn = {read_splits(tmp_path, seed=seed).val.ids for seed in range(4)}
    assert len(drawn) == 4


def test_no_validation_when_none_is_wanted(tmp_path: Path) -> None:
    write_tree(tmp_path, small_tree())
    assert read_splits(tmp_path, DataSettings(validation=0)).val is None


def test_given_validation_is_kept(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", small_tree())
    write_tree(tmp_path / "val", {"crow/x.png": 900})
    splits = read_splits(tmp_path)
    assert (len(splits.train), splits.val.ids) == (10, ("val/crow/x.png",))


def test_test_split_alone_leaves_validation_to_be_made(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", small_tree())
    write_tree(tmp_path / "test", {"crow/x.png": 900})
    splits = read_splits(tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (8, 2, 1)


def test_class_with_one_picture_is_not_validated(tmp_path: Path) -> None:
    write_tree(tmp_path, {**small_tree(), "emu/only.png": 7, "rhea/a.png": 8, "rhea/b.png": 8})
    splits = read_splits(tmp_path)
    (problem,) = splits.problems
    assert (problem.code, problem.examples) == ("single", ("emu", "rhea"))
    assert {"crow", "owl"} == {splits.task.labels[t] for t in splits.val.targets}
    assert sum(splits.task.labels[t] == "rhea" for t in splits.train.targets) == 2


def test_only_single_pictures_give_no_validation_split(tmp_path: Path) -> None:
    splits = read_splits(write_tree(tmp_path, {"crow/a.png": 1, "owl/b.png": 2}))
    assert splits.val is None
    assert problems(splits) == {"single": 2}


SMALL = settings(max_examples=25, suppress_health_check=list(HealthCheck))
CLASSES = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=2, max_size=4)


@SMALL
@given(classes=CLASSES, seed=st.integers(0, 5), share=st.sampled_from([0.05, 0.2, 0.5]))
def test_split_keeps_its_promises(classes: list[list[int]], seed: int, share: float) -> None:
    """Whatever copies and contradictions there are: each number is a picture's content."""
    pictures = [np.full((2, 2), 25 * value, np.uint8) for values in classes for value in values]
    labels = [f"c{number}" for number, values in enumerate(classes) for _ in values]
    splits = read_splits((pictures, labels), DataSettings(validation=share), seed)
    assert not contents(splits.train) & contents(splits.val)
    kept = sorted([*splits.train.ids, *(splits.val.ids if splits.val else ())])
    assert kept == sorted(f"item {i}" for i in range(len(labels)))
    shared = {v for a, x in enumerate(classes) for b, y in enumerate(classes) if a != b
              for v in set(x) & set(y)}  # fmt: skip
    for number, values in enumerate(classes):
        target = splits.task.labels.index(f"c{number}")
        assert (splits.train.targets == target).any()
        validated = splits.val is not None and (splits.val.targets == target).any()
        own = set(values) - shared
        assert validated == (len(own) >= 2 or (len(own) == 1 and bool(set(values) & shared)))


@SMALL
@given(order=st.permutations(range(12)), name=st.sampled_from(["a", "photos of birds", "é"]))
def test_renamed_root_and_other_order_change_nothing(tmp_path: Path, order, name: str) -> None:
    """Files are created in another order, so that a directory lists them differently."""
    tree = list(small_tree(("crow", "owl", "emu"), 4).items())
    first, other = tmp_path / "first", tmp_path / name
    if not first.exists():
        write_tree(first, dict(tree))
    shutil.rmtree(other, ignore_errors=True)
    write_tree(other, dict(tree[i] for i in order))
    one, two = read_splits(first), read_splits(other)
    assert one.fingerprint == two.fingerprint
    assert (one.train.ids, one.val.ids) == (two.train.ids, two.val.ids)


def test_order_of_arrays_does_not_move_pictures_between_splits() -> None:
    pictures = np.stack([colours(i) for i in range(20)])
    labels = np.arange(20) % 2
    back = read_splits((pictures[::-1], labels[::-1]))
    assert contents(read_splits((pictures, labels)).val) == contents(back.val)


def test_order_of_a_list_of_paths_changes_nothing(tmp_path: Path) -> None:
    paths = sorted(write_tree(tmp_path, small_tree()).rglob("*.png"))
    labels = [path.parent.name for path in paths]
    back = read_splits((paths[::-1], labels[::-1]))
    assert read_splits((paths, labels)).fingerprint == back.fingerprint


def test_renamed_files_stay_on_their_side(tmp_path: Path) -> None:
    one = read_splits(write_tree(tmp_path / "1", {f"c{i % 2}/{i}.png": i for i in range(12)}))
    two = read_splits(write_tree(tmp_path / "2", {f"c{i % 2}/z{9 - i}.png": i for i in range(12)}))
    assert contents(one.val) == contents(two.val)
    assert one.fingerprint != two.fingerprint


def test_fingerprint_sees_content_label_name_and_split(tmp_path: Path) -> None:
    tree = {f"train/{k}": v for k, v in small_tree().items()} | {"val/crow/v.png": 99}
    changes = [
        tree,
        tree | {"train/crow/0.png": 77},
        tree | {"train/crow/new.png": 78},
        {("train/owl/9.png" if k == "train/crow/0.png" else k): v for k, v in tree.items()},
        {("test/crow/v.png" if k.startswith("val") else k): v for k, v in tree.items()},
    ]
    whole = DataSettings(validation=0)
    found = {
        read_splits(write_tree(tmp_path / str(i), each), whole).fingerprint
        for i, each in enumerate(changes)
    }
    assert len(found) == len(changes)


# --- labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("owl", "Crow", "emu"), ("Crow", "emu", "owl")),
        (("10", "9", "0"), ("0", "9", "10")),
        (("10", "9", "x"), ("10", "9", "x")),
        (("01", "1", "2"), ("01", "1", "2")),
        (("-1", "1", "0"), ("-1", "0", "1")),
        (("\u00b2", "1"), ("1", "\u00b2")),
    ],
)
def test_label_order(tmp_path: Path, names: tuple[str, ...], order: tuple[str, ...]) -> None:
    tree = {f"{name}/a.png": i for i, name in enumerate(names)}
    splits = read_splits(write_tree(tmp_path, tree), DataSettings(validation=0))
    assert splits.task.labels == order
    for name, target in zip(splits.train.ids, splits.train.targets, strict=True):
        assert name.startswith(order[target] + "/")


def test_one_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one class in .*, 'crow'; at least two classes"):
        read_splits(write_tree(tmp_path, {"crow/a.png": 1, "crow/b.png": 2}))


def test_empty_class_is_left_out(tmp_path: Path) -> None:
    write_tree(tmp_path, {**small_tree(), "emu/notes.txt": b"x"})
    (tmp_path / "rhea").mkdir()
    splits = read_splits(tmp_path)
    assert splits.task.labels == ("crow", "owl")
    assert problems(splits) == {"not-a-picture": 1, "empty-class": 2}
    assert splits.problems[1].examples == ("emu", "rhea")


@pytest.mark.parametrize("split", ["val", "test"])
def test_class_that_train_lacks(tmp_path: Path, split: str) -> None:
    write_tree(tmp_path / "train", small_tree())
    write_tree(tmp_path / split, {"crowe/a.png": 50, "owl/b.png": 51})
    words = rf"not known to the train split:\n  'crowe': 1 items, {split}/crowe/a\.png\n"
    with pytest.raises(DataError, match=words) as caught:
        read_splits(tmp_path)
    assert "Known: 'crow', 'owl'. Did you mean 'crow'?" in str(caught.value)


# --- bad pictures -----------------------------------------------------------------------------


def test_one_bad_picture_is_tolerated_in_a_small_folder(tmp_path: Path) -> None:
    jpeg = encode(Image.fromarray(colours(3, side=40)), "JPEG")
    write_tree(tmp_path, {**small_tree(), "crow/cut.jpg": jpeg[: len(jpeg) * 2 // 3]})
    splits = read_splits(tmp_path)
    (problem,) = splits.problems
    assert (problem.code, problem.count) == ("unreadable", 1)
    assert problem.examples[0].startswith("crow/cut.jpg: it is damaged")
    assert "crow/cut.jpg" not in splits.train.ids + splits.val.ids
    with pytest.raises(DataError, match=r"more than the 0 that data\.bad_share = 0 allows"):
        read_splits(tmp_path, DataSettings(bad_share=0))


def test_too_many_bad_pictures_stop_the_run(tmp_path: Path) -> None:
    write_tree(tmp_path, {**small_tree(), **{f"owl/bad{i:02}.png": b"hello" for i in range(12)}})
    with pytest.raises(DataError) as caught:
        read_splits(tmp_path)
    text = str(caught.value)
    assert "12 of 22 pictures cannot be read, more than the 1 that" in text
    assert "owl/bad09.png: it is damaged" in text
    assert "owl/bad10.png" not in text
    assert "and 2 more" in text
    share = float(text.rpartition("data.bad_share=")[2].removesuffix("."))
    assert problems(read_splits(tmp_path, DataSettings(bad_share=share))) == {"unreadable": 12}


def test_picture_over_the_cap_is_bad(tmp_path: Path) -> None:
    write_tree(tmp_path, {**small_tree(), "owl/big.png": encode(Image.new("L", (50, 50)), "PNG")})
    splits = read_splits(tmp_path, DataSettings(max_megapixels=0.0001))
    assert "50 x 50 pixels" in splits.problems[0].examples[0]


def test_class_whose_every_picture_is_bad(tmp_path: Path) -> None:
    splits = read_splits(write_tree(tmp_path, {**small_tree(), "emu/a.png": b"x"}))
    assert problems(splits) == {"unreadable": 1, "empty-class": 1}


def test_forbidden_file_is_bad(tmp_path: Path, monkeypatch) -> None:
    write_tree(tmp_path, small_tree())
    genuine = os.open

    def guarded(path, *args, **options):
        if str(path).endswith("crow/2.png"):
            raise PermissionError(13, "Permission denied")
        return genuine(path, *args, **options)

    monkeypatch.setattr(os, "open", guarded)
    splits = read_splits(tmp_path)
    assert splits.problems[0].examples == ("crow/2.png: permission denied",)


def test_progress_counts_every_picture(tmp_path: Path) -> None:
    write_tree(tmp_path, small_tree())
    seen: list[tuple[int, int]] = []
    read_splits(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 10) for i in range(1, 11)]


# --- identical pictures -----------------------------------------------------------------------


def test_leak_between_given_splits(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", small_tree())
    write_tree(tmp_path / "val", {"crow/x.png": 900, "crow/again.png": 0})
    write_tree(tmp_path / "test", {"crow/y.png": 900, "owl/z.png": 901, "owl/fresh.png": 902})
    splits = read_splits(tmp_path)
    (problem,) = splits.problems
    assert (problem.code, problem.count) == ("leak", 2)
    assert "val: val/crow/again.png = train: train/crow/0.png" in problem.examples
    assert "test: test/crow/y.png = val: val/crow/x.png" in problem.examples


def test_contradiction_is_listed_and_kept_in_train(tmp_path: Path) -> None:
    splits = read_splits(write_tree(tmp_path, {**small_tree(), "crow/a.png": 7, "owl/b.png": 7}))
    (problem,) = splits.problems
    assert (problem.code, problem.count) == ("contradiction", 2)
    assert set(problem.examples) == {"crow/a.png: 'crow'", "owl/b.png: 'owl'"}
    assert {"crow/a.png", "owl/b.png"} <= set(splits.train.ids)


# --- what is no data --------------------------------------------------------------------------


def test_no_such_folder_suggests_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"no folder or table .*fotos\. Did you mean 'photos'\?"):
        read_splits(tmp_path / "fotos")
    with pytest.raises(DataError, match="no folder or table"):
        read_splits(tmp_path / "no" / "such")
    with pytest.raises(DataError, match="No data was named"):
        read_splits("")


def test_a_single_file_is_no_data(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture_bytes(0))
    with pytest.raises(DataError, match=r"neither a folder nor a table.*\.csv, \.tsv"):
        read_splits(path)


# --- evaluation -------------------------------------------------------------------------------


def test_labelled_folder_uses_the_tasks_order(tmp_path: Path) -> None:
    write_tree(tmp_path, {"owl/a.png": 1, "crow/b.png": 2})
    items, found = read_labelled(tmp_path, DataSettings(), Task(("owl", "emu", "crow")))
    assert items.ids == ("crow/b.png", "owl/a.png")
    assert items.targets.tolist() == [2, 0]
    assert found == ()


def test_held_out_split_is_taken(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", small_tree())
    with pytest.raises(DataError, match="has a train split only"):
        read_labelled(tmp_path, DataSettings(), TASK)
    write_tree(tmp_path / "valid", {"crow/v.png": 90})
    assert read_labelled(tmp_path, DataSettings(), TASK)[0].ids == ("valid/crow/v.png",)
    write_tree(tmp_path / "test", {"owl/t.png": 91})
    assert read_labelled(tmp_path, DataSettings(), TASK)[0].ids == ("test/owl/t.png",)
    shutil.rmtree(tmp_path / "train")
    assert read_labelled(tmp_path, DataSettings(), TASK)[0].ids == ("test/owl/t.png",)


def test_classes_called_like_splits_are_known_from_the_task(tmp_path: Path) -> None:
    write_tree(tmp_path, {"train/a.png": 1, "test/b.png": 2})
    items, _ = read_labelled(tmp_path, DataSettings(), Task(("train", "test")))
    assert items.targets.tolist() == [1, 0]


def test_unknown_class_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, {"crow/a.png": 1, "owls/b.png": 2})
    with pytest.raises(DataError, match=r"not known to the model:(.|\n)*'owls': 1 items") as caught:
        read_labelled(tmp_path, DataSettings(), TASK)
    assert "Known: 'crow', 'owl'. Did you mean 'owl'?" in str(caught.value)


def test_labelled_table_and_arrays(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.png": 1, "b.png": 2})
    table = tmp_path / "t.csv"
    table.write_text("path,label,split\na.png,crow,train\nb.png,owl,test\n")
    assert read_labelled(table, DataSettings(), TASK)[0].ids == ("b.png",)
    arrays = (np.stack([colours(1), colours(2)]), ["owl", "crow"])
    assert read_labelled(arrays, DataSettings(), TASK)[0].targets.tolist() == [1, 0]


def test_select_keeps_rows_together(tmp_path: Path) -> None:
    items = read_splits(write_tree(tmp_path, small_tree()), DataSettings(validation=0)).train
    part = items.select(np.array([9, 0]))
    assert part.ids == ("owl/4.png", "crow/0.png")
    assert part.targets.tolist() == [1, 0]
    assert part.digests == (items.digests[9], items.digests[0])
    assert len(items.select([])) == 0


# --- several labels a picture -----------------------------------------------------------------


def draw_sets(values: list[int], masks: list[int], share: float, seed: int = 0) -> Splits:
    """Pictures by content, each with the labels whose bits are set in its mask."""
    pictures = [np.array([[value, 255 - value], [7, value]], np.uint8) for value in values]
    lists = [[f"l{bit}" for bit in range(4) if mask >> bit & 1] for mask in masks]
    return read_splits((pictures, lists), DataSettings(validation=share), seed)


@SMALL
@given(
    items=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 15)), min_size=2, max_size=60),
    share=st.sampled_from([0.1, 0.2, 0.5]),
    seed=st.integers(0, 3),
)
def test_split_of_label_sets_keeps_its_promises(items, share: float, seed: int) -> None:
    """Whatever copies and contradictions there are: copies together, no label lost from training."""
    values, masks = [value for value, _ in items], [mask for _, mask in items]
    if not any(masks):
        masks[0] = 1
    splits = draw_sets(values, masks, share, seed)
    assert not contents(splits.train) & contents(splits.val)
    kept = sorted([*splits.train.ids, *(splits.val.ids if splits.val else ())])
    assert kept == sorted(f"item {i}" for i in range(len(masks)))
    assert splits.train.targets.any(axis=0).all()
    agreed = {v for v in values if len({m for w, m in zip(values, masks, strict=True) if w == v}) == 1}
    validated = {values[int(name.split()[1])] for name in (splits.val.ids if splits.val else ())}
    assert validated <= agreed
    found = splits.val.targets.sum(axis=0) if splits.val else np.zeros(splits.task.classes)
    missing = [label for label, n in zip(splits.task.labels, found, strict=True) if not n]
    assert problems(splits).get("unvalidated", 0) == len(missing)
    again = draw_sets(values[::-1], masks[::-1], share, seed)
    assert contents(again.val) == contents(splits.val)


def test_labels_are_split_in_their_shares() -> None:
    generator = np.random.default_rng(0)
    masks = [int(mask) for mask in (generator.random((250, 4)) < [0.5, 0.3, 0.1, 0.03]) @ [1, 2, 4, 8]]
    splits = draw_sets(list(range(250)), masks, 0.2)
    whole = splits.train.targets.sum(0) + splits.val.targets.sum(0)
    assert np.abs(splits.val.targets.sum(0) - 0.2 * whole).max() <= 1.5
    assert abs(len(splits.val) - 50) <= 3
    assert splits.problems == ()


def test_identical_pictures_with_other_label_sets_are_listed() -> None:
    splits = draw_sets([1, 1, 2, 3, 4], [1, 3, 0, 2, 1], 0.0)
    (problem,) = splits.problems
    assert problem.code == "contradiction"
    assert problem.examples == ("item 0: 'l0'", "item 1: 'l0', 'l1'")
    same = draw_sets([1, 1, 2, 3], [3, 3, 0, 2], 0.0)
    assert same.problems == ()


def test_fingerprint_sees_label_sets() -> None:
    found = {draw_sets([1, 2, 3], masks, 0.0).fingerprint for masks in ([1, 2, 3], [1, 2, 2], [1, 2, 0])}
    assert len(found) == 3


def test_label_sets_for_evaluation(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.png": 1, "b.png": 2, "crow/c.png": 3, "owl/d.png": 4})
    task = Task(("crow", "owl"), "multi-label")
    table = tmp_path / "t.csv"
    table.write_text("path,label\na.png,crow|owl\nb.png,\n")
    items, _ = read_labelled(table, DataSettings(separator="|"), task)
    assert items.targets.tolist() == [[1, 1], [0, 0]]
    table.write_text("path,label\na.png,crow|owl\nb.png,owl\n")
    with pytest.raises(DataError, match=r"'crow\|owl': 1 items(.|\n)*--set data\.separator='\|'"):
        read_labelled(table, DataSettings(), task)
    with pytest.raises(DataError, match="any number of labels, but the model tells exactly one"):
        read_labelled(table, DataSettings(separator="|"), TASK)
    shutil.rmtree(tmp_path / "owl")
    assert read_labelled(tmp_path, DataSettings(), task)[0].targets.tolist() == [[1, 0]]


def test_label_sets_reach_batches() -> None:
    splits = draw_sets([1, 2, 3, 4], [1, 3, 0, 2], 0.0)
    pictures = Pictures(splits.train, Preprocess(size=(2, 2), resize=None))
    ((_, targets, numbers),) = loader(pictures, [[0, 1, 2, 3]])
    assert (targets.dtype, targets.tolist()) == (torch.uint8, splits.train.targets.tolist())
    assert numbers.tolist() == [0, 1, 2, 3]
