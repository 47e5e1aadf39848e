"""What a phase's batches are made of: inputs, or the states that its frozen stages hand up.

Where the plan reuses what is frozen, the trunk takes states for as long as the phase lasts, and training
and validation read them from the store. What comes before and after a phase sees the whole network.

Of gradual unfreezing each phase begins further below. What a pass for the first comes by on its way up is
kept for the others, so that all of them together take one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from graft.data.inputs import Inputs
from graft.data.items import Items
from graft.errors import TrainingError
from graft.numerics import Forward
from graft.plan import Phase
from graft.recipe import room_of
from graft.reuse.folding import resting
from graft.reuse.split import find_split, split_trunk
from graft.reuse.states import Further, Lower, States, open_space
from graft.reuse.store import NOWHERE, Space
from graft.state import State
from graft.stepping import set_modes

Source = Inputs | States
ALIKE = ("augmentation", "flip", "batch_size", "sampling", "objective")
"""What two phases must have in common that one may read the states of the other."""


@dataclass(frozen=True)
class Feed:
    """Where a phase takes its training and its validation items from; ``val``: None without such data.

    ``coming``: the lower places that are filled on the way, as of :func:`coming_by`.
    """

    train: Source
    val: Source | None
    coming: Mapping[int, frozenset[int]] = field(default_factory=dict)


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
    together = min(Forward().batch, -(-phase.train.batch_size // run.engine.processes))
    fast = partial(Lower, device=run.engine.device, autocast=run.engine.autocast, batch=together)
    exact = partial(Lower, device=run.engine.device)  # as validation computes
    precision = run.plan.numerics.precision
    coming = coming_by(
        run.plan.phases,
        run.position.phase,
        epochs_before=run.position.epochs_before,
        items=len(inputs) + (0 if val is None else len(val)),
        room=room_of(run.store.limit),
    )
    later = _further(run, inputs, fast, coming, precision)
    later_val = () if val is None else _further(run, val, exact, coming, "fp32")
    with _lower_part(run, reuse.place) as below:
        yield Feed(
            _states(run, inputs, fast(below), reuse.place, precision, later),
            None if val is None else _states(run, val, exact(below), reuse.place, "fp32", later_val),
            coming,
        )


def coming_by(
    phases: Sequence[object], number: int, *, epochs_before: int, items: int, room: int
) -> dict[int, frozenset[int]]:
    """Lower places whose states phases after ``number`` will read, each with the views that they will see.

    Only while nothing below such a place changes: then a pass for the one phase serves the others as well.
    And only as many as fit into ``room`` bytes beside each other, of ``items``. ``epochs_before``: of the
    phases before that one.
    """
    phase = phases[number]
    found: dict[int, frozenset[int]] = {}
    if not isinstance(phase, Phase) or phase.reuse is None or phase.train.sampling != "shuffled":
        return found  # what is drawn again in an epoch has further views
    lowest, before = phase.reuse.place, epochs_before + phase.train.epochs
    room -= items * phase.reuse.row_bytes * len(views_seen(phase, epochs_before))
    for later in phases[number + 1 :]:
        if not isinstance(later, Phase) or later.reuse is None or later.train.adapt:
            break
        alike = all(getattr(later.train, name) == getattr(phase.train, name) for name in ALIKE)
        if later.reuse.place > lowest or not alike:
            break
        lowest = later.reuse.place
        if lowest < phase.reuse.place:
            known = found.get(lowest, frozenset())
            new = views_seen(later, before) - known
            room -= items * later.reuse.row_bytes * len(new)
            if room < 0:
                break
            found[lowest] = known | new
        before += later.train.epochs
    return found


def views_seen(phase: Phase, epochs_before: int) -> frozenset[int]:
    """The numbers of the views that a phase takes; pictures that stay as they are have one."""
    if phase.train.augmentation == "none":
        return frozenset({0})
    epochs = range(epochs_before, epochs_before + phase.train.epochs)
    return frozenset(epochs if phase.views is None else (epoch % phase.views for epoch in epochs))


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


def _further(
    run: State,
    inputs: Inputs,
    make: Callable[[Callable[[Tensor], Tensor]], Lower],
    coming: Mapping[int, frozenset[int]],
    precision: str,
) -> tuple[Further, ...]:
    """Where to keep what a pass comes by at these places."""
    found = []
    for place, views in coming.items():
        with _lower_part(run, place) as below:
            space = _space(run, inputs, make(below), place, precision)
        entry = run.backbone.stages[place].entry
        assert entry is not None  # or it would be no place
        module = run.model.trunk.get_submodule(entry)
        found.append(Further(module, run.backbone.preprocess.pack, space, views))
    return tuple(found)


def _states(
    run: State,
    inputs: Inputs,
    lower: Lower,
    place: int,
    precision: str,
    further: tuple[Further, ...] = (),
) -> States:
    return States(inputs, lower, _space(run, inputs, lower, place, precision), further)


def _space(run: State, inputs: Inputs, lower: Lower, place: int, precision: str) -> Space:
    """The space of the states below the stage of this number."""
    return open_space(
        run.store or NOWHERE,
        run.backbone,
        run.model.trunk,
        lower,
        inputs,
        upper=run.backbone.stages[place:],
        precision=precision,
    )
