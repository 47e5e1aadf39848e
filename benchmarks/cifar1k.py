"""Accuracy and seconds on 1,000 labels of CIFAR-10, strategy beside strategy, in one run.

    python benchmarks/cifar1k.py DATA [--seeds 3] [--out benchmarks/results] [--only WORDS]

DATA holds train/CLASS and test/CLASS (100 and 200 pictures a class). Every seed runs all strategies and
the two hand-written loops of the courses, in turn, so that a machine that slows down slows all. Seconds
are of the training alone for the loops (their pictures are decoded beforehand) and of everything from
the data's first byte to the saved bundle for graft. Nothing is chosen on the test part.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.transforms import v2

import graft
from graft.bundle import provenance
from graft.data import read_splits
from graft.data.dataset import Pictures
from graft.data.items import Splits
from graft.recipe import DataSettings
from graft.workflow import carry_out, drain, prepare

STRATEGIES = ("probe", "partial:1", "partial:2", "full", "two-phase")
PEERS = (  # figures that were measured before, on a machine of this kind, mean of 2 seeds
    ("scikit-learn LogisticRegressionCV on frozen features", 59.3, 16),
    ("fastai 2.8.12 fine_tune(5)", 61.3, 38),
    ("fastai 2.8.12 fine_tune(10)", 63.0, 63),
    ("Hugging Face Trainer 5.23, default arguments", 26.4, 21),
)
Result = dict[str, float]


def run_graft(data: Path, strategy: str, seed: int, **settings: Any) -> Result:
    """The whole job as ``graft train`` does it: accuracy on the test part, seconds of everything."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        recipe = graft.read_recipe(
            data__path=str(data), strategy=strategy, seed=seed, device="cpu", **settings
        )
        from graft.runs import choose_run

        bundle = drain(carry_out(prepare(recipe), choose_run(Path(folder) / "run", recipe)))
        seconds = time.perf_counter() - started
    return {"accuracy": bundle.metrics["test"]["accuracy"], "seconds": seconds}


def run_loop(splits: Splits, seed: int, *, frozen_epochs: int, epochs: int) -> Result:
    """The courses' loop: new Linear, Adam 1e-3, batch 32, then all at 1e-4; trunk in train mode."""
    torch.manual_seed(seed)
    backbone = graft.load_backbone("graft/resnet18-half-64")
    trunk, head = backbone.trunk, nn.Linear(backbone.feature_dim, splits.task.classes)
    mean, std = backbone.preprocess.mean, backbone.preprocess.std
    pictures, targets = _decoded(splits.train)
    change = v2.Compose(
        [
            v2.RandomResizedCrop(64, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )
    started = time.perf_counter()
    for parameter in trunk.parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    for epoch in range(frozen_epochs + epochs):
        if epoch == frozen_epochs:
            for parameter in trunk.parameters():
                parameter.requires_grad_(True)
            optimizer = torch.optim.Adam([*trunk.parameters(), *head.parameters()], lr=1e-4)
        trunk.train()
        for batch in torch.randperm(len(pictures)).split(32):
            inputs = torch.stack([change(pictures[item]) for item in batch.tolist()])
            loss = nn.functional.cross_entropy(head(trunk(inputs)), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    seconds = time.perf_counter() - started
    trunk.eval()
    right = 0
    test = Pictures(splits.test, backbone.preprocess)
    with torch.inference_mode():
        for start in range(0, len(test), 100):
            samples = [test[item] for item in range(start, min(start + 100, len(test)))]
            logits = head(trunk(torch.stack([sample[0] for sample in samples])))
            right += sum(
                int(row.argmax()) == sample[1] for row, sample in zip(logits, samples, strict=True)
            )
    return {"accuracy": right / len(test), "seconds": seconds}


def _decoded(items: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
    from graft.data.image import decode

    return [decode(source) for source in items.sources], torch.from_numpy(items.targets)


def competitors(data: Path) -> dict[str, Callable[[int], Result]]:
    """Everything that is measured, by name, as functions of the seed."""
    splits = read_splits(data, DataSettings(validation=0.0))
    entries: dict[str, Callable[[int], Result]] = {
        f"graft {strategy}": partial(run_graft, data, strategy) for strategy in STRATEGIES
    }
    entries["graft two-phase, all labels to train on"] = partial(
        run_graft, data, "two-phase", data__validation=0.0
    )
    entries["the courses' loop, frozen, 10 epochs"] = lambda seed: run_loop(
        splits, seed, frozen_epochs=10, epochs=0
    )
    entries["the courses' loop, 5 frozen + 10 all"] = lambda seed: run_loop(
        splits, seed, frozen_epochs=5, epochs=10
    )
    return entries


def table(results: dict[str, list[Result]]) -> str:
    """The results as Markdown, with the peers' earlier figures below."""
    results = dict(sorted(results.items()))
    lines = ["| | test accuracy %, mean ± deviation | seconds, median |", "|---|---:|---:|"]
    for name, found in results.items():
        shares = [100 * entry["accuracy"] for entry in found]
        spread = statistics.stdev(shares) if len(shares) > 1 else 0.0
        seconds = statistics.median(entry["seconds"] for entry in found)
        lines.append(f"| {name} | {statistics.mean(shares):.1f} ± {spread:.1f} | {seconds:.0f} |")
    lines += [
        f"| {name} (measured earlier) | {shares:.1f} | {seconds} |" for name, shares, seconds in PEERS
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--only", default="", help="measure again what has these words in its name")
    asked = parser.parse_args()
    stored = asked.out / "cifar1k.json"
    results: dict[str, list[Result]] = json.loads(stored.read_text())["results"] if asked.only else {}
    results = {name: found for name, found in results.items() if asked.only not in name}
    for seed in range(asked.seeds):
        for name, run in competitors(asked.data).items():
            if asked.only not in name:
                continue
            results.setdefault(name, []).append(run(seed))
            print(seed, name, results[name][-1], flush=True)
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    asked.out.mkdir(parents=True, exist_ok=True)
    values = {"machine": machine, "versions": provenance(), "results": results}
    stored.write_text(json.dumps(values, indent=2) + "\n")
    (asked.out / "cifar1k.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
