"""The examples do what their README says: each is run on a few pictures, and what it prints is read."""

from __future__ import annotations

import csv
import importlib.util
import re
import runpy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from small import COLOURS, write_pictures

FOLDER = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))
STAGES = ["stem", "layer1", "layer2", "layer3", "layer4"]  # of the bundled backbone

Run = Callable[..., list[str]]


def load(name: str) -> ModuleType:
    """An example as a module, its ``main`` not run."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three colours to tell apart: 10 pictures each to train on, 4 to test."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "train", dict.fromkeys(COLOURS, 10), seed=0)
    write_pictures(folder / "test", dict.fromkeys(COLOURS, 4), seed=1)
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs an example's ``main`` in an empty folder and returns the lines it printed."""
    monkeypatch.chdir(tmp_path)

    def run_main(name: str, *given: Any, **named: Any) -> list[str]:
        load(name).main(*given, **named)
        return capsys.readouterr().out.splitlines()

    return run_main


def percents(line: str) -> list[float]:
    return [float(found) for found in re.findall(r"(\d+(?:\.\d+)?)%", line)]


def test_all_exercises_are_there() -> None:
    assert [path.stem for path in SCRIPTS] == [
        "custom_dataset",
        "discriminative_rates",
        "five_classes",
        "gradual_unfreezing",
        "learning_rates",
        "scratch_frozen_finetuned",
        "which_layers_changed",
    ]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_short_and_explained(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert f"python examples/{path.name}" in text.split('"""')[1]
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"]({path.name})" in readme and f"python examples/{path.name}" in readme


def test_readme_links_lead_somewhere() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (FOLDER / target).exists(), target


def in_readme(line: str) -> bool:
    """Whether the committed output has this line: it is of what the script prints now."""
    return line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()


def test_gradual_unfreezing(run: Run, pictures: Path) -> None:
    count, _, header, *rows = run("gradual_unfreezing", pictures, epochs=(1, 1, 2))
    assert count == "24 pictures to train on, 6 to validate with"
    assert in_readme(header)
    assert [row[:33].strip() for row in rows] == ["head", "+ layer4", "+ layer3, layer2, layer1, stem"]
    assert [int(row[33:40]) for row in rows] == [1, 1, 2]
    assert all(len(percents(row)) == 2 for row in rows)


def test_gradual_unfreezing_as_a_command(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["gradual_unfreezing.py", str(pictures), "--epochs", "1", "1", "1"]
    monkeypatch.setattr("sys.argv", words)
    runpy.run_path(str(FOLDER / words[0]), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_scratch_frozen_finetuned(run: Run, pictures: Path) -> None:
    header, *rows, _, last = run("scratch_frozen_finetuned", pictures, epochs=1)
    assert in_readme(header)
    assert [row[:14].strip() for row in rows] == ["from scratch", "frozen", "fine-tuned"]
    scratch, frozen, tuned = (percents(row)[0] for row in rows)
    assert min(frozen, tuned) > scratch  # colours are easy, but not in one epoch from nothing
    assert last.startswith("30 labels, 12 test pictures")


def test_learning_rates(run: Run, pictures: Path, tmp_path: Path) -> None:
    drawable = importlib.util.find_spec("matplotlib") is not None
    svg = tmp_path / "curves.svg" if drawable else None
    header, *rows = run("learning_rates", pictures, epochs=2, svg=svg)
    assert svg is None or svg.read_text(encoding="utf-8").count("<svg") == 1
    assert in_readme(header)
    assert [row.split()[0] for row in rows] == ["1e-2", "1e-3", "1e-4", "1e-5"]
    starts = {(row.split()[1], row.split()[4]) for row in rows}
    assert len(starts) == 1  # accuracy and loss: all begin at the same solved head
    assert all(re.search(r"(fails|too slow for 2 epochs|works): ", row) for row in rows)


def test_learning_rates_reads_the_curves() -> None:
    reason = load("learning_rates").reason
    assert "destroyed" in reason([None, 9.0, 2.0], [1.0, 5.0, 2.1])
    assert "learnt by heart" in reason([None, 0.9, 0.2], [1.0, 1.5, 1.3])
    assert reason([None, 0.9, 0.8], [1.0, 0.9, 0.8]).startswith("too slow for 2 epochs")
    assert "lowest at epoch 1" in reason([None, 0.7, 0.1], [1.0, 0.8, 0.9])


def test_discriminative_rates(run: Run, pictures: Path) -> None:
    _, header, *rows, last = run("discriminative_rates", pictures, epochs=2)
    assert in_readme(header) and header.split() == ["full:1e-4", "full", "layer-decay:0.5"]
    assert [row.split()[0] for row in rows] == STAGES
    rates = np.array([re.findall(r"\d\.\de-\d\d", row) for row in rows], dtype=float)
    assert rates[:, 0].tolist() == [1e-4] * 5
    assert rates[[0, -1], 1].tolist() == [1e-5, 1e-4]
    assert np.allclose(rates[1:, 2] / rates[:-1, 2], 2, rtol=0.05)
    moved = np.array([percents(row) for row in rows])
    assert (moved[:, 0] > 0).all() and (moved[-1] > 0).all()
    assert moved[0, 0] > 3 * moved[0, 1:].max()  # the stem, at a tenth of the rate and less
    assert len(percents(last)) == 3


def test_custom_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module = load("custom_dataset")
    arrays = module.unequal_digits()
    pixels, labels = arrays["train"]
    assert np.bincount(labels).tolist() == [40, 4] * 5
    assert pixels.dtype == np.uint8 and pixels.max() > 200
    few = {split: (x[::n], y[::n]) for (split, (x, y)), n in zip(arrays.items(), (4, 20), strict=True)}
    monkeypatch.setattr(module, "unequal_digits", lambda: few)
    module.main(epochs=1)
    of_arrays = capsys.readouterr().out.splitlines()
    assert [line[:15].strip() for line in of_arrays] == list(module.WAYS)
    assert all(len(percents(line)) == 11 for line in of_arrays)
    with Path("runs/unequal/table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [str(k) for _, both in few.items() for k in both[1]]
    monkeypatch.setattr(module, "WAYS", {"plain": module.BASE})
    module.main(Path("runs/unequal/table.csv"), epochs=1)
    assert percents(capsys.readouterr().out)


def test_five_classes(run: Run, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number, label in product(range(4), "abcdef"):
            path = tmp_path / "six" / split / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (40 * number, 40 * ord(label) % 256, 90)).save(path)
    *epochs, stem, layer1, layer2, layer3, layer4, fc = run("five_classes", tmp_path / "six", epochs=2)
    assert len(epochs) == 2
    for line in (stem, layer1, layer2):
        assert " 0 of " in line
    for line in (layer3, layer4, fc):
        changed, every = re.findall(r"(\d+) of +(\d+)", line)[0]
        assert changed == every


def test_which_layers_changed(run: Run, pictures: Path) -> None:
    header, *rows, sentence = run("which_layers_changed", pictures, epochs=2)
    assert in_readme(header)
    assert [row.split()[0] for row in rows] == STAGES
    values = torch.tensor([[float(cell.rstrip("%")) for cell in row.split()[1:]] for row in rows])
    assert values.isfinite().all()
    assert (values[:, :2] > 0).all()  # weights, and statistics that followed the batches
    named = re.findall(r"stem|layer\d", sentence)
    assert named == [STAGES[values[:, 0].argmax()], STAGES[values[:, 0].argmin()]]
