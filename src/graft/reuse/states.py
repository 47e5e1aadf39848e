"""Items as the states that a frozen lower part hands up: taken from the store, else computed and kept.

A row is known by the content of its item and the view that was drawn of it; its space by everything else
that decides it: the values of the lower part as they are now, what the network makes of a fixed noise
picture (which tells another network, library or processor where the values do not), where it is split, how
pictures are read and prepared, and the arithmetic. Rows are computed in batches of a fixed size, filled up
with blanks, so that their bits do not depend on what is missing besides them.

Shapes: B items of a batch, K channels, h, w of the input; a state is [B, …].
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from graft.backbones.assembly import tensors_digest
from graft.backbones.contract import Backbone, Stage
from graft.backbones.truncation import is_within
from graft.data.dataset import Batch, Index, Pictures, loader, view_seed
from graft.numerics import Forward
from graft.reuse.folding import noise_for
from graft.reuse.store import Space, Store

_LIBRARIES = ("torch", "torchvision", "pillow")  # that make pictures and states


@dataclass(frozen=True)
class Lower:
    """The frozen part of a network: ``run`` maps pictures [B, K, h, w] on ``device`` to states [B, …].

    ``autocast``: what it computes under. ``batch``: how many pictures it computes together.
    """

    run: Callable[[Tensor], Tensor]
    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    batch: int = Forward().batch

    def compute(self, pictures: Tensor) -> Tensor:
        """The states of at most ``batch`` pictures, computed among blanks; on the CPU, channels last."""
        full = pictures.new_zeros(self.batch, *pictures.shape[1:])
        full[: len(pictures)] = pictures
        with torch.no_grad(), self.autocast():
            found = self.run(full.to(self.device, memory_format=torch.channels_last))
        found = found[: len(pictures)].cpu()
        return found.permute(0, 2, 3, 1).contiguous() if found.ndim == 4 else found.contiguous()


@dataclass(frozen=True)
class States:
    """Items as states; takes the place of ``Pictures`` where batches are wanted."""

    pictures: Pictures
    lower: Lower
    space: Space

    def __len__(self) -> int:
        return len(self.pictures)

    def batches(self, batches: Sequence[list[Any]], workers: int = 0) -> Iterator[Batch]:
        """(states [B, …] on the CPU, targets, int64 [B] numbers) for each list of indices.

        Raises:
            DataError: an item that is not in the store can no longer be read.
        """
        keys = [[self._key(index) for index in batch] for batch in batches]
        wanted: set[str] = set()
        missing: list[list[Any]] = []  # for each batch, what no earlier one computes either
        for batch, own in zip(batches, keys, strict=True):
            new = dict(zip(own, batch, strict=True))
            missing.append([new[key] for key in new if key not in wanted and key not in self.space])
            wanted |= new.keys()
        loading = iter(loader(self.pictures, [each for each in missing if each], workers))
        try:
            for batch, own, absent in zip(batches, keys, missing, strict=True):
                rows = self.space.read(own)
                if absent:
                    tensors, _, _ = next(loading)
                    rows |= self._compute([self._key(index) for index in absent], tensors)
                lost = [index for key, index in zip(own, batch, strict=True) if key not in rows]
                if lost:  # damaged, removed by another process, or not kept
                    again = list({self._key(index): index for index in lost}.values())
                    tensors = torch.stack([self.pictures[index][0] for index in again])
                    rows |= self._compute([self._key(index) for index in again], tensors)
                numbers = [index[0] if isinstance(index, tuple) else index for index in batch]
                targets = [self.pictures.target(number) for number in numbers]
                yield (
                    _batch_of([rows[key] for key in own]),
                    torch.utils.data.default_collate(targets),
                    torch.tensor(numbers),
                )
        finally:  # also where the run is interrupted
            self.space.flush()

    def _compute(self, keys: list[str], tensors: Tensor) -> dict[str, Tensor]:
        rows: dict[str, Tensor] = {}
        size = self.lower.batch
        for start in range(0, len(tensors), size):
            part = tensors[start : start + size]
            rows |= zip(keys[start : start + size], self.lower.compute(part), strict=True)
        self.space.add(rows)
        return rows

    def _key(self, index: Index) -> str:
        pictures = self.pictures
        number, view = index if isinstance(index, tuple) else (index, None)
        digest = pictures.items.digests[number]
        if view is None or pictures.preset == "none":
            return digest
        drawn = f"{digest} {pictures.preset} {pictures.flip} {view_seed(pictures.seed, view, digest)}"
        return hashlib.blake2b(drawn.encode(), digest_size=16).hexdigest()


def _batch_of(rows: list[Tensor]) -> Tensor:
    whole = torch.stack(rows)
    return whole.permute(0, 3, 1, 2) if whole.ndim == 4 else whole


def open_space(
    store: Store,
    backbone: Backbone,
    trunk: nn.Module,
    lower: Lower,
    pictures: Pictures,
    *,
    upper: Sequence[Stage],
    precision: str,
    what: str | None = None,
) -> Space:
    """The space of what ``lower`` makes of ``pictures``, with the values below ``upper`` as they are.

    ``what`` names rows that are not simply the state below ``upper``.
    """
    preprocess, noise = backbone.preprocess, noise_for(backbone.preprocess)[: lower.batch]
    below = what or (upper[0].name if upper else "the head")
    identity = {
        "values": tensors_digest(_lower_values(trunk, upper)),
        "behaviour": _digest(lower.compute(noise)),
        "below": below,
        "preprocess": preprocess.to_dict(),
        "reading": [pictures.items.max_value, pictures.items.max_pixels],
        "arithmetic": [lower.device.type, precision, lower.batch, *(version(name) for name in _LIBRARIES)],
    }
    about = {
        "backbone": backbone.source.id,
        "below": below,
        "pixels": list(preprocess.size),
        "precision": precision,
    }
    return store.space(identity, about)


def _lower_values(trunk: nn.Module, upper: Sequence[Stage]) -> dict[str, Tensor]:
    """All parameters and buffers but those of the stages above."""
    parameters = {name for stage in upper for name in stage.parameters}
    modules = [name for stage in upper for name in stage.modules]
    return {
        name: value
        for name, value in trunk.state_dict().items()
        if name not in parameters and not any(is_within(name, module) for module in modules)
    }


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
