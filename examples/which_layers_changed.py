"""Which layers changed: weights and batch-norm statistics by stage, pretrained against fine-tuned.

    python examples/which_layers_changed.py [DATA] [--epochs 10] [--backbone torchvision/resnet18]

DATA is a folder with train/CLASS/; without it, scikit-learn's scanned digits.
"""

import argparse
from pathlib import Path

import graft
from graft.changes import compare_values, summarise
from graft.demo import make_demo


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
    found = compare_values(before, after, start.stages)
    print("stage    weights moved   batch-norm: means by   deviations times")
    for each in found:
        print(f"{each.stage:<8}{each.weights:>14.2%}{each.shift or 0:>24.2f}{each.spread or 1:>19.2f}")
    print(summarise(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--backbone", default="graft/resnet18-half-64")
    main(**vars(parser.parse_args()))
