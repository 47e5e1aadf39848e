"""What pretraining is worth: one network from scratch, frozen, and fine-tuned, on the same few labels.

    python examples/scratch_frozen_finetuned.py [DATA] [--backbone torchvision/resnet18]

DATA is a folder with train/CLASS/ and test/CLASS/; without it, 1,000 labels of CIFAR-10 are taken from
../shared/cases/cifar1k where it is there, else scikit-learn's scanned digits, ten labels a class.
"""

import argparse
import math
from pathlib import Path

import graft
from graft.demo import make_demo

CIFAR = Path("../shared/cases/cifar1k")
WAYS = {
    "from scratch": ("scratch", "random weights, everything trains, the longest"),
    "frozen": ("probe", "pretrained weights, only a linear head is fitted"),
    "fine-tuned": ("two-phase", "the same head, then everything trains from there"),
}


def main(
    data: Path | None = None,
    epochs: int | None = None,
    backbone: str = "graft/resnet18-half-64",
) -> None:
    if data is None and CIFAR.is_dir():
        data = CIFAR
    flip = data is not None  # a mirrored digit is another sign
    data = data or make_demo(Path("runs/digits")).pictures

    print(f"{'':<14}{'test accuracy':>16}{'test loss':>11}   what was done")
    for name, (strategy, what) in WAYS.items():
        bundle = graft.train(
            data, backbone=backbone, strategy=strategy, epochs=epochs, train__flip=flip, quiet=True
        )
        test = bundle.metrics["test"]
        accuracy = test["accuracy"]
        error = math.sqrt(accuracy * (1 - accuracy) / test["n"])
        print(f"{name:<14}{accuracy:>9.1%} ± {error:.1%}{test['loss']:>11.2f}   {what}")
    labels = bundle.plan["data"]["train"] + bundle.plan["data"]["val"]
    print(f"\n{labels} labels, {test['n']} test pictures, one seed; ± is the standard error of the test.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--epochs", type=int, help="of both trainings (default: as each strategy says)")
    parser.add_argument("--backbone", default="graft/resnet18-half-64")
    main(**vars(parser.parse_args()))
