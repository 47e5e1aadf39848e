"""The demonstration: real data that a dependency ships, and the bundled backbone; no network.

scikit-learn's 1,797 scanned digits are written as a folder of pictures, ten labels a class to train on
and the rest to test. Three ways to use them are then measured beside each other: a probe on the frozen
backbone, the backbone fine-tuned, and the same network from scratch.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.errors import RunError
from graft.recipe import Recipe, read_recipe

LABELS_A_CLASS = 10
# From scratch: as many steps as the fine-tuning takes, and digits as they are.
SCRATCH = {"epochs": 75, "train__augmentation": "none", "train__label_smoothing": 0.1}
STRATEGIES = {"probe": "probe", "fine-tuned": "auto", "from scratch": "scratch"}


@dataclass(frozen=True)
class Demo:
    """Where the demonstration keeps its pictures and its runs."""

    folder: Path

    @property
    def pictures(self) -> Path:
        return self.folder / "digits"

    def run_folder(self, strategy: str) -> Path:
        return self.folder / "runs" / strategy

    def recipe(self, strategy: str, *, seed: int, device: str) -> Recipe:
        """The strategy as it comes; from scratch, with what fits digits rather than photographs."""
        settings: dict[str, Any] = SCRATCH if strategy == "scratch" else {}
        return read_recipe(
            strategy=strategy,
            seed=seed,
            device=device,
            data__path=str(self.pictures),
            **settings,
        )

    def examples(self, count: int = 5) -> list[Path]:
        """Test pictures, one each of the first classes."""
        return [sorted(folder.iterdir())[0] for folder in sorted((self.pictures / "test").iterdir())][
            :count
        ]


def _spread(labels: list[int]) -> set[int]:
    """Items to train on: of each class as many as asked, evenly spaced.

    The digits stand writer after writer; the first ones would show the hand of three people only.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for number, label in enumerate(labels):
        members[label].append(number)
    return {
        found[place * len(found) // LABELS_A_CLASS]
        for found in members.values()
        for place in range(LABELS_A_CLASS)
    }


def make_demo(folder: Path) -> Demo:
    """Write the digits as PNGs below ``folder``, in place of what an earlier demonstration left.

    Raises:
        RunError: the folder holds something that no demonstration wrote.
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    demo = Demo(folder)
    marker = folder / ".graft-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise RunError(f"{folder} is not empty; name a new folder for the demonstration with --out.")
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()
    for old in (demo.pictures, folder / "runs"):
        shutil.rmtree(old, ignore_errors=True)
    digits = load_digits()
    training = _spread(digits.target.tolist())
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "train" if number in training else "test"
        path = demo.pictures / split / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8)).save(path)
    return demo
