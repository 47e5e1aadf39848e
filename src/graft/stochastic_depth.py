"""Stochastic depth (Huang et al., 2016): blocks skipped at random while training.

Networks bring modules of their own for it (timm's DropPath, torchvision's StochasticDepth); these are
found by their class names and given the rate of the phase, falling linearly from the last block to zero
at the first. A network without such modules cannot have it.
"""

from __future__ import annotations

from torch import nn

_RATES = {"DropPath": "drop_prob", "StochasticDepth": "p"}  # class: its attribute


def droppable(module: nn.Module) -> list[nn.Module]:
    """The modules of stochastic depth, in the order in which they are declared."""
    return [child for child in module.modules() if type(child).__name__ in _RATES]


def set_drop_path(module: nn.Module, rate: float) -> int:
    """Give the last block the chance ``rate`` of being skipped, those before it ever less, in place.

    Returns:
        the number of modules that were set.
    """
    found = droppable(module)
    for place, child in enumerate(found):
        share = place / (len(found) - 1) if len(found) > 1 else 1.0
        setattr(child, _RATES[type(child).__name__], rate * share)
    return len(found)
