"""Numerics: how the arithmetic is done on this machine, resolved once and saved in the plan."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from graft.backbones.modes import Attention
from graft.errors import RecipeError, quote
from graft.options import Frozen
from graft.recipe import Recipe
from graft.system.launch import find_launch


class Forward(Frozen):
    """How a network that rests computes features that are kept; ``folded``: batch-norms, see reuse.folding.

    ``attention``: see backbones.modes. ``batch``: items at a time. Chosen by trial where that pays
    (forward_trial.py).
    """

    precision: Literal["fp32", "bf16"] = "fp32"
    folded: bool = False
    attention: Attention = "sdpa"
    batch: int = Field(default=32, ge=1)

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")


class Numerics(Frozen):
    """What decides the bits of a result beside the plan itself; used again on resume."""

    device: str
    precision: Literal["fp32", "bf16"]
    workers: int
    threads: int
    processes: int
    forward: Forward = Forward()
    recompute: bool = False
    """Whether activations are computed again in the backward pass."""


def resolve_numerics(recipe: Recipe, forward: Forward | None = None) -> Numerics:
    """The recipe's wishes, settled for this machine; ``forward`` is what a trial chose.

    Raises:
        RecipeError: the device asked for is not there.
    """
    device = resolve_device(recipe.device)
    precision = recipe.train.precision
    workers = recipe.train.workers
    if workers is None:
        # On the CPU, training and decoding would fight for the same cores.
        workers = min(8, max(0, (os.cpu_count() or 1) - 1)) if device.type == "cuda" else 0
    return Numerics(
        device=str(device),
        precision=("bf16" if has_fast_bf16(device) else "fp32") if precision == "auto" else precision,
        workers=workers,
        threads=torch.get_num_threads(),
        processes=world_size(),
        forward=forward or Forward(),
        recompute=recipe.train.gradient_checkpointing,
    )


def resolve_device(name: str) -> torch.device:
    """``auto`` is the first of CUDA, MPS and CPU that is there; a process takes its local rank's GPU.

    Raises:
        RecipeError: no such device, or it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(f"device {quote(name)} is not auto, cpu, cuda, cuda:N or mps.") from None
    if device.type == "cuda":
        return _cuda_device(device)
    if device.type == "mps" and not _has_mps():
        raise RecipeError("device 'mps': this machine has no Apple GPU that torch can use.")
    if device.type not in ("cpu", "mps"):
        raise RecipeError(f"device {quote(name)} is not auto, cpu, cuda, cuda:N or mps.")
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies in bf16 natively, so that autocast gains time."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported())
    return False


def to_device(inputs: Tensor, device: torch.device) -> Tensor:
    """A batch on the device; pictures [B, K, h, w] with their channels last, as networks like them."""
    layout = torch.channels_last if inputs.ndim == 4 else torch.preserve_format
    return inputs.to(device, memory_format=layout)


def world_size() -> int:
    """The number of processes that torchrun started."""
    return find_launch().world_size


def is_main() -> bool:
    """Whether this process is the only one, or the first of those that torchrun started."""
    return find_launch().main


def _cuda_device(device: torch.device) -> torch.device:
    if not torch.cuda.is_available():
        raise RecipeError(f"device {quote(str(device))}: torch sees no CUDA device here; try --device cpu.")
    index = find_launch().local_rank if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise RecipeError(
            f"device {quote(str(device))}: there are {torch.cuda.device_count()} CUDA devices."
        )
    return torch.device("cuda", index)


def _has_mps() -> bool:
    return bool(torch.backends.mps.is_available())
