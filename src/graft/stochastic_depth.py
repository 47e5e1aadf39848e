"""Stochastic depth (Huang et al., 2016): blocks skipped at random while training.

Networks bring modules of their own for it (timm's DropPath, torchvision's StochasticDepth); these are
found by their class names and scaled to the rate of the phase. A network without such modules cannot have
it.
"""

from __future__ import annotations

from torch import nn

_RATES = {"DropPath": "drop_prob", "StochasticDepth": "p"}  # class: its attribute


def droppable(module: nn.Module) -> list[nn.Module]:
    """The modules of stochastic depth, in the order in which they are declared."""
    return [child for child in module.modules() if type(child).__name__ in _RATES]


def set_drop_path(module: nn.Module, rate: float | None, built: nn.Module) -> int:
    """Scale the chances of blocks being skipped, in place, so that the largest is ``rate``.

    ``built`` is the network as it was built: its library's own course from block to block is kept (linear,
    in all of them), and with ``rate`` None its own chances.

    Returns:
        the number of modules that were set.
    """
    found, own = droppable(module), [_chance(child) for child in droppable(built)]
    largest = max(own, default=0.0)
    for child, chance in zip(found, own, strict=True):
        scaled = chance if rate is None else rate * (chance / largest if largest else 1.0)
        setattr(child, _RATES[type(child).__name__], scaled)
    return len(found)


def _chance(module: nn.Module) -> float:
    chance: float = getattr(module, _RATES[type(module).__name__])
    return chance
