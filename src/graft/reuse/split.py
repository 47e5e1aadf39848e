"""A network split between two stages: what lies below runs once, what lies above goes on from its state.

The network's own ``forward`` runs in both parts, whatever it does between its modules. In the lower part it
is left at the upper one's entry (the module whose input is all that is handed up, as the trace found). In
the upper part the modules below hand back zeros of the right shape without computing anything, and the
entry is given the state. A split is tried before it is used: with NaN instead of those zeros the features
must come out as those of the whole network, so nothing else can have been handed up.

Shapes: B pictures, K channels, h, w of the input, D features; a state is [B, …].
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from graft.backbones.contract import Backbone
from graft.backbones.truncation import is_within
from graft.errors import BackboneError
from graft.reuse.forwards import replace_forward, restore_forwards

TRIED_WITH = 3  # pictures; shapes were noted with another number, so that none is taken for fixed
CLOSE = 1e-5  # absolute plus relative, between the features of the split and of the whole network


@dataclass(frozen=True)
class Split:
    """Where a network is split: below the stage ``above``, whose number from the input is ``place``.

    ``entry``: the module that is given the state. ``skipped``: the outermost modules that lie wholly
    below, each with the outputs of its calls, as shapes and types (of a batch of one). ``row``: the shape
    of one picture's state.
    """

    above: str
    place: int
    entry: str
    skipped: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    row: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Blank:
    """A tensor of which only the form is known; ``batched``: its first dimension is that of the batch."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    batched: bool

    def fill(self, batch: int, value: float, device: torch.device) -> Tensor:
        shape = (batch, *self.shape[1:]) if self.batched else self.shape
        kind = self.dtype if self.dtype.is_floating_point else None
        return torch.full((), value if kind else 0, dtype=self.dtype, device=device).expand(shape)


class _Reached(Exception):
    def __init__(self, state: Tensor) -> None:
        super().__init__()
        self.state = state


def find_split(backbone: Backbone, below: int) -> Split | None:
    """The highest split with at most ``below`` stages under it; None where there is none.

    Costs two passes of a few blank pictures for each stage that is tried. The trunk is left as it was.
    """
    for place in range(min(below, len(backbone.stages) - 1), 0, -1):
        entry = backbone.stages[place].entry
        if entry is not None:
            split = _note(backbone, place, entry)
            if split is not None and _holds(backbone, split):
                return split
    return None


@contextmanager
def split_trunk(
    trunk: nn.Module, split: Split | None, size: tuple[int, ...], *, blank: float = 0.0
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Inside, ``trunk`` takes states [B, …] in place of pictures of ``size`` (K, h, w).

    Yields what makes states of pictures: the lower part. ``split``: None is above all stages, so that
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
    parts = _Parts(split, trunk.forward, size, blank)
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


@dataclass
class _Parts:
    """Both parts of a network, and where the pass under way is: below, or at the entry, or beyond it."""

    split: Split
    whole: Callable[[Tensor], Any]
    size: tuple[int, ...]
    blank: float
    state: Tensor = field(default_factory=lambda: torch.empty(0))
    lowers: bool = False
    entered: bool = False
    calls: Counter[str] = field(default_factory=Counter)

    def lower(self, pictures: Tensor) -> Tensor:
        self.lowers = True
        try:
            self.whole(pictures)
        except _Reached as reached:
            return reached.state
        finally:
            self.lowers = False
        raise BackboneError(f"The network did not come to its stage {self.split.above} on this input.")

    def resume(self, state: Tensor) -> Any:
        self.state, self.entered, self.calls = state, False, Counter()
        return self.whole(torch.zeros((), device=state.device).expand(len(state), *self.size))

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
            return value.fill(len(self.state), self.blank, self.state.device)
        return value


def _note(backbone: Backbone, place: int, entry: str) -> Split | None:
    """The split at ``place``, with the form of what modules below hand back; None if it is not reached."""
    trunk = backbone.trunk
    above = {name for stage in backbone.stages[place:] for name in stage.modules}
    outputs: dict[str, list[Any]] = {name: [] for name in _below(trunk, above, entry)}

    def note(name: str) -> Any:
        def look(_module: nn.Module, _args: Any, output: Any) -> None:
            outputs[name].append(tree_map(_blank, output))

        return look

    hooks = [trunk.get_submodule(name).register_forward_hook(note(name)) for name in outputs]
    split = Split(backbone.stages[place].name, place, entry)
    try:
        example = _example(backbone, 1)
        with _resting(trunk), split_trunk(trunk, split, tuple(example.shape[1:])) as lower:
            state = lower(example)
    except (BackboneError, RuntimeError, ValueError, TypeError):
        return None
    finally:
        for hook in hooks:
            hook.remove()
    called: list[str] = []  # the outermost: names come in the order of the tree
    for name, found in outputs.items():
        if found and not any(is_within(name, outer) for outer in called):
            called.append(name)
    skipped = tuple((name, tuple(outputs[name])) for name in called)
    return replace(split, skipped=skipped, row=tuple(state.shape[1:]))


def _blank(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Blank(tuple(value.shape), value.dtype, value.ndim > 0 and value.shape[0] == 1)
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
    trunk, pictures = backbone.trunk, _example(backbone, TRIED_WITH)
    try:
        with _resting(trunk):
            whole = trunk(pictures)
            with split_trunk(trunk, split, tuple(pictures.shape[1:]), blank=math.nan) as lower:
                state = lower(pictures)
                parts = trunk(state.clone()) if len(state) == TRIED_WITH else None
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return parts is not None and bool(torch.isclose(parts, whole, rtol=CLOSE, atol=CLOSE).all())


def _example(backbone: Backbone, count: int) -> Tensor:
    preprocess = backbone.preprocess
    generator = torch.Generator().manual_seed(0)
    shape = (count, preprocess.channels, *preprocess.size)
    parameter = next(backbone.trunk.parameters(), torch.empty(0))
    return torch.randn(shape, generator=generator).to(parameter.device)


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
