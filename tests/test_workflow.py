"""The main job from Python, and what no interruption may change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import graft
from graft import records
from graft.bundle import load_bundle
from graft.errors import BundleError, DataError, Interrupted, RunError, TrainingError
from graft.preparation import prepare
from graft.recipe import read_recipe
from graft.runs import Run, choose_run, open_run
from graft.workflow import carry_out, drain
from small import COLOURS, SETTINGS, TinyNet, make_pictures, make_tiny, write_pictures

TESTS = Path(__file__).parent


def recipe_for(photos: Path, **settings: Any) -> Any:
    return read_recipe(**(SETTINGS | settings), data__path=str(photos))


def start(photos: Path, folder: Path, **settings: Any) -> Any:
    """The steps of a run that is about to begin."""
    recipe = recipe_for(photos, **settings)
    return carry_out(prepare(recipe), choose_run(folder, recipe))


def stop_at(steps: Any, kind: type[records.Record], count: int = 1) -> None:
    with pytest.raises(Interrupted):
        for record in steps:
            count -= isinstance(record, kind)
            if not count:
                steps.throw(Interrupted("stop"))


# Without a solved head, where it does not matter: solving takes most of a short run's time.
BRIEF = {"strategy": "full", "head_init": "random", "epochs": 1}


def weights_of(folder: Path) -> bytes:
    return (folder / "bundle" / "weights.safetensors").read_bytes()


# ---------------------------------------------------------------------------------------------
# From Python.


def test_training_on_a_folder_gives_a_bundle_that_predicts(photos: Path, tmp_path: Path) -> None:
    bundle = graft.train(photos, out=tmp_path / "run", quiet=True, **SETTINGS)
    assert bundle.path == tmp_path / "run" / "bundle"
    found = bundle.predict(photos / "red", device="cpu")
    assert [row.label for row in found].count("red") >= 9
    again = load_bundle(tmp_path / "run").predict(photos / "red", device="cpu")
    assert again == found  # probabilities too, temperature included
    told = bundle.metrics
    assert load_bundle(tmp_path / "run").task.temperature == told["calibrated"]["temperature"] != 1.0
    assert {"error_before", "error_after", "loss_before", "loss_after"} <= told["calibrated"].keys()
    assert told["validation"]["ece"] == pytest.approx(told["calibrated"]["error_after"], abs=1e-6)
    assert told["validation"]["ece_uncalibrated"] == pytest.approx(
        told["calibrated"]["error_before"], abs=1e-6
    )
    assert told["selected"]["winner"] in told["selected"]["candidates"]
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == json.loads(
        json.dumps(bundle.metrics)
    )
    assert bundle.metrics["validation"]["n"] == 6
    assert bundle.metrics["probe"]["accuracy"] > 0.5
    assert open_run(tmp_path / "run").finished


def test_training_on_arrays_and_a_network_of_ones_own(tmp_path: Path) -> None:
    labels = [label for label in COLOURS for _ in range(6)]
    pictures = np.concatenate([make_pictures(label, 6, seed=0) for label in COLOURS])
    settings = {key: value for key, value in SETTINGS.items() if key != "backbone"}
    bundle = graft.train(
        (pictures, labels), backbone=make_tiny(), out=tmp_path / "run", quiet=True, **settings
    )
    found = bundle.predict(list(pictures), device="cpu")
    assert np.mean([row.label == label for row, label in zip(found, labels, strict=True)]) > 0.8
    again = load_bundle(tmp_path / "run", factory=TinyNet)
    assert again.predict(list(pictures), device="cpu") == found


def test_the_five_steps_are_what_train_does(photos: Path, tmp_path: Path, finished_run: Path) -> None:
    recipe = recipe_for(photos)
    backbone = graft.load_backbone(recipe)
    splits = graft.read_splits(recipe, backbone)
    plan = graft.make_plan(recipe, backbone, splits)
    trained = graft.fit(backbone, splits, plan)
    bundle = graft.make_bundle(trained.model, splits.task, plan.make_head(), backbone)
    path = bundle.save(tmp_path / "bundle")
    assert (path / "weights.safetensors").read_bytes() == weights_of(finished_run)


@pytest.mark.parametrize("wrong", [{"data": "nowhere"}, {"strategy": "fulll"}, {"backbone": "tiny"}])
def test_what_is_refused_leaves_nothing(tmp_path: Path, photos: Path, wrong: dict[str, Any]) -> None:
    asked = {"data": photos} | SETTINGS | wrong
    with pytest.raises(graft.GraftError):
        graft.train(asked.pop("data"), out=tmp_path / "run", quiet=True, **asked)
    assert not (tmp_path / "run").exists()


def test_a_taken_folder_is_refused_before_anything_is_read(finished_run: Path) -> None:
    with pytest.raises(RunError, match="holds a finished run"):
        graft.train("nowhere", out=finished_run, quiet=True, **SETTINGS)


# ---------------------------------------------------------------------------------------------
# Strategies meet data.


def test_a_run_that_diverged_never_wins(photos: Path, tmp_path: Path) -> None:
    """Without validation data the last weights are kept: where they are ruined, nothing is."""
    settings = {"data__validation": 0.0, "train__lr": 1e37, "train__clip": None, "epochs": 1}
    for split in ("train", "test"):
        write_pictures(tmp_path / "both" / split, dict.fromkeys(COLOURS, 2))
    for place, folder, error, words in (
        ("one", photos, BundleError, "values are not finite"),  # nothing to measure it on
        ("two", tmp_path / "both", TrainingError, "loss on the test split is nan: training diverged"),
    ):
        more = {"train__batch_size": 32, "head_init": "random", "strategy": "full"}
        with pytest.raises(error, match=words):
            drain(start(folder, tmp_path / place, **settings, **more))
        assert not (tmp_path / place / "bundle").exists()


# ---------------------------------------------------------------------------------------------
# Interruptions.


def test_a_finished_run_keeps_no_optimizer_state(finished_run: Path) -> None:
    """Twice the size of what trained; the last checkpoint is whole without it."""
    (checkpoint,) = (finished_run / "checkpoints").iterdir()
    assert load_file(checkpoint / "optimizer.safetensors") == {}
    found = Run(finished_run).checkpoints.newest()
    assert found is not None and found.model


def test_resuming_a_finished_run_gives_its_bundle(finished_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    bundle = graft.resume(finished_run, quiet=True)
    assert bundle.path == finished_run / "bundle"
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before


@pytest.mark.parametrize(
    ("kind", "count"), [(records.Extracted, 1), (records.Validated, 1), (records.Stepped, 4)]
)
def test_an_interrupted_run_ends_like_a_whole_one(
    photos: Path, tmp_path: Path, finished_run: Path, kind: type[records.Record], count: int
) -> None:
    expected = json.loads((finished_run / "result.json").read_text())
    stop_at(start(photos, tmp_path / "run"), kind, count)
    assert not (tmp_path / "run" / "bundle").exists()
    with pytest.raises(RunError, match="unfinished run: go on with graft resume"):
        graft.train(photos, out=tmp_path / "run", quiet=True, **SETTINGS)
    bundle = graft.resume(tmp_path / "run", quiet=True)
    assert weights_of(tmp_path / "run") == weights_of(finished_run)
    for key in ("validation", "probe"):
        assert json.loads(json.dumps(bundle.metrics[key])) == expected[key]
    logs = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (finished_run, tmp_path / "run")
    ]
    told = [[line for line in log if line["record"] in ("stepped", "validated")] for log in logs]
    assert told[0] == told[1]


def test_changed_data_is_refused(photos: Path, tmp_path: Path) -> None:
    stop_at(start(photos, tmp_path / "run", **BRIEF), records.Stepped)
    moved = photos / "red" / "003.png"
    moved.rename(tmp_path / "aside.png")
    with pytest.raises(RunError, match=r"data changed.*red/003.png"):
        graft.resume(tmp_path / "run", quiet=True)
    (tmp_path / "aside.png").rename(moved)
    assert graft.resume(tmp_path / "run", quiet=True).path == tmp_path / "run" / "bundle"


def test_changed_weights_are_refused(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(start(photos, tmp_path / "run", **BRIEF), records.Stepped)
    backbone = make_tiny()
    with torch.no_grad():
        backbone.trunk.stem[0].weight.add_(1e-6)
    changed = graft.from_module(TinyNet(), preprocess=backbone.preprocess)
    monkeypatch.setattr("graft.preparation.load_any_backbone", lambda _: changed)
    with pytest.raises(
        RunError, match=r"is not the network that .*run began with \(tiny/net:own: its weights"
    ):
        graft.resume(tmp_path / "run", quiet=True)


def test_missing_data_is_one_error(photos: Path, tmp_path: Path) -> None:
    stop_at(start(photos, tmp_path / "run", **BRIEF), records.Stepped)
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no folder or table"):
        graft.resume(tmp_path / "run", quiet=True)


def test_a_run_in_use_is_refused(photos: Path, tmp_path: Path) -> None:
    steps = start(photos, tmp_path / "run", **BRIEF)
    next(steps)
    with pytest.raises(RunError, match="in use by another run"):
        graft.resume(tmp_path / "run", quiet=True)
    steps.close()
    graft.resume(tmp_path / "run", quiet=True)


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    photos: Path, tmp_path: Path, finished_run: Path
) -> None:
    steps = start(photos, tmp_path / "run")
    for record in steps:
        if isinstance(record, records.Stepped):
            break

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TrainingError, match=r"the disk is full.*graft resume"):
            for _ in steps:
                pass
    assert not (tmp_path / "run" / "bundle").exists()
    graft.resume(tmp_path / "run", quiet=True)
    assert weights_of(tmp_path / "run") == weights_of(finished_run)


@pytest.mark.parametrize("turn", [1, 2, 4, 6, 7, 9])
def test_a_disk_that_is_full_from_the_start_is_one_error(photos: Path, tmp_path: Path, turn: int) -> None:
    recipe = recipe_for(photos, **BRIEF)
    prepared, calls, original = prepare(recipe), [], os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == turn:
            raise OSError(28, "No space left on device")
        original(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TrainingError, match="the disk is full"):
            drain(carry_out(prepared, Run(tmp_path / "run")))
    bundle = drain(carry_out(prepared, Run(tmp_path / "run")))
    assert bundle.path == tmp_path / "run" / "bundle"


# One process imports graft once and forks a child for every attempt: importing takes longer than a run.
KILLER = """
import os, random, signal, sys, time
sys.path.insert(0, {tests!r})
import small
import torch
torch.set_num_threads(1)
from graft import state
from graft.stepping import Stepper
from graft.recipe import read_recipe
from graft.runs import Run
from graft.preparation import prepare, prepare_again
from graft.workflow import carry_out, drain
import torch.utils.tensorboard

