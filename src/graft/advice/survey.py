"""What the frozen backbone knows of the labels: one look, at every depth, with no training of its body.

Training items alone are looked at, a thousand of them or ten a class; what they looked like inside the
network stays in the store, so that training afterwards begins with it.

Shapes: N items, D features, C classes.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from graft.advice.scores import forecast, h_score, knn_accuracy, logme, separability
from graft.backbones.contract import Backbone
from graft.batchnorm import plain_norms
from graft.data.items import Splits
from graft.evidence import FEWEST_A_CLASS, MOST, Depth, Evidence, probe_depth
from graft.folds import assign_folds
from graft.looking import Look, Passes, Progress
from graft.numerics import Numerics
from graft.options import Frozen
from graft.probe import held_out_logits, solve_head
from graft.reuse.store import NOWHERE, Store
from graft.seeds import mix

EVERY_DEPTH = 12  # at most so many depths are probed
SHARES = (0.125, 0.25, 0.5, 1.0)  # of the labels, in the learning curve
DRAWS = 3  # of labels for each share but the last
PAIRS = 5  # of classes that are taken for each other, the most frequent


class CurvePoint(Frozen):
    """Accuracy on held-out items of a probe on so many labels: the mean over draws, and their deviation."""

    labels: int
    accuracy: float
    deviation: float


class Confusion(Frozen):
    """``share`` of the items of class ``label`` are taken for ``taken_for`` by a probe, out of fold."""

    label: str
    taken_for: str
    share: float


class Survey(Frozen):
    """All that one look tells. Numbers about classes are None where an item may have several labels.

    ``depths``: from the lowest looked at to the top. ``shift``: how far the data's batch-norm statistics
    lie from the pretraining's (see :func:`statistics_shift`).
    ``confidence``: of the pretraining's own classifier, the mean probability of its first answer.
    ``forecast``: accuracy of a probe with twice the labels, by the curve.
    """

    items: int
    depths: tuple[Depth, ...]
    neighbours: float | None
    h_score: float | None
    logme: float | None
    separability: float | None
    shift: float | None
    confidence: float | None
    curve: tuple[CurvePoint, ...] = ()
    forecast: float | None = None
    confusions: tuple[Confusion, ...] = ()

    @property
    def top(self) -> Depth:
        return self.depths[-1]

    @property
    def best(self) -> Depth:
        """The depth that knows most; in doubt the higher one."""
        return max(reversed(self.depths), key=lambda depth: depth.information)


def survey_data(
    backbone: Backbone,
    splits: Splits,
    numerics: Numerics,
    evidence: Evidence | None,
    *,
    seed: int = 0,
    store: Store = NOWHERE,
    progress: Progress | None = None,
) -> Survey | None:
    """Look at the training items through the backbone, with the statistics that ``evidence`` is for.

    None where no item can be held out. The backbone is left as it is; ``progress`` is called with (items
    that passed, all that will).
    """
    most = max(MOST, FEWEST_A_CLASS * splits.task.classes)
    items = splits.train.sample(most, mix(seed, "evidence"))  # those that auto looks at
    norms = bool(plain_norms(backbone.trunk))
    passes = Passes(len(items) * (2 if norms else 1), progress)
    depths = min(EVERY_DEPTH, len(backbone.stages))

    def look() -> Look:
        trunk = copy.deepcopy(backbone.trunk)
        return Look(trunk, backbone, items, splits.task, numerics, seed, store, passes, depths)

    seen, shift = look(), None
    if norms:
        other = look()
        other.adapt()
        shift = statistics_shift(backbone.trunk, other.trunk)
        seen = other if evidence is not None and evidence.adapts else seen
    probed = [probe_depth(seen, place) for place in range(len(seen.states))]
    if any(found is None for found in probed):
        return None
    several = splits.task.multi_label
    features, targets = seen.states[-1], seen.targets
    values = features.double().numpy()
    curve = () if several else learning_curve(seen)
    return Survey(
        items=len(items),
        depths=tuple(found for found in probed if found is not None),
        neighbours=None if several else knn_accuracy(values, targets),
        h_score=None if several else h_score(values, targets),
        logme=None if several else logme(values, targets),
        separability=None if several else separability(values, targets),
        shift=shift,
        confidence=_confidence(backbone, features),
        curve=curve,
        forecast=_forecast(curve),
        confusions=() if several else _confusions(seen),
    )


def statistics_shift(before: torch.nn.Module, after: torch.nn.Module) -> float:
    """How far batch-norm statistics lie apart: the mean over channels, then over layers.

    Of a channel, the distance of the means in deviations, and the logarithm by which deviations differ.
    """
    moved = []
    for one, two in zip(plain_norms(before), plain_norms(after), strict=True):
        assert one.running_mean is not None and one.running_var is not None
        assert two.running_mean is not None and two.running_var is not None
        variances = [
            norm.running_var.cpu() + norm.eps for norm in (one, two) if norm.running_var is not None
        ]
        means = (two.running_mean.cpu() - one.running_mean.cpu()).abs() / variances[0].sqrt()
        moved.append(float((means + (variances[1] / variances[0]).log().abs() / 2).mean()))
    return float(np.mean(moved))


def learning_curve(seen: Look) -> tuple[CurvePoint, ...]:
    """Probes on shares of the labels, all on the same held-out fifth of the items."""
    features, targets, classes = seen.states[-1], seen.targets, seen.task.classes
    fold_of = assign_folds(targets, 5, seed=seen.seed, groups=seen.items.digests)
    held, rest = np.flatnonzero(fold_of == 0), np.flatnonzero(fold_of != 0)
    if not len(held):
        return ()
    strength = seen.probe(-1).strength
    points = []
    for share in SHARES:
        found, count = [], max(2, round(share * len(rest)))
        for draw in range(DRAWS if share < 1 else 1):
            order = np.random.default_rng(mix(seen.seed, "curve", draw)).permutation(rest)
            taken = np.sort(_one_of_each(order, targets)[:count])
            head = solve_head(features[taken], targets[taken], classes, strengths=[strength])
            logits = features[held] @ head.weight.T + head.bias
            found.append(float((logits.argmax(1).numpy() == targets[held]).mean()))
        points.append(
            CurvePoint(labels=count, accuracy=float(np.mean(found)), deviation=float(np.std(found)))
        )
    return tuple(points)


def _one_of_each(order: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The same items, one of every class first, so that few of them have as many classes as can be."""
    _, first = np.unique(targets[order], return_index=True)
    rest = np.setdiff1d(np.arange(len(order)), first)
    return np.concatenate([order[np.sort(first)], order[rest]])


