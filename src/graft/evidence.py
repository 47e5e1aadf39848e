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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graft.backbones.contract import PADDING, Backbone, Stage
from graft.batchnorm import plain_norms
from graft.data.dataset import Pictures
from graft.data.inputs import Inputs, open_inputs
from graft.data.items import Items, Splits
from graft.data.validation import items_of_median_class
from graft.inference import BATCH, Rows, check_finite, collect_statistics
from graft.numerics import Numerics
from graft.options import Frozen
from graft.probe import Solution, held_out_losses, solve_head
from graft.reuse.folding import resting
from graft.reuse.states import Lower, States, open_space
from graft.reuse.store import NOWHERE, Store
from graft.seeds import mix
from graft.steps import STRENGTHS
from graft.task import Task

MOST, FEWEST_A_CLASS = 1000, 10  # items that are looked at, or more of many classes
DEPTHS = 6  # that are probed
LOOKS = 4  # of a network with batch-norm at its items, one of them mirrored, and one for statistics
CLEARLY = 0.1  # information by which the statistics of the pretraining must be ahead to stay
Progress = Callable[[int, int], None]


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
    passes = _Passes(len(items) * looks, progress)

    def look() -> _Look:
        trunk = copy.deepcopy(backbone.trunk)
        return _Look(trunk, backbone, items, splits.task, numerics, seed, store, passes)

    kept = look()
    pretrained, adapted = kept.probe(-1), None
    if pretrained is None:
        return None
    if has_norms:
        other = look()
        other.adapt()
        adapted = other.probe(-1)
        if _adapts(pretrained, adapted):
            kept = other
    return Evidence(
        items=len(splits.train),
        per_class=items_of_median_class(splits.train, splits.task.classes),
        pretrained=pretrained,
        adapted=adapted,
        middle=kept.probe_middle(),
        mirrored=None if backbone.takes_text else kept.mirror(),
    )


def _adapts(pretrained: Depth, adapted: Depth | None) -> bool:
    return adapted is not None and adapted.information >= pretrained.information - CLEARLY


@dataclass
class _Passes:
    """How many pictures have passed the network, of how many."""

    total: int
    tell: Progress | None
    done: int = 0

    def add(self, count: int) -> None:
        self.done += count
        if self.tell is not None:
            self.tell(self.done, self.total)


