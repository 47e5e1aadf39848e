"""The lower part of a network as a module of its own.

What lies above the cut is not copied: its place is taken by identities, and that of the first
module above (the entry of the next stage) by one that hands back what it is given. The network's
own ``forward`` runs until there, whatever it does in between.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from graft.backbones.contract import Stage
from graft.errors import BackboneError

_SETTING = (str, int, float)


class _Reached(Exception):
    def __init__(self, state: Tensor) -> None:
        super().__init__()
        self.state = state


class _Stop(nn.Module):
    """Stands where the first module above the cut was, and hands back what it is given.

    Its settings stay readable, for networks that look at a layer before they call it.
    """

    def __init__(self, replaced: nn.Module) -> None:
        super().__init__()
        plain = {name: value for name, value in vars(replaced).items() if isinstance(value, _SETTING)}
        self.__dict__ |= {name: value for name, value in plain.items() if name not in self.__dict__}

    def forward(self, state: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        raise _Reached(state)


class Truncated(nn.Module):
    """The lower part of a network. What lay above the cut is not copied at all."""

    def __init__(self, module: nn.Module, entry: str, above: Sequence[Stage]) -> None:
        super().__init__()
        gone = {name for stage in above for name in stage.parameters}
        memo: dict[int, Any] = {id(p): None for n, p in module.named_parameters() if n in gone}
        # Leaves alone: what contains them may be walked over below the cut, or hold the cut itself.
        for name in (name for stage in above for name in stage.modules):
            memo[id(module.get_submodule(name))] = nn.Identity()
        top = module.get_submodule(entry)
        memo[id(top)] = _Stop(top)
        self.network = copy.deepcopy(module, memo)

    def forward(self, images: Tensor) -> Tensor:
        try:
            self.network(images)
        except _Reached as reached:
            return reached.state
        raise BackboneError("The network did not come to the cut on this input.")


def leaf_names(module: nn.Module) -> Iterator[str]:
    """Names of the modules without children."""
    for name, child in module.named_modules():
        if next(child.children(), None) is None:
            yield name


def is_within(name: str, parent: str) -> bool:
    """Whether the dotted ``name`` is ``parent`` or below it."""
    return not parent or name == parent or name.startswith(f"{parent}.")