def _forecast(curve: tuple[CurvePoint, ...]) -> float | None:
    if not curve:
        return None
    counts = [point.labels for point in curve]
    error = forecast(counts, [1 - point.accuracy for point in curve], 2 * counts[-1])
    return None if error is None else 1 - error


def _confidence(backbone: Backbone, features: Tensor) -> float | None:
    if backbone.classifier is None:
        return None
    weight, bias = backbone.classifier
    return float((features @ weight.T + bias).softmax(1).amax(1).mean())


def _confusions(seen: Look) -> tuple[Confusion, ...]:
    """The pairs of classes that a probe takes for each other most often, out of fold."""
    targets, task = seen.targets, seen.task
    held, (logits,) = held_out_logits(
        [seen.states[-1]],
        targets,
        task.classes,
        strength=seen.probe(-1).strength,
        seed=seen.seed,
        groups=seen.items.digests,
    )
    kept = held.numpy()
    counts = np.zeros((task.classes, task.classes))
    np.add.at(counts, (targets[kept], logits.argmax(1).numpy()[kept]), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None)[:PAIRS]
    pairs = [divmod(int(place), task.classes) for place in order]
    return tuple(
        Confusion(label=task.labels[one], taken_for=task.labels[two], share=float(shares[one, two]))
        for one, two in pairs
        if shares[one, two] > 0
    )
