"""The command: what it prints, how it exits, and that bad input is one message and no harm."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graft.cli import main
from graft.runs import Run, locked
from small import COLOURS, make_pipe, write_pictures

TINY = ["--backbone", "tiny/net", "--strategy", "two-phase", "--device", "cpu", "--epochs", "2"]
TINY += ["--set", "train.batch_size=8", "--set", "train.precision=fp32"]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What stands on standard output: one JSON object and nothing else."""
        return json.loads(self.out)


Graft = Callable[..., Result]


@pytest.fixture
def graft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Graft:
    monkeypatch.chdir(tmp_path)

    def call(*words: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["graft", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        found = capsys.readouterr()
        return Result(int(end.value.code or 0), found.out, found.err)

    return call


def check_refused(result: Result, words: str, code: int = 2) -> None:
    assert result.code == code, result
    messages = [line for line in result.err.splitlines() if line.startswith("graft: ")]
    assert len(messages) == 1, result.err
    message = result.err[result.err.index("graft: ") :]
    assert words in " ".join(message.split()), message
    assert "Traceback" not in result.err
    assert result.out == ""


# ---------------------------------------------------------------------------------------------
# Every verb.


def test_train_then_everything_with_json(graft: Graft, photos: Path, tmp_path: Path) -> None:
    made = graft("train", photos, *TINY, "--out", "run", "--seed", "3", "--json")
    assert made.code == 0
    assert made.json["run"] == "run"
    assert made.json["bundle"] == "run/bundle"
    assert made.json["validation"]["n"] == 6
    assert {"seconds", "frozen_unchanged", "probe"} <= made.json.keys()
    assert "two-phase" in made.err  # the plan is shown, beside the JSON
    plan = json.loads(Path("run/plan.json").read_text())
    assert plan["seed"] == 3
    assert plan["phases"][1]["train"]["epochs"] == 2

    told = graft("plan", photos, *TINY, "--seed", "3", "--json")
    assert told.code == 0
    costs = told.json["costs"]
    assert {key: value for key, value in told.json.items() if key != "costs"} == plan
    assert [costs[str(number)]["seconds"] > 0 for number in (1, 2, 3, 4)] == [True] * 4

    test = write_pictures(tmp_path / "test", dict.fromkeys(COLOURS, 4), seed=9)
    scores = graft("evaluate", "run", test, "--json", "--device", "cpu")
    assert scores.code == 0
    assert {"accuracy", "loss", "per_class", "n"} <= scores.json.keys()
    assert scores.json["n"] == 12
    assert not scores.json["problems"]
    assert set(scores.json["per_class"]) == set(COLOURS)

    rows = graft("predict", "run", test / "red", "--json", "--device", "cpu").json["predictions"]
    assert [set(row) for row in rows] == [{"id", "label", "probability", "probabilities"}] * 4

    again = graft("resume", "run", "--json")
    assert again.code == 0
    assert again.json == made.json
    assert "nothing is left to do" in again.err


def test_tables_for_people(graft: Graft, finished_run: Path, photos: Path) -> None:
    assert "red" in graft("predict", finished_run, photos / "red", "--device", "cpu").out
    measured = graft("evaluate", finished_run, photos, "--device", "cpu")
    assert "Accuracy" in measured.out
    assert "trained this model" in " ".join(measured.err.split())  # these are its own pictures
    assert "two-phase" in graft("plan", photos, *TINY).out
    assert "nothing is left to do" in graft("resume", finished_run).out
    assert not Path("runs").exists()


def test_a_run_needs_no_name(graft: Graft, photos: Path) -> None:
    assert graft("train", photos, *TINY, "--strategy", "probe").code == 0
    assert graft("predict", "runs/latest", photos / "red" / "000.png", "--device", "cpu").code == 0


def test_a_name_that_looks_like_markup(graft: Graft, photos: Path) -> None:
    result = graft("train", photos, *TINY, "--strategy", "probe", "--out", "a [", "--seed", "1")
    assert result.code == 0
    for name in ("[b]x[", "[green]"):
        result = graft("train", photos, *TINY, "--strategy", "probe", "--out", name)
        assert result.code == 0
        assert f"The bundle is {name}/bundle; the run, {name}." in result.out
        assert f"{name} is finished" in graft("resume", name).out


def test_formats_and_files_of_predictions(graft: Graft, finished_run: Path, photos: Path) -> None:
    where = [finished_run, photos / "red", "--device", "cpu"]
    lines = graft("predict", *where, "--format", "jsonl").out.splitlines()
    assert [json.loads(line)["label"] for line in lines].count("red") >= 9
    assert graft("predict", *where, "--format", "csv").out.startswith("id,label,probability,error,blue,")
    assert graft("predict", *where, "--format", "csv", "--out", "x.csv").out == ""
    assert len(Path("x.csv").read_text().splitlines()) == 11
    check_refused(graft("predict", *where, "--format", "xml"), "table, jsonl or csv")
    check_refused(graft("predict", *where, "--set", "data.max_value=9"), "no effect here: data.max_value")
    check_refused(graft("predict", *where, "--out", "no/such/x.csv"), "there is no folder no/such")
    check_refused(graft("predict", *where, "--out", "x.xlsx"), "expected one of .csv, .jsonl")
    check_refused(
        graft("predict", *where, "--out", "x.csv", "--format", "jsonl"), "--format jsonl was named"
    )
    assert graft("predict", *where, "--out", "x.json").out == ""
    assert [row["label"] for row in json.loads(Path("x.json").read_text())["predictions"]].count("red") >= 9


def test_unreadable_pictures_are_reported_and_the_others_done(
    graft: Graft, finished_run: Path, photos: Path
) -> None:
    (photos / "red" / "000.png").write_bytes(b"")
    result = graft("predict", finished_run, photos / "red", "nowhere.jpg", "--json", "--device", "cpu")
    assert result.code == 1
    rows = result.json["predictions"]
    assert sum("label" in row for row in rows) == 9
    assert sum("error" in row for row in rows) == 2
    assert "2 of 11 could not be read" in result.err
    scores = graft("evaluate", finished_run, photos, "--device", "cpu")
    assert scores.code == 0
    assert "1 unreadable picture left out" in " ".join((scores.out + scores.err).split())


def test_models_and_inspect(graft: Graft) -> None:
    models = graft("models", "graft/", "--json").json["models"]
    assert [entry["id"] for entry in models] == ["graft/resnet18-half-64"]
    shown = graft("inspect", "tiny/net", "--json").json
    assert len(shown["stages"]) == 3
    assert graft("inspect", "tiny/net").code == 0


def test_recipes_from_a_file_and_keys(graft: Graft, photos: Path) -> None:
    Path("r.toml").write_text('strategy = "full"\nseed = 5\n[train]\nlr = 0.25\n')
    asked = [word for word in TINY if word not in ("--strategy", "two-phase")]
    plan = graft("plan", photos, *asked, "--recipe", "r.toml", "--seed", "6", "--json").json
    assert (plan["strategy"], plan["seed"]) == ("full", 6)
    assert plan["phases"][1]["train"]["rates"]["stages"]["top"] == 0.25


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("GRAFT_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def test_the_store_is_told_and_cleared(
    graft: Graft, photos: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert graft("store").out.split() == ["The", "store", str(store), "holds", "0.0", "MB."]
    assert graft("store", "--json").json == {"folder": str(store), "bytes": 0, "spaces": []}
    assert graft("train", photos, *TINY, "--strategy", "partial:1", "--out", "run").code == 0
    told = graft("store", "--json").json
    below = {space["about"]["below"]: space for space in told["spaces"]}
    assert set(below) == {"top", "the head"}  # of the partial phase, and of the head that was solved
    assert below["the head"]["rows"] == 24
    assert below["top"]["about"] == {
        "backbone": "tiny/net:own",
        "below": "top",
        "input": [8, 8],
        "precision": "fp32",
    }
    size = sum(path.stat().st_size for path in store.rglob("*.safetensors"))
    assert told["bytes"] == size > 0
    table = graft("store").out
    for words in ("tiny/net", "top", "the head", "8 × 8", "fp32", "24"):
        assert words in table

    for answer, left in (("n\n", size), ("", size), ("y\n", 0)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        result = graft("store", "--clear")
        assert result.code == (1 if left else 0)
        assert "Remove" in result.err
        assert ("freed" in result.out) == (not left)
        assert graft("store", "--json").json["bytes"] == left


def test_the_store_is_cleared_without_a_question(graft: Graft, photos: Path, store: Path) -> None:
    assert graft("train", photos, *TINY, "--strategy", "probe").code == 0
    held = graft("store", "--json").json["bytes"]
    kept = store / "notes.txt"
    kept.write_text("mine")
    cleared = graft("store", "--clear", "--yes", "--json")
    assert cleared.json == {"folder": str(store), "freed": held}
    assert kept.read_text() == "mine"
    assert "0.0 MB freed" in graft("store", "--clear").out  # nothing is there to ask about


def test_the_limit_of_the_store(graft: Graft, photos: Path, store: Path) -> None:
    words = ["--strategy", "partial:1"]
    plan = graft("plan", photos, *TINY, *words, "--store-limit", "1e-7", "--json").json
    assert [phase.get("reuse") for phase in plan["phases"]] == [None] * len(plan["phases"])
    assert graft("train", photos, *TINY, *words, "--store-limit", "1e-7", "--out", "run").code == 0
    assert json.loads(Path("run/recipe.json").read_text())["reuse"] == {"limit": 1e-7}
    assert graft("store", "--json").json["bytes"] == 0
    assert not list(store.rglob("*.safetensors"))
    refused = graft("plan", photos, *TINY, "--store-limit", "0", "--json")
    check_refused(refused, "reuse.limit = 0.0: input should be greater than 0")


def test_help_and_wrong_options(graft: Graft) -> None:
    assert "train" in graft("--help").out
    for words in (["train", "--nope"], ["fly"], ["predict"], ["train", "x", "--epochs", "many"]):
        assert graft(*words).code == 2


# ---------------------------------------------------------------------------------------------
# Bad input that is refused.


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def only(count: int) -> Callable[[Path], object]:
    return lambda photos: [shutil.rmtree(each) for each in sorted(photos.iterdir())[count:]]


def split(photos: Path) -> None:
    for name, labels in (("train", ("red", "green")), ("val", ("red", "blue"))):
        write_pictures(photos.parent / "split" / name, dict.fromkeys(labels, 3))
    shutil.rmtree(photos)
    (photos.parent / "split").rename(photos)


def many_bad(photos: Path) -> None:
    for number in range(3):
        (photos / "red" / f"00{number}.png").write_bytes(b"")


def loose(photos: Path) -> None:
    for folder in list(photos.iterdir()):
        for path in folder.iterdir():
            path.rename(photos / f"{folder.name}-{path.name}")
        folder.rmdir()


REFUSED: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "no such folder": (lambda photos: photos.rename("fotos"), [], "no folder or table"),
    "no images": (lambda photos: only(0)(photos), [], "no pictures in"),
    "pictures without classes": (loose, [], "no folders with pictures"),
    "one class": (only(1), [], "one class"),
    "a class that train lacks": (split, [], "'blue'"),
    "too many unreadable": (many_bad, [], "3 of 30 pictures cannot be read"),
    "unknown library": (int, ["--backbone", "timn/resnet18"], "or 'timm'?"),
    "unknown backbone": (int, ["--backbone", "graft/resnet18-half-65"], "'resnet18-half-64'"),
    "unknown torchvision": (int, ["--backbone", "torchvision/resnet51"], "resnet50"),
    "unknown strategy": (int, ["--strategy", "two_phase"], "Did you mean 'two-phase'"),
    "unknown stage": (int, ["--strategy", "partial:9"], "from 1 to 3"),
    "unknown key": (int, ["--set", "train.lrr=1"], "'train.lr'"),
    "unknown key in a file": (
        lambda photos: (photos.parent / "r.toml").write_text("sead = 1\n"),
        ["--recipe", "r.toml"],
        "'seed'",
    ),
    "no such recipe": (int, ["--recipe", "nowhere.toml"], "Cannot read the recipe"),
    "no such weights": (int, ["--weights", "nowhere.pth"], "no file nowhere.pth"),
    "no such device": (int, ["--device", "gpu"], "not auto, cpu"),
    "no epochs": (int, ["--epochs", "0"], "greater than or equal to 1"),
    "hub out of reach": (int, ["--backbone", "hf/nobody/nothing"], "nobody/nothing"),
    "weights not cached": (int, ["--backbone", "timm/resnet18.a1_in1k"], "--weights"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_message_and_leaves_nothing(graft: Graft, photos: Path, case: str) -> None:
    prepare, options, words = REFUSED[case]
    if prepare is not int:
        prepare(photos)
    before = sorted(path.name for path in Path().iterdir())
    result = graft("train", photos, *TINY, "--out", "run", "--json", *options)
    check_refused(result, words)
    assert sorted(path.name for path in Path().iterdir()) == before


RATES = {
    "a range test's option with a sweep": (
        ["--sweep", "1e-3", "--low", "1e-6"],
        "--low, --high and --steps",
    ),
    "a sweep's option with a range test": (["--epochs", "2"], "name its rates: --sweep"),
    "no numbers": (["--sweep", "low,high"], "rates with commas between"),
}


@pytest.mark.parametrize("case", RATES)
def test_what_the_rate_finder_does_not_do_is_said(graft: Graft, photos: Path, case: str) -> None:
    options, words = RATES[case]
    check_refused(graft("lr", photos, "--backbone", "graft/resnet18-half-64", *options, "--json"), words)


TABLES = {
    "missing column": ("path,lable\nred/000.png,red\n", "no column 'label'"),
    "missing file": ("path,label\nnowhere.png,red\ngone.png,blue\n", "nowhere.png"),
    "empty label": ("path,label\nred/000.png,\n", "line 2: label is empty"),
    "two labels": ("path,label\nred/000.png,red\nred/000.png,blue\n", "another label"),
    "no rows": ("path,label\n", "no rows"),
}


@pytest.mark.parametrize("case", TABLES)
def test_bad_tables_are_one_message(graft: Graft, photos: Path, case: str) -> None:
    text, words = TABLES[case]
    (photos / "labels.csv").write_text(text)
    check_refused(graft("train", photos / "labels.csv", *TINY, "--out", "run", "--json"), words)
    assert not Path("run").exists()


# ---------------------------------------------------------------------------------------------
# Bad input that is counted and set aside.


def jpeg(photos: Path, size: tuple[int, int] = (64, 64)) -> bytes:
    path = photos.parent / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


def bomb(photos: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(photos / "red" / "bomb.png")


def closed(photos: Path) -> None:
    (photos / "red" / "000.png").chmod(0)
    if os.access(photos / "red" / "000.png", os.R_OK):
        pytest.skip("root can read every file")


def duplicate(photos: Path) -> None:
    rows = [f"{path.relative_to(photos)},{path.parent.name}" for path in sorted(photos.rglob("*.png"))]
    (photos / "labels.csv").write_text("\n".join(["path,label", *rows, rows[0]]) + "\n")


COUNTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty class": (lambda photos: (photos / "empty").mkdir(), "1 class(es) without a readable picture"),
    "class of one": (lambda photos: write_pictures(photos, {"blue": 1}) and shrink(photos), "1 class"),
    "truncated": (
        lambda photos: (photos / "red" / "x.jpg").write_bytes(jpeg(photos)[:-500]),
        "1 unreadable",
    ),
    "zero bytes": (lambda photos: (photos / "red" / "x.jpg").write_bytes(b""), "the file is empty"),
    "text": (lambda photos: (photos / "red" / "x.jpg").write_text("hello"), "1 unreadable picture"),
    "bomb": (bomb, "1 unreadable picture"),
    "pipe": (lambda photos: make_pipe(photos / "red" / "x.jpg"), "1 pipe, socket or device left out"),
    "dangling link": (
        lambda photos: (photos / "red" / "x.jpg").symlink_to("no"),
        "the link points nowhere",
    ),
    "closed file": (closed, "1 unreadable picture"),
    "duplicate row": (duplicate, "1 row that repeat"),
    "duplicate picture": (
        lambda photos: shutil.copy(photos / "red" / "000.png", photos / "blue" / "x.png"),
        "x.png",
    ),
}


def shrink(photos: Path) -> None:
    for path in sorted((photos / "blue").iterdir())[1:]:
        path.unlink()


@pytest.mark.parametrize("case", COUNTED)
def test_odd_items_are_counted_and_the_others_used(graft: Graft, photos: Path, case: str) -> None:
    prepare, words = COUNTED[case]
    prepare(photos)
    table = photos / "labels.csv"
    result = graft("plan", table if table.exists() else photos, *TINY, "--json")
    assert result.code == 0, result.err
    assert words in " ".join(result.err.split())
    assert sum(result.json["data"][split] for split in ("train", "val")) >= 20


def test_a_run_over_all_that_is_odd_comes_to_its_end(graft: Graft, photos: Path) -> None:
    (photos / "red" / "loop").symlink_to(photos, target_is_directory=True)
    (photos / "empty").mkdir()
    (photos / "blue" / "x.jpg").write_bytes(b"")
    make_pipe(photos / "blue" / "y.jpg")
    Path(os.fsdecode(os.fsencode(photos / "green" / "caf") + b"\xe9.png")).write_bytes(
        (photos / "green" / "000.png").read_bytes()
    )
    result = graft("train", photos, *TINY, "--strategy", "full", "--out", "run", "--json")
    assert result.code == 0, result.err
    assert result.json["validation"]["n"] >= 6
    found = graft("predict", "run", photos / "green", "--json", "--device", "cpu")
    assert found.code == 0
    assert any("caf\\udce9.png" in row["id"] for row in found.json["predictions"])


# ---------------------------------------------------------------------------------------------
# Bad runs and bundles.


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run", symlinks=True))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def mismatch(run: Path) -> None:
    from test_bundle import forge, read_manifest

    values = read_manifest(run / "bundle")
    values["task"]["labels"].append("purple")
    forge(run / "bundle", values)


BUNDLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda run: shutil.rmtree(run), "no bundle in"),
    "unfinished": (lambda run: shutil.rmtree(run / "bundle"), "go on with graft resume"),
    "truncated": (lambda run: os.truncate(run / "bundle" / "weights.safetensors", 99), "damaged"),
    "damaged weights": (lambda run: flip(run / "bundle" / "weights.safetensors"), "damaged"),
    "damaged text": (lambda run: change(run / "bundle" / "graft.json", '"red"', '"rad"'), "damaged"),
    "head and classes": (mismatch, "4 labels for a head of 3 classes"),
}


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
@pytest.mark.parametrize("case", BUNDLES)
def test_a_bad_bundle_is_one_message(graft: Graft, run: Path, photos: Path, case: str, verb: str) -> None:
    damage, words = BUNDLES[case]
    damage(run)
    check_refused(graft(verb, run, photos, "--device", "cpu"), words)


def test_evaluating_what_the_bundle_does_not_know(graft: Graft, run: Path, photos: Path) -> None:
    (photos / "red").rename(photos / "crimson")
    check_refused(graft("evaluate", run, photos, "--device", "cpu"), "'crimson'")


def test_a_folder_in_use_or_taken(graft: Graft, run: Path, photos: Path) -> None:
    check_refused(graft("train", photos, *TINY, "--out", run, "--json"), "holds a finished run")
    (run / "result.json").unlink()
    check_refused(graft("train", photos, *TINY, "--out", run, "--json"), f"graft resume {run}")
    with locked(Run(run)), locked(Run(Path("new"))):
        check_refused(graft("train", photos, *TINY, "--out", "new", "--json"), "in use by another run")
        check_refused(graft("resume", run, "--json"), "in use by another run")
    assert sorted(path.name for path in Path("new").iterdir()) == ["lock"]
    check_refused(graft("resume", photos), "is not a run")
    Path("file").write_text("x")
    check_refused(graft("train", photos, *TINY, "--out", "file/run", "--json"), "cannot be made")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that makes a disk of some size."""
    mounted: list[Path] = []

    def make(size: str) -> Path:
        folder = tmp_path / f"disk-{size}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("only root can mount a small disk")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("size", ["8k", "40k", "72k"])
def test_a_full_disk_is_one_message_and_exit_code_1(
    graft: Graft, photos: Path, disk: Callable[[str], Path], size: str
) -> None:
    folder = disk(size)
    result = graft("train", photos, *TINY, "--out", folder / "run", "--json")
    check_refused(result, "the disk is full", code=1)
    assert not (folder / "run" / "bundle").exists()


# ---------------------------------------------------------------------------------------------
# What the recipe makes impossible is said before any data is looked at.


@pytest.mark.parametrize("verb", ["train", "plan"])
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("strategy=stages:layer9", "no stage 'layer9'"),
        ("train.lr=0", "train.lr = 0"),
        ('train.rates={"top": 1e-4}', "train.rates: the stage 'stem' trains, but no entry covers it"),
        ('train.rates={"*": 1e-4, "top": 1e-4}', "overlap"),
        ("train.warmup=2 epochs", "train.warmup = '2 epochs' in phase 2"),
        ("train.focal=1", "train.mixup with train.focal"),
        ("thaw={}", "thaw is a table for the strategy gradual"),
    ],
)
def test_bad_settings_are_refused_before_the_data_is_looked_for(
    graft: Graft, verb: str, setting: str, words: str
) -> None:
    more = ["--set", "train.mixup=0.2"] if "focal" in setting else []
    asked = [word for word in TINY if word not in ("--strategy", "two-phase")]
    if not setting.startswith("strategy"):
        asked += ["--strategy", "full"]
    check_refused(graft(verb, "/there/is/nothing", *asked, *more, "--set", setting, "--json"), words)
    assert not Path("runs").exists()


# ---------------------------------------------------------------------------------------------
# Ctrl-C.


def interrupt_step(patch: pytest.MonkeyPatch, step: int, times: int) -> None:
    from graft.stepping import Stepper

    original, seen = Stepper.step, []

    def interrupted(*arguments: Any) -> float:
        seen.append(1)
        if len(seen) == step:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    patch.setattr(Stepper, "step", interrupted)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("step", [1, 5])
def test_ctrl_c_exits_with_130_and_the_run_ends_like_a_whole_one(
    graft: Graft, photos: Path, finished_run: Path, step: int, times: int
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_step(patch, step, times)
        check_refused(graft("train", photos, *TINY, "--out", "run", "--json"), "nterrupted", code=130)
    assert signal.getsignal(signal.SIGINT) is before
    assert not Path("run/bundle").exists()
    assert graft("resume", "run", "--json").code == 0
    name = "bundle/weights.safetensors"
    assert (Path("run") / name).read_bytes() == (finished_run / name).read_bytes()


def test_ctrl_c_before_training_leaves_nothing(
    graft: Graft, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graft.preparation.prepare", stop)
    check_refused(graft("train", photos, *TINY, "--out", "run", "--json"), "interrupted", code=130)
    assert not Path("run").exists()


def test_comparing_reporting_and_laying_beside_each_other(graft: Graft, photos: Path) -> None:
    tiny = ["--backbone", "tiny/net", "--device", "cpu", "--set", "train.batch_size=8"]
    result = graft("compare", photos, *tiny, "--strategies", "probe,full", "--seeds", "2", "--steps", "6",
                   "--labels", "9,15", "--out", "compared", "--json")  # fmt: skip
    assert result.code == 0, result.err
    outcomes = result.json["outcomes"]
    assert len(outcomes) == 8 and {each["labels"] for each in outcomes} == {9, 15}
    assert "points ahead of" in result.err and "9 labels" in result.err
    page = Path("compared/report.html")
    page.unlink()
    assert (
        graft("report", "compared", "--json").json == {"report": "compared/report.html"} and page.is_file()
    )
    run = "compared/runs/02-full-15-0"
    assert graft("report", run).code == 2, "its data cannot be read again: it was drawn from all"
    result = graft("changes", "pretrained", run, "--out", "changes.svg", "--json")
    assert [each["stage"] for each in result.json["changes"]] == ["stem", "middle", "top"]
    assert "<svg" in Path("changes.svg").read_text()
    assert "stem" in graft("changes", run, run).out


COMPARED: dict[str, tuple[list[str], str]] = {
    "one candidate": (["--strategies", "probe"], "two candidates"),
    "no strategies": ([], "two candidates"),
    "an unknown one": (["--strategies", "probe,fulll"], "'full'"),
    "labels that are no numbers": (["--strategies", "probe,full", "--labels", "1,x"], "whole numbers"),
    "a length beside the steps": (["--strategies", "probe,full", "--set", "epochs=3"], "--steps"),
    "no such recipe": (["--recipes", "a.toml,b.toml"], "a.toml"),
}


@pytest.mark.parametrize("case", COMPARED)
def test_what_cannot_be_compared_is_one_message(graft: Graft, photos: Path, case: str) -> None:
    options, words = COMPARED[case]
    check_refused(graft("compare", photos, "-b", "tiny/net", *options, "--out", "out", "--json"), words)
    assert not Path("out").exists()


def test_what_has_no_report_or_changes_is_one_message(graft: Graft, tmp_path: Path) -> None:
    check_refused(graft("report", tmp_path / "nowhere", "--json"), "is not a run")
    check_refused(graft("changes", "nowhere", "tiny/net", "--json"), "no such folder or file")
    check_refused(
        graft("changes", "tiny/net", "tiny/net", "--out", "a.pdf", "--json"), "expected one of .svg, .png"
    )