state.SAVE_SHARE = float("inf")
state.SAVE_EVERY = 0.0  # a checkpoint after every step: kills meet saves
photos, folder = sys.argv[1:3]
recipe = read_recipe(**small.SETTINGS, train__augmentation="light", train__lr=5e-3, data__path=photos)

def attempt(name):
    child = os.fork()
    if not child:
        try:
            run = Run(__import__("pathlib").Path(folder) / name)
            drain(carry_out(prepare_again(run) if run.begun else prepare(recipe), run))
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
        os._exit(1)
    return child

prepare(recipe)  # imports what is left
assert os.waitpid(attempt("whole"), 0)[1] == 0
dice, kills, log = random.Random(int(sys.argv[3])), 0, os.path.join(folder, "run", "metrics.jsonl")
for target in (dice.randint(1, 7), dice.randint(6, 10), dice.randint(9, 13), None):
    child = attempt("run")
    while target is not None:  # until the log has so many lines, and a moment more
        if os.path.exists(log) and open(log).read().count("\\n") >= target:
            time.sleep(dice.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.001)
    status = os.waitpid(child, 0)[1]
    kills += os.WIFSIGNALED(status)
    assert os.WIFSIGNALED(status) or status == 0, status
print("kills", kills, flush=True)

# Ctrl-C once, in the middle of an epoch, to the command.
folder = os.path.join(folder, "asked")
child = os.fork()
if not child:
    os.dup2(os.open(folder + ".err", os.O_WRONLY | os.O_CREAT), 2)
    step = Stepper.step
    def slow(*arguments):
        time.sleep(0.2)
        return step(*arguments)
    Stepper.step = slow
    words = "--backbone tiny/net --strategy two-phase --device cpu --epochs 2 --set train.batch_size=8"
    words += " --set train.precision=fp32 --set train.augmentation=light --set train.lr=5e-3"
    sys.argv = ["graft", "train", photos, "--out", folder, *words.split()]
    from graft.cli import main
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    sys.stderr.flush()
    os._exit(code)
