"""The one forward pass: features or logits of items, in order, in evaluation mode.

Used by the probe, by validation, by evaluation and by prediction alike, so that a number measured
while training is the number measured afterwards: single precision, whole network in evaluation mode.

Shapes: N items, B of them a batch, D outputs (features or logits).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from graft.data.dataset import Pictures, loader

BATCH = 64


def forward_batches(
    network: nn.Module,
    pictures: Pictures,
    device: torch.device,
    *,
    indices: range | list[int] | None = None,
    batch_size: int = BATCH,
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (indices [B], outputs [B, D] in float32 on the CPU) until every item is done.

    The network's mode is restored afterwards; it is moved to ``device`` and stays there.
    """
    items = list(range(len(pictures)) if indices is None else indices)
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    modes = {module: module.training for module in network.modules()}
    network.eval().to(device)
    try:
        for tensors, _, places in loader(pictures, batches, workers):
            with torch.inference_mode():
                inputs = tensors.to(device, memory_format=torch.channels_last)
                outputs = network(inputs).float().cpu()
            yield places, outputs
    finally:
        for module, mode in modes.items():
            module.training = mode


def forward_all(network: nn.Module, pictures: Pictures, device: torch.device) -> Tensor:
    """Outputs of every item, [N, D] in float32 on the CPU; N must be at least one."""
    parts = [outputs for _, outputs in forward_batches(network, pictures, device)]
    return torch.cat(parts).clone()
