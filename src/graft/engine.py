"""The engine under training: Accelerate as a library, for one CPU, one GPU or many processes.

torchrun starts the processes; every process holds the whole plan and takes its part of each batch.
Mixed precision is plain autocast in bf16, which needs no gradient scaler, so that Accelerate's own
process-wide precision setting stays out of the way of several runs in one process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn

from graft.errors import TrainingError
from graft.numerics import Numerics

T = TypeVar("T")


@dataclass(frozen=True)
class Engine:
    """Where and how arithmetic runs; cheap to make, one for each run."""

    accelerator: Accelerator
    device: torch.device
    bf16: bool

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def processes(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, items: list[T]) -> list[T]:
        """This process's part of a batch."""
        return items[self.rank :: self.processes]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model on its device, gradients averaged over processes; call after freezing."""
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        network: nn.Module = self.accelerator.prepare_model(model, device_placement=False)
        return network

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def gather_only_if(self, last: bool, network: nn.Module) -> AbstractContextManager[Any]:
        """Gradients are exchanged with the last part of a batch only."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(network)

    def total(self, values: Tensor) -> Tensor:
        """The sum over processes; the same bits on each."""
        if self.processes == 1:
            return values
        summed: Tensor = self.accelerator.reduce(values.to(self.device), reduction="sum")
        return summed.to(values.device)

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        """Rows of all processes in the order of the items that :meth:`share` dealt out, [count, …]."""
        if self.processes == 1:
            return rows
        longest = -(-count // self.processes)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered: Tensor = self.accelerator.gather(padded.to(self.device)).cpu()
        parts = gathered.reshape(self.processes, longest, *rows.shape[1:])
        return parts.transpose(0, 1).flatten(0, 1)[:count].contiguous()

    def broadcast(self, values: Tensor) -> Tensor:
        """The main process's values, on every process."""
        if self.processes == 1:
            return values
        from accelerate.utils import broadcast

        sent: Tensor = broadcast(values.to(self.device)).cpu()
        return sent

    def share_text(self, text: str) -> str:
        """The main process's text, on every process."""
        if self.processes == 1:
            return text
        own = torch.tensor(list(text.encode()), dtype=torch.uint8)
        size = int(self.broadcast(torch.tensor([len(own)])))
        sent = torch.zeros(size, dtype=torch.uint8)
        sent[: len(own)] = own[:size]
        return bytes(self.broadcast(sent).tolist()).decode()

    def share_buffers(self, model: nn.Module) -> None:
        """The main process's buffers for all: batch-norm statistics that train differ by process."""
        if self.processes > 1:
            for buffer in model.buffers():
                buffer.copy_(self.broadcast(buffer).to(buffer.device))

    def wait(self) -> None:
        """Until every process is here."""
        self.accelerator.wait_for_everyone()


def start_engine(numerics: Numerics) -> Engine:
    """An engine for these numerics.

    Raises:
        TrainingError: fewer or more processes run than torchrun was asked for.
    """
    on_cpu = numerics.device == "cpu"
    state = PartialState._shared_state
    if state and int(state.get("num_processes", 1)) == 1 and state["device"].type != _type(numerics):
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="no")
    if accelerator.num_processes != numerics.processes:
        raise TrainingError(
            f"{accelerator.num_processes} processes run, but the plan is for {numerics.processes}; "
            "start several with torchrun --nproc-per-node N -m graft train …"
        )
    if torch.get_num_threads() != numerics.threads:
        torch.set_num_threads(numerics.threads)
    if numerics.device.startswith("cuda"):
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    # The plan names the device of the process that made it; of several each has its own.
    device = accelerator.device if numerics.processes > 1 else torch.device(numerics.device)
    return Engine(accelerator, device, numerics.precision == "bf16")


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generators start from ``seed`` inside, and go on as before outside."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _type(numerics: Numerics) -> str:
    return torch.device(numerics.device).type
