"""Texts of Hugging Face datasets, by folder and by id."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, config

from graft.data import hub_sets, read_labelled, read_splits
from graft.data.hub_sets import list_hub
from graft.data.items import Listing, Splits, Text
from graft.errors import DataError
from graft.recipe import DataSettings

ALL = DataSettings(validation=0.0)
MOODS = ClassLabel(names=["no", "yes", "maybe"])
TEXT = Value("string")


def rows(texts: list[Any], labels: list[Any], kind: Any = MOODS, **others: Any) -> Dataset:
    features = Features({"text": TEXT, "label": kind, **{name: Value("string") for name in others}})
    return Dataset.from_dict({"text": texts, "label": labels, **others}, features)


def saved(folder: Path, data: Dataset | dict[str, Dataset]) -> str:
    """Write it, and name it."""
    whole = DatasetDict(data) if isinstance(data, dict) else data
    whole.save_to_disk(str(folder / "set"))
    return f"hf/{folder / 'set'}"


def listed(folder: Path, data: Dataset | dict[str, Dataset], **settings: Any) -> Listing:
    return list_hub(saved(folder, data), DataSettings(**settings), "text")


def fails(folder: Path, data: Dataset | dict[str, Dataset], match: str, **settings: Any) -> None:
    with pytest.raises(DataError, match=match):
        listed(folder, data, **settings)


def labels(listing: Listing) -> list[tuple[str, ...] | None]:
    return [row.labels for row in listing.rows]


def problems(found: Listing | Splits) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {each.code: (each.count, each.examples) for each in found.problems}


def test_splits_of_texts_from_end_to_end(tmp_path: Path) -> None:
    name = saved(
        tmp_path,
        {
            "train": rows(["fine", "dull", "good"], [1, 0, 1]),
            "validation": rows(["great"], [1]),
            "test": rows(["bad"], [0]),
            "unsupervised": rows(["so"], [-1]),
        },
    )
    splits = read_splits(name, ALL, modality="text")
    assert splits.val is not None and splits.test is not None
    assert splits.train.sources == (Text("fine"), Text("dull"), Text("good"))
    assert splits.train.ids == ("train, row 0", "train, row 1", "train, row 2")
    assert splits.val.ids == ("validation, row 0",) and splits.test.sources == (Text("bad"),)
    assert splits.task.labels == ("no", "yes")
    assert splits.train.targets is not None and splits.train.targets.tolist() == [1, 0, 1]
    assert problems(splits) == {"other-split": (1, ("unsupervised",)), "empty-class": (1, ("maybe",))}
    items, _ = read_labelled(name, ALL, splits.task, modality="text")
    assert items.ids == ("test, row 0",)


def test_data_without_splits_is_as_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, rows(["fine", "dull"], ["a", "b"], TEXT))
    monkeypatch.chdir(tmp_path)
    listing = list_hub("hf/./set", ALL, "text")
    assert [(row.id, row.split) for row in listing.rows] == [("row 0", ""), ("row 1", "")]
    assert labels(listing) == [("a",), ("b",)] and listing.kind == "single-label"
    assert listing.problems == () and listing.classes == ("a", "b")


def test_whole_numbers_are_labels_too_and_minus_one_is_one_of_them(tmp_path: Path) -> None:
    assert labels(listed(tmp_path, rows(["a", "b", "c"], [-1, 0, 1], Value("int64")))) == [
        ("-1",),
        ("0",),
        ("1",),
    ]


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        (List(MOODS), [[1, 0], [], [2]], [("no", "yes"), (), ("maybe",)]),
        (List(TEXT), [["b", "a"], [], ["b"]], [("a", "b"), (), ("b",)]),
    ],
)
def test_lists_are_any_number_of_labels(kind: Any, given: Any, expected: Any, tmp_path: Path) -> None:
    listing = listed(tmp_path, rows(["fine", "dull", "so"], given, kind))
    assert listing.kind == "multi-label" and labels(listing) == expected


def test_a_separator_and_columns_of_zeros_and_ones(tmp_path: Path) -> None:
    divided = listed(tmp_path / "1", rows(["fine", "dull"], ["a|b", ""], TEXT), separator="|")
    assert divided.kind == "multi-label" and labels(divided) == [("a", "b"), ()]
    columns = Dataset.from_dict({"text": ["x", "y", "z"], "a": [1, 0, -1], "b": [1, 1, -1]})
    listing = listed(tmp_path / "2", columns, label=("a", "b"))
    assert labels(listing) == [("a", "b"), ("b",)]
    assert problems(listing) == {"unlabelled": (1, ("row 2",))}


def test_pairs_and_guessed_columns(tmp_path: Path) -> None:
    pairs = Dataset.from_dict({"premise": ["a"], "hypothesis": ["b"], "idx": [0], "label": ["yes"]})
    listing = listed(tmp_path / "1", pairs)
    assert listing.rows[0].source == Text("a", "b")
    assert problems(listing) == {"column": (1, ("premise and hypothesis",))}
    named = listed(tmp_path / "2", pairs, text="hypothesis")
    assert named.rows[0].source == Text("b") and named.problems == ()


def test_a_split_without_labels_is_left_out_and_told(tmp_path: Path) -> None:
    train = rows(["fine", "dull"], [1, 0])
    expected = {"unlabelled-split": (1, ("test",))}
    for number, test in enumerate(
        [
            rows(["x", "y"], [-1, -1]),
            rows(["x", "y"], [None, None]),
            Dataset.from_dict({"text": ["x", "y"]}),
        ]
    ):
        listing = listed(tmp_path / str(number), {"train": train, "test": test})
        assert {row.split for row in listing.rows} == {"train"} and problems(listing) == expected
    plain = {"train": rows(["a", "b"], [0, 1], Value("int64")), "test": rows(["c"], [-1], Value("int64"))}
    assert problems(listed(tmp_path / "plain", plain)) == expected


def test_single_rows_without_labels_are_left_out_and_told(tmp_path: Path) -> None:
    listing = listed(tmp_path, {"train": rows(["fine", "dull", "so", "x"], [1, -1, 0, None])})
    assert [row.id for row in listing.rows] == ["train, row 0", "train, row 2"]
    assert problems(listing) == {"unlabelled": (2, ("train, row 1", "train, row 3"))}
    fails(tmp_path / "none", rows(["fine"], [-1]), r"no row with a label in 'label'; name .*data\.label")


def test_splits_may_number_the_same_names_otherwise(tmp_path: Path) -> None:
    other = ClassLabel(names=["yes", "no"])
    listing = listed(tmp_path, {"train": rows(["a"], [0]), "dev": rows(["b"], [0], other)})
    assert [(row.split, row.labels) for row in listing.rows] == [("train", ("no",)), ("val", ("yes",))]


def test_a_column_divides_what_is_one_split(tmp_path: Path) -> None:
    one = {"train": rows(["a", "b"], [0, 1], split=["train", "test"])}
    listing = listed(tmp_path / "1", one)
    assert [(row.id, row.split) for row in listing.rows] == [("row 0", "train"), ("row 1", "test")]
    odd = {"train": rows(["a", "b"], [0, 1], split=["left", "right"])}
    assert {row.split for row in listed(tmp_path / "2", odd).rows} == {"train"}
    asked = {"train": rows(["a"], [0], fold=["test"]), "test": rows(["b"], [1], fold=["train"])}
    assert [row.split for row in listed(tmp_path / "3", asked, split="fold").rows] == ["test", "train"]
    fails(tmp_path / "4", asked, r"no column 'flod'.*Did you mean 'fold'", split="flod")


def test_a_format_that_was_written_does_not_matter(tmp_path: Path) -> None:
    listing = listed(tmp_path, rows(["fine", "dull"], [1, 0]).with_format("numpy"))
    assert labels(listing) == [("yes",), ("no",)]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    data = rows(["fine"], [1])
    fails(tmp_path / "1", data, r"no column 'lable'.*Did you mean 'label'.*data\.label", label="lable")
    fails(tmp_path / "2", data, r"no column 'txt'.*data\.text", text="txt")
    unlike = {"train": data, "test": data.rename_column("text", "other")}
    fails(tmp_path / "3", unlike, r"no column 'text'; its columns are: 'other', 'label'")
    lists = Dataset.from_dict({"tokens": [["a", "b"]], "label": ["yes"]})
    fails(tmp_path / "4", lists, r"'tokens' of .* holds List.*no texts")
    fails(tmp_path / "5", {"matched": data, "mismatched": data}, "has the splits 'matched', 'mismatched'")
    fails(tmp_path / "6", {"train": data, "training": data}, "train and training .* of the split train")
    with pytest.raises(DataError, match=r"There is no folder .*nothing, which hf/.*nothing names"):
        list_hub(f"hf/{tmp_path}/nothing", ALL, "text")
    with pytest.raises(DataError, match=r"holds no data set that save_to_disk .* without hf/"):
        list_hub(f"hf/{tmp_path}", ALL, "text")


def test_what_is_broken_is_told(tmp_path: Path) -> None:
    name = saved(tmp_path, rows(["fine"], [1]))
    (arrow,) = (tmp_path / "set").glob("*.arrow")
    whole = arrow.read_bytes()
    for damage in (whole.replace(b"fine", b"\xff\xff\xff\xff"), whole[:-200], b"nothing"):
        arrow.write_bytes(damage)
        with pytest.raises(DataError, match=r"cannot be read: .+\. Write or load it again"):
            list_hub(name, ALL, "text")
    arrow.unlink()
    with pytest.raises(DataError, match=r"cannot be read: .*\.arrow"):
        list_hub(name, ALL, "text")
    (tmp_path / "set" / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        list_hub(name, ALL, "text")


def test_pictures_are_given_otherwise(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pictures are given as a folder of class folders or as a table"):
        read_splits(saved(tmp_path, rows(["fine"], [1])), ALL)


@pytest.mark.parametrize("name", ["hf/", "hf/imdb", "hf/a/b/c", "hf/org/na me", "hf/org/name:", "hf/:x"])
def test_names_that_are_none_are_told(name: str) -> None:
    with pytest.raises(DataError, match=r"hf/ORG/NAME or hf/ORG/NAME:config .* hf/\./path"):
        read_splits(name, ALL, modality="text")


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "graft-ml\[datasets\]"'):
        list_hub("hf/org/name", ALL, "text")


def test_offline_is_respected_without_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"Cannot load hf/org/name: HF_HUB_OFFLINE is set, and its cache"):
        list_hub("hf/org/name", ALL, "text")
    assert time.monotonic() - begun < 3
    assert config.HF_HUB_OFFLINE is False


def test_a_hub_that_does_not_answer_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9 cannot be reached: .*refused"):
        list_hub("hf/org/name", ALL, "text")
    assert time.monotonic() - begun < 5


def test_what_was_loaded_before_is_there_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the cache as the library lays it out; written here, since the hub is not at hand."""
    from datasets import load_dataset

    table = tmp_path / "train.jsonl"
    table.write_text('{"text": "fine", "label": "yes"}\n{"text": "dull", "label": "no"}\n')
    load_dataset("json", data_files=str(table), cache_dir=str(tmp_path / "made"))
    (info,) = (tmp_path / "made").rglob("dataset_info.json")
    cache = tmp_path / "cache" / "org___name" / "plain" / "0.0.0" / "0123"
    cache.mkdir(parents=True)
    told = json.loads(info.read_text()) | {"config_name": "plain", "dataset_name": "name"}
    (cache / "dataset_info.json").write_text(json.dumps(told))
    (info.parent / "json-train.arrow").rename(cache / "name-train.arrow")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("hf/org/name", "hf/org/name:plain"):
        listing = list_hub(name, ALL, "text")
        assert [row.id for row in listing.rows] == ["train, row 0", "train, row 1"]
        assert labels(listing) == [("yes",), ("no",)]
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set, .*config 'other'.*\['plain'\]"):
        list_hub("hf/org/name:other", ALL, "text")


def test_the_hub_is_asked_by_name_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(*names: Any) -> Any:
        asked.append(names)
        if names[1] is None:
            raise ValueError("Config name is missing.\nPlease pick one among: ['a', 'b']\nExample: x")
        return DatasetDict({"train": rows(["fine"], [1])})

    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.setattr(hub_sets, "_why_unreachable", lambda _: "")
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert labels(list_hub("hf/org/name:a", ALL, "text")) == [("yes",)]
    with pytest.raises(DataError, match=r"Config name is missing.*\['a', 'b'\]\. Check the name, and the"):
        list_hub("hf/org/name", ALL, "text")
    assert asked == [("org/name", "a"), ("org/name", None)]


def test_a_folder_of_the_same_name_is_not_read_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"Name the folder as hf/\./org/name"):
        list_hub("hf/org/name", ALL, "text")
