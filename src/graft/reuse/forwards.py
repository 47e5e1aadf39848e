"""Another ``forward`` in the place of a module's own, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def replace_forward(module: nn.Module, forward: Callable[..., Any], replaced: dict[nn.Module, Any]) -> None:
    """Put ``forward`` in the place of the module's own, which ``replaced`` remembers."""
    replaced[module] = module.forward
    module.__dict__["forward"] = forward


def restore_forwards(replaced: dict[nn.Module, Any]) -> None:
    """Give the modules back what ``replaced`` remembers."""
    for module, own in replaced.items():
        del module.__dict__["forward"]
        if module.forward != own:  # it was an attribute of the module before
            module.__dict__["forward"] = own
