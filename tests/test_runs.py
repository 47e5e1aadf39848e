"""Runs: one folder each, held by one process, and refused with words that say what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from graft import records
from graft.backbones.contract import Backbone
from graft.bundle import load_bundle
from graft.data import read_splits
from graft.data.items import Splits
from graft.diagnosis.training_checks import Watch
from graft.errors import RunError
from graft.networks import open_network
from graft.plan import VERSION, Plan, make_plan
from graft.recipe import DataSettings, Recipe, read_recipe
from graft.run_log import Log
from graft.runs import _WRITTEN, Run, begin, choose_run, locked, name_by_time, open_run, point_latest
from small import COLOURS, SETTINGS, make_tiny, write_pictures

RECIPE = read_recipe(**SETTINGS, data__path="/some/photos")


@pytest.fixture
def plan(backbone: Backbone, splits: Splits) -> Plan:
    return make_plan(RECIPE, backbone, splits)


@pytest.fixture
def begun(tmp_path: Path, plan: Plan, splits: Splits) -> Run:
    run = Run(tmp_path / "runs" / "one")
    with locked(run):
        begin(run, RECIPE, plan, splits)
    return run


def test_a_run_remembers_what_it_is(begun: Run, plan: Plan, splits: Splits) -> None:
    found = open_run(begun.folder)
    assert found.begun
    assert not found.finished
    assert found.recipe == RECIPE
    assert found.plan == plan
    found.check_data(splits)
    assert found.checkpoints.newest() is None
    assert found.checkpoints.run == begun.checkpoints.run


def test_paths_are_kept_whole_for_who_resumes_from_another_folder(
    tmp_path: Path, plan: Plan, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "own").mkdir(parents=True)
    parts = {"data__train": ".", "data__val": ["own", "far"], "data__test": "far"}
    recipe = read_recipe(data__path="photos", weights="w.pth", backbone="hf/./net", **parts)
    run = Run(Path("run"))
    with locked(run):
        begin(run, recipe, plan, splits)
    kept = open_run("run").recipe
    assert kept.data.path == str(tmp_path / "photos")
    far = str(tmp_path / "far")
    assert (kept.data.train, kept.data.val, kept.data.test) == (".", ("own", far), far)
    assert kept.weights == str(tmp_path / "w.pth")
    assert kept.backbone == f"hf/{tmp_path / 'net'}"


def touch(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text("{}")


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (touch("result.json"), "{} holds a finished run; name a new folder with --out."),
        (
            touch("recipe.json"),
            "{} holds an unfinished run: go on with graft resume {}, or name a new folder with --out.",
        ),
        (touch("cat.jpg"), "{} is not empty (cat.jpg); name a new folder with --out."),
        (touch(".hidden"), "{} is not empty (.hidden); name a new folder with --out."),
    ],
    ids=["finished", "unfinished", "foreign", "hidden"],
)
def test_a_folder_that_holds_something_is_refused(
    tmp_path: Path, left: Callable[[Path], object], words: str
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    left(folder)
    with pytest.raises(RunError) as error:
        choose_run(folder, RECIPE)
    assert str(error.value) == words.format(folder, folder)


def test_a_file_is_no_folder_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(RunError, match=r"is a file; name a new folder with --out"):
        choose_run(tmp_path / "run", RECIPE)
    with pytest.raises(RunError, match="cannot be made"), locked(Run(tmp_path / "run" / "below")):
        pass


def test_choosing_writes_nothing_and_an_empty_folder_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert choose_run("empty", RECIPE).folder == Path("empty")
    assert choose_run("new/one", RECIPE).folder == Path("new/one")
    named = choose_run(None, replace_strategy("partial:2")).folder
    assert named.parent == Path("runs")
    assert named.name.endswith("-photos-partial2")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def replace_strategy(name: str) -> Recipe:
    return RECIPE.model_copy(update={"strategy": name})


@pytest.mark.odd_input("Files and streams")
def test_runs_that_begin_at_once_have_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several runs without `--out` begun in the same second: each has a folder of its own in `runs/`."""
    monkeypatch.chdir(tmp_path)
    chosen = [choose_run(None, RECIPE) for _ in range(5)]  # all of them before any is begun
    with ExitStack() as stack:
        names = [stack.enter_context(locked(run)).folder for run in chosen]
        assert len(set(names)) == 5
    assert all((name / "lock").is_file() for name in names)
    assert {name.parent for name in names} == {Path("runs")}


