"""A linear classifier on pixels or words: the floor that a fine-tuned network has to pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graft
from graft.backbones.contract import Intake
from graft.data.items import Splits
from graft.diagnosis.from_nothing import SIDE, WORDS, check_worth, plain_features
from small import COLOURS, SETTINGS, TINY, make_tiny, write_pictures
from small_text import write_model


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Splits, Intake]:
    data = write_pictures(tmp_path / "data", dict.fromkeys(COLOURS, 20))
    recipe = graft.read_recipe(data__path=str(data), strategy="full")
    return graft.read_splits(recipe, make_tiny()), TINY


@pytest.fixture
def texts(tmp_path: Path) -> tuple[Splits, Intake]:
    backbone = graft.load_backbone(f"hf/{write_model(tmp_path / 'bert', 'bert')}", pooling="mean")
    words = ("good", "great", "bad", "awful")
    rows = [f"the film was {words[number % 4]} {number},{number % 4 < 2}" for number in range(60)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]))
    recipe = graft.read_recipe(data__path=str(tmp_path / "texts.csv"), strategy="full")
    return graft.read_splits(recipe, backbone), backbone.preprocess


@pytest.mark.parametrize("kind", ["pictures", "texts"])
def test_it_speaks_below_the_floor_and_is_silent_above(kind: str, request: pytest.FixtureRequest) -> None:
    splits, intake = request.getfixturevalue(kind)
    (finding,) = check_worth(splits, intake, logits_of(splits, right=False), seed=0)
    assert finding.id == "run.worse-than-scratch" and finding.measured.startswith("0.0 % of")
    assert ("words" if kind == "texts" else "16 x 16 pixels") in finding.measured
    assert not list(check_worth(splits, intake, logits_of(splits, right=True), seed=0))


def logits_of(splits: Splits, *, right: bool) -> np.ndarray[Any, Any]:
    """What a model says that decides rightly, or wrongly, for every validation item."""
    assert splits.val is not None and splits.val.targets is not None
    targets = splits.val.targets
    rows = targets if targets.ndim == 2 else np.eye(splits.task.classes)[targets]
    return (20 * (rows == right) - 10).astype(np.float32)


def test_a_few_items_prove_nothing(pictures: tuple[Splits, Intake]) -> None:
    splits, intake = pictures
    assert splits.val is not None
    few = replace(splits, val=splits.val.select([0, len(splits.val) - 1]))
    logits = logits_of(few, right=True)
    logits[0] = -logits[0]  # one of two is wrong
    assert not list(check_worth(few, intake, logits, seed=0))


def test_what_is_seen_of_items(pictures: tuple[Splits, Intake], texts: tuple[Splits, Intake]) -> None:
    assert plain_features(pictures[0].train, pictures[1]).shape == (len(pictures[0].train), 3 * SIDE * SIDE)
    assert plain_features(texts[0].train, texts[1]).shape == (len(texts[0].train), WORDS)


def test_several_labels() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, (60, 2)).astype(np.uint8)
    pixels = generator.integers(0, 50, (60, 8, 8, 3)).astype(np.uint8)
    pixels[..., :2] += 200 * truth[:, None, None]
    splits = graft.read_splits(graft.read_recipe(strategy="full"), make_tiny(), data=(pixels, truth))
    assert list(check_worth(splits, TINY, logits_of(splits, right=False), seed=0))
    assert not list(check_worth(splits, TINY, logits_of(splits, right=True), seed=0))


def test_a_run_that_learnt_nothing_of_use_is_told_so(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", dict.fromkeys(COLOURS, 20))
    spoilt: dict[str, Any] = SETTINGS | {"strategy": "full", "head_init": "random", "epochs": 1}
    rates = {"train__lr": 1e-9, "train__head_lr": 1e-9}
    bundle = graft.train(data, out=tmp_path / "run", quiet=True, **spoilt, **rates)
    ids = [each["id"] for each in bundle.metrics["findings"]]
    assert ids == ["run.worse-than-scratch"]
