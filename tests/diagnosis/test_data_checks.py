"""Each check of data once where it must speak, and once where it must be silent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import graft
from graft.backbones.contract import Backbone
from graft.data.items import Items, Splits
from graft.diagnosis import data_checks
from graft.diagnosis.data_checks import Gathered
from graft.recipe import DataSettings
from small import COLOURS, make_tiny
from test_evidence import coloured


def ids(findings: Iterator[graft.diagnosis.Finding]) -> list[str]:
    every = list(findings)
    assert all(each.measured and each.why and each.cure for each in every)
    return [each.id for each in every]


def gathered(
    splits: Splits, features: dict[str, Any] | None = None, backbone: Backbone | None = None
) -> Gathered:
    seen = Gathered(backbone or make_tiny(), splits)
    for name, items in splits.parts():
        seen.looked[name] = items
        if features and name in features:
            seen.features[name] = torch.as_tensor(features[name], dtype=torch.float32)
    return seen


def renamed(items: Items, names: list[str]) -> Items:
    return replace(items, ids=tuple(names))


def with_test(splits: Splits, test: Splits) -> Splits:
    return replace(splits, test=test.train)


def clusters(targets: np.ndarray, *, spread: float = 0.3, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.eye(8)[targets] * 4 + spread * generator.normal(size=(len(targets), 8))


def test_unreadable_files(tmp_path: Path) -> None:
    from small import write_pictures

    write_pictures(tmp_path, dict.fromkeys(COLOURS, 4))
    (tmp_path / "red" / "broken.png").write_bytes(b"")
    found = graft.data.read_splits(tmp_path, DataSettings(bad_share=0.5, validation=0))
    assert ids(data_checks.unreadable_files(gathered(found))) == ["data.unreadable"]
    assert ids(data_checks.unreadable_files(gathered(coloured(4)))) == []


def test_odd_pictures(tmp_path: Path) -> None:
    from PIL import Image

    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(4):
            Image.new("L", (8, 8), number + 4 * (label == "b")).save(tmp_path / label / f"{number}.png")
    found = graft.data.read_splits(tmp_path, DataSettings(validation=0))
    (finding,) = data_checks.odd_data(gathered(found))
    assert (finding.id, finding.severity) == ("data.uniform", "warning")
    assert finding.measured.startswith("8 of 8 picture(s) of a single value")
    problems = tuple(
        replace(found.problems[0], code=code) for code in ("range", "beyond", "pages", "other")
    )
    odd = ids(data_checks.odd_data(gathered(replace(found, problems=problems))))
    assert odd == ["data.range", "data.beyond", "data.pages"]


def test_leaks_and_contradictions(tmp_path: Path) -> None:
    from shutil import copy

    from small import write_pictures

    for part in ("train", "test"):
        write_pictures(tmp_path / part, dict.fromkeys(COLOURS, 4), seed=len(part))
    clean = graft.data.read_splits(tmp_path, DataSettings(validation=0))
    assert ids(data_checks.contradictions(gathered(clean))) == []
    assert ids(data_checks.copies(gathered(clean))) == []
    copy(tmp_path / "train" / "red" / "000.png", tmp_path / "test" / "red" / "same.png")
    copy(tmp_path / "train" / "red" / "001.png", tmp_path / "train" / "blue" / "other.png")
    copy(tmp_path / "train" / "red" / "002.png", tmp_path / "train" / "red" / "again.png")
    found = graft.data.read_splits(tmp_path, DataSettings(validation=0))
    assert sorted(ids(data_checks.contradictions(gathered(found)))) == ["data.contradiction", "data.leak"]
    assert ids(data_checks.copies(gathered(found))) == ["data.copies"]


def test_near_copies_across_parts() -> None:
    splits = with_test(coloured(20), coloured(10, seed=1))
    generator = np.random.default_rng(0)
    train, test = generator.normal(size=(60, 8)), generator.normal(size=(30, 8))
    assert ids(data_checks.near_copies(gathered(splits, {"train": train, "test": test}))) == []
    test[3] = train[17] + 1e-3
    (finding,) = data_checks.near_copies(gathered(splits, {"train": train, "test": test}))
    assert (finding.id, finding.severity) == ("data.near-copies", "warning")
    assert finding.measured.startswith("1 of 30")
    assert splits.train.ids[17] in finding.examples[0]


def test_near_copies_among_the_training_items_are_a_note() -> None:
    splits = coloured(20)
    train = np.random.default_rng(0).normal(size=(60, 8))
    train[41] = train[7] + 1e-3
    (finding,) = data_checks.near_copies(gathered(splits, {"train": train}))
    assert (finding.id, finding.severity) == ("data.near-copies", "note")
    assert finding.measured == "1 of 60 items of train are all but copies of others"
    assert finding.examples == (f"{splits.train.ids[41]} like {splits.train.ids[7]}",)


def test_suspect_labels() -> None:
    splits = coloured(30)
    features = clusters(splits.train.targets)
    assert ids(data_checks.suspect_labels(gathered(splits, {"train": features}))) == []
    targets = splits.train.targets.copy()
    targets[[2, 40]] = [1, 2]
    wrong = replace(splits, train=replace(splits.train, targets=targets))
    (finding,) = data_checks.suspect_labels(gathered(wrong, {"train": features}))
    assert finding.measured.startswith("2 of 90")
    assert {example.partition(":")[0] for example in finding.examples} == {
        splits.train.ids[2], splits.train.ids[40],
    }  # fmt: skip


def test_small_and_uneven_classes() -> None:
    def counted(*counts: int) -> Gathered:
        splits = coloured(max(counts))
        keep = [n * max(counts) + k for n, count in enumerate(counts) for k in range(count)]
        return gathered(replace(splits, train=splits.train.select(keep)))

    assert ids(data_checks.classes(counted(20, 12, 9))) == []
    assert ids(data_checks.classes(counted(20, 12, 3))) == ["data.small-classes"]
    assert ids(data_checks.classes(counted(60, 12, 6))) == ["data.imbalance"]


def test_shapes_of_pictures(tmp_path: Path) -> None:
    def read(sizes: list[tuple[int, int]], modes: list[str]) -> Gathered:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        generator = np.random.default_rng(0)
        for number, (size, mode) in enumerate(zip(sizes, modes, strict=True)):
            path = folder / f"class{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(path)
        return gathered(graft.data.read_splits(folder, DataSettings(validation=0)))

    plain = [(12, 10)] * 12
    assert ids(data_checks.shapes(read(plain, ["RGB"] * 12))) == []
    assert ids(data_checks.shapes(read([(3, 3)] * 4 + plain[4:], ["RGB"] * 12))) == ["data.small-pictures"]
    assert ids(data_checks.shapes(read([(60, 10), *plain[1:]], ["RGB"] * 12))) == ["data.long-pictures"]
    assert ids(data_checks.shapes(read(plain, ["L"] * 4 + ["RGB"] * 8))) == ["data.grey-pictures"]
    assert ids(data_checks.shapes(read(plain, ["L"] * 12))) == []  # all alike


def test_a_shift_between_parts() -> None:
    splits = with_test(coloured(30), coloured(30, seed=1))
    generator = np.random.default_rng(0)
    train, test = generator.normal(size=(2, 90, 8))
    assert ids(data_checks.shift(gathered(splits, {"train": train, "test": test}))) == []
    moved = gathered(splits, {"train": train, "test": test + 1.0})
    assert ids(data_checks.shift(moved)) == ["data.shift"]


def test_groups_in_file_names() -> None:
    splits = with_test(coloured(20), coloured(8, seed=1))

    def named(train: str, test: str) -> Gathered:
        one = renamed(splits.train, [f"x/{train.format(n // 5, n % 5)}.png" for n in range(60)])
        two = renamed(splits.test, [f"x/{test.format(n // 5, n % 5 + 50)}.png" for n in range(24)])
        return gathered(replace(splits, train=one, test=two))

    assert ids(data_checks.groups(named("patient{0}_{1}", "patient{0}_{1}"))) == ["data.groups"]
    assert ids(data_checks.groups(named("patient{0}_{1}", "person9{0}_{1}"))) == []
    assert ids(data_checks.groups(named("img_{0}{1}", "img_{0}{1}"))) == []  # numbers alone
    assert ids(data_checks.groups(named("red_{0}{1}", "red_{0}{1}"))) == []  # the class's own name


@pytest.mark.parametrize("check", data_checks.CHECKS)
def test_nothing_is_found_in_clean_data(check: Any) -> None:
    splits = with_test(coloured(30), coloured(12, seed=1))
    features = {
        "train": clusters(splits.train.targets, spread=1.0),
        "test": clusters(splits.test.targets, spread=1.0, seed=1),
    }
    assert ids(check(gathered(splits, features))) == []


def test_labels_that_are_alike() -> None:
    pictures = np.zeros((6, 8, 8, 3), np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None]
    for labels, found in ((["Owl", "owl", "crow"], ["data.alike-labels"]), (["owl", "crow", "emu"], [])):
        splits = graft.data.read_splits((pictures, labels * 2), DataSettings(validation=0))
        odd = ids(data_checks.odd_data(gathered(splits)))
        assert [each for each in odd if each != "data.uniform"] == found
        assert bool(found) == any(each.code == "alike-labels" for each in splits.problems)