@pytest.mark.odd_input("Systems")
@given(data=st.text(max_size=300), strategy=st.sampled_from(["partial:2", "stages:a*,b?", "full"]))
def test_names_of_runs_are_valid_on_every_system(data: str, strategy: str) -> None:
    """Data whose name holds characters that some systems refuse: the run's folder is named without them."""
    name = name_by_time(data, strategy).name
    assert not re.search(r'[<>:"/\\|?*\x00-\x1f\ud800-\udfff]', name)
    assert len(name.encode()) < 255 - len(".recipe.json.12345678")
    assert name == name.rstrip(". ")


@pytest.mark.parametrize("stop", ["data.json", "plan.json", "recipe.json"])
def test_a_beginning_that_was_killed_can_be_begun_again(
    tmp_path: Path, plan: Plan, splits: Splits, stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it writes ``stop``: what came before is there, and a temporary file."""
    run = Run(tmp_path / "run")
    original = Path.replace

    class Killed(BaseException):
        pass

    def replace_or_die(self: Path, target: Path) -> Path:
        if Path(target).name == stop:
            raise Killed
        return original(self, target)

    with monkeypatch.context() as patch, pytest.raises(Killed), locked(run):
        patch.setattr(Path, "replace", replace_or_die)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process clears nothing away
        begin(run, RECIPE, plan, splits)
    assert any(path.name.startswith(f".{stop}.") for path in run.folder.iterdir())
    again = choose_run(run.folder, RECIPE)
    assert not again.begun
    with locked(again):
        begin(again, RECIPE, plan, splits)
    assert open_run(run.folder).plan == plan
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "data.json",
        "lock",
        "plan.json",
        "recipe.json",
    ]


@pytest.mark.odd_input("Files and streams")
@given(name=st.sampled_from(sorted(_WRITTEN)), end=st.from_regex(r"[a-z0-9_]{8}", fullmatch=True))
def test_leftovers_of_an_interrupted_write_block_no_folder(name: str, end: str) -> None:
    """What an interrupted write left in a run's folder (`lock`, `.plan.json.k3x9_a2b`): the folder can be
    used, and the leftover is removed."""
    with tempfile.TemporaryDirectory() as folder:
        run, left = Run(Path(folder)), Path(folder) / f".{name}.{end}"
        (run.folder / "lock").touch()
        left.mkdir() if "." not in name else left.touch()
        assert choose_run(run.folder, RECIPE) == run
        with locked(run):
            assert [path.name for path in run.folder.iterdir()] == ["lock"]


def test_what_a_killed_process_left_is_cleared_away(begun: Run) -> None:
    (begun.folder / ".bundle.abcd_123").mkdir()
    (begun.folder / ".bundle.abcd_123" / "weights.safetensors").write_bytes(b"x")
    (begun.folder / ".result.json.abcd_123").write_bytes(b"x")
    with locked(begun):
        assert not list(begun.folder.glob(".*"))


def test_what_others_left_in_a_run_stays(begun: Run, tmp_path: Path) -> None:
    """Files of editors, copies, and links, which may lead anywhere."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "mine").touch()
    (begun.folder / ".bundle.abcd_123").symlink_to(tmp_path / "far")
    (begun.folder / ".report.old").mkdir()
    for name in (".mine", ".plan.json.swp", ".plan.json.Original"):
        (begun.folder / name).touch()
    before = {path.name for path in begun.folder.iterdir()}
    with locked(begun):
        assert {path.name for path in begun.folder.iterdir()} == before
    assert (tmp_path / "far" / "mine").exists()


def test_a_leftover_that_cannot_be_removed_blocks_nothing(
    begun: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("busy")

    (begun.folder / ".bundle.abcd_123").mkdir()
    monkeypatch.setattr(shutil, "rmtree", refuse)
    with locked(begun):
        pass


def test_who_was_slower_is_refused(begun: Run, plan: Plan, splits: Splits) -> None:
    before = (begun.folder / "data.json").read_bytes()
    with pytest.raises(RunError, match="unfinished run"):
        begin(begun, RECIPE, plan, splits)
    assert (begun.folder / "data.json").read_bytes() == before


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_what_is_no_run_cannot_be_opened(tmp_path: Path, place: str) -> None:
    with pytest.raises(RunError, match=r"is not a run: it holds no recipe.json. graft train begins one"):
        open_run(tmp_path / place)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"run": 3}'])
def test_damaged_files_of_a_run_are_named(begun: Run, splits: Splits, text: str) -> None:
    (begun.folder / "plan.json").write_text(text)
    with pytest.raises(RunError, match=r"plan\.json"):
        _ = begun.plan
    (begun.folder / "data.json").write_text(text)
    with pytest.raises(RunError, match=r"data\.json"):
        begun.check_data(splits)


def test_a_plan_of_another_version_is_refused(begun: Run) -> None:
    """Before its values are looked at: another version may have others."""
    for version in (1, VERSION + 1):
        (begun.folder / "plan.json").write_text(json.dumps({"version": version, "unheard": 1}))
        words = (
            rf"plan\.json is a plan of version {version}, .*expects version {VERSION}: go on with the graft"
        )
        with pytest.raises(RunError, match=words):
            _ = begun.plan


def test_a_run_is_held_by_one_process_at_a_time(begun: Run) -> None:
    with locked(begun):
        words = "in use by another run; wait for it, or name another"
        with pytest.raises(RunError, match=words), locked(begun):
            pass
    with locked(begun):
        pass


def test_a_killed_process_gives_its_run_free(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    code = (
        "import sys, time, filelock\nlock = filelock.FileLock(sys.argv[1])\nlock.acquire()\n"
        "print('held', flush=True)\ntime.sleep(60)"
    )
    run.folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run.folder / "lock")], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(RunError, match="in use"), locked(run):
            pass
        holder.send_signal(signal.SIGKILL)
    with locked(run):
        pass


