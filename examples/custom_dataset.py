"""A data set of one's own, from arrays and from a table; its classes are unequal: what helps the rare ones.

    python examples/custom_dataset.py [TABLE.csv]

TABLE.csv has the columns path, label and split (train, test). Without it, scikit-learn's scanned digits are
made unequal: of each even one 40 pictures to train on, of each odd one 4.
"""

import csv
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import graft

BASE: dict[str, Any] = {"head_init": "random", "data__validation": 0.0, "train__flip": False}
WAYS: dict[str, dict[str, Any]] = {
    "plain": BASE,
    "balanced loss": BASE | {"train__class_weights": "balanced"},
    "balanced draws": BASE | {"train__sampling": "balanced"},
}


def unequal_digits() -> dict[str, Any]:
    """Pictures [N, 8, 8] of uint8 and labels [N] by split: all that graft.train needs."""
    pictures, labels = (load_digits().images * 15.9).astype(np.uint8), load_digits().target
    train = [np.flatnonzero(labels[:900] == k)[: 4 if k % 2 else 40] for k in range(10)]
    parts = {"train": np.concatenate(train), "test": np.arange(900, len(labels))}
    return {split: (pictures[at], labels[at]) for split, at in parts.items()}


def write_table(data: dict[str, Any], folder: Path) -> Path:
    """The same as files and a table of them, which graft takes as well."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(split, *row) for split, pair in data.items() for row in zip(*pair, strict=True)]
    for n, (_, picture, _) in enumerate(rows):
        Image.fromarray(picture).save(folder / f"{n}.png")
    lines = [(f"{n}.png", label, split) for n, (split, _, label) in enumerate(rows)]
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *lines])
    return folder / "table.csv"


def main(table: Path | None = None, epochs: int = 15) -> None:
    arrays = unequal_digits()
    for way, settings in WAYS.items():
        bundle = graft.train(table or arrays, strategy="full", epochs=epochs, quiet=True, **settings)
        test = bundle.evaluate(table or write_table(arrays, Path("runs/unequal")))
        recalls = " ".join(f"{label}:{each.recall:4.0%}" for label, each in test.per_class.items())
        print(f"{way:<15} accuracy {test.accuracy:.1%}, recall of {recalls}")


if __name__ == "__main__":
    (words := ArgumentParser(description=__doc__)).add_argument("table", nargs="?", type=Path)
    main(words.parse_args().table)
