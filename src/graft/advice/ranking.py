"""Which of several backbones suits the data: each seen through the same eyes, without any fine-tuning.

A probe out of fold counts most (with nearest neighbours it agrees best with what fine-tuning comes to);
the other scores, size, multiplications and time on this machine stand beside it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from graft.advice.answer import measure_latency
from graft.advice.scores import h_score, knn_accuracy, logme
from graft.backbones.contract import Backbone
from graft.batchnorm import plain_norms
from graft.data.items import Splits
from graft.errors import DataError
from graft.evidence import FEWEST_A_CLASS, probe_depth, uncertainty
from graft.looking import Look, Passes, Progress
from graft.numerics import Numerics
from graft.options import Frozen
from graft.reuse.store import NOWHERE, Store
from graft.seeds import mix

MOST = 500  # items that each backbone is shown, or more of many classes: half of what one alone is
ADAPTED = 256  # of them, those that batch-norm statistics are taken of, to tell whether these know more


class Rated(Frozen):
    """One backbone beside the data. ``score``: what it is ranked by, the highest first.

    ``information`` and ``accuracy``: of a probe on the states of all depths together, out of fold.
    ``multiplications``: of one item, in millions. ``latency``: milliseconds for one item here. ``seconds``:
    what the look took.
    """

    backbone: str
    score: float
    information: float
    accuracy: float
    neighbours: float | None
    h_score: float | None
    logme: float | None
    parameters: int
    multiplications: float
    latency: float
    reference: float | None
    seconds: float


def rate(
    backbone: Backbone,
    splits: Splits,
    numerics: Numerics,
    *,
    seed: int = 0,
    store: Store = NOWHERE,
    progress: Progress | None = None,
) -> Rated:
    """See the training items through the backbone, with the batch-norm statistics that know more.

    Raises:
        DataError: no item can be held out.
    """
    began = time.perf_counter()
    most = max(MOST, FEWEST_A_CLASS * splits.task.classes)
    items = splits.train.sample(most, mix(seed, "evidence"))
    ways = 2 if plain_norms(backbone.trunk) and backbone.source.pretrained else 1
    for_statistics = items.sample(ADAPTED, mix(seed, "statistics"))
    passes = Passes(ways * len(items) + (ways - 1) * len(for_statistics), progress)
    looks = []
    for way in range(ways):
        trunk = copy.deepcopy(backbone.trunk)
        look = Look(trunk, backbone, items, splits.task, numerics, seed, store, passes)
        if way:
            look.adapt(for_statistics)
        looks.append(look)
    probed = [(probe_depth(look, -1), look) for look in looks]
    tops = [(depth, look) for depth, look in probed if depth is not None]
    if not tops:
        raise DataError("Every class has a single item, so that no backbone can be judged; add items.")
    top, look = max(tops, key=lambda pair: pair[0].information)
    together = look.solve(torch.cat(look.states, 1))
    assert together.loss is not None and together.score is not None
    information = 1 - together.loss / uncertainty(look.targets)
    several = splits.task.multi_label
    features = look.states[-1].double().numpy()
    multiplications = count_multiplications(backbone) / 1e6
    latency = measure_latency(backbone, numerics.device)
    neighbours = None if several else knn_accuracy(features, look.targets)
    discrimination = None if several else h_score(features, look.targets)
    evidence = None if several else logme(features, look.targets)
    return Rated(
        backbone=backbone.source.id,
        score=max(information, top.information),
        information=information,
        accuracy=max(together.score, top.accuracy),
        neighbours=neighbours,
        h_score=discrimination,
        logme=evidence,
        parameters=sum(parameter.numel() for parameter in backbone.trunk.parameters()),
        multiplications=multiplications,
        latency=latency,
        reference=backbone.source.accuracy,
        seconds=time.perf_counter() - began,
    )


def count_multiplications(backbone: Backbone) -> int:
    """Of one item through the trunk; without those of kernels that torch's counter does not know."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        backbone.trunk.eval()(backbone.preprocess.noise(1))
    return int(counter.get_total_flops() // 2)


def in_order(rated: Sequence[Rated]) -> list[Rated]:
    """The most promising first."""
    return sorted(rated, key=lambda each: -each.score)


def guidance(rated: Sequence[Rated]) -> Iterator[tuple[str, str]]:
    """What to take for which need, and the backbone's id."""
    ranked = in_order(rated)
    best = ranked[0]
    yield "best accuracy (fine-tune the first two, keep the better)", best.backbone
    if len(ranked) < 2:
        return
    good = [each for each in ranked if each.accuracy >= best.accuracy - 0.02]
    yield "a device at the edge, many items a second", min(good, key=lambda each: each.latency).backbone
    yield "few parameters, little memory", min(good, key=lambda each: each.parameters).backbone
    yield "a prototype today", min(ranked, key=lambda each: each.multiplications).backbone


def weighted_tau(scores: Sequence[float], truths: Sequence[float]) -> float:
    """Agreement of two rankings, the top counting most (Vigna, 2015): 1 equal, 0 unrelated, -1 reversed."""
    from scipy.stats import weightedtau

    return float(weightedtau(np.asarray(scores), np.asarray(truths)).statistic)
