"""The built wheel, in a fresh environment that has what it requires and none of its extras."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from graft.backbones import load_backbone
from graft.bundle import make_bundle
from graft.model import Head, make_model
from graft.task import Task
from small import write_pictures
from small_text import write_model

ROOT = Path(__file__).parent.parent
DRIVER = """
import contextlib, importlib.util, io, json, sys
from graft.cli import main

extras = ("transformers", "tokenizers", "peft", "datasets", "tensorboard", "imagecodecs")
found = []
for args in json.loads(sys.argv[1]):
    sys.argv, code, said = ["graft", *args], 0, io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    have = [name for name in extras if importlib.util.find_spec(name)]
    found.append({"code": code, "said": said.getvalue(), "extras": have})
print(json.dumps(found))
"""


def find_uv() -> str | None:
    """As the Makefile finds it; a further working tree may use the one of the first."""
    own = ROOT / ".uv" / "bin" / "uv"
    beside = (ROOT / ".venv").resolve().parent / ".uv" / "bin" / "uv"
    return shutil.which("uv") or next((str(each) for each in (own, beside) if each.exists()), None)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel, at the versions of the committed lock."""
    uv = find_uv()
    if uv is None:
        pytest.skip("uv is neither on the path nor in .uv, where make installs it")
    folder = tmp_path_factory.mktemp("wheel")
    place = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    lock, python = folder / "lock.txt", folder / "env" / place

    def call(*args: object) -> None:
        subprocess.run([uv, *map(str, args), "--quiet"], cwd=ROOT, check=True)

    call("build", "--wheel", "--out-dir", folder / "dist")
    call("export", "--locked", "--no-dev", "--no-emit-project", "--no-hashes", "--output-file", lock)
    call("venv", "--python", sys.executable, folder / "env")
    (wheel,) = (folder / "dist").glob("*.whl")
    call("pip", "install", "--python", python, "--constraints", lock, wheel)
    return python


def run_graft(python: Path, commands: Sequence[Sequence[str]], cwd: Path) -> list[dict[str, Any]]:
    """Exit code and what was written of each command, all in one process, since importing takes longest."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {"GRAFT_STORE": str(cwd / "store"), "CUDA_VISIBLE_DEVICES": ""}
    command = [str(python), "-c", DRIVER, json.dumps(commands)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_wheel_without_extras(bare: Path, tmp_path: Path) -> None:
    """Pictures need no extra for training, prediction and report; texts are refused in one sentence."""
    write_pictures(tmp_path / "photos", {"blue": 4, "red": 4})
    backbone = load_backbone(f"hf/{write_model(tmp_path / 'bert', 'bert')}")
    head = Head(backbone.feature_dim, 2)
    make_bundle(make_model(backbone, head, seed=1), Task(("bad", "good")), head, backbone).save(
        tmp_path / "b"
    )
    (tmp_path / "t.csv").write_text("text,label\na,x\nb,y\n")
    pictures = [
        ["train", "photos", "--strategy", "probe", "--out", "run"],
        ["predict", "run", "photos/blue"],
        ["report", "run"],
    ]
    texts = [["predict", "b", "--text", "good"], ["train", "t.csv", "--backbone", "hf/./bert"]]
    said = run_graft(bare, [*pictures, *texts], tmp_path)
    assert [each["code"] for each in said] == [0, 0, 0, 2, 2], said
    assert (tmp_path / "run" / "report.html").is_file()
    for each in said[3:]:
        assert each["said"].count("graft-ml[text]") == 1
    assert not any("Traceback" in each["said"] for each in said)
    assert said[0]["extras"] == []
