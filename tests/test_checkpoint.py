"""Checkpoints: whole or absent, the newest whole one is used, and a failed save harms nothing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graft import checkpoint as module
from graft.checkpoint import (
    Checkpoint,
    Checkpoints,
    Position,
    copy_tensors,
    load_optimizer,
    optimizer_tensors,
)
from graft.errors import RunError, TrainingError
from small import make_pipe

TENSORS = ["model", "optimizer", "best", "average", "start", "seen"]
FILES = [*(f"{name}.safetensors" for name in TENSORS), "state.json"]


def make_checkpoint(saves: int, size: int = 7) -> Checkpoint:
    position = Position(
        phase=1,
        epoch=2,
        step=3,
        loss_sum=0.1 + 0.2,
        leaders=[{"score": 1 / 3, "epoch": 1.0}, {"score": 2 / 3, "epoch": 0.0}],
        adapted=["stem"],
        selected={"winner": "best", "candidates": {"best": {"loss": 1 / 3, "gain": None}}},
        calibrated={"temperature": 2 / 3, "thresholds": None},
        saves=saves,
    )
    values = {"a": torch.full((size,), saves / 3), "n": torch.tensor(saves)}
    return Checkpoint(
        position,
        values,
        {"step::a": torch.tensor(2.0)},
        {"0::a": torch.zeros(2, 3), "1::a": torch.ones(2, 3)},
        {"a": torch.full((2,), 1 / 7)},
        {"head": torch.full((2,), 1 / 9)},
    )


def same(one: Checkpoint | None, two: Checkpoint) -> bool:
    if one is None or one.position != two.position:
        return False
    pairs = [(getattr(one, name), getattr(two, name)) for name in TENSORS]
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "run")


@pytest.fixture
def two(checkpoints: Checkpoints, tmp_path: Path) -> Checkpoints:
    """Two checkpoints in one folder, as a kill between save and clean-up leaves them."""
    checkpoints.save(make_checkpoint(1))
    shutil.copytree(checkpoints.folder / "00000001", tmp_path / "kept")
    checkpoints.save(make_checkpoint(2))
    (tmp_path / "kept").rename(checkpoints.folder / "00000001")
    return checkpoints


def test_what_is_saved_is_what_is_read(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None
    for saves in (9, 10, 11):
        checkpoints.save(make_checkpoint(saves))
        assert same(checkpoints.newest(), make_checkpoint(saves))
        assert [path.name for path in checkpoints.folder.iterdir()] == [f"{saves:08d}"]


def test_the_newest_is_told_by_its_number_not_by_its_time(two: Checkpoints) -> None:
    os.utime(two.folder / "00000002", (1, 1))
    assert same(two.newest(), make_checkpoint(2))


def test_the_next_phase_knows_what_the_run_knows_and_begins_anew() -> None:
    position = Position(
        phase=1,
        epoch=3,
        step=2,
        epochs_before=4,
        validated=True,
        loss_sum=1.0,
        leaders=[{"score": 1.0}],
        waited=2,
        saves=5,
        records=6,
        solved={"loss": 1.0},
        ends=[{"number": 1}],
        adapted=["stem"],
        selected={"winner": "best"},
        calibrated={"temperature": 2.0},
        seconds=7.0,
    )
    anew = {"epoch": 0, "step": 0, "validated": False, "loss_sum": 0.0, "leaders": [], "waited": 0}
    assert position.next_phase() == replace(position, phase=2, epochs_before=7, **anew)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 1  # in the tensors: the header is another matter
    file.write_bytes(data)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty, Path.unlink], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", FILES)
def test_where_the_newest_is_damaged_the_one_before_is_used(
    two: Checkpoints, name: str, damage: Callable[[Path], Any]
) -> None:
    damage(two.folder / "00000002" / name)
    assert same(two.newest(), make_checkpoint(1))
    two.save(make_checkpoint(2))  # in place of the damaged one
    assert same(two.newest(), make_checkpoint(2))
    damage(two.folder / "00000002" / name)
    with pytest.raises(RunError, match=r"No checkpoint of this run can be read:\n.*00000002"):
        two.newest()


def test_a_position_that_was_changed_is_found_out(checkpoints: Checkpoints) -> None:
    checkpoints.save(make_checkpoint(1))
    state = checkpoints.folder / "00000001" / "state.json"
    for old, new in (('"step": 3', '"step": 4'), ('"position"', '"positron"'), ('"files"', '"flies"')):
        text = state.read_text()
        assert old in text
        state.write_text(text.replace(old, new))
        with pytest.raises(RunError, match="damaged"):
            checkpoints.newest()
        state.write_text(text)
    for text in ("[]", "{}", '"x"', "1"):
        state.write_text(text)
        with pytest.raises(RunError, match="damaged"):
            checkpoints.newest()


def test_a_checkpoint_of_another_run_is_refused(checkpoints: Checkpoints) -> None:
    checkpoints.save(make_checkpoint(1))
    with pytest.raises(RunError, match=r"belongs to another run \(run\)"):
        Checkpoints(checkpoints.folder, "another").newest()


def test_nothing_in_a_checkpoint_is_unpickled(checkpoints: Checkpoints) -> None:
    checkpoints.save(make_checkpoint(1))
    for name in FILES:
        torch.save({"a": torch.ones(1)}, checkpoints.folder / "00000001" / name)
    with pytest.raises(RunError, match="No checkpoint"):
        checkpoints.newest()


STEPS = ["fsync", "mkdtemp", "rename", "replace", "save_file"]


def break_at(patch: pytest.MonkeyPatch, step: str, turn: int) -> list[str]:
    """Let the ``turn``-th call of a step of saving fail; the list tells which calls were made."""
    calls: list[str] = []
    owner: Any = {"fsync": os, "mkdtemp": tempfile, "save_file": module}.get(step, Path)
    original = getattr(owner, step)

    def fail(*args: Any, **more: Any) -> Any:
        calls.append(step)
        if len(calls) == turn:
            raise OSError(errno.EIO, "Input/output error")
        return original(*args, **more)

    patch.setattr(owner, step, fail)
    return calls


@pytest.mark.parametrize("step", STEPS)
def test_a_save_that_fails_at_any_step_leaves_the_old_or_the_new_whole(tmp_path: Path, step: str) -> None:
    for turn in range(1, 100):
        checkpoints = Checkpoints(tmp_path / str(turn), "run")
        checkpoints.save(make_checkpoint(1))
        with pytest.MonkeyPatch.context() as patch:
            calls = break_at(patch, step, turn)
            try:
                checkpoints.save(make_checkpoint(2))
            except TrainingError as error:
                assert "Input/output error" in str(error)
                assert "graft resume" in str(error)
        found = checkpoints.newest()
        if len(calls) < turn:  # this step has no so many calls: nothing failed
            assert same(found, make_checkpoint(2))
            assert turn > 1, "the step never ran"
            return
        assert same(found, make_checkpoint(1)) or same(found, make_checkpoint(2))
        names = {path.name for path in checkpoints.folder.iterdir()}
        assert names <= {"00000001", "00000002"}
        checkpoints.save(make_checkpoint(3))
        assert same(checkpoints.newest(), make_checkpoint(3))
        assert [path.name for path in checkpoints.folder.iterdir()] == ["00000003"]
    raise AssertionError("a save has no hundred steps")


def test_what_a_killed_save_left_is_cleared_away_by_the_next(checkpoints: Checkpoints) -> None:
    left = checkpoints.folder / ".00000001.abcdefgh"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"x" * 1000)
    assert checkpoints.newest() is None
    checkpoints.save(make_checkpoint(1))
    assert [path.name for path in checkpoints.folder.iterdir()] == ["00000001"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def check_full_disk(checkpoints: Checkpoints, save: Callable[[], None]) -> None:
    with pytest.raises(TrainingError, match="the disk is full") as error:
        save()
    assert "The one before it is intact" in str(error.value)
    assert same(checkpoints.newest(), make_checkpoint(1))
    assert [path.name for path in checkpoints.folder.iterdir()] == ["00000001"]


def test_a_full_disk_leaves_the_checkpoint_before(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk / "checkpoints", "run")
    checkpoints.save(make_checkpoint(1))
    for size in (100_000, 65_000, 60_000):  # where in the file the disk ends
        check_full_disk(checkpoints, lambda size=size: checkpoints.save(make_checkpoint(2, size)))


@pytest.mark.parametrize("turn", range(1, 5))
def test_a_disk_that_fills_up_while_flushing(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    checkpoints.save(make_checkpoint(1))
    calls = []
    original = os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == turn:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    check_full_disk(checkpoints, lambda: checkpoints.save(make_checkpoint(2)))


# ---------------------------------------------------------------------------------------------
# The optimiser's state.

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
}


def make_network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    return network.to(memory_format=torch.channels_last)


def take_steps(network: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for number in range(count):
        pictures = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(number))
        network(pictures).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def names_of(network: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimiser_goes_on_where_it_stood(checkpoints: Checkpoints, kind: str) -> None:
    network = make_network()
    optimizer = OPTIMIZERS[kind](network.parameters())
    take_steps(network, optimizer, 3)
    state = optimizer_tensors(optimizer, names_of(network))
    checkpoints.save(Checkpoint(Position(saves=1), copy_tensors(dict(network.state_dict())), state))
    take_steps(network, optimizer, 2)

    found = checkpoints.newest()
    assert found is not None
    again = make_network()
    again.load_state_dict(found.model)
    other = OPTIMIZERS[kind](again.parameters())
    load_optimizer(other, found.optimizer, dict(again.named_parameters()))
    take_steps(again, other, 2)
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    mine, theirs = (
        optimizer_tensors(optimizer, names_of(network)),
        optimizer_tensors(other, names_of(again)),
    )
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_state_of_what_no_longer_trains_is_left_out() -> None:
    network = make_network()
    optimizer = torch.optim.AdamW(network.parameters())
    take_steps(network, optimizer, 1)
    state = optimizer_tensors(optimizer, names_of(network))
    later = torch.optim.AdamW(network[2].parameters())
    load_optimizer(later, state, dict(network.named_parameters()))
    assert {names_of(network)[parameter] for parameter in later.state} == {"2.weight", "2.bias"}


def test_copies_are_of_their_own() -> None:
    value = torch.zeros(2, 3).t()
    copied = copy_tensors({"a": value})["a"]
    value += 1
    assert copied.is_contiguous()
    assert torch.equal(copied, torch.zeros(3, 2))


@pytest.mark.odd_input("Training")
def test_a_checkpoint_with_a_pipe_or_a_link_out_of_it_is_passed_over(tmp_path: Path) -> None:
    """A checkpoint with a pipe, a device or a link out of its folder in place of a file: `resume` takes
    the one before it, or says so; it never waits."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", "run")
    checkpoints.save(Checkpoint(Position(saves=1), {"a": torch.zeros(2)}))
    (folder,) = checkpoints.folder.iterdir()
    for name in ("state.json", "model.safetensors"):
        whole = (folder / name).rename(tmp_path / name)
        make_pipe(folder / name)
        with pytest.raises(RunError, match="no regular file"):
            checkpoints.newest()
        (folder / name).unlink()
        if name != "state.json":
            (folder / name).symlink_to(whole)
            with pytest.raises(RunError, match="link out of"):
                checkpoints.newest()
            (folder / name).unlink()
        whole.rename(folder / name)
    assert checkpoints.newest() is not None
