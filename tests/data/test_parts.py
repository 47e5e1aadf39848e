"""Parts of the data: which folders and tables are train, validation and test, whatever lies beside them."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import pytest
from odd_pictures import write_tree

from graft.data.folder import list_folder
from graft.data.junk import is_junk
from graft.data.parts import NAMES, part_of
from graft.data.paths import list_path
from graft.errors import DataError
from graft.recipe import DataSettings

CROW_AND_OWL = ("crow", "owl")


def labelled(*folders: str, classes: tuple[str, ...] = CROW_AND_OWL) -> dict[str, int]:
    """One picture in each class of each folder."""
    return {f"{folder}/{name}/{folder[-1]}.png": 1 for folder in folders for name in classes}


def counts(listing) -> dict[str, int]:
    return dict(Counter(row.split for row in listing.rows))


def said(listing) -> dict[str, tuple[str, ...]]:
    return {problem.code: problem.examples for problem in listing.problems}


def write_tables(folder: Path, **tables: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, lines in tables.items():
        (folder / name.replace("__", ".")).write_text(lines)
    return folder


def list_texts(folder: Path, needs: tuple[str, ...] = ("train",), **settings):
    return list_path(folder, DataSettings(**settings), needs, "text")


def list_pictures(folder: Path, needs: tuple[str, ...] = ("train",), **settings):
    return list_path(folder, DataSettings(**settings), needs, "picture")


@pytest.mark.odd_input("Parts of the data")
def test_names_say_parts_however_they_are_written() -> None:
    """Parts called `01_Training-Set`, `valSplit` or `test_images`: case, signs, numbers and words such as
    set, split, data, images and part do not count."""
    for name, part in NAMES.items():
        for form in ("{}", "01_{}-Set", "{}_images", "{}Split", "2 - {} data", "{}.part", "{}2017"):
            for cased in (name, name.upper(), name.title()):
                assert part_of(form.format(cased)) == part
    for other in ("bullet train", "trainee", "contest", "developer", "fold1", "set", "", "latest", "1"):
        assert part_of(other) is None


@pytest.mark.parametrize(
    "name", ["train" + "1" * 40 + "x", "train" + "dataset" * 13 + "x", "val" + "1" * 10**5]
)
def test_any_name_is_looked_at_in_an_instant(name: str) -> None:
    began = time.process_time()
    assert part_of(name) is None
    assert time.process_time() - began < 0.5


@pytest.mark.odd_input("Parts of the data")
@pytest.mark.parametrize("names", [("train", "eval"), ("training_set", "test_set"), ("Trn", "01 Holdout")])
def test_other_folders_beside_the_parts_are_left_out(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Folders beside train and validation that are neither (docs, runs, unlabeled): left out and named."""
    write_tree(tmp_path, labelled(*names))
    alone = counts(list_folder(tmp_path))
    assert alone == {"train": 2, part_of(names[1]): 2}
    beside = {
        "unlabeled/a.png": 9,
        "docs/figures/b.png": 9,
        "notes/x.txt": b"x",
        "@eaDir/c.png": 9,
        "k.md": b"x",
    }
    listing = list_folder(write_tree(tmp_path, beside))
    assert counts(listing) == alone
    assert set(listing.classes) == set(CROW_AND_OWL)
    assert said(listing)["beside-parts"] == ("docs", "notes", "unlabeled")


@pytest.mark.odd_input("Parts of the data")
@pytest.mark.parametrize("held", ["test/1.png", "test/unknown/1.png", "val/n01.JPEG"])
def test_part_without_class_folders_is_left_out(tmp_path: Path, held: str) -> None:
    """A test or validation folder without class folders: it has no labels, is left out and named, with the
    way to `graft predict`."""
    listing = list_folder(write_tree(tmp_path, {**labelled("train"), held: 3}))
    assert counts(listing) == {"train": 2}
    assert said(listing) == {"unlabelled-part": (held.split("/")[0],)}
    assert "graft predict" in listing.problems[0].message


def test_empty_part_is_left_out(tmp_path: Path) -> None:
    write_tree(tmp_path, {**labelled("train"), "test/crow/a.heic": b"x"})
    (tmp_path / "val" / "crow").mkdir(parents=True)
    listing = list_folder(tmp_path)
    assert counts(listing) == {"train": 2}
    assert said(listing)["empty-part"] == ("test", "val")


