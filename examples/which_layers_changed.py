"""Which layers changed: weights and batch-norm statistics by stage, pretrained against fine-tuned.

    python examples/which_layers_changed.py [DATA] [--epochs 10] [--backbone torchvision/resnet18]

DATA is a folder with train/CLASS/; without it, scikit-learn's scanned digits.
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

import graft
from graft.demo import make_demo


def join(values: Mapping[str, torch.Tensor], names: Iterable[str]) -> torch.Tensor:
    """The named values as one long vector; those that a network does not have are left out."""
    return torch.cat([torch.zeros(0), *(values[name].flatten() for name in names if name in values)])


def main(
    data: Path | None = None, epochs: int | None = None, backbone: str = "graft/resnet18-half-64"
) -> None:
    flip = data is not None  # a mirrored digit is another sign
    data = data or make_demo(Path("runs/digits")).pictures
    start = graft.load_backbone(backbone)
    bundle = graft.train(
        data, backbone=start, strategy="full:1e-4", epochs=epochs, quiet=True, train__flip=flip,
        train__batchnorm="train",  # by default the statistics stay as pretrained
        data__validation=0.0,  # nothing is chosen afterwards: the last weights are compared
    )  # fmt: skip
    before, after = start.trunk.state_dict(), bundle.model.trunk.state_dict()
    moved: dict[str, float] = {}
    print("stage    weights moved   batch-norm: means by   deviations times")
    for stage in start.stages:
        old, new = join(before, stage.parameters), join(after, stage.parameters)
        moved[stage.name] = ((new - old).norm() / old.norm()).item()
        means = [f"{name}.running_mean" for name in stage.modules]
        variances = [f"{name}.running_var" for name in stage.modules]
        shift = (join(after, means) - join(before, means)).abs() / join(before, variances).sqrt()
        spread = (join(after, variances) / join(before, variances)).sqrt()
        print(f"{stage.name:<8}{moved[stage.name]:>14.2%}{shift.mean():>24.2f}{spread.mean():>19.2f}")
    low, *_, high = sorted(moved, key=lambda name: moved[name])
    times = moved[high] / moved[low]
    print(f"At one rate for all stages, {high} moved {times:.0f} times as far as {low}, which moved least.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--backbone", default="graft/resnet18-half-64")
    main(**vars(parser.parse_args()))