log = os.path.join(folder, "metrics.jsonl")
while not os.path.exists(log) or "stepped" not in open(log).read():
    time.sleep(0.001)
os.kill(child, signal.SIGINT)
print("code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """One run whole, one killed three times, one asked to stop; and what was said of them."""
    if not hasattr(os, "fork"):
        pytest.skip("children that are forked are needed")
    folder = tmp_path_factory.mktemp("attempts")
    photos = write_pictures(folder / "photos", dict.fromkeys(COLOURS, 10))
    script = folder / "killer.py"
    script.write_text(KILLER.format(tests=str(TESTS)))
    done = subprocess.run(
        [sys.executable, str(script), str(photos), str(folder), str(os.getpid())],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout.splitlines()


def test_a_run_killed_at_random_moments_ends_bit_for_bit_like_a_whole_one(
    attempts: tuple[Path, list[str]],
) -> None:
    folder, said = attempts
    assert {"kills 2", "kills 3"} & set(said)
    assert weights_of(folder / "run") == weights_of(folder / "whole"), f"seed {os.getpid()}"
    whole, run = (load_file(folder / name / "bundle" / "golden.safetensors") for name in ("whole", "run"))
    assert torch.equal(whole["logits"], run["logits"])
    assert len(list((folder / "run" / "checkpoints").iterdir())) == 1
    assert not list((folder / "run").glob(".*"))


def test_ctrl_c_once_finishes_the_step_saves_and_exits_with_130(attempts: tuple[Path, list[str]]) -> None:
    folder, said = attempts
    words = (folder / "asked.err").read_text()
    assert said[-1] == "code 130", words
    advice = f"graft resume {folder / 'asked'}."
    assert words == f"graft: Interrupted; the run is saved: go on with {advice}\n"
    assert not (folder / "asked" / "bundle").exists()
    graft.resume(folder / "asked", quiet=True)
    assert weights_of(folder / "asked") == weights_of(folder / "whole")
