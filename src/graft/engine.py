"""The engine under training: Accelerate as a library, for one CPU, one GPU or many processes.

torchrun starts the processes; every process holds the whole plan and takes its part of each batch.
Mixed precision is plain autocast in bf16, which needs no gradient scaler, so that Accelerate's own
process-wide precision setting stays out of the way of several runs in one process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn

from graft.errors import LaunchError, TrainingError, first_line
from graft.numerics import Numerics, world_size
from graft.system.launch import find_launch, single_process

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")
MEET_WITHIN = timedelta(seconds=60)


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


@cache
def meet() -> Store | None:
    """Where several processes exchange addresses; None for a single one. Waits for all, a minute at most.

    Called before the data is read, which may take one process much longer than another.

    Raises:
        LaunchError: the others do not come, or the place cannot be reached.
    """
    launch = find_launch()
    if launch.world_size == 1:
        return None
    from torch.distributed.constants import default_pg_timeout
    from torch.distributed.rendezvous import rendezvous

    try:
        store: Store = next(rendezvous("env://", launch.rank, launch.world_size, timeout=MEET_WITHIN))[0]
    except (torch.distributed.DistError, ValueError, OSError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise LaunchError(
            f"RANK={launch.rank} and WORLD_SIZE={launch.world_size} are set, but the processes did not "
            f"meet at {place} within {MEET_WITHIN.seconds} s ({first_line(error)}). Start them with "
            "torchrun --nproc-per-node N -m graft train …, or unset RANK, WORLD_SIZE and LOCAL_RANK."
        ) from None
    store.set_timeout(default_pg_timeout)
    return store


def _join(device: str) -> None:
    """Make this process one of the group that the launcher started."""
    store, launch = meet(), find_launch()
    if store is None or torch.distributed.is_initialized() or device not in ("cpu", "cuda"):
        return
    if device == "cuda":
        torch.cuda.set_device(launch.local_rank)
    torch.distributed.init_process_group(
        "gloo" if device == "cpu" else "nccl", store=store, rank=launch.rank, world_size=launch.world_size
    )


def start_engine(numerics: Numerics) -> Engine:
    """An engine for these numerics.

    Raises:
        TrainingError: fewer or more processes run than torchrun was asked for.
        LaunchError: as :func:`meet`.
    """
    on_cpu = numerics.device == "cpu"
    state = PartialState._shared_state
    if state and int(state.get("num_processes", 1)) == 1 and state["device"].type != _type(numerics):
        AcceleratorState._reset_state(reset_partial_state=True)
    _join(_type(numerics))
    # What is left over in the environment of a single process would be taken for a launcher's.
    with single_process() if world_size() == 1 else contextlib.nullcontext():
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
