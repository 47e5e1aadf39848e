"""Rows about whole runs of the bundled network on CIFAR: strategies that share a store, and a race."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from speed_networks import spread

import graft
from graft.preparation import prepare, read_splits
from graft.reuse.store import Store
from graft.runs import choose_run
from graft.workflow import carry_out, drain

Row = dict[str, Any]
HERE = Path(__file__).parent
STRATEGIES = ("probe:steps", "partial:1", "partial:2", "gradual", "full")
RUNNERS: dict[str, dict[str, Any]] = {
    "probe on adapted statistics": {"strategy": "probe", "train__batchnorm": "adaptive"},
    "partial:2 on adapted statistics, 5 epochs": {
        "strategy": "partial:2",
        "train__batchnorm": "adaptive",
        "epochs": 5,
    },
    "full on adapted statistics, 5 epochs": {
        "strategy": "full",
        "train__batchnorm": "adaptive",
        "epochs": 5,
    },
}


def strategies(options: argparse.Namespace) -> Iterator[Row]:
    """Five strategies of 10 epochs each, one after the other, with one store and with none.

    What can be saved depends on the network: full training has nothing frozen, and gradual soon moves most
    of a network of five stages, but five of the thirteen of a vision transformer.
    """
    yield _sharing(options, "strategies", "graft/resnet18-half-64", "1,000 pictures at 64", items=1000)
    name = "timm/vit_small_patch16_224:none"
    yield _sharing(options, "strategies, transformer", name, "96 pictures at 224", items=96)


def _sharing(options: argparse.Namespace, row: str, backbone: str, pictures: str, *, items: int) -> Row:
    seconds: dict[bool, dict[str, float]] = {True: {}, False: {}}
    with tempfile.TemporaryDirectory() as folder:
        for strategy in STRATEGIES:
            recipe = graft.read_recipe(
                data__path=str(options.cifar / "train"),
                backbone=backbone,
                strategy=strategy,
                epochs=10,
                device="cpu",
                data__validation=0.0,
                reuse__views=1,
            )
            network = graft.load_backbone(recipe)
            splits = read_splits(recipe, network)
            splits = replace(splits, train=splits.train.select(spread(len(splits.train), items)), test=None)
            plan = graft.make_plan(recipe, network, splits)
            for kept in (True, False):
                started = time.perf_counter()
                graft.fit(network, splits, plan, store=Store(Path(folder)) if kept else None)
                seconds[kept][strategy] = time.perf_counter() - started
    ratio = sum(seconds[True].values()) / sum(seconds[False].values())
    name = backbone.removesuffix(":none")
    return {
        "name": row,
        "what": f"{', '.join(STRATEGIES)} of {name}: 10 epochs each on {pictures}, sharing one view stored",
        "against": "the same five without a store",
        "target": "at most 0.6 times",
        "measured": f"{ratio:.2f} times",
        "holds": ratio <= 0.6,
        "figures": "; ".join(
            f"{name} {seconds[True][name]:.0f} s against {seconds[False][name]:.0f} s"
            for name in STRATEGIES
        ),
    }


def race(options: argparse.Namespace) -> Iterator[Row]:
    """How long until the test accuracy of fastai's fine_tune(5) is there."""
    train, test = options.cifar / "train", options.cifar / "test"
    weights = HERE.parent / "src/graft/backbones/weights/resnet18-half-64"
    words = [
        options.peers,
        str(HERE / "peers.py"),
        "fastai fine_tune(5)",
        str(train),
        str(test),
        str(weights),
    ]
    done = subprocess.run(
        [*words, "--threads", str(options.threads)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    own = theirs["seconds"] - theirs.get("validating", 0.0)
    found = {name: _run(options, settings) for name, settings in RUNNERS.items()}
    reaching = [seconds for accuracy, seconds in found.values() if accuracy >= theirs["accuracy"]]
    ratio = min(reaching, default=float("inf")) / own
    yield {
        "name": "race",
        "what": "time to the accuracy of fastai's fine_tune(5), CIFAR with 100 labels a class",
        "against": "fastai fine_tune(5), its validation left out",
        "target": "at most 0.2 times",
        "measured": f"{ratio:.2f} times" if reaching else "not reached",
        "holds": ratio <= 0.2,
        "figures": f"fastai {100 * theirs['accuracy']:.1f} % in {own:.0f} s; "
        + "; ".join(f"{name} {100 * share:.1f} % in {took:.1f} s" for name, (share, took) in found.items()),
    }


def _run(options: argparse.Namespace, settings: dict[str, Any]) -> tuple[float, float]:
    """Test accuracy, and seconds from the first look at the data to the last step."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as out:
        os.environ["GRAFT_STORE"] = f"{out}/store"
        os.environ["GRAFT_REPORT"] = "0"  # peers write no page
        recipe = graft.read_recipe(
            data__path=str(options.cifar), device="cpu", data__validation=0.0, **settings
        )
        graft.load_backbone(recipe)  # what it imports is left out, as it is for the peer
        started = time.perf_counter()
        prepared = prepare(recipe)
        before = time.perf_counter() - started
        bundle = drain(carry_out(prepared, choose_run(Path(out) / "run", recipe)))
    return bundle.metrics["test"]["accuracy"], before + bundle.metrics["seconds"]


ROWS = {"strategies": strategies, "race": race}
