"""Pictures and their loader: views by number, workers that change nothing, errors as ours."""

from __future__ import annotations

import gc
import multiprocessing
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from odd_pictures import colours, small_tree, write_tree

from graft.backbones.contract import Preprocess
from graft.data import dataset
from graft.data.dataset import Pictures, loader, view_seed
from graft.data.image import decode_reduced
from graft.data.pixels import PixelStore
from graft.data.random_views import DRAWN
from graft.data.splits import read_splits
from graft.data.transforms import preprocess
from graft.data.unlabelled import read_items
from graft.errors import DataError, WorkersLost
from graft.recipe import DataSettings

HOW = Preprocess(size=(8, 8), resize=8)


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    root = write_tree(tmp_path / "photos", small_tree(each=3))
    items = read_splits(root, DataSettings(validation=0)).train
    return Pictures(items, HOW, "standard", seed=11)


def test_number_gives_the_evaluation_picture(pictures: Pictures) -> None:
    picture, target, number = pictures[4]
    own = torch.from_numpy(colours(101)).permute(2, 0, 1)  # owl/1.png
    assert pictures.items.ids[4] == "owl/1.png"
    assert torch.equal(picture, preprocess(own, HOW))
    assert (target, number) == (1, 4)
    assert len(pictures) == 6


def test_unlabelled_items_have_target_minus_one(tmp_path: Path) -> None:
    items, _, _ = read_items([write_tree(tmp_path, {"a.png": 1}) / "a.png"])
    assert Pictures(items, HOW)[0][1] == -1


def test_view_depends_on_seed_view_and_content_only(pictures: Pictures) -> None:
    def view(of: Pictures, number: int, view: int) -> torch.Tensor:
        return of[number, view][0]

    assert torch.equal(view(pictures, 2, 7), view(pictures, 2, 7))
    assert not torch.equal(view(pictures, 2, 7), view(pictures, 2, 8))
    other = Pictures(pictures.items, HOW, "standard", seed=12)
    assert not torch.equal(view(pictures, 2, 7), view(other, 2, 7))
    moved = Pictures(pictures.items.select([5, 2]), HOW, "standard", seed=11)
    assert torch.equal(view(pictures, 2, 7), view(moved, 1, 7))


def test_view_seed_is_pinned() -> None:
    """Stored features are keyed by view: these numbers must never change."""
    assert view_seed(0, 0, "ab") == 3504734734842173375
    assert 0 <= view_seed(2**63 - 1, 10**9, "f" * 64) < 2**63


