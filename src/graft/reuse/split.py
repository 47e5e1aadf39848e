"""A network split between two stages: what lies below runs once, what lies above goes on from its state.

The network's own ``forward`` runs in both parts, whatever it does between its modules. In the lower part it
is left at the upper one's entry (the module whose input is all that is handed up, as the trace found). In
the upper part the modules below hand back zeros of the right shape without computing anything, and the
entry is given the state. A split is tried before it is used: with NaN instead of those zeros the features
must come out as those of the whole network, so nothing else can have been handed up. Modules below whose
output is the same for every input (rotary positions, normalised position embeddings) compute as ever.

With the states of texts goes where their tokens are (``Encoding.pack``), from which the upper part has its
mask.

Shapes: B items, D features; inputs are [B, …] as the network takes them, and a state is [B, …].
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from graft.backbones.contract import NOISE_LENGTH, Backbone, Encoding, Intake, Stage
from graft.backbones.truncation import is_within
from graft.errors import BackboneError
from graft.reuse.forwards import replace_forward, restore_forwards

TRIED_WITH = 3  # items; shapes were noted with another number, so that none is taken for fixed
CLOSE = 1e-5  # absolute plus relative, between the features of the split and of the whole network

_Found: TypeAlias = "dict[tuple[int, tuple[Stage, ...], Intake], Split]"
_found: WeakKeyDictionary[nn.Module, _Found] = WeakKeyDictionary()
"""By trunk. No split depends on values; adapters and another input size make another trunk or key."""


@dataclass(frozen=True)
class Split:
    """Where a network is split: below the stage ``above``, whose number from the input is ``place``.

    ``entry``: the module that is given the state. ``skipped``: the outermost modules that lie wholly
    below, each with the outputs of its calls, as shapes and types (of a batch of one). ``row``: the shape
    of one item's state, of texts with the most tokens.
    """

    above: str
    place: int
    entry: str
    skipped: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    row: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Blank:
    """A tensor of which only the form is known; None in ``shape`` stands for the length of texts.

    ``batched``: its first dimension is that of the batch.
    """

    shape: tuple[int | None, ...]
    dtype: torch.dtype
    batched: bool

    def fill(self, batch: int, length: int, value: float, device: torch.device) -> Tensor:
        shape = [length if size is None else size for size in self.shape]
        if self.batched:
            shape[0] = batch
        kind = self.dtype if self.dtype.is_floating_point else None
        return torch.full((), value if kind else 0, dtype=self.dtype, device=device).expand(shape)


class _Reached(Exception):
    def __init__(self, state: Tensor) -> None:
        super().__init__()
        self.state = state


def find_split(backbone: Backbone, below: int) -> Split | None:
    """The highest split with at most ``below`` stages under it; None where there is none.

    Costs some passes of a few blank pictures for each stage that is tried the first time. The trunk is left
    as it was.
    """
    for place in range(min(below, len(backbone.stages) - 1), 0, -1):
        split = _split_at(backbone, place)
        if split is not None:
            return split
    return None


def _split_at(backbone: Backbone, place: int) -> Split | None:
    """The split at ``place``, if there is one; what was found of a trunk once is known of it."""
    entry = backbone.stages[place].entry
    if entry is None:
        return None
    known = _found.setdefault(backbone.trunk, {})
    key = (place, backbone.stages, backbone.preprocess)
    if key not in known:
        split = _note(backbone, place, entry)
        if split is None or not _holds(backbone, split):
            return None
        known[key] = split
    return known[key]


@contextmanager
def split_trunk(
    trunk: nn.Module, split: Split | None, intake: Intake, *, blank: float = 0.0
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Inside, ``trunk`` takes states [B, …] in place of the inputs that ``intake`` makes.

    Yields what makes states of inputs: the lower part. ``split``: None is above all stages, so that
    states are features. ``blank``: what the modules below seem to hand back.
    """
    replaced: dict[nn.Module, Any] = {}
    if split is None:
        replace_forward(trunk, lambda state: state, replaced)
        try:
            yield replaced[trunk]
        finally:
            restore_forwards(replaced)
        return
    parts = _Parts(split, trunk.forward, intake, blank)
    hook = trunk.get_submodule(split.entry).register_forward_pre_hook(parts.enter, with_kwargs=True)
    try:
        for name, outputs in split.skipped:
            module = trunk.get_submodule(name)
            replace_forward(module, parts.skipping(name, module.forward, outputs), replaced)
        replace_forward(trunk, parts.resume, replaced)
        yield parts.lower
    finally:
        hook.remove()
        restore_forwards(replaced)


