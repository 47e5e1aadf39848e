"""A plain torchvision ResNet changed to five classes, in a loop of one's own: graft's building blocks.

    python examples/five_classes.py [DATA] [--weights IMAGENET1K_V1]

DATA is a folder with train/CLASS/ and test/CLASS/; without it, the scanned digits. Five classes are taken.
Without --weights nothing is downloaded: the network is random, its frozen stages stand for pretrained ones.
"""

import argparse
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torchvision.datasets import ImageFolder
from torchvision.models import ResNet18_Weights, resnet18

import graft
from graft.demo import make_demo

FROZEN, TRAINED = ("stem", "layer1", "layer2"), ("layer3", "layer4", "fc")
PREPARE = ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=64, resize_size=64)


def main(data: Path | None = None, weights: str | None = None, epochs: int = 10) -> None:
    data = data or make_demo(Path("runs/digits")).pictures
    torch.manual_seed(0)
    folders = [ImageFolder(data / split, PREPARE) for split in ("train", "test")]
    five = [torch.utils.data.Subset(f, [n for n, k in enumerate(f.targets) if k < 5]) for f in folders]
    train, test = (torch.utils.data.DataLoader(part, batch_size=16, shuffle=True) for part in five)

    network = resnet18(weights=weights)
    graft.replace_head(network, classes=5)
    stages = graft.stages_of(network)
    graft.freeze(network, [stage for stage in stages if stage.name in FROZEN])
    optimizer = torch.optim.AdamW(graft.param_groups(network, lr=3e-4, head_lr=1e-3, layer_decay=0.5))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for epoch in range(1, epochs + 1):
        graft.set_training_mode(network, stages, TRAINED, statistics=TRAINED)  # in place of .train()
        for pictures, labels in train:
            optimizer.zero_grad()
            loss = cross_entropy(network(pictures), labels)
            loss.backward()
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            right = torch.cat([network(pictures).argmax(1) == labels for pictures, labels in test])
        print(f"epoch {epoch:>2}: loss {loss.item():.3f}, test accuracy {right.float().mean():.1%}")
    after = network.state_dict()
    for stage in stages:
        own = [name for name in after if name.rpartition(".")[0] in stage.modules]  # weights and statistics
        changed = sum(not torch.equal(before[name], after[name]) for name in own)
        print(f"{stage.name:<7} {changed:>2} of {len(own):>2} tensors changed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--weights")
    main(**vars(parser.parse_args()))
