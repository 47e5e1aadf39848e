"""How the resting backbone computes features fastest, found by a trial of a second or two.

Tried one after the other, each kept where it gains: bf16 where the device multiplies in it, batch-norms
folded into convolutions, attention without its fused kernel, on a GPU more items at a time. What changes
features is taken only where they agree with the plain ones: to 2 % of their deviation from the mean (of
pretrained weights; those of random ones differ by less than that from each other), and so that a linear
probe decides alike.

torch.compile is not among what is tried: it takes longer than a trial may, and gained 14 % on a small
network and nothing on its training (benchmarks/README.md).

Shapes: B pictures of the trial, K channels, h, w of the input; features are [B, D].
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from graft.backbones.contract import Backbone
from graft.backbones.modes import attends_both_ways
from graft.batchnorm import plain_norms
from graft.data.inputs import Inputs, open_inputs
from graft.data.items import Items
from graft.numerics import Forward, Numerics, has_fast_bf16, to_device
from graft.probe import solve_head
from graft.reuse.folding import folded, noise_for, resting
from graft.seeds import mix

TIMED = 16  # pictures at a time, in the trial on a CPU
WORTHWHILE = 20.0  # seconds that the plain passes take; where they take less, plain they stay
GAIN = 1.05  # what a change must bring: less may be noise, and the plain way is the exact one
FOLDS = 1.01  # what folding must: it leaves work out, and by two timings a true gain may seem small
CLOSE, ALIKE = 0.02, 0.995  # error of centred features, and the share of equal decisions
SIZES = {"cuda": (128, 256)}  # of batches; on a CPU they make no difference
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
        folds += ", attention step by step" if how.attention == "eager" else ""
        return (
            f"Features are computed in {how.precision}{folds}, {how.batch} items at a time: "
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
    most = 2 * max([TIMED, *SIZES.get(device.type, ())])
    sample = open_inputs(items.sample(most, mix(seed, "forward trial")), backbone.preprocess)
    trial = _Trial(backbone, device, sample)
    if passes * len(items) * trial.first(plain) < WORTHWHILE:
        return None
    features, best_time = trial.run(plain)
    agrees = _Agreement(features, sample.items.targets, pretrained=backbone.source.pretrained)
    best, plain_time = plain, best_time
    for change, gain in _changes(backbone, device):
        tried = best.model_copy(update=change)
        features, taken = trial.run(tried)
        if taken * gain < best_time and agrees(features):
            best, best_time = tried, taken
    return Choice(best, plain_time / best_time)


def _changes(backbone: Backbone, device: torch.device) -> Iterator[tuple[dict[str, object], float]]:
    """What to try, one after the other, each beside the best so far, and what it must bring."""
    if has_fast_bf16(device):
        yield {"precision": "bf16"}, GAIN
    if _folds(backbone, device):
        yield {"folded": True}, FOLDS
    if attends_both_ways(backbone.trunk):
        yield {"attention": "eager"}, GAIN
    for size in SIZES.get(device.type, ()):
        yield {"batch": size}, GAIN


def _folds(backbone: Backbone, device: torch.device) -> bool:
    """Whether any batch-norm can be folded."""
    trunk = backbone.trunk.to(device).eval()
    if not plain_norms(trunk):
        return False
    with folded(trunk, noise_for(backbone.preprocess).to(device)) as count:
        return count > 0


@dataclass
class _Trial:
    """A network, and items to time it on."""

    backbone: Backbone
    device: torch.device
    sample: Inputs

    def first(self, how: Forward) -> float:
        """Seconds a picture of a first few, which are slower than later ones."""
        inputs = self._inputs(min(TIMED, len(self.sample)))
        return self._timed(how, [inputs])[1][0] / len(inputs)

    def run(self, how: Forward) -> tuple[Tensor, float]:
        """Features [B, D] of the sample in float32 on the CPU, and seconds a picture once warm."""
        size = min(how.batch if self.device.type == "cuda" else TIMED, -(-len(self.sample) // 2))
        parts = list(self._inputs(len(self.sample)).split(size))
        features, seconds = self._timed(how, parts)
        whole = [each / size for each, part in zip(seconds, parts, strict=True) if len(part) == size]
        return torch.cat(features), min(whole[1:] or whole)

    def _inputs(self, count: int) -> Tensor:
        ((inputs, _, _),) = self.sample.batches([list(range(count))])
        return inputs

    def _timed(self, how: Forward, parts: Sequence[Tensor]) -> tuple[list[Tensor], list[float]]:
        features, seconds = [], []
        trunk, device = self.backbone.trunk, self.device
        with (
            resting(trunk, self.backbone.preprocess, how, device),
            torch.inference_mode(),
            how.autocast(device),
        ):
            for part in parts:
                inputs = to_device(part, device)
                started = time.perf_counter()
                features.append(trunk(inputs).float().cpu())  # waits for the device
                seconds.append(time.perf_counter() - started)
        return features, seconds


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