@pytest.mark.odd_input("Parts of the data")
def test_classes_may_be_called_like_parts(tmp_path: Path) -> None:
    """A class called `train` or `test`: it is a class where pictures lie directly in it, a part where class
    folders do."""
    railway = {"train/a.png": 1, "car/b.png": 2, "bus/old/c.png": 3}
    assert list_folder(write_tree(tmp_path / "r", railway)).classes == ("bus", "car", "train")
    both = list_folder(write_tree(tmp_path / "b", labelled("train", "test", classes=("train", "car"))))
    assert (counts(both), both.classes) == ({"train": 2, "test": 2}, ("car", "train"))
    alone = write_tree(tmp_path / "two", {"training/a.png": 1, "holdout/b.png": 2})
    with pytest.raises(DataError, match=r"no labels(.|\n)*--set data.train=\. \(a dot\)"):
        list_pictures(alone)
    assert list_pictures(alone, train=".").classes == ("holdout", "training")


UNCLEAR = {
    "folds": labelled(*(f"fold{number}" for number in range(1, 4))),
    "a name that says nothing": labelled("train", "more"),
    "no name that says anything": labelled("monday", "tuesday"),
    "two trains": labelled("train", "Train"),
    "classes beside a part": {**labelled("val"), "crow/a.png": 2, "owl/b.png": 3},
    "classes beside train": {**labelled("train"), "crow/a.png": 2, "owl/b.png": 3},
    "train with folders, car with pictures": {**labelled("train"), "car/a.png": 2, "bus/a.png": 3},
    "in a folder of their own": labelled("birds/monday", "birds/tuesday"),
    "nested twice": labelled("seg_train/seg_train", "seg_test/seg_test"),
    "two of one part": labelled("train", "dev", "valid"),
}


@pytest.mark.odd_input("Parts of the data")
@pytest.mark.parametrize("tree", UNCLEAR.values(), ids=UNCLEAR)
def test_what_cannot_be_known_is_refused(tmp_path: Path, tree: dict[str, int]) -> None:
    """Sibling folders with the same class folders whose names do not say which part they are: refused, with
    the listing and the settings that say it (`--set data.val=more`)."""
    with pytest.raises(DataError, match=r"--set data\.") as refused:
        list_pictures(write_tree(tmp_path, tree))
    advice = re.findall(r"--set data\.(train|val|test)=([\w./]+\w)", str(refused.value))
    first = next(iter(tree)).split("/")[0]
    settings = dict(advice)
    if first == "fold1":
        settings = {"train": ("fold1", "fold2"), "val": "fold3"}
    listing = list_pictures(tmp_path, **settings)
    assert set(listing.classes) == set(CROW_AND_OWL)
    assert counts(listing)["train"] > 0


@pytest.mark.odd_input("Parts of the data")
def test_parts_lie_deeper(tmp_path: Path) -> None:
    """Parts in a folder of their own, in one of their own name, or in each class (`crow/train`): found
    there."""
    inside = {**labelled("birds/train", "birds/val"), "labels/train/a.txt": b"x", "docs/a.png": 9}
    listing = list_folder(write_tree(tmp_path / "a", inside))
    assert counts(listing) == {"train": 2, "val": 2}
    assert said(listing)["inside"] == ("birds",)
    twice = list_folder(write_tree(tmp_path / "b", labelled("train/train", "test/test")))
    assert counts(twice) == {"train": 2, "test": 2}
    below = {f"{name}/{part}/a.png": 1 for name in CROW_AND_OWL for part in ("train", "test_set")}
    inverted = list_folder(write_tree(tmp_path / "c", below))
    assert counts(inverted) == {"train": 2, "test": 2}
    assert inverted.classes == CROW_AND_OWL


def test_folders_below_classes_stay_theirs(tmp_path: Path) -> None:
    tree = {"crow/old/a.png": 1, "owl/old/b.png": 2, "owl/c.png": 3, "jay/new/d.png": 4}
    assert list_folder(write_tree(tmp_path, tree)).classes == ("crow", "jay", "owl")


