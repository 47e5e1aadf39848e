"""One peer's full fine-tuning step on pictures in memory: prints the median of its seconds.

    python benchmarks/speed_peers.py PEER NETWORK BATCH

Started by speed.py (row step) with the Python of an environment that has fastai, transformers, accelerate,
timm and lightning; nothing of graft is needed. PEER is "Hugging Face Trainer", "fastai" or "Lightning", out
of the box; NETWORK a model of torchvision or timm with random weights and 4 classes, at 224 x 224.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

STEPS, FIRST = 16, 4  # that are taken; those that only warm up


def make_network(name: str) -> nn.Module:
    if name.startswith("vit"):
        import timm

        return timm.create_model(name, num_classes=4)
    import torchvision.models

    network: nn.Module = torchvision.models.get_model(name, num_classes=4)
    return network


def trainer(network: nn.Module, data: TensorDataset, batch: int, tick: Callable[[], None]) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pictures: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.network(pictures)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            tick()

    items = [{"pictures": picture, "labels": target} for picture, target in data]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch,
            num_train_epochs=1,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        Trainer(Wrapped(), arguments, train_dataset=items, callbacks=[Clock()]).train()


def fastai(network: nn.Module, data: TensorDataset, batch: int, tick: Callable[[], None]) -> None:
    from fastai.vision.all import Callback, CrossEntropyLossFlat, DataLoaders, Learner

    class Clock(Callback):
        def after_batch(self) -> None:
            if self.training:
                tick()

    few = TensorDataset(*data[:batch])
    loaders = DataLoaders.from_dsets(data, few, bs=batch, num_workers=0, device=torch.device("cpu"))
    learner = Learner(loaders, network, loss_func=CrossEntropyLossFlat(), cbs=[Clock()])
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, 1e-4)


def lightning(network: nn.Module, data: TensorDataset, batch: int, tick: Callable[[], None]) -> None:
    from lightning import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, some: list[Tensor], _: int) -> Tensor:
            loss: Tensor = nn.functional.cross_entropy(self.network(some[0]), some[1])
            return loss

        def on_train_batch_end(self, *_: Any) -> None:
            tick()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), 1e-5)

    with tempfile.TemporaryDirectory() as folder:
        engine = Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            default_root_dir=folder,
        )
        engine.fit(Module(), DataLoader(data, batch))


PEERS = {"Hugging Face Trainer": trainer, "fastai": fastai, "Lightning": lightning}


def main(peer: str, network: str, size: str) -> None:
    batch = int(size)
    pictures = torch.randn(2 * batch, 3, 224, 224).repeat(STEPS // 2, 1, 1, 1)
    data = TensorDataset(pictures, torch.arange(len(pictures)) % 4)
    ticks: list[float] = []
    PEERS[peer](make_network(network), data, batch, lambda: ticks.append(time.perf_counter()))
    print(statistics.median(after - before for before, after in pairwise(ticks[FIRST - 1 :])))


if __name__ == "__main__":
    main(*sys.argv[1:])
