"""The demonstration: real data that a dependency ships, and the bundled backbone; no network.

scikit-learn's 1,797 scanned digits are written as a folder of pictures, ten labels a class to train on
and the rest to test. Three ways to use them are then measured beside each other: a probe on the frozen
backbone, the backbone fine-tuned, and the same network from scratch.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from graft.recipe import Recipe, read_recipe

LABELS_A_CLASS = 10
STRATEGIES = {"probe": "probe", "fine-tuned": "two-phase", "from scratch": "scratch"}


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
        """Digits change their meaning when they are flipped or turned, so nothing is augmented."""
        return read_recipe(
            strategy=strategy,
            seed=seed,
            device=device,
            data__path=str(self.pictures),
            train__augmentation="none",
        )

    def examples(self, count: int = 5) -> list[Path]:
        """Test pictures, one each of the first classes."""
        return [sorted(folder.iterdir())[0] for folder in sorted((self.pictures / "test").iterdir())][
            :count
        ]


def make_demo(folder: Path) -> Demo:
    """Write the digits as PNGs below ``folder``, in place of what an earlier demonstration left."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    demo = Demo(folder)
    for old in (demo.pictures, folder / "runs"):
        shutil.rmtree(old, ignore_errors=True)
    digits = load_digits()
    seen: Counter[int] = Counter()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        seen[int(label)] += 1
        split = "train" if seen[int(label)] <= LABELS_A_CLASS else "test"
        path = demo.pictures / split / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8)).save(path)
    return demo