@contextmanager
def noting_states(entries: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Inside, a pass leaves here what is handed up to each of these entries of stages, not packed yet."""
    noted: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if module not in noted:  # it may be called again further above
            noted[module] = args[0].clone()  # its stage may write over it

    hooks = [entry.register_forward_pre_hook(note) for entry in entries]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


@dataclass
class _Parts:
    """Both parts of a network, and where the pass under way is: below, or at the entry, or beyond it."""

    split: Split
    whole: Callable[[Tensor], Any]
    intake: Intake
    blank: float
    length: int = 0
    state: Tensor = field(default_factory=lambda: torch.empty(0))
    lowers: bool = False
    entered: bool = False
    calls: Counter[str] = field(default_factory=Counter)

    def lower(self, inputs: Tensor) -> Tensor:
        self.lowers = True
        try:
            self.whole(inputs)
        except _Reached as reached:
            return self.intake.pack(reached.state, inputs)
        finally:
            self.lowers = False
        raise BackboneError(f"The network did not come to its stage {self.split.above} on this input.")

    def resume(self, state: Tensor) -> Any:
        self.entered, self.calls = False, Counter()
        self.state, inputs = self.intake.unpack(state)
        self.length = inputs.shape[-1]
        features = self.whole(inputs)
        if not self.entered:  # what was computed is of blanks
            raise BackboneError(f"The network did not come to its stage {self.split.above} on its state.")
        return features

    def enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """At the entry: leave with its input, or go on with the state in its place."""
        if self.lowers:
            raise _Reached(args[0])
        if self.entered:
            return None
        self.entered = True
        return (self.state, *args[1:]), kwargs

    def skipping(self, name: str, own: Callable[..., Any], outputs: tuple[Any, ...]) -> Callable[..., Any]:
        """A forward that hands back blanks; its own below, and where the module serves above."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.lowers or self.entered:
                return own(*args, **kwargs)
            self.calls[name] += 1
            return tree_map(self._fill, outputs[self.calls[name] - 1])

        return forward

    def _fill(self, value: Any) -> Any:
        if isinstance(value, _Blank):
            return value.fill(len(self.state), self.length, self.blank, self.state.device)
        return value


def _note(backbone: Backbone, place: int, entry: str) -> Split | None:
    """The split at ``place``, with the form of what modules below hand back; None if it is not reached."""
    trunk, intake = backbone.trunk, backbone.preprocess
    above = {name for stage in backbone.stages[place:] for name in stage.modules}
    split = Split(backbone.stages[place].name, place, entry)
    names = _below(trunk, above, entry)
    examples = [intake.noise(1, 0), intake.noise(1, 1), _of_another_length(intake)]
    noted = []
    for example in examples:
        try:
            with (
                _resting(trunk),
                _noting(trunk, names) as outputs,
                split_trunk(trunk, split, intake) as lower,
            ):
                state = lower(_on_device(example, trunk))
        except (BackboneError, RuntimeError, ValueError, TypeError):
            return None
        noted.append((outputs, state))
    (first, state), (second, _), (third, other) = noted
    called: list[str] = []  # the outermost: names come in the order of the tree
    for name, found in first.items():
        inside = any(is_within(name, outer) for outer in called)
        if found and not inside and not _alike(found, second[name]):
            called.append(name)
    skipped = tuple((name, tuple(tree_map(_blank, first[name], third[name]))) for name in called)
    row = tuple(state.shape[1:])
    if isinstance(intake, Encoding):
        row = tuple(
            intake.max_length if size != size_of_other else size
            for size, size_of_other in zip(row, other.shape[1:], strict=True)
        )
    return replace(split, skipped=skipped, row=row)


def _of_another_length(intake: Intake) -> Tensor:
    """One more example, of another length where lengths differ."""
    return intake.noise(1, length=NOISE_LENGTH - 2) if isinstance(intake, Encoding) else intake.noise(1)


@contextmanager
def _noting(trunk: nn.Module, names: list[str]) -> Iterator[dict[str, list[Any]]]:
    """Inside, what the modules of these names hand back is collected, call by call."""
    outputs: dict[str, list[Any]] = {name: [] for name in names}

    def note(name: str) -> Any:
        def look(_module: nn.Module, _args: Any, output: Any) -> None:
            outputs[name].append(output)

        return look

    hooks = [trunk.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _alike(one: Any, other: Any) -> bool:
    """Whether two outputs are the same: what does not depend on the input need not be left out."""
    ones, others = tree_flatten(one)[0], tree_flatten(other)[0]
    return len(ones) == len(others) and all(
        isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
        for a, b in zip(ones, others, strict=True)
    )


def _blank(value: Any, other: Any) -> Any:
    if isinstance(value, Tensor):
        shape = [
            size if size == same else None for size, same in zip(value.shape, other.shape, strict=True)
        ]
        return _Blank(tuple(shape), value.dtype, value.ndim > 0 and value.shape[0] == 1)
    return value


def _below(trunk: nn.Module, above: set[str], entry: str) -> list[str]:
    """The modules that hold no leaf of the stages above."""
    holders = {""} | {name[:end] for name in (*above, entry) for end in _ends(name)}
    return [name for name, _ in trunk.named_modules() if name not in holders]


def _ends(name: str) -> list[int]:
    """Where the dotted names that ``name`` begins with end: itself and what it lies in."""
    return [place for place, letter in enumerate(name) if letter == "."] + [len(name)]


def _holds(backbone: Backbone, split: Split) -> bool:
    """Whether both parts together give the features of the whole, with nothing else handed up."""
    trunk = backbone.trunk
    inputs = _on_device(backbone.preprocess.noise(TRIED_WITH), trunk)
    try:
        with _resting(trunk):
            whole = trunk(inputs)
            with split_trunk(trunk, split, backbone.preprocess, blank=math.nan) as lower:
                state = lower(inputs)
                parts = trunk(state.clone()) if len(state) == TRIED_WITH else None
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return parts is not None and bool(torch.isclose(parts, whole, rtol=CLOSE, atol=CLOSE).all())


def _on_device(inputs: Tensor, trunk: nn.Module) -> Tensor:
    parameter = next(trunk.parameters(), None)
    return inputs if parameter is None else inputs.to(parameter.device)


@contextmanager
def _resting(trunk: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; modes are put back afterwards."""
    modes = {module: module.training for module in trunk.modules()}
    trunk.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
