"""One peer, out of the box, on one folder: prints accuracy and seconds as JSON.

    python benchmarks/peers.py PEER TRAIN TEST WEIGHTS --seed 0

Needs fastai, transformers, accelerate, scikit-learn, timm and torchvision, and nothing of graft; it is
started by against_peers.py with the Python of an environment that has them. TRAIN and TEST are folders of
class folders, WEIGHTS that of the backbone resnet18-half-64. Seconds count from the first look at the
data to the end of training; imports and the evaluation are left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

SIZE = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VALIDATING = [0.0]  # seconds of it, where a peer validates while it trains
END = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
AUGMENTED = transforms.Compose(
    [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), *END]
)
PLAIN = transforms.Compose([transforms.Resize(SIZE), transforms.CenterCrop(SIZE), *END])


def load_network(weights: Path, classes: int) -> nn.Module:
    """The pretrained network with a new classifier of ``classes`` (0: none)."""
    config = json.loads((weights / "config.json").read_text())["architecture"]
    network = timm.create_model(config["model"], channels=tuple(config["channels"]), num_classes=0)
    state = {name: value.float() for name, value in load_file(weights / "weights.safetensors").items()}
    network.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")}, strict=True)
    if classes:
        network.fc = nn.Linear(256, classes)
    return network


def measure(network: nn.Module, test: Path) -> float:
    network.eval()
    right = total = 0
    with torch.inference_mode():
        for pictures, targets in DataLoader(ImageFolder(str(test), PLAIN), 100):
            right += int((network(pictures).argmax(1) == targets).sum())
            total += len(targets)
    return right / total


def sklearn_probe(train: Path, test: Path, weights: Path) -> tuple[float, float]:
    """Frozen features, StandardScaler, LogisticRegressionCV with 7 strengths and 5 folds."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = load_network(weights, 0).eval()

    def features(folder: Path) -> tuple[Any, Any]:
        with torch.inference_mode():
            parts = [(network(x), y) for x, y in DataLoader(ImageFolder(str(folder), PLAIN), 100)]
        return torch.cat([x for x, _ in parts]).numpy(), torch.cat([y for _, y in parts]).numpy()

    started = time.perf_counter()
    found = LogisticRegressionCV(Cs=7, cv=5, max_iter=2000)
    model = make_pipeline(StandardScaler(), found).fit(*features(train))
    seconds = time.perf_counter() - started
    return float(model.score(*features(test))), seconds


def course_loop(train: Path, test: Path, weights: Path, epochs: tuple[int, int]) -> tuple[float, float]:
    """New Linear with Adam at 1e-3, then everything at 1e-4; batches of 32; trunk in train mode."""
    started = time.perf_counter()
    data = ImageFolder(str(train), AUGMENTED)
    network = load_network(weights, len(data.classes))
    loading = DataLoader(data, 32, shuffle=True)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for parameter in network.fc.parameters():
        parameter.requires_grad_(True)
    for rate, count in zip((1e-3, 1e-4), epochs, strict=True):
        if rate == 1e-4:
            for parameter in network.parameters():
                parameter.requires_grad_(True)
        optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=rate)
        network.train()
        for _ in range(count):
            for pictures, targets in loading:
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(pictures), targets).backward()
                optimizer.step()
    seconds = time.perf_counter() - started
    return measure(network, test), seconds


def fastai_fine_tune(train: Path, test: Path, weights: Path, epochs: int) -> tuple[float, float]:
    """``vision_learner(...).fine_tune(epochs)`` with ``aug_transforms(size=64)``.

    The test folder is its validation set, which it looks at after every epoch (and decides nothing by), so
    that it trains on all labels; ``VALIDATING`` adds up the time of that.
    """
    from fastai.vision.all import (
        Callback,
        ImageDataLoaders,
        Normalize,
        Resize,
        accuracy,
        aug_transforms,
        imagenet_stats,
        vision_learner,
    )

    class Clock(Callback):
        def before_validate(self) -> None:
            self.started = time.perf_counter()

        def after_validate(self) -> None:
            VALIDATING[0] += time.perf_counter() - self.started

    started = time.perf_counter()
    batch = [*aug_transforms(size=SIZE), Normalize.from_stats(*imagenet_stats)]
    data = ImageDataLoaders.from_folder(
        train.parent, train.name, test.name, item_tfms=Resize(SIZE), batch_tfms=batch, num_workers=0
    )
    learner = vision_learner(
        data,
        lambda **_: load_network(weights, 1),
        metrics=accuracy,
        cut=-2,
        normalize=False,
        pretrained=True,
        cbs=Clock(),
    )
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs)
    seconds = time.perf_counter() - started
    return measure(learner.model, test), seconds


class _ForTrainer(nn.Module):
    """The network as Hugging Face's Trainer wants it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.network(pictures)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def trainer_defaults(train: Path, test: Path, weights: Path) -> tuple[float, float]:
    """``Trainer`` with its default arguments (AdamW 5e-5, 3 epochs, batches of 8)."""
    from transformers import Trainer, TrainingArguments

    started = time.perf_counter()
    data = ImageFolder(str(train), AUGMENTED)
    network = load_network(weights, len(data.classes))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, save_strategy="no", report_to=[], disable_tqdm=True)
        arguments.remove_unused_columns = False
        trainer = Trainer(
            _ForTrainer(network),
            arguments,
            train_dataset=data,
            data_collator=lambda rows: {
                "pictures": torch.stack([row[0] for row in rows]),
                "labels": torch.tensor([row[1] for row in rows]),
            },
        )
        trainer.train()
    seconds = time.perf_counter() - started
    return measure(network, test), seconds


PEERS = {
    "scikit-learn probe": sklearn_probe,
    "courses' loop, frozen": lambda *folders: course_loop(*folders, (10, 0)),
    "courses' loop, two phases": lambda *folders: course_loop(*folders, (5, 10)),
    "fastai fine_tune(5)": lambda *folders: fastai_fine_tune(*folders, 5),
    "fastai fine_tune(10)": lambda *folders: fastai_fine_tune(*folders, 10),
    "Hugging Face Trainer": trainer_defaults,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(asked.seed)
    accuracy, seconds = PEERS[asked.peer](asked.train, asked.test, asked.weights)
    print(json.dumps({"accuracy": accuracy, "seconds": seconds, "validating": VALIDATING[0]}))


if __name__ == "__main__":
    main()