# ---------------------------------------------------------------------------------------------
# Data that changed.


def read(photos: Path) -> Splits:
    return read_splits(photos, DataSettings(validation=0.0))


def begin_on(photos: Path, folder: Path) -> Run:
    run, splits = Run(folder), read(photos)
    with locked(run):
        begin(run, RECIPE, make_plan(RECIPE, make_tiny(), splits), splits)
    return run


def test_what_changed_in_the_data_is_named(photos: Path, tmp_path: Path) -> None:
    run = begin_on(photos, tmp_path / "run")
    run.check_data(read(photos))
    (photos / "red" / "000.png").unlink()
    (photos / "red" / "001.png").rename(photos / "blue" / "moved.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(photos / "green" / "005.png")
    with pytest.raises(RunError) as error:
        run.check_data(read(photos))
    text = str(error.value)
    assert "2 removed: train/red/000.png, train/red/001.png" in text
    assert "1 added: train/blue/moved.png" in text
    assert "1 changed: train/green/005.png" in text
    assert "Restore the data, or begin a new run" in text


def test_a_picture_with_another_label_or_split_is_a_change(splits: Splits, begun: Run) -> None:
    targets = splits.train.targets
    assert targets is not None
    relabelled = replace(splits.train, targets=(targets + 1) % 3)
    now = replace(splits, train=relabelled, fingerprint="other")
    with pytest.raises(RunError, match="24 changed: "):
        begun.check_data(now)
    with pytest.raises(RunError, match="6 removed: val/"):
        begun.check_data(replace(splits, val=None, fingerprint="other"))


def test_where_the_data_lies_and_when_it_was_touched_is_no_change(photos: Path, tmp_path: Path) -> None:
    run = begin_on(photos, tmp_path / "run")
    moved = photos.rename(tmp_path / "elsewhere")
    os.utime(moved / "red" / "000.png", (1, 1))
    run.check_data(read(moved))


# ---------------------------------------------------------------------------------------------
# latest, and the log.


def test_latest_is_the_run_begun_last_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/one", "runs/two", "elsewhere/three"):
        run = Run(Path(name))
        run.folder.mkdir(parents=True)
        (run.folder / "recipe.json").write_text("{}")
        point_latest(run)
        assert open_run(Path("runs/latest")).folder == run.folder.resolve()
    assert not Path("runs/latest").readlink().is_absolute()
    assert sorted(path.name for path in Path("runs").iterdir()) == ["latest", "one", "two"]
    assert [path.name for path in Path("elsewhere").iterdir()] == ["three"]


@pytest.mark.odd_input("Systems")
def test_latest_without_symbolic_links(
    tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No symbolic links (Windows): `runs/latest` is a text file with the run's path, and works as a folder
    does in every command."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    runs = tmp_path / "runs"
    shutil.copytree(finished_run, runs / "two")
    (runs / "one").mkdir(parents=True)
    for name in ("one", "two"):
        point_latest(Run(runs / name))
    latest = runs / "latest"
    assert latest.is_file() and latest.read_text() == "graft-folder: two\n"
    assert open_run(latest).folder == runs / "two"
    assert load_bundle(latest).path == load_bundle(latest / "bundle").path == runs / "two" / "bundle"
    assert open_network(str(latest)).values
    assert sorted(path.name for path in runs.iterdir()) == ["latest", "one", "two"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_called_latest_but_is_no_link_is_left_alone(tmp_path: Path, kind: str) -> None:
    runs = tmp_path / "runs"
    (runs / "one").mkdir(parents=True)
    (runs / "latest").mkdir() if kind == "folder" else (runs / "latest").write_text("mine")
    point_latest(Run(runs / "one"))
    assert not (runs / "latest").is_symlink()
    assert sorted(path.name for path in runs.iterdir()) == ["latest", "one"]


def stepped(step: int, loss: float = 0.5) -> records.Stepped:
    return records.Stepped(phase=0, epoch=1, step=step, loss=loss, rate=1e-3)


def write_log(run: Run, kept: int, steps: list[int]) -> list[int]:
    log = Log(run.folder, kept)
    for step in steps:
        log.write(stepped(step))
    log.close()
    return [record["step"] for record in run.read_log() if "step" in record]


def test_the_log_goes_on_where_the_checkpoint_stands(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert write_log(run, 0, [1, 2, 3, 4]) == [1, 2, 3, 4]
    with run.log.open("a") as file:
        file.write('{"record": "step')  # cut off by a kill
    assert write_log(run, 2, [3, 4, 5]) == [1, 2, 3, 4, 5]
    assert write_log(run, 0, [1]) == [1]


def refuse(name: str) -> object:
    raise AssertionError(f"{name} is not JSON")


def test_every_line_of_the_log_is_json(tmp_path: Path) -> None:
    run = Run(tmp_path)
    log = Log(run.folder, 0)
    log.write(records.Started(0, "caf\udce9 \n \u2028", 3))
    log.write(records.Extracted(0, 1, 2))  # of no interest afterwards
    log.write(records.Validated(0, 1, 3, float("nan"), 0.5, False, float("inf")))
    log.write(stepped(1))
    log.close()
    lines = [json.loads(line, parse_constant=refuse) for line in run.log.read_text().split("\n")[:-1]]
    assert [line["record"] for line in lines] == ["started", "validated", "stepped"]
    assert lines[1]["loss"] is None


def test_the_log_is_there_at_once_for_whoever_watches(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    log.write(stepped(1))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    log.close()


def test_findings_stand_in_the_log_once_also_after_a_resume(tmp_path: Path) -> None:
    """The spike that 28 steps show is told with the last of them, and again when they are read."""
    losses = [1.0] * 25 + [9.0] * 3
    run = Run(tmp_path)
    for kept, steps in ((0, losses), (27, losses[27:]), (28, [])):
        log = Log(run.folder, kept, watch=Watch())
        told = [
            found for n, loss in enumerate(steps, start=kept + 1) for found in log.write(stepped(n, loss))
        ]
        log.close()
        assert [each.id for each in told] == (["run.spike"] if steps else [])
        kinds = [record["record"] for record in run.read_log()]
        assert kinds == ["stepped"] * 28 + ["found"]
        assert [each["id"] for each in run.findings] == ["run.spike"]


def test_events_for_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = Run(tmp_path)
    log = Log(run.folder, 0)
    for step in (1, 2):
        log.write(stepped(step, loss=step / 2))
    log.write(records.Validated(0, 1, 2, 0.25, 0.75, True, 0.5))
    log.close()
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    scalars = {
        tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in found.Tags()["scalars"]
    }
    assert scalars["phase 1/training/loss"] == [(1, 0.5), (2, 1.0)]
    assert scalars["phase 1/validation/accuracy"] == [(2, 0.75)]


def test_a_folder_of_pictures_alone_is_enough_to_begin(tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "p", dict.fromkeys(COLOURS, 2))
    assert begin_on(photos, tmp_path / "deep" / "er" / "run").begun
