"""Gradual unfreezing, 5 + 5 + 10 epochs: the head alone, then the top stage as well, then everything.

    python examples/gradual_unfreezing.py [DATA] [--epochs 5 5 10] [--backbone torchvision/resnet18]

DATA is a folder with train/CLASS/; without it, scikit-learn's scanned digits.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import graft
from graft.demo import make_demo
from graft.records import Finished, Started, Validated


def main(
    data: Path | None = None,
    epochs: Sequence[int] = (5, 5, 10),
    backbone: str = "graft/resnet18-half-64",
) -> None:
    flip = data is not None  # a mirrored digit is another sign
    data = data or make_demo(Path("runs/digits")).pictures
    network = graft.load_backbone(backbone)
    *lower, top = network.stage_names
    recipe = graft.read_recipe(
        backbone=backbone,
        data__path=str(data),
        strategy="gradual",
        thaw={epochs[0]: [top], epochs[0] + epochs[1]: lower},
        epochs=sum(epochs),
        head_init="random",  # as the courses do; by default graft solves the head first
        train__flip=flip,
    )
    splits = graft.read_splits(recipe, network)
    plan = graft.make_plan(recipe, network, splits)

    print(f"{plan.data.train} pictures to train on, {plan.data.val} to validate with\n")
    print(f"{'phase, and what begins to train':<33}{'epochs':>7}{'at its end':>12}{'kept':>17}")
    for record in graft.fit_steps(network, splits, plan):
        match record:
            case Started(name=name):
                course: list[float] = []
            case Validated(accuracy=float(accuracy)):  # epoch 0 is the start of the phase
                course.append(accuracy)
            case Finished(kept_epoch=int(kept)):
                best = f"{course[kept]:.1%} (epoch {kept})"
                print(f"{name:<33}{record.epochs:>7}{course[-1]:>12.1%}{best:>17}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--epochs", nargs=3, type=int, default=(5, 5, 10), metavar=("HEAD", "TOP", "ALL"))
    parser.add_argument("--backbone", default="graft/resnet18-half-64")
    main(**vars(parser.parse_args()))
