"""What is measured on the labelled data before the strategy auto decides: one look through the backbone.

A thousand training items at most pass the frozen network, pictures as they are and mirrored, with the
batch-norm statistics of the pretraining and with those of the pictures. Linear probes half-way and at the
top then tell, out of fold, how much of the labels each depth knows. No test or validation item is looked
at.

Information is the share of the labels' uncertainty that a probe takes away: 1 - loss / entropy of the label
frequencies; 0 is chance, 1 is certainty, and a bad probe can be below 0.

Shapes: N items, D features (of one depth), C classes.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graft.backbones.contract import Backbone
from graft.batchnorm import plain_norms
from graft.data.items import Splits
from graft.data.validation import items_of_median_class
from graft.looking import Look, Passes, Progress
from graft.numerics import Numerics
from graft.options import Frozen
from graft.probe import held_out_losses
from graft.reuse.store import NOWHERE, Store
from graft.seeds import mix

MOST, FEWEST_A_CLASS = 1000, 10  # items that are looked at, or more of many classes
LOOKS = 4  # of a network with batch-norm at its items, one of them mirrored, and one for statistics
CLEARLY = 0.1  # information by which the statistics of the pretraining must be ahead to stay


class Depth(Frozen):
    """How much a probe on the pooled state after ``stage`` knows of the labels."""

    stage: str
    information: float
    accuracy: float
    """Accuracy out of fold, or macro mean average precision of a multi-label task."""


class Mirrored(Frozen):
    """What mirroring the pictures does to a probe that was trained on pictures as they are.

    ``known``: its information about pictures as they are. ``kept``: the share of it that is left when they
    are mirrored. ``t``: the mean increase of the out-of-fold loss, in standard errors (paired by item).
    """

    known: float
    kept: float
    t: float


class RateTrial(Frozen):
    """A short training at each of some body rates, measured on labels that were held out.

    ``losses``: in nats, by rate; a rate at which training diverged is missing. ``solved`` and ``trained``:
    the share of items that are right with the head solved on the resting body, and after the best rate
    (None where the head was not solved, or no rate went well). ``error``: the standard error of the
    difference between the two, paired by item.
    """

    losses: dict[float, float]
    solved: float | None = None
    trained: float | None = None
    error: float = 0.0

    @property
    def best(self) -> float | None:
        """The rate with the lowest loss."""
        return min(self.losses, key=self.losses.__getitem__, default=None)

    @property
    def spoils(self) -> bool:
        """Whether training diverged, or lost accuracy by more than one standard error."""
        if self.best is None:
            return True
        if self.solved is None or self.trained is None:
            return False
        return self.solved - self.trained > self.error


class Evidence(Frozen):
    """All that was measured.

    ``pretrained`` and ``adapted``: the top of the network with the batch-norm statistics of the
    pretraining, and with those of the pictures (None where there is no batch-norm). ``middle``: half-way
    up, with the statistics that are to be taken (None where nothing can be seen below the top).
    """

    items: int
    per_class: float
    """Items of the median class."""
    pretrained: Depth
    adapted: Depth | None
    middle: Depth | None
    mirrored: Mirrored | None
    """None of texts, which have no mirror image."""
    trial: RateTrial | None = None
    """What a short training showed, where the features alone could not tell."""

    @property
    def adapts(self) -> bool:
        """Whether to take the pictures' statistics: unless the pretraining's know clearly more.

        A small lead of the pretraining's is lost as soon as the body moves.
        """
        return _adapts(self.pretrained, self.adapted)

    @property
    def top(self) -> Depth:
        """The top of the network with the statistics that are to be taken."""
        return self.adapted if self.adapted is not None and self.adapts else self.pretrained


def measure_evidence(
    backbone: Backbone,
    splits: Splits,
    numerics: Numerics,
    *,
    seed: int,
    progress: Progress | None = None,
    store: Store = NOWHERE,
) -> Evidence | None:
    """Look at the training data through the backbone, which is not changed.

    None where nothing can be told: every class has a single item. ``progress`` is called with (pictures
    that passed, all that will). What was seen is kept in ``store``, so that a second look is quick.
    """
    most = max(MOST, FEWEST_A_CLASS * splits.task.classes)
    items = splits.train.sample(most, mix(seed, "evidence"))
    has_norms = bool(plain_norms(backbone.trunk))
    looks = 1 if backbone.takes_text else LOOKS if has_norms else 2
    passes = Passes(len(items) * looks, progress)

    def look() -> Look:
        trunk = copy.deepcopy(backbone.trunk)
        return Look(trunk, backbone, items, splits.task, numerics, seed, store, passes)

    kept = look()
    pretrained, adapted = probe_depth(kept, -1), None
    if pretrained is None:
        return None
    if has_norms:
        other = look()
        other.adapt()
        adapted = probe_depth(other, -1)
        if _adapts(pretrained, adapted):
            kept = other
    return Evidence(
        items=len(splits.train),
        per_class=items_of_median_class(splits.train, splits.task.classes),
        pretrained=pretrained,
        adapted=adapted,
        middle=_probe_middle(kept),
        mirrored=None if backbone.takes_text else _mirror(kept),
    )


def _adapts(pretrained: Depth, adapted: Depth | None) -> bool:
    return adapted is not None and adapted.information >= pretrained.information - CLEARLY


def probe_depth(look: Look, place: int) -> Depth | None:
    """A probe at one depth; None where no item can be held out."""
    found = look.probe(place)
    if found.loss is None or found.score is None:
        return None
    information = 1 - found.loss / uncertainty(look.targets)
    return Depth(stage=look.names[place], information=information, accuracy=found.score)


def _probe_middle(look: Look) -> Depth | None:
    """A probe half-way up; None where nothing can be seen below the top."""
    depths = len(look.states)
    return probe_depth(look, min(depths // 2, depths - 2)) if depths > 1 else None


def _mirror(look: Look) -> Mirrored:
    """What mirroring costs a probe on all depths together."""
    plain, mirrored = torch.cat(look.states, 1), torch.cat(look.see(mirrored=True), 1)
    one, two = held_out_losses(
        [plain, mirrored],
        look.targets,
        look.task.classes,
        strength=look.solve(plain).strength,
        seed=look.seed,
        groups=look.items.digests,
    )
    whole = uncertainty(look.targets) * (look.task.classes if look.task.multi_label else 1)
    known = 1 - float(one.mean()) / whole
    rises = two - one
    error = float(rises.std()) / math.sqrt(len(rises))
    return Mirrored(
        kept=(1 - float(two.mean()) / whole) / known if known > 0 else 0.0,
        known=known,
        t=float(rises.mean()) / error if error > 0 else 0.0,
    )


def uncertainty(targets: NDArray[np.integer[Any]]) -> float:
    """Entropy of the labels' frequencies in nats; of a multi-label task, the mean over labels."""
    if targets.ndim == 1:
        shares = np.bincount(targets) / len(targets)
        return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()) or 1.0
    present = np.clip(targets.mean(axis=0), 1e-12, 1 - 1e-12)
    return float(-(present * np.log(present) + (1 - present) * np.log(1 - present)).mean()) or 1.0
