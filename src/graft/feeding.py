"""What a phase's batches are made of: inputs, or the states that its frozen stages hand up.

Where the plan reuses what is frozen, the trunk takes states for as long as the phase lasts, and training
and validation read them from the store. What comes before and after a phase sees the whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from graft.data.inputs import Inputs
from graft.data.items import Items
from graft.errors import TrainingError
from graft.numerics import Forward
from graft.plan import Phase
from graft.reuse.folding import resting
from graft.reuse.split import find_split, split_trunk
from graft.reuse.states import Lower, States, open_space
from graft.reuse.store import NOWHERE
from graft.state import State
from graft.stepping import set_modes

Source = Inputs | States


@dataclass(frozen=True)
class Feed:
    """Where a phase takes its training and its validation items from; ``val``: None without such data."""

    train: Source
    val: Source | None


@contextmanager
def feed_for(run: State, phase: Phase) -> Iterator[Feed]:
    """The feed of a phase. Inside, the trunk takes what the feed gives."""
    inputs = run.inputs(run.splits.train, phase.train.augmentation, flip=phase.train.flip)
    val = None if run.splits.val is None else run.inputs(run.splits.val)
    reuse = phase.reuse
    if reuse is None or run.store is None:
        yield Feed(inputs, val)
        return
    set_modes(run, phase.train)
    with _lower_part(run, reuse.place) as lower:
        together = min(Forward().batch, -(-phase.train.batch_size // run.engine.processes))
        fast = Lower(lower, run.engine.device, run.engine.autocast, together)
        exact = Lower(lower, run.engine.device)  # as validation computes
        yield Feed(
            _states(run, inputs, fast, reuse.place, run.plan.numerics.precision),
            None if val is None else _states(run, val, exact, reuse.place, "fp32"),
        )


@contextmanager
def features_of(run: State, items: Items) -> Iterator[States]:
    """Items as features, computed as the plan's numerics say. Inside, the trunk takes these."""
    device, how = run.engine.device, run.plan.numerics.forward
    trunk, place = run.model.trunk, len(run.backbone.stages)
    # Where nothing trains afterwards, nobody decodes pictures a second time.
    again = any(isinstance(phase, Phase) for phase in run.plan.phases[run.position.phase :])
    with resting(trunk, run.backbone.preprocess, how, device), _lower_part(run, place) as whole:
        lower = Lower(whole, device, partial(how.autocast, device), how.batch)
        yield _states(run, run.inputs(items, keep=again), lower, place, how.precision)


@contextmanager
def _lower_part(run: State, place: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """The part of the trunk below the stage of this number; inside, the trunk is the rest."""
    stages = run.backbone.stages
    split = None if place == len(stages) else find_split(run.backbone, place)
    if place < len(stages) and (split is None or split.place != place):
        raise TrainingError(f"The network cannot be split below its stage {stages[place].name} as planned.")
    with split_trunk(run.model.trunk, split, run.backbone.preprocess) as lower:
        yield lower


def _states(run: State, inputs: Inputs, lower: Lower, place: int, precision: str) -> States:
    backbone, trunk = run.backbone, run.model.trunk
    space = open_space(
        run.store or NOWHERE,
        backbone,
        trunk,
        lower,
        inputs,
        upper=backbone.stages[place:],
        precision=precision,
    )
    return States(inputs, lower, space)
