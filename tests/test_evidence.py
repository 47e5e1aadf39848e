"""The look at the data before auto decides: what it finds where the truth is known."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graft
from graft.backbones.contract import Backbone
from graft.data import read_splits
from graft.data.items import Splits
from graft.evidence import Evidence, measure_evidence
from graft.looking import pool, watching
from graft.numerics import Numerics
from graft.recipe import DataSettings, read_recipe
from graft.reuse.store import Store
from small import COLOURS, make_pictures, make_tiny

CPU = Numerics(device="cpu", precision="fp32", workers=0, threads=1, processes=1)


def splits_of(pictures: np.ndarray, labels: Any) -> Splits:
    return read_splits((pictures, labels), DataSettings(validation=0.0))


def coloured(count: int = 16, *, seed: int = 0) -> Splits:
    pictures = np.concatenate([make_pictures(label, count, seed) for label in COLOURS])
    return splits_of(pictures, [label for label in COLOURS for _ in range(count)])


def sided(count: int = 40) -> Splits:
    """Bright on the left or on the right: mirroring swaps the labels."""
    generator = np.random.default_rng(0)
    pictures = generator.normal(90, 12, (2 * count, 8, 8, 3))
    pictures[:count, :, :4] += 90
    pictures[count:, :, 4:] += 90
    labels = ["left"] * count + ["right"] * count
    return splits_of(np.clip(pictures, 0, 255).astype(np.uint8), labels)


class Places(torch.nn.Module):
    """A network whose features know where something is: [B, 3, 8, 8] -> [B, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.below = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
        self.top = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4 * 64, 16))
        self.fc = torch.nn.Linear(16, 2)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.fc(self.top(self.below(pictures)))


def look(backbone: Backbone, splits: Splits) -> Evidence:
    found = measure_evidence(backbone, splits, CPU, seed=0)
    assert found is not None
    return found


def test_easy_labels_are_known_and_random_ones_are_not() -> None:
    easy = coloured()
    assert look(make_tiny(), easy).top.information > 0.5
    labels = np.random.default_rng(0).permutation([label for label in COLOURS for _ in range(16)]).tolist()
    noise = splits_of(np.concatenate([make_pictures(label, 16, 0) for label in COLOURS]), labels)
    assert look(make_tiny(), noise).top.information < 0.1


def test_the_backbone_is_left_as_it_was() -> None:
    backbone = make_tiny()
    before = copy.deepcopy(backbone.trunk.state_dict())
    modes = [module.training for module in backbone.trunk.modules()]
    look(backbone, coloured(6))
    after = backbone.trunk.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [module.training for module in backbone.trunk.modules()] == modes
    assert not any(module._forward_pre_hooks for module in backbone.trunk.modules())


def test_a_mirror_that_changes_labels_is_found_and_one_that_does_not_is_allowed() -> None:
    torch.manual_seed(0)
    backbone = graft.from_module(Places(), preprocess=make_tiny().preprocess)
    harmful, harmless = look(backbone, sided()).mirrored, look(make_tiny(), coloured()).mirrored
    assert harmful.known > 0.5 and harmful.kept < 0.5 and harmful.t > 5
    assert harmless.known > 0.5 and harmless.kept > 0.9


def test_wrong_statistics_are_found_out() -> None:
    """Batch-norms that saw another world hide the labels; those of the pictures show them."""
    backbone, splits = make_tiny(), coloured()
    for module in backbone.trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean += 50
    found = look(backbone, splits)
    assert found.adapted is not None
    assert found.adapted.information > found.pretrained.information + 0.3
    assert found.adapts
    assert found.top == found.adapted


def test_without_batch_norm_there_is_nothing_to_adapt() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()),
        torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
        torch.nn.Linear(8, 2),
    )
    backbone = graft.from_module(network, preprocess=make_tiny().preprocess)
    found = look(backbone, coloured(6))
    assert found.adapted is None
    assert not found.adapts


def test_one_item_a_class_tells_nothing() -> None:
    assert measure_evidence(make_tiny(), coloured(1), CPU, seed=0) is None


def test_progress_counts_every_pass_to_the_end() -> None:
    told: list[tuple[int, int]] = []
    splits = coloured(6)
    measure_evidence(make_tiny(), splits, CPU, seed=0, progress=lambda *numbers: told.append(numbers))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] == 4 * len(splits.train)


def test_large_data_is_sampled_and_the_same_seed_sees_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.evidence.MOST", 24)
    splits = coloured(16)
    found = look(make_tiny(), splits)
    assert found.items == 48
    assert found == look(make_tiny(), splits)
    assert found != measure_evidence(make_tiny(), splits, CPU, seed=1)


def test_multi_label_data_is_looked_at_too() -> None:
    pictures = np.concatenate([make_pictures(label, 16, 0) for label in COLOURS])
    rows = np.zeros((48, 2), dtype=np.uint8)
    rows[:16, 0] = 1  # blue
    rows[8:40, 1] = 1
    found = look(make_tiny(), splits_of(pictures, rows))
    assert 0 < found.top.information <= 1
    assert found.per_class == 24


@pytest.mark.parametrize(
    ("shape", "width"),
    [((2, 5), 5), ((2, 7, 5), 5), ((2, 5, 3, 3), 5), ((2, 3, 3, 5), 5), ((2, 5, 3, 4), 5)],
)
def test_states_of_every_form_are_pooled_to_their_channels(shape: tuple[int, ...], width: int) -> None:
    assert pool(torch.rand(shape)).shape == (2, width)


def test_watching_sees_what_enters_a_module_and_leaves_no_hook() -> None:
    backbone = make_tiny()
    entry = backbone.stages[-1].entry
    assert entry is not None
    with watching(backbone.trunk, [entry]) as seen:
        backbone.trunk(torch.rand(2, 3, 8, 8))
    assert seen.take(0).shape == (2, 12)
    assert not backbone.trunk.get_submodule(entry)._forward_pre_hooks


def test_evidence_survives_being_written_down() -> None:
    found = look(make_tiny(), coloured(6))
    assert Evidence.model_validate_json(found.model_dump_json()) == found


def test_only_auto_asks_for_evidence() -> None:
    splits, backbone = coloured(6), make_tiny()
    for strategy, wanted in (("auto", True), ("full", False)):
        recipe = read_recipe(strategy=strategy, device="cpu", backbone="tiny/net")
        assert (graft.measure(recipe, backbone, splits) is not None) == wanted


def test_a_second_look_computes_nothing_and_says_the_same(tmp_path: Path) -> None:
    backbone, splits, seen = make_tiny(), coloured(), []
    watch = backbone.trunk.register_forward_hook(lambda *_: seen.append(1))  # copies keep it
    store = Store(tmp_path)
    first = measure_evidence(backbone, splits, CPU, seed=0, store=store)
    passes = len(seen)
    assert first == measure_evidence(backbone, splits, CPU, seed=0)
    seen.clear()
    assert measure_evidence(backbone, splits, CPU, seed=0, store=store) == first
    noise_and_statistics = 3 + 1  # looks that are told apart by noise, and a batch for the statistics
    assert len(seen) == noise_and_statistics < passes
    watch.remove()