@dataclass
class _Look:
    """A network of its own, and the items that are looked at through it."""

    trunk: nn.Module
    backbone: Backbone
    items: Items
    task: Task
    numerics: Numerics
    seed: int
    store: Store
    passes: _Passes

    @property
    def inputs(self) -> Inputs:
        return open_inputs(self.items, self.backbone.preprocess)

    @property
    def device(self) -> torch.device:
        return torch.device(self.numerics.device)

    @property
    def targets(self) -> NDArray[np.integer[Any]]:
        assert self.items.targets is not None
        return self.items.targets

    def adapt(self) -> None:
        """Give the network the batch-norm statistics of the items."""
        before, pictures = 0, self.inputs
        assert isinstance(pictures, Pictures)  # networks of texts have no batch-norms
        for seen in collect_statistics(
            self.trunk,
            plain_norms(self.trunk),
            pictures,
            self.device,
            seed=self.seed,
            workers=self.numerics.workers,
        ):
            self.passes.add(seen - before)
            before = seen

    @cached_property
    def states(self) -> list[Tensor]:
        """The pooled state of the items at every depth, [N, D] each."""
        return self._pass()

    def probe(self, place: int) -> Depth | None:
        """A probe at one depth; None where no item can be held out."""
        found = self._solve(self.states[place])
        if found.loss is None or found.score is None:
            return None
        information = 1 - found.loss / _uncertainty(self.targets)
        name = _depths(self.backbone.stages)[place][0]
        return Depth(stage=name, information=information, accuracy=found.score)

    def probe_middle(self) -> Depth | None:
        """A probe half-way up; None where nothing can be seen below the top."""
        depths = len(self.states)
        return self.probe(min(depths // 2, depths - 2)) if depths > 1 else None

    def mirror(self) -> Mirrored:
        """What mirroring costs a probe on all depths together."""
        plain, mirrored = torch.cat(self.states, 1), torch.cat(self._pass(mirrored=True), 1)
        one, two = held_out_losses(
            [plain, mirrored],
            self.targets,
            self.task.classes,
            strength=self._solve(plain).strength,
            seed=self.seed,
            groups=self.items.digests,
        )
        uncertainty = _uncertainty(self.targets) * (self.task.classes if self.task.multi_label else 1)
        known = 1 - float(one.mean()) / uncertainty
        rises = two - one
        error = float(rises.std()) / math.sqrt(len(rises))
        return Mirrored(
            kept=(1 - float(two.mean()) / uncertainty) / known if known > 0 else 0.0,
            known=known,
            t=float(rises.mean()) / error if error > 0 else 0.0,
        )

    def _solve(self, states: Tensor) -> Solution:
        return solve_head(
            states,
            self.targets,
            self.task.classes,
            strengths=STRENGTHS[::2],  # decades are close enough to tell depths apart
            seed=self.seed,
            groups=self.items.digests,
            device=self.device,
        )

    def _pass(self, mirrored: bool = False) -> list[Tensor]:
        """The pooled state after each depth, [N, D] each; of the top one the features."""
        source, how, entries = self.inputs, self.numerics.forward, _depths(self.backbone.stages)[:-1]
        items, size = source.order(range(len(self.items))), max(BATCH, how.batch)
        widths: list[int] = []
        rows = Rows(range(len(self.items)))
        with (
            resting(self.trunk, self.backbone.preprocess, how, self.device),
            watching(self.trunk, [entry for _, entry in entries]) as seen,
        ):

            def look(inputs: Tensor) -> Tensor:
                seen.real = None if inputs.is_floating_point() else inputs[:, 0] != PADDING
                features = self.trunk(inputs.flip(-1) if mirrored else inputs)
                states = [*(seen.take(place) for place in range(len(entries))), features.float().cpu()]
                widths[:] = [state.shape[1] for state in states]
                return torch.cat(states, dim=1)

            lower = Lower(look, self.device, partial(how.autocast, self.device), how.batch)
            space = open_space(
                self.store,
                self.backbone,
                self.trunk,
                lower,
                source,
                upper=(),
                precision=how.precision,
                what="every depth, mirrored" if mirrored else "every depth",
            )
            batches = [items[start : start + size] for start in range(0, len(items), size)]
            for found, _, numbers in States(source, lower, space).batches(batches, self.numerics.workers):
                rows.add(numbers, found)
                self.passes.add(len(found))
        states = list(rows.whole.split(widths, dim=1))
        for each in states:
            check_finite(each, self.items)
        return states


@dataclass
class Seen:
    """Pooled states [B, D] of a pass, by place; ``real`` [B, T]: where texts have tokens, else None."""

    real: Tensor | None = None
    states: dict[int, Tensor] = field(default_factory=dict)

    def take(self, place: int) -> Tensor:
        return self.states.pop(place)


@contextmanager
def watching(trunk: nn.Module, entries: Sequence[str]) -> Iterator[Seen]:
    """Inside, every forward pass leaves the pooled inputs [B, D] of ``entries``, by their place there."""
    seen = Seen()

    def watch(place: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def look(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if place not in seen.states:  # a shared module: its first call
                seen.states[place] = pool(inputs[0], seen.real).float().cpu()

        return look

    hooks = [
        trunk.get_submodule(name).register_forward_pre_hook(watch(place))
        for place, name in enumerate(entries)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def pool(state: Tensor, real: Tensor | None = None) -> Tensor:
    """A state between two stages as one row an item: the mean over places, [B, …] -> [B, D].

    Three dimensions are tokens [B, T, D], of which those count that are ``real`` [B, T]. Of four, channels
    come last where the two before are of equal size and the last is not (as in Swin); else they come first.
    """
    if state.ndim == 2:
        return state
    if state.ndim == 3 and real is not None:
        weights = real.unsqueeze(-1).to(state)
        return (state * weights).sum(1) / weights.sum(1)
    if state.ndim == 3:
        return state.mean(1)
    height, width, last = state.shape[1:4]
    return state.mean((1, 2)) if height == width != last else state.mean((2, 3))


def _depths(stages: Sequence[Stage]) -> list[tuple[str, str]]:
    """At most ``DEPTHS`` stages, evenly spread, each with the module whose input is its outcome.

    The last is the top stage, whose outcome are the features. Stages whose outcome no single module takes
    are passed over.
    """
    visible = [(below.name, above.entry) for below, above in pairwise(stages) if above.entry is not None]
    wanted = min(DEPTHS - 1, len(visible))
    places = sorted({round(each) for each in np.linspace(0, len(visible) - 1, wanted)}) if wanted else []
    return [*(visible[place] for place in places), (stages[-1].name, "")]


def _uncertainty(targets: NDArray[np.integer[Any]]) -> float:
    """Entropy of the labels' frequencies in nats; of a multi-label task, the mean over labels."""
    if targets.ndim == 1:
        shares = np.bincount(targets) / len(targets)
        return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()) or 1.0
    present = np.clip(targets.mean(axis=0), 1e-12, 1 - 1e-12)
    return float(-(present * np.log(present) + (1 - present) * np.log(1 - present)).mean()) or 1.0
