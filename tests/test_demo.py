"""The demonstration writes real data, and deletes nothing that is not its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from graft.demo import LABELS_A_CLASS, make_demo
from graft.errors import RunError


def test_all_digits_are_written_ten_a_class_to_train_on(tmp_path: Path) -> None:
    demo = make_demo(tmp_path / "demo")
    files = list(demo.pictures.rglob("*.png"))
    assert len(files) == 1797
    trained = Counter(path.parent.name for path in files if path.parts[-3] == "train")
    assert trained == {str(digit): LABELS_A_CLASS for digit in range(10)}
    assert len(demo.examples()) == 5
    assert all("test" in path.parts for path in demo.examples())
    assert make_demo(tmp_path / "demo") == demo  # again, in place of the first


def test_a_folder_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "precious").write_text("x")
    with pytest.raises(RunError, match="not empty"):
        make_demo(tmp_path)
    assert (tmp_path / "runs" / "precious").read_text() == "x"
