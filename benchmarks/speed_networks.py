"""Rows about forward passes and steps: what the network costs with graft around it, and without.

Shapes: N pictures [N, 3, 224, 224].
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import resnet50

import graft
from graft.data.dataset import Pictures
from graft.numerics import Forward, has_fast_bf16
from graft.plan import Plan
from graft.preparation import Prepared, prepare, read_splits
from graft.records import Stepped, Validated
from graft.reuse.folding import resting
from graft.reuse.store import Store

HERE = Path(__file__).parent
REPEATS = 1  # of passes over all pictures: each takes minutes
FLOPS = 2 * 4.09e9  # of resnet50 on one picture at 224 x 224
Row = dict[str, Any]


def probe(options: argparse.Namespace) -> Iterator[Row]:
    """A solved probe on resnet50 as one command, beside 20 epochs of the loop that tutorials teach."""
    train = options.cifar / "train"
    loop = _timed(lambda: plain_epoch(train))
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", str(train), "--strategy", "probe", *_drawn_weights(Path(folder))]
        command = _timed(lambda: run_graft([*words, "--out", f"{folder}/run"], Path(folder)))
    ratio = 20 * loop / command
    yield {
        "name": "probe",
        "what": "probe, resnet50 at 224, 1,000 pictures, whole command",
        "against": "20 epochs of the plain loop (one was measured)",
        "target": "30 times as fast",
        "measured": f"{ratio:.1f} times",
        "holds": ratio >= 30,
        "figures": f"{command:.1f} s; an epoch of the loop {loop:.1f} s",
    }


def forward(options: argparse.Namespace) -> Iterator[Row]:
    """The features of that probe, start-up and trial left out, beside a bare pass over decoded tensors."""
    with tempfile.TemporaryDirectory() as folder:
        _, backbone, _, weights = _drawn_weights(Path(folder))
        train = options.cifar / "train"
        prepared = prepare(_recipe(train, backbone, strategy="probe", weights=weights))
    pictures = Pictures(prepared.splits.train, prepared.backbone.preprocess)
    tensors = torch.stack([pictures[number][0] for number in range(len(pictures))])
    best = min(_settings(), key=lambda how: bare_pass(prepared, tensors[:64], how))
    bare, ours = [], []
    for _ in range(REPEATS):
        bare.append(bare_pass(prepared, tensors, best))
        with tempfile.TemporaryDirectory() as folder:
            ours.append(_timed(lambda: graft.fit(*_parts(prepared), store=Store(Path(folder) / "store"))))
    ratio = statistics.median(ours) / statistics.median(bare)
    share = FLOPS * len(tensors) / statistics.median(bare) / matmul_peak()
    yield {
        "name": "forward",
        "what": "the same, start-up and trials left out, store empty, head solved",
        "against": "one bare pass over decoded tensors in the best settings",
        "target": "at most 1.15 times",
        "measured": f"{ratio:.2f} times",
        "holds": ratio <= 1.15,
        "figures": f"{statistics.median(ours):.1f} s against {statistics.median(bare):.1f} s ({best}; "
        f"{share:.0%} of what matrices multiply at); graft chose {prepared.plan.numerics.forward}",
    }


def split(options: argparse.Namespace) -> Iterator[Row]:
    """resnet50's last stage and head trained on what lies below, read from the store."""
    yield from _reused(options, "split", "torchvision/resnet50:none", 1, items=160, epoch=2.1, whole=1.8)


def vit(options: argparse.Namespace) -> Iterator[Row]:
    """The last two blocks of ViT-B/16."""
    name = "timm/vit_base_patch16_224:none"
    yield from _reused(options, "vit", name, 2, items=48, epoch=2.4, whole=2.0)


