"""Discriminative rates: early stages learn slower than late ones; what each rate is and what it does.

    python examples/discriminative_rates.py [DATA] [--epochs 10] [--backbone torchvision/resnet18]

DATA is a folder with train/CLASS/ and test/CLASS/; without it, scikit-learn's scanned digits.
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

import graft
from graft.demo import make_demo

WAYS = ("full:1e-4", "full", "layer-decay:0.5")  # one rate, geometric from 1e-5 to 1e-4, halved a stage


def moved(stage: graft.Stage, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """How far a stage's weights went, as a share of their length."""
    way = sum((after[name] - before[name]).square().sum().item() for name in stage.parameters)
    return math.sqrt(way / sum(before[name].square().sum().item() for name in stage.parameters))


def main(
    data: Path | None = None, epochs: int | None = None, backbone: str = "graft/resnet18-half-64"
) -> None:
    flip = data is not None  # a mirrored digit is another sign
    data = data or make_demo(Path("runs/digits")).pictures
    start = graft.load_backbone(backbone)
    before = start.trunk.state_dict()
    columns = []
    for way in WAYS:
        # Without validation data nothing is chosen: the last weights are kept, so what moved is seen.
        bundle = graft.train(
            data, backbone=start, strategy=way, epochs=epochs, quiet=True,
            train__flip=flip, data__validation=0.0,
        )  # fmt: skip
        after = bundle.model.trunk.state_dict()
        phase = next(phase for phase in bundle.plan["phases"] if phase["kind"] == "phase")
        rates = phase["train"]["rates"]["stages"]
        cells = [f"{rates[s.name]:.1e} → {moved(s, before, after):6.2%}" for s in start.stages]
        columns.append([way, *cells, f"{bundle.metrics['test']['accuracy']:.1%}"])
    print("each stage's peak rate → how far its weights moved, as a share of their length")
    names = ["", *start.stage_names, "test accuracy"]
    for name, *cells in zip(names, *columns, strict=True):
        print(f"{name:<14}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--backbone", default="graft/resnet18-half-64")
    main(**vars(parser.parse_args()))