@pytest.mark.odd_input("Parts of the data")
def test_settings_name_parts_that_lie_anywhere(tmp_path: Path, monkeypatch) -> None:
    """Parts named by `data.train`, `data.val` or `data.test`: they come before what names say, and may lie
    anywhere; a table among folders, too."""
    root = write_tree(tmp_path / "p", {**labelled("train", "val", "more"), "other/x.png": 3})
    write_tree(tmp_path, labelled("far"))
    monkeypatch.chdir(tmp_path)
    listing = list_pictures(root, val="far", test="more")
    assert counts(listing) == {"train": 2, "val": 2, "test": 2}
    assert said(listing) == {"beside-parts": ("other",), "replaced-part": ("val",)}
    assert {row.id for row in listing.rows if row.split == "val"} == {
        "../far/crow/r.png",
        "../far/owl/r.png",
    }
    (root / "held.csv").write_text("path,label\nother/x.png,owl\n")
    assert [row.id for row in list_pictures(root, test="held.csv").rows if row.split == "test"] == [
        "other/x.png"
    ]
    with pytest.raises(DataError, match=rf"neither {tmp_path}/p/none nor {tmp_path}/none"):
        list_pictures(root, val="none")
    with pytest.raises(DataError, match="twice"):
        list_pictures(root, val="val", test="val")


def test_settings_name_parts_beside_classes(tmp_path: Path) -> None:
    write_tree(tmp_path, {**labelled("extra"), "crow/a.png": 2, "owl/b.png": 3})
    assert counts(list_pictures(tmp_path, val="extra")) == {"train": 2, "val": 2}
    table = write_tables(tmp_path / "t", a__csv="text,label\na,x\nb,y\n", b__csv="text,label\nc,x\n")
    listing = list_path(table / "a.csv", DataSettings(val="b.csv"), ("train",), "text")
    assert counts(listing) == {"train": 2, "val": 1}


def test_links_and_hidden_folders(tmp_path: Path) -> None:
    far = write_tree(tmp_path / "far", labelled("x"))
    root = write_tree(
        tmp_path / "p", {**labelled("train"), ".val/crow/a.png": 1, "$RECYCLE.BIN/owl/a.png": 1}
    )
    (root / "val").symlink_to(far / "x")
    (root / "test").symlink_to(root / "nowhere")
    assert counts(list_folder(root)) == {"train": 2, "val": 2}


@pytest.mark.odd_input("Parts of the data")
def test_junk_is_no_class_at_any_depth(tmp_path: Path) -> None:
    """Folders and files that file systems, NAS boxes and programs leave (`@eaDir`, `#recycle`,
    `$RECYCLE.BIN`, `.Spotlight-V100`, `._train.csv`): ignored at every depth."""
    junk = (
        "@eaDir",
        "#recycle",
        ".Spotlight-V100",
        "$RECYCLE.BIN",
        "System Volume Information",
        "@__thumb",
    )
    junk = (*junk, "lost+found", ".Trash-1000", "__MACOSX", ".ipynb_checkpoints", "#snapshot", "@Recycle")
    tree = {**labelled("train", "val"), **{f"{name}/crow/a.png": 1 for name in junk}}
    tree |= {f"{part}{name}/a.png": 1 for name in junk for part in ("train/", "val/crow/", "train/owl/b/")}
    listing = list_folder(write_tree(tmp_path, tree))
    assert (counts(listing), listing.classes, listing.problems) == (
        {"train": 2, "val": 2},
        CROW_AND_OWL,
        (),
    )
    assert not any(map(is_junk, ("#hashtags", "@home", "crow", "recycle", "snapshot", "thumbs")))


TRAIN = "text,label\na,x\nb,y\n"


@pytest.mark.odd_input("Parts of the data")
def test_tables_that_are_parts_and_others(tmp_path: Path) -> None:
    """Tables beside `train.csv` and `eval.jsonl` that are no part (README.csv): left out and named."""
    tables = {
        "01-Train_data__csv": TRAIN,
        "eval__jsonl": '{"text": "c", "label": "x"}\n',
        "README__csv": "a,b\n1,2\n",
    }
    folder = write_tables(tmp_path, **tables, **{".___train__csv": "\0", "~$train__csv": "\0"})
    listing = list_texts(folder)
    assert counts(listing) == {"train": 2, "val": 1}
    assert said(listing) == {"beside-parts": ("README.csv",)}
    (folder / "train.tsv").write_text("text\tlabel\na\tx\n")
    with pytest.raises(
        DataError, match=r"2 candidates for the training part(.|\n)*--set data.train=01-Train_data.csv"
    ):
        list_texts(folder)
    assert counts(list_texts(folder, train="train.tsv")) == {"train": 1, "val": 1}


