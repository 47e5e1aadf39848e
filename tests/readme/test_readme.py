"""Every command and every program of the README runs, in order, as a newcomer would run it.

In a folder with ``photos/``, ``new/``, ``test_photos/`` and the files that the README names. Large
backbones run with random weights and one epoch: no model hub is at hand, and the words are what is
tested.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from small import COLOURS, write_pictures
from small_text import write_model

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
TEXT_MODEL = "hf/sentence-transformers/all-MiniLM-L6-v2"
BIN = Path(sys.executable).parent


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def commands(text: str = TEXT) -> list[str]:
    found = re.findall(r"```sh\n(.*?)```", text, flags=re.S)
    lines = [line.partition("  #")[0].strip() for block in found for line in block.splitlines()]
    return [line for line in lines if line]


def as_tested(command: str) -> list[str]:
    """The command with weights that are there, and no longer than one epoch."""
    words = shlex.split(command)
    if set(words) & {"advise", "check", "compare", "lr", "rank"}:
        words = [*words, "--set", "device=cpu"]
    if "train" in words:
        words = [*words, "--set", "device=cpu", "--set", "train.precision=fp32"]
        if "--epochs" not in words:
            words += ["--epochs", "1"]
    words = ["hf/./model" if word == TEXT_MODEL else word for word in words]
    return [
        word.replace("torchvision/resnet50", "torchvision/resnet50:none") if word.endswith("50") else word
        for word in words
    ]


GUIDES = ("strategies.md", "advice.md", "reports.md")
GUIDE_TEXT = "\n".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in GUIDES)
GUIDE = commands(GUIDE_TEXT)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    folder = tmp_path_factory.mktemp("newcomer")
    write_pictures(folder / "photos", dict.fromkeys(COLOURS, 5))
    write_pictures(folder / "test_photos", dict.fromkeys(COLOURS, 2), seed=1)
    write_pictures(folder / "new", {"red": 2}, seed=2)
    for path in sorted((folder / "new" / "red").iterdir()):
        path.rename(folder / "new" / f"{path.stem}.jpg")  # PNG content: graft goes by what is in a file
    write_model(folder / "model", "bert")
    said = [f"the film was {word}" for word in ("good", "great", "fine", "bad", "awful", "dull")]
    rows = [f"{text},{'yes' if number < 3 else 'no'}" for number, text in enumerate(said)]
    (folder / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (folder / "test_reviews.csv").write_text("text,label\nthe film was good,yes\nit was dull,no\n")
    (folder / "new_reviews.txt").write_text("\n".join(said) + "\n")
    (folder / "recipe.toml").write_text('strategy = "probe"\n')
    save_file(resnet18(weights=None).state_dict(), folder / "resnet18.safetensors")
    return folder


def run_graft(words: list[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The command in this process (starting anew costs more than the command), as its exit code."""
    from graft.cli import main

    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_the_readme_has_the_commands_that_are_tested_here() -> None:
    assert len(commands()) >= 14
    assert len(blocks("python")) == 3


def test_make_targets_exist() -> None:
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands():
        if command.startswith("make "):
            assert f"\n{command.split()[1]}:" in targets


def expand(words: list[str], place: Path) -> list[str]:
    """Names of files for patterns, as a shell would put them."""
    return [
        name
        for word in words
        for name in (sorted(str(path.relative_to(place)) for path in place.glob(word)) or [word])
    ]


@pytest.mark.parametrize("command", [line for line in commands() + GUIDE if line.startswith("graft ")])
def test_every_command_runs(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_graft(expand(as_tested(command), place), place, monkeypatch) == 0
    assert capsys.readouterr().out.strip()


def test_several_processes_share_the_work(place: Path) -> None:
    command = next(line for line in commands() if line.startswith("torchrun "))
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    words = as_tested(command)
    result = subprocess.run(
        words, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert "2 processes" in result.stdout


@pytest.mark.parametrize("program", blocks("python") + blocks("python", GUIDE_TEXT))
def test_every_program_runs(
    program: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()
