"""One forward pass, watched: when each parameter is first used, and what each module is given.

Names say little about the order in which a network computes; execution says all of it. A dispatch
mode sees every tensor operation below Python (also those inside scripted functions and fused
kernels, and parameters used without their module, such as a position embedding), so the time of
first use is exact. The same mode follows what depends on the input from operation to operation,
which tells whether one tensor carries everything that is handed over at a module's call.

Costs one forward pass of one picture, in eval mode and without gradients; weights, buffers, modes
and random numbers are left as they were. It does not know what a stage is.

Times are counted in events (operations, module calls, module returns), from 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from graft.errors import BackboneError, first_line

_NEW_VALUES = {
    f"aten::{name}"
    for name in (
        *("empty_like", "full_like", "ones_like", "zeros_like"),
        *("new_empty", "new_full", "new_ones", "new_zeros", "lift_fresh", "lift_fresh_copy"),
    )
}
"""Operations that take no values of a tensor, or those of a constant that was made just now, unseen."""

Content = tuple[int, int]
"""What a piece of memory holds: (address, time at which it was written)."""


@dataclass(frozen=True)
class Call:
    """The first call of a module: when it began and ended, and what depended on the input.

    ``state`` is the content of the first positional argument where that tensor fills its memory and
    is the only argument that depends on the network's input; None otherwise. ``shape`` is that of
    the output where it is a tensor.
    """

    start: int
    end: int
    state: Content | None
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Trace:
    """What one forward pass did.

    ``first_use`` and ``last_use`` are times by parameter name; a parameter in neither was not used.
    ``reads`` lists (content, time of reading) for all that depends on the input.
    """

    first_use: dict[str, int]
    last_use: dict[str, int]
    calls: dict[str, Call]
    reads: list[tuple[Content, int]]
    output: Any = field(repr=False)


def trace_network(module: nn.Module, example: Tensor) -> Trace:
    """Run ``module(example)`` once and record the order of its execution.

    Args:
        example: a batch [B, K, height, width]; moved to the module's device.

    Raises:
        BackboneError: the network does not take such a batch.
    """
    parameter = next(module.parameters(), None)
    if parameter is not None:
        floating = parameter.is_floating_point() and example.is_floating_point()
        dtype = parameter.dtype if floating else None
        example = example.to(parameter.device, dtype)
    recorder = _Recorder(module, example)
    with ExitStack() as stack:
        stack.enter_context(_untouched(module))
        stack.enter_context(_hooked(module, recorder))
        stack.enter_context(recorder)
        try:
            output = module(example)
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
            shape = "x".join(map(str, example.shape))
            raise BackboneError(
                f"{type(module).__name__} does not compute on an input of shape {shape}: "
                f"{first_line(error)}. "
                "Give the size and the number of channels that the network expects."
            ) from error
    return Trace(recorder.first_use, recorder.last_use, recorder.calls, recorder.reads, output)


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, no fused attention layers; all put back afterwards."""
    modes = {child: child.training for child in module.modules()}
    fastpath = torch.backends.mha.get_fastpath_enabled()
    on_gpu = torch.cuda.is_initialized()
    devices = [torch.cuda.current_device()] if on_gpu else []
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # Set by attribute: .train() may be overridden, and scripted modules refuse new modes late.
        for child in modes:
            child.training = False
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for child, mode in modes.items():
            child.training = mode


@contextmanager
def _hooked(module: nn.Module, recorder: _Recorder) -> Iterator[None]:
    handles = []
    for name, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            continue
        watch = _Watch(recorder, name)
        handles.append(child.register_forward_pre_hook(watch.begin, with_kwargs=True))
        handles.append(child.register_forward_hook(watch.finish))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Watch:
    """Hooks of one module; only its first call counts."""

    def __init__(self, recorder: _Recorder, name: str) -> None:
        self.recorder, self.name = recorder, name
        self.begun: tuple[int, Content | None] | None = None

    def begin(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.begun is None:
            self.begun = (self.recorder.tick(), self.recorder.state_of(args, kwargs))

    def finish(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if self.begun is not None and self.name not in self.recorder.calls:
            start, state = self.begun
            shape = tuple(output.shape) if isinstance(output, Tensor) else None
            self.recorder.calls[self.name] = Call(start, self.recorder.tick(), state, shape)


class _Recorder(TorchDispatchMode):
    """Sees every operation: which parameters it uses, what it reads and writes of the input's."""

    def __init__(self, module: nn.Module, example: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own is not annotated
        self.time = 0
        self.first_use: dict[str, int] = {}
        self.last_use: dict[str, int] = {}
        self.calls: dict[str, Call] = {}
        self.reads: list[tuple[Content, int]] = []
        self.written: dict[int, int] = {_address(example): 0}  # address -> time, if input-dependent
        self.by_id: dict[int, str] = {}
        self.by_address: dict[int, list[str]] = {}
        for name, parameter in module.named_parameters():
            self.by_id[id(parameter)] = name
            if address := _address(parameter):
                self.by_address.setdefault(address, []).append(name)

    def tick(self) -> int:
        self.time += 1
        return self.time

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        now = self.tick()
        used = list(self._used(args, kwargs, now))
        inputs = set() if func._schema.name in _NEW_VALUES else {_address(tensor) for tensor in used}
        dependent = [address for address in inputs if address in self.written]
        self.reads += [((address, self.written[address]), now) for address in dependent]
        output = func(*args, **(kwargs or {}))
        for tensor in _tensors(output):
            self._note_output(_address(tensor), now, inputs, dependent, func._schema.is_mutable)
        return output

    def _used(self, args: Any, kwargs: Any, now: int) -> Iterator[Tensor]:
        for tensor in _tensors((args, kwargs)):
            name = self.by_id.get(id(tensor))
            for used in [name] if name else self.by_address.get(_address(tensor), ()):
                self.first_use.setdefault(used, now)
                self.last_use[used] = now
            yield tensor

    def _note_output(
        self, address: int, now: int, inputs: set[int], dependent: list[int], mutates: bool
    ) -> None:
        if not address or (address in inputs and not mutates):
            return  # a view: the same content under another shape
        if dependent:
            self.written[address] = now
        else:
            self.written.pop(address, None)

    def state_of(self, args: Any, kwargs: Any) -> Content | None:
        dependent = [t for t in _tensors((args, kwargs)) if _address(t) in self.written]
        if len(dependent) != 1 or not args or dependent[0] is not args[0]:
            return None
        tensor = dependent[0]
        if tensor.numel() * tensor.element_size() != tensor.untyped_storage().nbytes():
            return None  # a part of a larger tensor, whose rest may be used elsewhere
        address = _address(tensor)
        return address, self.written[address]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | set):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)


def _address(tensor: Tensor) -> int:
    """Where the tensor's memory begins; 0 where it has none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse, meta and other tensors without storage
        return 0
