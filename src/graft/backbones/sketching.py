"""A network without memory: what a configuration would build, counted while it is built.

Configurations may come from strangers, and one number in them can ask for ten million layers. A sketch
is made on torch's "meta" device, where a tensor has a shape and no values, and it stops as soon as it is
larger than the weights that it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as registration

from graft.backbones import is_own, rebuild
from graft.backbones.contract import Intake, Source
from graft.backbones.stored import Layout, layout_of
from graft.errors import BackboneError

SPARE = 2  # times the stored tensors: heads that are taken out again
SPARE_TENSORS, SPARE_MODULES = 1000, 10_000
MODULES_A_TENSOR = 20
SPARE_VALUES = 2**20
SPARE_BUFFERS = 2**24  # values that are computed and not stored, as masks of attention are


@dataclass
class _Count:
    """What has been registered in the networks under construction, and how much of it there may be."""

    layout: Layout
    what: str
    tensors: int = 0
    modules: int = 0
    buffers: int = 0

    def parameter(self, *_: Any) -> None:
        self.tensors += 1
        if self.tensors > SPARE * len(self.layout.tensors) + SPARE_TENSORS:
            self._refuse(f"more than {self.tensors - 1} tensors")

    def module(self, *_: Any) -> None:
        self.modules += 1
        if self.modules > MODULES_A_TENSOR * len(self.layout.tensors) + SPARE_MODULES:
            self._refuse(f"more than {self.modules - 1} parts")

    def buffer(self, _module: nn.Module, _name: str, value: Any) -> None:
        self.buffers += 0 if value is None else value.numel()
        if self.buffers > SPARE * self.layout.values + SPARE_BUFFERS:
            self._refuse(f"buffers of {self.buffers} values")

    def _refuse(self, found: str) -> None:
        raise BackboneError(
            f"{self.what}: its configuration describes a network with {found}; the weights beside it hold "
            f"{len(self.layout.tensors)} tensors with {self.layout.values} values."
        )

    def check_values(self, network: nn.Module) -> None:
        values = sum(each.numel() for each in network.parameters())
        if values > SPARE * self.layout.values + SPARE_VALUES:
            self._refuse(f"{values} values")


def sketch(build: Callable[[], nn.Module], layout: Layout, what: str) -> nn.Module:
    """What ``build`` builds, on the meta device; ``layout``: of the weights that it is for.

    Raises:
        BackboneError: it is larger than the weights, named by ``what``.
    """
    count = _Count(layout, what)
    with torch.device("meta"), _counting(count):
        network = build()
    count.check_values(network)
    return network


def sketch_trunk(source: Source, intake: Intake, layout: Layout) -> Layout | None:
    """The layout of the trunk that :func:`rebuild` would make; None of libraries that others registered.

    ``layout``: of the tensors stored for it.

    Raises:
        BackboneError: it is larger than the stored tensors, or cannot be built.
    """
    if not is_own(source.library):
        return None
    try:
        trunk = sketch(lambda: rebuild(source, intake).trunk, layout, source.id)
    except NotImplementedError:
        if source.library != "torchvision":  # some of its networks compute while they are built
            raise
        return None
    return layout_of(trunk.state_dict())


@contextmanager
def _counting(count: _Count) -> Iterator[None]:
    with ExitStack() as stack:
        for hook in (
            registration.register_module_parameter_registration_hook(count.parameter),
            registration.register_module_module_registration_hook(count.module),
            registration.register_module_buffer_registration_hook(count.buffer),
        ):
            stack.callback(hook.remove)
        yield
