"""Several processes end where one ends: the same global batches, one folder, one log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from graft.backbones.assembly import state_digest
from graft.engine import start_engine
from graft.errors import RunError, TrainingError
from graft.numerics import Numerics
from graft.preparation import prepare
from graft.recipe import Recipe, read_recipe
from graft.runs import choose_run
from graft.workflow import carry_out, drain
from small import SETTINGS, launched, write_pictures

TESTS = Path(__file__).parent

CASES: dict[str, dict[str, Any]] = {
    "two-phase": {"strategy": "two-phase"},
    "accumulated": {"strategy": "full", "train__accumulate": 2, "head_init": "random"},
    "averaged": {"strategy": "two-phase", "train__ema": 0.7, "train__batchnorm": "adaptive"},
}


def carry_out_cases(photos: str, folder: str) -> dict[str, str]:
    """Carry out each case in a folder of its own; a digest of the weights that this process ended with."""
    digests = {}
    base = SETTINGS | {"train__lr": 2e-3, "train__augmentation": "light", "train__optimizer": "sgd"}
    for name, settings in CASES.items():
        recipe = read_recipe(**(base | settings), data__path=photos)
        prepared = prepare(recipe)
        for module in prepared.backbone.trunk.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # each process has masks of its own
        bundle = drain(carry_out(prepared, choose_run(Path(folder) / name, recipe)))
        digests[name] = state_digest(bundle.model)
    return digests


# Two processes are started once for everything that needs them: starting takes longer than training.
SCRIPT = """
import os, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import small
from graft.errors import GraftError
from graft.runs import open_run
from graft.preparation import prepare_again
from graft.workflow import carry_out, drain
from test_distributed import carry_out_cases

photos, folder, other = sys.argv[1:4]
for case, digest in carry_out_cases(photos, folder).items():
    print("weights", case, digest, os.environ["RANK"], flush=True)
said = []
try:
    run = open_run(other)
    drain(carry_out(prepare_again(run), run))
except GraftError as error:
    said.append(f"refused {{error}}")
print("done", os.environ["RANK"], *said, flush=True)
"""


def run_twice(*arguments: str, script: Path) -> str:
    """Run the script in two processes; what they said."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    done = subprocess.run(
        [sys.executable, *launcher, str(script), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, finished_run: Path) -> tuple[Path, str]:
    """All cases by one process and by two, and what two said to a run that was planned for one."""
    folder = tmp_path_factory.mktemp("processes")
    photos = str(write_pictures(folder / "photos", {"blue": 6, "green": 7, "red": 8}))
    script = folder / "script.py"
    script.write_text(SCRIPT.format(tests=str(TESTS)))
    carry_out_cases(photos, str(folder / "one"))
    return folder, run_twice(photos, str(folder / "two"), str(finished_run), script=script)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_what_one_gives(place: tuple[Path, str], case: str) -> None:
    folder, _ = place
    one, two = (load_file(folder / n / case / "bundle" / "weights.safetensors") for n in ("one", "two"))
    start = json.loads((folder / "two" / case / "plan.json").read_text())
    assert start["numerics"]["processes"] == 2
    assert start["data"]["train"] % 2 == 1
    for name in one:
        assert torch.allclose(one[name], two[name], rtol=0, atol=1e-5), name


@pytest.mark.parametrize("case", CASES)
def test_the_log_is_written_once_and_says_the_same(place: tuple[Path, str], case: str) -> None:
    folder, told = place
    logs = [
        [json.loads(line) for line in (folder / name / case / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert [line["record"] for line in logs[0]] == [line["record"] for line in logs[1]]
    for one, two in zip(*logs, strict=True):
        for key in ("loss", "accuracy", "train_loss", "train_accuracy"):
            if one.get(key) is not None:
                assert two[key] == pytest.approx(one[key], abs=1e-4), (one, two)
    assert sorted(line[:6] for line in told.splitlines() if line.startswith("done")) == ["done 0", "done 1"]
    assert sorted(path.name for path in (folder / "two").iterdir()) == sorted(CASES)


@pytest.mark.parametrize("case", CASES)
def test_all_processes_end_with_the_same_weights(place: tuple[Path, str], case: str) -> None:
    """Also where they choose among checkpoints, averages and blends, and adapt statistics."""
    _, told = place
    ends = [line.split() for line in told.splitlines() if line.startswith(f"weights {case} ")]
    assert sorted(rank for *_, rank in ends) == ["0", "1"]
    assert len({digest for _, _, digest, _ in ends}) == 1


def test_all_processes_choose_among_the_same_candidates(place: tuple[Path, str]) -> None:
    folder, _ = place
    results = [
        json.loads((folder / name / "averaged" / "result.json").read_text()) for name in ("one", "two")
    ]
    one, two = (result["selected"]["candidates"] for result in results)
    assert "running average" in one
    assert one.keys() == two.keys()
    for name, scores in one.items():
        assert two[name]["loss"] == pytest.approx(scores["loss"], rel=2e-3), name


def test_training_moved_something(place: tuple[Path, str]) -> None:
    """Else two processes would agree whatever they did."""
    folder, _ = place
    for case in CASES:
        lines = (folder / "one" / case / "metrics.jsonl").read_text().splitlines()
        kept = [json.loads(line)["kept_epoch"] for line in lines if '"finished"' in line]
        assert max(epoch or 0 for epoch in kept) > 0, case


def test_a_run_that_was_planned_for_one_process_is_not_resumed_by_two(place: tuple[Path, str]) -> None:
    assert (
        place[1].count("refused 2 processes run, but the plan is for 1; start several with torchrun") == 2
    )


def test_another_number_of_processes_is_one_clear_error() -> None:
    numerics = Numerics(device="cpu", precision="fp32", workers=0, threads=1, processes=2)
    with pytest.raises(
        TrainingError, match="1 processes run, but the plan is for 2; start several with torchrun"
    ):
        start_engine(numerics)


def test_each_process_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that is resumed names the first process's."""
    second = SimpleNamespace(num_processes=2, process_index=1, device=torch.device("cuda:1"))
    monkeypatch.setattr("graft.engine.Accelerator", lambda **_: second)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    numerics = Numerics(device="cuda:0", precision="fp32", workers=0, threads=1, processes=2)
    assert start_engine(numerics).device == torch.device("cuda:1")


def test_only_the_first_process_minds_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first may have begun the run before the second looks."""
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(RunError):
        choose_run(tmp_path, Recipe())
    for name, value in launched(1, 2).items():
        monkeypatch.setenv(name, value)
    assert choose_run(tmp_path, Recipe()).folder == tmp_path
