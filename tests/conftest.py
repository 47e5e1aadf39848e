"""Fixtures that every test may use."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
_store = tempfile.TemporaryDirectory(prefix="graft-store-")
os.environ["GRAFT_STORE"] = _store.name  # never the user's own
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands that tests run, too
os.environ["GRAFT_REPORT"] = "0"  # seconds a run, which tests of reports alone need

import hypothesis
import numpy as np
import pytest
import torch

from graft.backbones.contract import Backbone
from graft.data import read_splits
from graft.data.items import Splits
from graft.recipe import DataSettings
from small import COLOURS, SETTINGS, make_pictures, make_tiny, write_pictures

# nohup and background jobs of a shell ignore signals that tests send to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Two busy torch threads on a shared machine are far slower than one.
torch.set_num_threads(1)

# How long an example takes says something of the machine, and nothing of the code.
hypothesis.settings.register_profile("graft", deadline=None)
hypothesis.settings.load_profile("graft")


@pytest.fixture
def backbone() -> Backbone:
    return make_tiny()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three classes, ten pictures each."""
    return write_pictures(tmp_path / "photos", dict.fromkeys(COLOURS, 10))


@pytest.fixture
def splits() -> Splits:
    """24 pictures to train on and 6 to validate with, in memory."""
    labels = [label for label in COLOURS for _ in range(10)]
    pictures = np.concatenate([make_pictures(label, 10, seed=0) for label in COLOURS])
    return read_splits((list(pictures), labels), DataSettings(), seed=0)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run that came to its end; tests that change it work on a copy."""
    from graft.workflow import train

    folder = tmp_path_factory.mktemp("finished")
    photos = write_pictures(folder / "photos", dict.fromkeys(COLOURS, 10))
    train(photos, out=folder / "run", **SETTINGS)
    return folder / "run"
