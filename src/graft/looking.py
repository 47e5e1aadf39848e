"""Items seen through a resting network: their states, pooled, at several depths.

One pass gives them all, and the store keeps them, so that whoever looks again (auto, advice, the doctor)
waits for nothing.

Shapes: N items, B items of a batch, D features (of one depth).
"""

from __future__ import annotations

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
from graft.data.items import Items
from graft.inference import BATCH, Rows, check_finite, collect_statistics
from graft.numerics import Numerics
from graft.probe import Solution, solve_head
from graft.reuse.folding import resting
from graft.reuse.states import Lower, States, open_space
from graft.reuse.store import Store
from graft.steps import STRENGTHS
from graft.task import Task

DEPTHS = 6  # that are looked at, where no other number is asked for
Progress = Callable[[int, int], None]


@dataclass
class Passes:
    """How many pictures have passed the network, of how many."""

    total: int
    tell: Progress | None
    done: int = 0

    def add(self, count: int) -> None:
        self.done += count
        if self.tell is not None:
            self.tell(self.done, self.total)


@dataclass
class Look:
    """A network of its own, and the items that are looked at through it."""

    trunk: nn.Module
    backbone: Backbone
    items: Items
    task: Task
    numerics: Numerics
    seed: int
    store: Store
    passes: Passes
    depths: int = DEPTHS
    """The most depths that are looked at."""
    solved: dict[int, Solution] = field(default_factory=dict)
    """Probes by depth, as they were asked for."""

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

    def adapt(self, items: Items | None = None) -> None:
        """Give the network the batch-norm statistics of all items looked at, or of these."""
        before, pictures = 0, open_inputs(self.items if items is None else items, self.backbone.preprocess)
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
        """The pooled state of the items at every depth, [N, D] each; of the top one the features."""
        return self.see()

    @cached_property
    def names(self) -> list[str]:
        """The stage after which each of them is."""
        return [name for name, _ in _depths(self.backbone.stages, self.depths)]

    def probe(self, place: int) -> Solution:
        """The probe at one depth, solved once."""
        place %= len(self.states)
        if place not in self.solved:
            self.solved[place] = self.solve(self.states[place])
        return self.solved[place]

    def solve(self, states: Tensor) -> Solution:
        """A probe on states [N, D], out of fold, as every depth is probed."""
        return solve_head(
            states,
            self.targets,
            self.task.classes,
            strengths=STRENGTHS[::2],  # decades are close enough to tell depths apart
            seed=self.seed,
            groups=self.items.digests,
            device=self.device,
        )

    def see(self, mirrored: bool = False) -> list[Tensor]:
        """The pooled state after each depth, [N, D] each; of the top one the features."""
        source, how, entries = (
            self.inputs,
            self.numerics.forward,
            _depths(self.backbone.stages, self.depths)[:-1],
        )
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
                what=self._what(mirrored),
            )
            batches = [items[start : start + size] for start in range(0, len(items), size)]
            for found, _, numbers in States(source, lower, space).batches(batches, self.numerics.workers):
                rows.add(numbers, found)
                self.passes.add(len(found))
        states = list(rows.whole.split(widths, dim=1))
        for each in states:
            check_finite(each, self.items)
        return states

    def _what(self, mirrored: bool) -> str:
        """What tells these states apart from others of the same network in the store."""
        every = "every depth" if self.depths == DEPTHS else f"{self.depths} depths"
        return f"{every}, mirrored" if mirrored else every


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


def _depths(stages: Sequence[Stage], most: int) -> list[tuple[str, str]]:
    """At most ``most`` stages, evenly spread, each with the module whose input is its outcome.

    The last is the top stage, whose outcome are the features. Stages whose outcome no single module takes
    are passed over.
    """
    visible = [(below.name, above.entry) for below, above in pairwise(stages) if above.entry is not None]
    wanted = min(most - 1, len(visible))
    places = sorted({round(each) for each in np.linspace(0, len(visible) - 1, wanted)}) if wanted else []
    return [*(visible[place] for place in places), (stages[-1].name, "")]