@pytest.mark.odd_input("Parts of the data")
@pytest.mark.parametrize("test", ["text\nc\n", "text,label\nc,\nd,  \n", "text,label\n", ""])
def test_table_without_labels_is_left_out(tmp_path: Path, test: str) -> None:
    """A `test.csv` without the label column, or without a label in it: left out and named, with the way to
    `graft predict`."""
    listing = list_texts(write_tables(tmp_path, train__csv=TRAIN, test__csv=test))
    assert counts(listing) == {"train": 2}
    code = "unlabelled-part" if "c" in test else "empty-part"
    assert said(listing) == {code: ("test.csv",)}


def test_a_table_with_some_labels_is_no_part_without(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, train__csv=TRAIN, test__csv="text,label\nc,\nd,x\n")
    with pytest.raises(DataError, match="label is empty"):
        list_texts(folder)


def test_numbered_files_and_folders_of_tables_are_one_part(tmp_path: Path) -> None:
    inner = tmp_path / "data"
    for number in range(2):
        write_tables(inner, **{f"train-0000{number}-of-00002__csv": TRAIN})
    write_tables(inner / "test", any__csv=TRAIN)
    listing = list_texts(tmp_path)
    assert counts(listing) == {"train": 4, "test": 2}
    assert listing.rows[0].id == "data/train-00000-of-00002.csv, line 2"
    assert said(listing) == {"inside": ("data",)}


def test_tables_that_no_name_tells_apart(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, a__csv=TRAIN, b__csv=TRAIN)
    with pytest.raises(DataError, match=r"a.csv\n  b.csv\n.*--set data.train=a.csv"):
        list_texts(folder)
    assert counts(list_texts(folder, train="a.csv")) == {"train": 2}
    assert counts(list_texts(folder, train="a.csv", val="b.csv")) == {"train": 2, "val": 2}


@pytest.mark.odd_input("Parts of the data")
def test_a_table_called_train_beside_folders_is_not_passed_over(tmp_path: Path) -> None:
    """A table `train.csv` beside folders of pictures (`images`, `thumbs`): refused, with the settings that
    take the table or the folders."""
    root = write_tree(tmp_path / "data", {"images/a.png": 1, "images/b.png": 1, "thumbs/a.png": 1})
    write_tables(
        root, train__csv="path,label\nimages/a.png,crow\n", val__csv="path,label\nimages/b.png,owl\n"
    )
    with pytest.raises(
        DataError, match=r"--set data.train=train.csv --set data.val=val.csv\. .*data.train=\."
    ):
        list_pictures(root)
    assert counts(list_pictures(root, train="train.csv", val="val.csv")) == {"train": 1, "val": 1}
    assert {label for row in list_pictures(root, train=".").rows for label in row.labels} == {
        "images",
        "thumbs",
    }
    assert len(list_pictures(root, needs=("test", "val", "train")).rows) == 3


def test_a_chosen_part_with_too_long_a_name_is_missing(tmp_path: Path) -> None:
    write_tree(tmp_path, labelled("train"))
    with pytest.raises(DataError, match=r"data.val = .*there is neither") as caught:
        list_path(tmp_path, DataSettings(val="\u4e2d" * 5000), ("train",), "picture")
    assert len(str(caught.value)) < 1000


def test_ids_of_a_part_elsewhere_do_not_depend_on_how_it_is_named(tmp_path: Path, monkeypatch) -> None:
    write_tree(tmp_path, labelled("photos/train", "other"))
    monkeypatch.chdir(tmp_path)
    ids = [
        [row.id for row in list_path(data, DataSettings(val=val), ("train",), "picture").rows]
        for data in (Path("photos"), tmp_path / "photos")
        for val in ("other", str(tmp_path / "other"))
    ]
    assert ids == ids[:1] * 4
    assert any(name.startswith("../other/") for name in ids[0])
