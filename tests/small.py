"""A tiny network, tiny pictures, and a library ("tiny/net") of that network, for tests.

The network has what matters in a real one: batch-norm, dropout, three stages, a classifier. Pictures
are 8 pixels wide and tell their class by colour and noise, so that a few steps learn it. What training
tells is drained into a list.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from graft.backbones import from_module, list_libraries, register_library
from graft.backbones.assembly import Request
from graft.backbones.contract import Backbone, Preprocess

TINY = Preprocess(size=(8, 8), resize=None, mean=(0.5,) * 3, std=(0.25,) * 3)
# What a short run on the tiny network asks for.
SETTINGS: dict[str, Any] = {
    "backbone": "tiny/net",
    "strategy": "two-phase",
    "device": "cpu",
    "train__precision": "fp32",
    "train__batch_size": 8,
    "epochs": 2,
}
Told, Result = TypeVar("Told"), TypeVar("Result")
COLOURS = {"blue": (60, 90, 190), "green": (70, 180, 80), "red": (190, 80, 70)}


class TinyNet(nn.Module):
    """[B, 3, 8, 8] -> [B, 5], with everything that can go wrong when part of it is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.middle = nn.Sequential(
            nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Dropout(0.1)
        )
        self.top = nn.Sequential(nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.fc = nn.Linear(16, 5)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.fc(self.top(self.middle(self.stem(pictures))).mean(dim=(2, 3)))


def make_tiny(*, pretrained: bool = True) -> Backbone:
    """The tiny network as a backbone; its "pretrained" weights are those of seed 0."""
    torch.manual_seed(0)
    return from_module(TinyNet(), preprocess=TINY, pretrained=pretrained)


def _load_tiny(request: Request) -> Backbone:
    backbone = make_tiny(pretrained=request.weights != "none")
    weights = request.weights or "own"
    return replace(backbone, source=replace(backbone.source, library="tiny", name="net", weights=weights))


if "tiny" not in list_libraries():
    register_library("tiny", _load_tiny)


def make_pictures(label: str, count: int, seed: int) -> np.ndarray:
    """[count, 8, 8, 3] uint8 pictures of a class."""
    generator = np.random.default_rng([seed, sorted(COLOURS).index(label)])
    noise = generator.normal(0, 45, (count, 8, 8, 3))
    return np.clip(np.array(COLOURS[label]) + noise, 0, 255).astype(np.uint8)


def write_pictures(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """``folder``/CLASS/NUMBER.png, as many of each class as ``counts`` says."""
    for label, count in counts.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(make_pictures(label, count, seed)):
            Image.fromarray(pixels).save(folder / label / f"{number:03d}.png")
    return folder


def launched(rank: int, world_size: int) -> dict[str, str]:
    """What torchrun puts into the environment of one of several processes."""
    numbers = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "MASTER_PORT": 29511}
    return {"MASTER_ADDR": "127.0.0.1"} | {name: str(number) for name, number in numbers.items()}


def make_pipe(path: Path) -> None:
    """A named pipe; the test is skipped where the system has none."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("the system has no named pipes")
    os.mkfifo(path)


def drain(steps: Generator[Told, None, Result]) -> tuple[list[Told], Result]:
    """Everything that ``steps`` tells, and what comes out in the end."""
    found = []
    while True:
        try:
            found.append(next(steps))
        except StopIteration as end:
            return found, end.value