def _reused(
    options: argparse.Namespace,
    name: str,
    backbone: str,
    top: int,
    *,
    items: int,
    epoch: float,
    whole: float,
) -> Iterator[Row]:
    settings = {
        "strategy": f"partial:{top}",
        "head_init": "random",
        "epochs": 10,
        "data__validation": 0.0,
        "reuse__views": 1,  # 10 epochs would keep two, and fill the store twice
    }
    recipe = _recipe(options.cifar / "train", backbone, **settings)
    network = graft.load_backbone(recipe)
    splits = read_splits(recipe, network)
    splits = replace(splits, train=splits.train.select(spread(len(splits.train), items)), test=None)
    plan = graft.make_plan(recipe, network, splits)
    with tempfile.TemporaryDirectory() as folder:
        kept = epoch_seconds(network, splits, plan, Store(Path(folder)))
    plain = epoch_seconds(network, splits, plan, None)
    views = plan.phases[-1].views
    steady, all_of_it = statistics.median(plain) / statistics.median(kept[views:]), sum(plain) / sum(kept)
    shown = f"{items} pictures, {views} views kept"
    for what, found, target, figures in (
        (
            "a later epoch",
            steady,
            epoch,
            f"{statistics.median(kept[views:]):.1f} s against {statistics.median(plain):.1f} s",
        ),
        ("10 epochs with the fill", all_of_it, whole, f"{sum(kept):.0f} s against {sum(plain):.0f} s"),
    ):
        yield {
            "name": f"{name}, {what}",
            "what": f"{settings['strategy']} of {backbone.removesuffix(':none')}, {what}",
            "against": "the same steps without the store",
            "target": f"{target} times as fast",
            "measured": f"{found:.2f} times",
            "holds": found >= target,
            "figures": f"{figures}; {shown}",
        }


def epoch_seconds(network: Any, splits: Any, plan: Plan, store: Store | None) -> list[float]:
    """Of every epoch of the only phase."""
    records = graft.fit_steps(network, splits, plan, store=store)
    # The first is of the start.
    ends = [time.perf_counter() for record in records if isinstance(record, Validated)]
    return [after - before for before, after in itertools.pairwise(ends)]


def step(options: argparse.Namespace) -> Iterator[Row]:
    """Full fine-tuning steps, decoding left out: graft's beside a bare loop's, and beside the peers'."""
    for backbone, batch in (("resnet18", 16), ("resnet50", 8), ("vit_small_patch16_224", 8)):
        bare, ours = steps_in_turn(backbone, batch)
        found = {"graft": statistics.median(ours), "bare PyTorch": statistics.median(bare)}
        if options.peers:
            for peer in ("Hugging Face Trainer", "fastai", "Lightning"):
                words = [options.peers, str(HERE / "speed_peers.py"), peer, backbone, str(batch)]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(done.stderr[-2000:])
                found[peer] = json.loads(done.stdout.strip().splitlines()[-1])
        ratio = statistics.median([one / two for one, two in zip(ours, bare, strict=True)])
        ahead = all(found["graft"] < seconds for peer, seconds in found.items() if peer in PEERS)
        yield {
            "name": f"step, {backbone}",
            "what": f"a step of everything, {backbone}, {batch} pictures at 224",
            "against": "a bare PyTorch step of the same settings; peers out of the box",
            "target": "at most 1.03 times, ahead of each peer",
            "measured": f"{ratio:.3f} times",
            "holds": ratio <= 1.03 and ahead,
            "figures": ", ".join(f"{peer} {seconds:.2f} s" for peer, seconds in found.items()),
        }


PEERS = ("Hugging Face Trainer", "fastai", "Lightning")


def steps_in_turn(name: str, batch: int, rounds: int = 7) -> tuple[list[float], list[float]]:
    """Seconds of bare steps and of graft's, one after the other, on the same pictures in memory.

    Both: AdamW with a fused kernel, batch-norm statistics frozen, gradient norms looked at, channels last,
    the same precision.
    """
    library = "timm" if name.startswith("vit") else "torchvision"
    pictures = torch.randint(0, 255, (batch * 2, 224, 224, 3), dtype=torch.uint8).numpy()
    data = (pictures, [f"c{number % 4}" for number in range(len(pictures))])
    recipe = graft.read_recipe(
        backbone=f"{library}/{name}:none",
        strategy="full",
        head_init="random",
        epochs=rounds,
        device="cpu",
        data__validation=0.0,
        train__augmentation="none",
        train__batch_size=batch,
        train__batchnorm="frozen",
    )
    network = graft.load_backbone(recipe)
    splits = read_splits(recipe, network, data)
    plan = graft.make_plan(recipe, network, splits)
    ours = _steps_of(graft.fit_steps(network, splits, plan))
    theirs = bare_steps(network, Pictures(splits.train, network.preprocess), plan)
    bare_times, our_times = [], []
    for _ in range(rounds * 2 - 1):
        bare_times.append(_timed(lambda: next(theirs)))
        our_times.append(_timed(lambda: next(ours)))
    return bare_times[3:], our_times[3:]


