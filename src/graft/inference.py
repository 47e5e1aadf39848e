"""The one forward pass: features or logits of items, in order, in evaluation mode.

Used by the probe, by validation, by evaluation and by prediction alike, so that a number measured
while training is the number measured afterwards: single precision, whole network in evaluation mode.

Shapes: N items, B of them a batch, D outputs (features or logits).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.modules.batchnorm import _BatchNorm

from graft.batchnorm import collecting_statistics
from graft.data.dataset import Pictures, loader
from graft.data.inputs import Inputs
from graft.data.items import Items
from graft.errors import TrainingError
from graft.numerics import to_device
from graft.schedule import cut_batches, epoch_order
from graft.seeds import mix

if TYPE_CHECKING:
    from graft.reuse.states import States

BATCH = 64
ZOOM = 7 / 8  # of each side, in the view that looks closer


def forward_batches(
    network: nn.Module,
    source: Inputs | States,
    device: torch.device,
    *,
    indices: range | list[int] | None = None,
    batch_size: int = BATCH,
    workers: int = 0,
    tta: str = "none",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (indices [B], outputs [B, D] in float32 on the CPU) until every item is done, in any order.

    ``source`` may be states, where the network takes those (see feeding.py). ``tta``: outputs are the
    mean over these views, of pictures alone. The network's mode is restored afterwards; it is moved to
    ``device`` and stays there.
    """
    items = source.order(range(len(source)) if indices is None else indices)
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    modes = {module: module.training for module in network.modules()}
    network.eval().to(device)
    try:
        for tensors, _, places in source.batches(batches, workers):
            with torch.inference_mode():
                inputs = to_device(tensors, device)
                views = [network(view).float() for view in views_of(inputs, tta)]
                outputs = (sum(views[1:], start=views[0]) / len(views)).cpu()
            yield places, outputs
    finally:
        for module, mode in modes.items():
            module.training = mode


def check_finite(outputs: Tensor, items: Items) -> None:
    """Raises TrainingError where outputs [N, D] of some of the N items are not finite, naming these."""
    broken = (~torch.isfinite(outputs).all(dim=1)).nonzero().flatten().tolist()
    if broken:
        ids = ", ".join(items.ids[item] for item in broken[:8])
        raise TrainingError(
            f"The backbone gives features that are not finite for {len(broken)} of {len(outputs)} "
            f"items ({ids}); its weights or its preprocessing are not right for them."
        )


def forward_all(network: nn.Module, source: Inputs, device: torch.device, *, tta: str = "none") -> Tensor:
    """Outputs of every item, [N, D] in float32 on the CPU, in their order; N must be at least one."""
    rows = Rows(range(len(source)))
    for numbers, outputs in forward_batches(network, source, device, tta=tta):
        rows.add(numbers, outputs)
    return rows.whole


class Rows:
    """Outputs of items by their number, filled as batches come, in whatever order.

    ``numbers``: of the items that will come, ascending.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = torch.tensor(numbers, dtype=torch.int64)
        self._rows: Tensor | None = None

    def add(self, numbers: Tensor, outputs: Tensor) -> None:
        """Outputs [B, …] of the items ``numbers`` int64 [B]."""
        if self._rows is None:
            self._rows = outputs.new_empty(len(self._numbers), *outputs.shape[1:])
        self._rows[torch.searchsorted(self._numbers, numbers)] = outputs

    @property
    def whole(self) -> Tensor:
        """All of them [N, …], when all have come; N is at least one."""
        assert self._rows is not None
        return self._rows


def views_of(inputs: Tensor, tta: str) -> list[Tensor]:
    """The views [B, K, h, w] of a batch for test-time augmentation, the plain one first.

    ``flip`` adds the mirror image, ``zoom`` the middle (seven eighths of each side) at full size,
    ``flip+zoom`` both and the mirrored middle.
    """
    views = [inputs]
    if "zoom" in tta:
        height, width = inputs.shape[-2:]
        h, w = round(ZOOM * height), round(ZOOM * width)
        top, left = (height - h) // 2, (width - w) // 2
        middle = inputs[..., top : top + h, left : left + w]
        zoomed = interpolate(middle, (height, width), mode="bilinear", align_corners=False)
        views.append(zoomed.contiguous(memory_format=torch.channels_last))
    if "flip" in tta:
        views += [view.flip(-1) for view in views]
    return views


def count_views(tta: str) -> int:
    """How many views :func:`views_of` gives."""
    return (1 + ("zoom" in tta)) * (1 + ("flip" in tta))


def collect_statistics(
    network: nn.Module,
    norms: Sequence[_BatchNorm],
    pictures: Pictures,
    device: torch.device,
    *,
    seed: int,
    workers: int = 0,
) -> Iterator[int]:
    """Give the batch-norms ``norms`` of ``network`` the statistics of ``pictures``; yields how many passed.

    The network is left in evaluation mode, on ``device``. The order is shuffled by ``seed``, for a batch
    of a single class would be normalised by that class.
    """
    order = epoch_order(len(pictures), seed=mix(seed, "statistics"), epoch=0)
    seen = 0
    network.eval().to(device)
    with collecting_statistics(norms):
        for tensors, _, _ in loader(pictures, cut_batches(order, BATCH), workers):
            with torch.inference_mode():
                network(tensors.to(device, memory_format=torch.channels_last))
            seen += len(tensors)
            yield seen
