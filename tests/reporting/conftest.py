"""A run with a report, of names that would do harm if they could."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import graft
from graft.runs import Run
from reporting_names import FILE, HOSTILE
from small import SETTINGS, make_pictures, write_pictures


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Classes with hostile names, from arrays; test items too."""
    folder = tmp_path_factory.mktemp("reported")
    colours = ("red", "green", "blue", "red")
    parts = {}
    for part, count in (("train", 24), ("test", 10)):
        pictures = np.concatenate([make_pictures(colour, count, seed=len(part)) for colour in colours])
        parts[part] = (list(pictures), [name for name in HOSTILE for _ in range(count)])
    before = os.environ["GRAFT_REPORT"]
    os.environ["GRAFT_REPORT"] = "1"
    settings = SETTINGS | {"epochs": 3, "train__lr": 1e-3}
    try:
        graft.train(parts, out=folder / "run", quiet=True, **settings)
    finally:
        os.environ["GRAFT_REPORT"] = before
    return Run(folder / "run")


@pytest.fixture(scope="session")
def with_odd_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, one of whose files has a name that is markup."""
    folder = write_pictures(tmp_path_factory.mktemp("odd") / "photos", dict.fromkeys(("red", "blue"), 12))
    for colour in ("red", "blue"):
        first = sorted((folder / colour).iterdir())[0]
        first.rename(folder / colour / FILE)
    return folder