def _steps_of(records: Any) -> Iterator[None]:
    for record in records:
        if isinstance(record, Stepped):
            yield


def bare_steps(network: Any, pictures: Pictures, plan: Plan) -> Iterator[None]:
    """The loop by hand, over the same batches in memory."""
    trunk = graft.load_backbone(network.source.id).trunk
    model = nn.Sequential(trunk, nn.Linear(network.feature_dim, 4)).to(memory_format=torch.channels_last)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    size = plan.phases[-1].train.batch_size
    parts = [pictures[number] for number in range(len(pictures))]
    bf16 = plan.numerics.precision == "bf16"
    while True:
        for start in range(0, len(parts), size):
            some = [pictures[number] for number in range(start, min(start + size, len(parts)))]
            inputs = torch.stack([each[0] for each in some]).contiguous(memory_format=torch.channels_last)
            targets = torch.tensor([each[1] for each in some])
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1e9)
            optimizer.step()
            optimizer.zero_grad()
            yield


def plain_epoch(train: Path) -> None:
    """One epoch of the loop that tutorials teach: a frozen resnet50 in train mode, a new fc."""
    ends = [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    views = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    data = ImageFolder(str(train), transforms.Compose([*views, *ends]))
    network = resnet50()
    network.requires_grad_(False)
    network.fc = nn.Linear(2048, len(data.classes))
    optimizer = torch.optim.Adam(network.fc.parameters(), 1e-3)
    network.train()
    for pictures, targets in DataLoader(data, 32, shuffle=True, num_workers=2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(pictures), targets).backward()
        optimizer.step()


def bare_pass(prepared: Prepared, tensors: Tensor, how: Forward) -> float:
    """Seconds of the network alone over tensors [N, 3, 224, 224]."""
    backbone, device = prepared.backbone, torch.device("cpu")
    with (
        resting(backbone.trunk, backbone.preprocess, how, device),
        torch.inference_mode(),
        how.autocast(device),
    ):
        parts = [part.contiguous(memory_format=torch.channels_last) for part in tensors.split(how.batch)]
        backbone.trunk(parts[0])
        return _timed(lambda: [backbone.trunk(part) for part in parts])


def _settings() -> list[Forward]:
    precise = ("fp32", "bf16") if has_fast_bf16(torch.device("cpu")) else ("fp32",)
    return [
        Forward(precision=kind, folded=folded, batch=batch)
        for kind in precise
        for folded in (False, True)
        for batch in (16, 32, 64)
    ]


def matmul_peak() -> float:
    """Operations a second of large products in fp32."""
    one, two = torch.randn(2, 2048, 2048)
    one @ two
    return 2 * 2048**3 / statistics.median(_timed(lambda: one @ two) for _ in range(5))


def run_graft(words: list[str], folder: Path) -> None:
    """The command in a process of its own, with an empty store."""
    surroundings = os.environ | {"GRAFT_STORE": str(folder / "store"), "GRAFT_REPORT": "0"}
    subprocess.run(
        [sys.executable, "-m", "graft", *words], check=True, env=surroundings, capture_output=True
    )


def _recipe(folder: Path, backbone: str, **settings: Any) -> graft.Recipe:
    return graft.read_recipe(backbone=backbone, data__path=str(folder), device="cpu", **settings)


def _parts(prepared: Prepared) -> tuple[Any, Any, Plan]:
    return prepared.backbone, prepared.splits, prepared.plan


def _drawn_weights(folder: Path) -> list[str]:
    """A file of random weights: what has no pretrained weights gets no solved head."""
    save_file(resnet50().state_dict(), folder / "resnet50.safetensors")
    return ["--backbone", "torchvision/resnet50", "--weights", str(folder / "resnet50.safetensors")]


def spread(count: int, wanted: int) -> list[int]:
    """``wanted`` numbers below ``count``, as far apart as can be."""
    if not 1 < wanted <= count:
        raise SystemExit(f"{wanted} pictures are wanted, at least 2, and there are {count}.")
    return [round(number * (count - 1) / (wanted - 1)) for number in range(wanted)]


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


ROWS = {"probe": probe, "forward": forward, "split": split, "vit": vit, "step": step}
