from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from graft.data.items import Splits
from graft.preparation import load_backbone, prepare
from graft.recipe import read_recipe
from graft.runs import Run
from graft.workflow import carry_out, drain
from small import COLOURS, SETTINGS, write_pictures


def recipe_for(photos: Path, **settings: Any) -> Any:
    return read_recipe(**(SETTINGS | settings), data__path=str(photos))


def first_of(backbone: Any) -> torch.Tensor:
    return next(iter(backbone.trunk.parameters()))


def test_scratch_starts_from_random_weights_of_its_seed(photos: Path) -> None:
    pretrained = load_backbone(recipe_for(photos)).source.sha256
    backbones = [
        load_backbone(recipe_for(photos, strategy="scratch", backbone=name, seed=seed))
        for name, seed in (
            ("graft/resnet18-half-64", 0),
            ("graft/resnet18-half-64:tiny-imagenet", 0),
            ("graft/resnet18-half-64", 1),
        )
    ]
    assert pretrained
    assert not any(backbone.source.pretrained for backbone in backbones)
    one, same, other = (first_of(backbone) for backbone in backbones)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    shipped = load_backbone(recipe_for(photos, backbone="graft/resnet18-half-64"))
    assert not torch.equal(one, first_of(shipped))


def test_a_probe_sets_nothing_aside_and_the_others_do(photos: Path) -> None:
    probe = prepare(recipe_for(photos, strategy="probe")).splits
    assert (len(probe.train), probe.val) == (30, None)
    full = prepare(recipe_for(photos, strategy="full")).splits
    assert full.val is not None
    assert (len(full.train), len(full.val)) == (24, 6)


def test_validation_pictures_are_kept_out_of_a_probes_training(tmp_path: Path) -> None:
    for split, count, seed in (("train", 5, 0), ("val", 3, 1), ("test", 2, 2)):
        write_pictures(tmp_path / "photos" / split, dict.fromkeys(COLOURS, count), seed=seed)
    prepared = prepare(recipe_for(tmp_path / "photos", strategy="probe"))
    splits: Splits = prepared.splits
    assert splits.val is not None
    assert len(splits.train) == 15
    assert not set(splits.train.digests) & set(splits.val.digests)
    bundle = drain(carry_out(prepared, Run(tmp_path / "run")))
    assert bundle.metrics["validation"]["n"] == 9
    assert bundle.metrics["test"]["n"] == 6
