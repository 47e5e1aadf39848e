"""How the resting backbone computes features fastest, found by a trial of a second or two.

Tried one after the other, each kept where it gains: bf16 where the device multiplies in it, batch-norms
folded into convolutions, fewer or more pictures at a time. What changes features is taken only where they
agree with the plain ones: to 2 % of their deviation from the mean (of pretrained weights; those of random
ones differ by less than that from each other), and so that a linear probe decides alike.

torch.compile is not among what is tried: it takes longer than a trial may, and gained 14 % on a small
network and nothing on its training (benchmarks/README.md).

Shapes: B pictures of the trial, K channels, h, w of the input; features are [B, D].
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from graft.backbones.contract import Backbone
from graft.batchnorm import plain_norms
from graft.data.dataset import Pictures
from graft.data.items import Items
from graft.numerics import Forward, Numerics, has_fast_bf16
from graft.probe import solve_head
from graft.reuse.folding import resting
from graft.seeds import mix

PICTURES = 64  # of the trial
WORTHWHILE = 10.0  # seconds that the plain passes take; where they take less, plain they stay
GAIN = 1.05  # what a change must bring: less may be noise, and the plain way is the exact one
CLOSE, ALIKE = 0.02, 0.995  # error of centred features, and the share of equal decisions
BATCHES = {"cpu": (16, 64), "cuda": (128, 256)}
STRENGTH = 1e-2  # of the probe that decides


@dataclass(frozen=True)
class Choice:
    """What was chosen, and how many times as fast as plainly it was."""

    forward: Forward
    gain: float

    @property
    def note(self) -> str:
        """What a plan says of it."""
        how = self.forward
        folds = ", batch-norms folded" if how.folded else ""
        return (
            f"Features are computed in {how.precision}{folds}, {how.batch} pictures at a time: "
            f"{self.gain:.2f} times as fast as plainly, in a trial."
        )


def choose_forward(
    backbone: Backbone, items: Items, numerics: Numerics, *, passes: int, seed: int
) -> Choice | None:
    """The fastest way to compute features of ``items``, which pass ``passes`` times in all.

    None where the plain way takes too little time for a trial to pay. The trunk's values are left as they
    are; it is put into eval mode.
    """
    try:
        return _choose(backbone, items, numerics, passes, seed)
    finally:
        backbone.trunk.cpu()


def _choose(backbone: Backbone, items: Items, numerics: Numerics, passes: int, seed: int) -> Choice | None:
    device, plain = torch.device(numerics.device), numerics.forward
    order = np.random.default_rng(mix(seed, "forward trial")).permutation(len(items))
    pictures = Pictures(items.select(sorted(order[:PICTURES].tolist())), backbone.preprocess)
    first = range(min(plain.batch, len(pictures)))
    some = torch.stack([pictures[number][0] for number in first])
    if passes * len(items) / len(some) * _Timed(backbone, some, device).seconds(plain) < WORTHWHILE:
        return None
    rest = [pictures[number][0] for number in range(len(some), len(pictures))]
    timed = _Timed(backbone, torch.cat([some, *(each[None] for each in rest)]), device)
    targets = pictures.items.targets
    agrees = _Agreement(timed.features(plain), targets, pretrained=backbone.source.pretrained)
    best, seconds = plain, timed.seconds(plain)
    whole = seconds
    for candidates in _changes(backbone, device):
        for change in candidates:
            tried = best.model_copy(update=change)
            taken = timed.seconds(tried)
            if taken * GAIN < seconds and agrees(timed.features(tried)):
                best, seconds = tried, taken
    return Choice(best, whole / seconds)


def _changes(backbone: Backbone, device: torch.device) -> Sequence[Sequence[dict[str, object]]]:
    """What to try, step by step: the steps come one after the other, each from the best so far."""
    precise: list[dict[str, object]] = [{"precision": "bf16"}] if has_fast_bf16(device) else []
    folds: list[dict[str, object]] = [{"folded": True}] if plain_norms(backbone.trunk) else []
    sizes: list[dict[str, object]] = [{"batch": size} for size in BATCHES.get(device.type, ())]
    return precise, folds, sizes


@dataclass
class _Timed:
    """A network and pictures [B, K, h, w] to time it on."""

    backbone: Backbone
    pictures: Tensor
    device: torch.device

    def features(self, how: Forward) -> Tensor:
        """[B, D] in float32 on the CPU."""
        return self._run(how)[0]

    def seconds(self, how: Forward) -> float:
        """Of all pictures, once warm."""
        return self._run(how)[1]

    def _run(self, how: Forward) -> tuple[Tensor, float]:
        trunk = self.backbone.trunk
        with (
            resting(trunk, self.backbone.preprocess, how, self.device),
            torch.inference_mode(),
            how.autocast(self.device),
        ):
            parts = [
                part.to(self.device, memory_format=torch.channels_last)
                for part in self.pictures.split(how.batch)
            ]
            trunk(parts[0])  # warms up
            started = time.perf_counter()
            found = torch.cat([trunk(part).float().cpu() for part in parts])  # waits for the device
            return found, time.perf_counter() - started


class _Agreement:
    """Whether features say what the plain ones do."""

    def __init__(self, plain: Tensor, targets: np.ndarray | None, *, pretrained: bool) -> None:
        self.plain, self.pretrained = plain, pretrained
        self.decide: Callable[[Tensor], Tensor] | None = None
        if targets is not None and targets.ndim == 1 and len(set(targets.tolist())) > 1:
            found = solve_head(plain, targets, int(targets.max()) + 1, strengths=[STRENGTH])
            self.decide = lambda features: linear(features, found.weight, found.bias).argmax(1)

    def __call__(self, features: Tensor) -> bool:
        centred = self.plain - self.plain.mean(0)
        error = float((features - self.plain).norm() / centred.norm().clamp_min(1e-12))
        if not torch.isfinite(features).all() or (self.pretrained and error > CLOSE):
            return False
        if self.decide is None:
            return True
        alike = (self.decide(features) == self.decide(self.plain)).float().mean()
        return float(alike) >= ALIKE