def test_what_is_stored_of_a_view_rests_on_what_its_preset_draws(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identities() -> tuple[str, str, str]:
        light = replace(pictures, preset="light")
        return pictures.identity((0, 1)), pictures.identity(0), light.identity((0, 1))

    before = identities()
    monkeypatch.setitem(DRAWN, "standard", DRAWN["standard"] + 1)
    view, *others = identities()
    assert view != before[0] and others == list(before[1:])


def test_what_is_stored_of_a_view_rests_on_the_list_of_changes(pictures: Pictures) -> None:
    lists = [("flip",), ("flip", "hue"), ("hue", "flip"), ("flip:0.4",)]
    every = [replace(pictures, preset=changes) for changes in lists]
    assert len({each.identity((0, 1)) for each in every}) == len(lists)
    assert len({replace(each, flip=False).identity((0, 1)) for each in every}) == len(lists)
    assert every[0].identity((0, 1)) == replace(every[0], flip=False).identity((0, 1))


def test_a_file_that_is_gone_is_named(pictures: Pictures) -> None:
    Path(pictures.items.sources[3]).unlink()
    with pytest.raises(DataError, match=r"owl/0\.png cannot be read any more: there is no such file"):
        pictures[3]
    with pytest.raises(DataError, match=r"^owl/0\.png cannot"):
        list(loader(pictures, [[0, 3]]))


def test_pixel_cap_is_carried(pictures: Pictures) -> None:
    small = Pictures(replace(pictures.items, max_pixels=63), HOW)
    with pytest.raises(DataError, match="max_megapixels"):
        small[0]


def test_arrays_of_other_channels() -> None:
    how = Preprocess(size=(8, 8), resize=None, mean=(0.0,) * 5, std=(1.0,) * 5)
    data = (np.stack([colours(i, 5) for i in range(4)]), [0, 1, 0, 1])
    items = read_splits(data, DataSettings(channels=5, validation=0)).train
    picture, _, _ = Pictures(items, how)[2]
    assert torch.equal(picture, torch.from_numpy(colours(2, 5)).permute(2, 0, 1) / 255)


def test_batches_come_as_asked_and_again(pictures: Pictures) -> None:
    batches = [[5, 0, 3], [(1, 0), (1, 1)]]
    engine = loader(pictures, batches)
    assert len(engine) == 2
    for _ in range(2):
        first, second = list(engine)
        assert first[0].shape == (3, 3, 8, 8)
        assert first[1].tolist() == [1, 0, 1]
        assert first[2].tolist() == [5, 0, 3]
        assert not torch.equal(second[0][0], second[0][1])


def test_workers_change_nothing_and_errors_come_through(pictures: Pictures) -> None:
    batches = [[(i, 3), (5 - i, 4)] for i in range(6)]
    alone = list(loader(pictures, batches))
    engine = loader(pictures, batches, workers=2)
    for _ in range(2):  # the second time with the same, persistent workers
        for one, other in zip(alone, engine, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    Path(pictures.items.sources[0]).unlink()
    try:
        list(engine)
    except DataError as error:
        text = str(error)
    assert text.startswith("crow/0.png cannot be read any more: there is no such file")
    assert "Traceback" not in text
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    gc.disable()
    try:
        del engine
        assert not any(worker.is_alive() for worker in workers)
    finally:
        gc.enable()


@pytest.mark.odd_input("Processes")
def test_a_worker_that_is_killed_is_one_error_of_ours(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoding worker killed, as a system does that is short of memory: graft saves the steps so far and
    exits with 1; `graft resume RUN --workers 0` goes on without workers."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    before = set(multiprocessing.active_children())
    batches = iter(loader(pictures, [[0, 1]] * 20, workers=1))
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    worker.kill()
    with pytest.raises(WorkersLost, match=r"ended unexpectedly .*train\.workers=0") as error:
        list(batches)
    assert error.value.exit_code == 1


@pytest.mark.odd_input("Systems")
def test_workers_that_are_spawned_decode_the_same(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fork (Windows, macOS): workers are started anew, and decode the same pictures."""
    monkeypatch.setattr(dataset, "sys", SimpleNamespace(platform="win32"))
    assert dataset._context().get_start_method() == "spawn"
    batches = [[(0, 1), (3, 2)]]
    for one, other in zip(loader(pictures, batches, workers=1), loader(pictures, batches), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_worker_leaves_signals_to_its_parent_and_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(dataset, "serve_parent", lambda: called.append("serves"))
    monkeypatch.setattr(dataset.pixel_store, "resize", called.append)
    dataset._start_worker(0)
    assert called == [0, "serves"]


def test_files_are_decoded_in_threads_and_come_as_one_by_one(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    indices = [5, (0, 3), 3, (5, 1)]
    one_by_one = [pictures[index] for index in indices]
    seen: set[str] = set()

    def decode(*given: Any, **more: Any) -> Any:
        seen.add(threading.current_thread().name)
        return decode_reduced(*given, **more)

    monkeypatch.setattr("graft.data.content.decode_reduced", decode)
    monkeypatch.setattr("graft.data.dataset.pixel_store", PixelStore(0))
    ((together, _, numbers),) = loader(pictures, [indices])
    assert torch.equal(together, torch.stack([picture for picture, _, _ in one_by_one]))
    assert numbers.tolist() == [5, 0, 3, 5]
    assert seen and all(name.startswith("read") for name in seen)


def test_what_was_decoded_before_is_taken_without_threads(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.data.dataset.pixel_store", PixelStore(10**9))
    (first,) = loader(pictures, [[0, 1, (2, 1)]])
    monkeypatch.setattr("graft.data.dataset.read_in_threads", None)
    (second,) = loader(pictures, [[0, 1, (2, 1)]])
    assert torch.equal(first[0], second[0])
