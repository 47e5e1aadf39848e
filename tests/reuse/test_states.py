"""Items as states: whatever is in the store and happens to it, they are what would be computed anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from graft.backbones.contract import Backbone
from graft.data import read_splits
from graft.data.dataset import Pictures
from graft.data.items import Items
from graft.numerics import Forward
from graft.recipe import DataSettings
from graft.reuse import states as states_module
from graft.reuse import store as store_module
from graft.reuse.split import find_split, split_trunk
from graft.reuse.states import Lower, States, open_space
from graft.reuse.store import Store
from small import COLOURS, make_pictures, make_tiny, write_pictures

PLACE = 2  # the stem and the middle are below
Asked = list[int | tuple[int, int]]


def make_items(each: int = 20) -> Items:
    pictures = np.concatenate([make_pictures(label, each, seed=0) for label in COLOURS])
    labels = [label for label in COLOURS for _ in range(each)]
    return read_splits((list(pictures), labels), DataSettings(validation=0.0), seed=0).train


ITEMS = make_items()


class Maker:
    """Makes states as a phase does, and counts the pictures that go through the lower part."""

    def __init__(self, folder: Path, backbone: Backbone | None = None) -> None:
        self.folder, self.backbone = folder, backbone or make_tiny()
        self.computed = 0

    def states(self, items: Items = ITEMS, preset: Any = "standard", **options: Any) -> States:
        backbone, trunk = self.backbone, self.backbone.trunk.eval()
        split = find_split(backbone, PLACE)

        def below(pictures: torch.Tensor) -> torch.Tensor:
            self.computed += int(sum(bool(picture.any()) for picture in pictures))
            with split_trunk(trunk, split, backbone.preprocess) as lower:
                return lower(pictures)

        pictures = Pictures(items, backbone.preprocess, preset=preset, seed=options.pop("seed", 5))
        precision = options.pop("precision", "fp32")
        lower = Lower(below, torch.device("cpu"))
        space = open_space(
            Store(self.folder, **options),
            backbone,
            trunk,
            lower,
            pictures,
            upper=backbone.stages[PLACE:],
            precision=precision,
        )
        self.computed = 0  # the noise by which the network is known went through, too
        return States(pictures, lower, space)

    def expected(self, items: Items, asked: Asked, preset: str = "standard") -> torch.Tensor:
        """The states [B, …] computed one by one, among blanks, without any store."""
        pictures = Pictures(items, self.backbone.preprocess, preset=preset, seed=5)
        split = find_split(self.backbone, PLACE)
        found = []
        with (
            torch.no_grad(),
            split_trunk(self.backbone.trunk.eval(), split, self.backbone.preprocess) as lower,
        ):
            for index in asked:
                full = torch.zeros(Forward().batch, 3, 8, 8)
                full[0] = pictures[index][0]
                found.append(lower(full.to(memory_format=torch.channels_last))[0])
        return torch.stack(found)


def run_through(states: States, batches: Sequence[Asked], workers: int = 0) -> list[torch.Tensor]:
    return [tensors for tensors, _, _ in states.batches(batches, workers)]


def every(items: Items = ITEMS, view: int | None = None) -> list[Asked]:
    numbers = list(range(len(items)))
    whole: Asked = list(numbers) if view is None else [(number, view) for number in numbers]
    return [whole[start : start + 8] for start in range(0, len(whole), 8)]


def equal(one: Sequence[torch.Tensor], two: Sequence[torch.Tensor]) -> bool:
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


INDEX = st.one_of(
    st.integers(0, len(ITEMS) - 1), st.tuples(st.integers(0, len(ITEMS) - 1), st.integers(0, 2))
)
BATCHES = st.lists(st.lists(INDEX, min_size=1, max_size=70), min_size=1, max_size=3)


@settings(max_examples=10)
@given(first=BATCHES, second=BATCHES)
def test_bits_do_not_depend_on_what_is_missing_besides(
    tmp_path_factory: pytest.TempPathFactory, first: list[Asked], second: list[Asked]
) -> None:
    maker = Maker(tmp_path_factory.mktemp("store"))
    run_through(maker.states(), first)
    filled = run_through(maker.states(), second)
    empty = Maker(tmp_path_factory.mktemp("empty"))
    assert equal(filled, run_through(empty.states(), second))
    for batch, found in zip(second, filled, strict=True):
        assert torch.equal(found, maker.expected(ITEMS, batch))


def test_each_view_of_each_item_is_computed_once(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    states = maker.states()
    asked: list[Asked] = [[3, 3, (3, 0), (3, 1)], [(3, 0), 4, 3]]
    found = run_through(states, asked)
    assert maker.computed == 4
    assert torch.equal(found[0][0], found[0][1])
    assert torch.equal(found[0][2], found[1][0])
    assert not torch.equal(found[0][0], found[0][2])
    assert equal(run_through(states, asked), found)
    assert equal(run_through(maker.states(), asked), found)
    assert maker.computed == 0


def test_the_same_picture_under_two_names_is_computed_once_with_a_label_each(tmp_path: Path) -> None:
    twice = replace(ITEMS.select([0, 0]), targets=np.array([0, 2]), ids=("a", "b"))
    maker = Maker(tmp_path)
    ((tensors, targets, numbers),) = maker.states(twice).batches([[0, 1]])
    assert maker.computed == 1
    assert torch.equal(tensors[0], tensors[1])
    assert (targets.tolist(), numbers.tolist()) == ([0, 2], [0, 1])


def test_without_augmentation_every_view_is_the_picture(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    ((found, _, _),) = maker.states(preset="none").batches([[7, (7, 0), (7, 9)]])
    assert maker.computed == 1
    assert torch.equal(found, maker.expected(ITEMS, [7, (7, 0), (7, 9)], "none"))
    run_through(maker.states(preset="standard"), [[7]])  # as the picture is: whatever views there are
    assert maker.computed == 0


@pytest.mark.parametrize("how", [{"preset": "light"}, {"seed": 6}, {"flip": False}], ids=str)
def test_views_that_are_drawn_otherwise_are_others(tmp_path: Path, how: dict[str, Any]) -> None:
    maker, asked = Maker(tmp_path), [[(number, 0) for number in range(8)]]
    run_through(maker.states(), asked)
    states = maker.states()
    other = States(replace(states.inputs, **how), states.lower, states.space)
    found = run_through(other, asked)
    assert maker.computed == 8
    assert equal(found, run_through(replace(other, space=Maker(tmp_path / "new").states().space), asked))


@pytest.mark.parametrize("kind", ["multi-label", "unlabelled", "classes"])
def test_targets_are_those_of_pictures(tmp_path: Path, kind: str) -> None:
    several = np.random.default_rng(0).integers(0, 2, (len(ITEMS), 4), dtype=np.uint8)
    items = replace(ITEMS, targets={"multi-label": several, "unlabelled": None}.get(kind, ITEMS.targets))
    states, asked = Maker(tmp_path).states(items), [[1, (2, 0)], [5, 5, 9]]
    for found, plain in zip(states.batches(asked), states.inputs.batches(asked), strict=True):
        assert torch.equal(found[1], plain[1])
        assert found[1].dtype == plain[1].dtype
        assert torch.equal(found[2], plain[2])


def chunks(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def remove(path: Path) -> None:
    path.unlink()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.unlink()  # a mapped file must not be changed under its reader
    path.write_bytes(content)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("harm", [remove, damage, cut])
def test_chunks_that_are_lost_meanwhile_are_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None], workers: int
) -> None:
    monkeypatch.setattr(store_module, "CHUNK", 10 * 12 * 4 * 4 * 4)  # of ten rows or so
    maker = Maker(tmp_path)
    expected = run_through(maker.states(), every(view=0))
    assert len(chunks(tmp_path)) > 3
    found = []
    for number, (tensors, _, _) in enumerate(maker.states().batches(every(view=0), workers)):
        found.append(tensors)
        if number == 1:
            for path in chunks(tmp_path):
                harm(path)
    assert equal(found, expected)
    assert 0 < maker.computed < len(ITEMS)
    run_through(maker.states(), every(view=0))  # what was mapped into memory then is gone by now
    run_through(maker.states(), every(view=0))
    assert maker.computed == 0  # and is kept again


def test_a_store_without_room_gives_the_same(tmp_path: Path) -> None:
    expected = run_through(Maker(tmp_path / "roomy").states(), every(view=1))
    maker = Maker(tmp_path / "narrow")
    states = maker.states(limit=10)
    for _ in range(2):
        assert equal(run_through(states, every(view=1)), expected)
    assert maker.computed == 2 * len(ITEMS)
    assert chunks(tmp_path / "narrow") == []


def test_workers_give_the_same(tmp_path: Path) -> None:
    one, two = Maker(tmp_path / "one"), Maker(tmp_path / "two")
    asked = [*every(view=0), *every(), [(0, 0), 0]]
    assert equal(run_through(one.states(), asked), run_through(two.states(), asked, workers=2))
    assert two.computed == one.computed == 2 * len(ITEMS)
    assert equal(run_through(one.states(), asked), run_through(two.states(), asked, workers=2))
    assert two.computed == 0


def test_a_file_that_changed_in_place_is_seen(tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", {"red": 4, "blue": 4})
    for path in photos.rglob("*.png"):  # of the same size, whatever is on it
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    maker, asked = Maker(tmp_path / "store"), [[(number, 0) for number in range(8)]]

    def read() -> Items:
        return read_splits(photos, DataSettings(validation=0.0), seed=0).train

    before = run_through(maker.states(read()), asked)[0]
    changed = photos / "red" / "002.bmp"
    status = changed.stat()
    Image.fromarray(255 - np.asarray(Image.open(changed))).save(changed)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (changed.stat().st_size, changed.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    items = read()
    after = run_through(maker.states(items), asked)[0]
    assert maker.computed == 1
    assert torch.equal(after, maker.expected(items, asked[0]))
    differs = [not torch.equal(one, two) for one, two in zip(before, after, strict=True)]
    assert [id for id, other in zip(items.ids, differs, strict=True) if other] == ["red/002.bmp"]


def change(name: str) -> Callable[[Backbone], Backbone]:
    def changed(backbone: Backbone) -> Backbone:
        with torch.no_grad():
            backbone.trunk.state_dict()[name].view(-1)[0] += 1e-3
        return backbone

    return changed


def with_preprocess(**values: Any) -> Callable[[Backbone], Backbone]:
    return lambda backbone: replace(backbone, preprocess=replace(backbone.preprocess, **values))


BELOW = ("stem.0.weight", "stem.0.bias", "stem.1.running_var", "middle.0.weight", "middle.1.bias")
OTHERS: dict[str, Callable[[Backbone], Backbone]] = {
    **{name: change(name) for name in BELOW},
    "mean": with_preprocess(mean=(0.5, 0.5, 0.4)),
    "interpolation": with_preprocess(interpolation="bicubic"),
    "resize": with_preprocess(resize=9),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_lower_part_or_preparation_shares_nothing(tmp_path: Path, name: str) -> None:
    run_through(Maker(tmp_path).states(), every())
    other = Maker(tmp_path, OTHERS[name](make_tiny()))
    found = run_through(other.states(), every())
    assert other.computed == len(ITEMS)
    assert torch.equal(found[0], other.expected(ITEMS, every()[0]))


def test_another_precision_or_reading_shares_nothing(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    run_through(maker.states(), every())
    run_through(maker.states(precision="bf16"), every())
    assert maker.computed == len(ITEMS)
    run_through(maker.states(replace(ITEMS, max_value=4095.0)), every())
    assert maker.computed == len(ITEMS)


@pytest.mark.parametrize("library", ["torch", "torchvision", "pillow"])
def test_another_version_of_a_library_shares_nothing(
    tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker(tmp_path)
    expected = run_through(maker.states(), every())
    known = states_module.version
    monkeypatch.setattr(states_module, "version", lambda name: "9.9.9" if name == library else known(name))
    maker.states()  # the noise
    maker.computed = 0
    assert equal(run_through(maker.states(), every()), expected)
    assert maker.computed == len(ITEMS)


@pytest.mark.parametrize("name", ["top.0.weight", "top.1.running_mean"])
def test_another_upper_part_shares_everything(tmp_path: Path, name: str) -> None:
    expected = run_through(Maker(tmp_path).states(), every())
    other = Maker(tmp_path, change(name)(make_tiny()))
    assert equal(run_through(other.states(), every()), expected)
    assert other.computed == 0


def test_the_same_values_in_another_network_share_nothing(tmp_path: Path) -> None:
    run_through(Maker(tmp_path).states(), every())
    other = Maker(tmp_path)
    other.backbone.trunk.get_submodule("stem")[2] = torch.nn.LeakyReLU(0.1)
    run_through(other.states(), every())
    assert other.computed == len(ITEMS)
