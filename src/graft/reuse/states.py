"""Items as the states that a frozen lower part hands up: taken from the store, else computed and kept.

A row is known by the content of its item and the view that was drawn of it; its space by everything else
that decides it: the values of the lower part as they are now, what the network makes of fixed noise
(which tells another network, library or processor where the values do not), where it is split, how
items are read and prepared, and the arithmetic. Rows are computed in batches of a fixed size, filled up
with blanks, so that their bits do not depend on what is missing besides them; those of texts among texts
of their own length.

Shapes: B items of a batch; inputs are [B, …] as the network takes them, a state is [B, …].
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
from torch.nn.utils.rnn import pad_sequence

from graft.backbones.assembly import tensors_digest
from graft.backbones.contract import PADDING, Backbone, Encoding, Stage
from graft.backbones.truncation import is_within
from graft.data.dataset import Batch, Pictures, loader
from graft.data.inputs import Inputs
from graft.data.items import Index, number_of
from graft.numerics import Forward, to_device
from graft.reuse.folding import noise_for
from graft.reuse.split import noting_states
from graft.reuse.store import Space, Store

_LIBRARIES = {  # that make inputs and states
    "picture": ("torch", "torchvision", "pillow"),
    "text": ("torch", "tokenizers", "transformers"),
}
FEW = 8  # texts of one length that a CPU computes together: there are seldom many


@dataclass(frozen=True)
class Lower:
    """The frozen part of a network: ``run`` maps inputs [B, …] on ``device`` to states [B, …].

    ``autocast``: what it computes under. ``batch``: how many items it computes together.
    """

    run: Callable[[Tensor], Tensor]
    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    batch: int = Forward().batch

    def together(self, inputs: Tensor) -> int:
        """How many of such inputs are computed together."""
        of_text = not inputs.is_floating_point()
        return min(FEW, self.batch) if of_text and self.device.type == "cpu" else self.batch

    def compute(self, inputs: Tensor) -> Tensor:
        """The states of at most ``together`` items, computed among blanks; on the CPU, channels last."""
        full = inputs.new_zeros(self.together(inputs), *inputs.shape[1:])
        full[: len(inputs)] = inputs
        return self.compute_alone(full)[: len(inputs)]

    def compute_alone(self, inputs: Tensor) -> Tensor:
        """The states of ``inputs``, however many they are: the bits may be others than among blanks."""
        with torch.no_grad(), self.autocast():
            return _laid_out(self.run(to_device(inputs, self.device)))


@dataclass(frozen=True)
class Further:
    """A place further below, which a pass through the lower part comes by, and where its states are kept.

    ``entry``: the module that is handed them; ``pack`` as of the network's intake. ``views``: of which
    they will be wanted; those of other views are let go.
    """

    entry: nn.Module
    pack: Callable[[Tensor, Tensor], Tensor]
    space: Space
    views: frozenset[int] = frozenset()

    def wanted(self, inputs: Inputs, indices: Sequence[Index]) -> set[str]:
        """The keys of those that will be asked for, perhaps as another view that is the same."""
        keys = ((inputs.identity(index), index) for index in indices)
        return {key for key, index in keys if key not in self.space and self._sees(inputs, index, key)}

    def _sees(self, inputs: Inputs, index: Index, key: str) -> bool:
        if not isinstance(index, tuple) or index[1] in self.views:
            return True
        # Where pictures stay as they are, and of texts, any view is the same as any other.
        return bool(self.views) and inputs.identity((index[0], min(self.views))) == key


@dataclass(frozen=True)
class States:
    """Items as states; takes the place of ``Inputs`` where batches are wanted.

    ``further``: what is kept on the way, for later.
    """

    inputs: Inputs
    lower: Lower
    space: Space
    further: tuple[Further, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    def order(self, indices: Sequence[int]) -> list[int]:
        """As of the inputs."""
        return self.inputs.order(indices)

    def typical(self, count: int) -> list[int]:
        """As of the inputs."""
        return self.inputs.typical(count)

    def cut(self, draws: Sequence[Any], batch_size: int, seed: int) -> list[list[Any]]:
        """As of the inputs."""
        return self.inputs.cut(draws, batch_size, seed)

    def batches(self, batches: Sequence[list[Any]], workers: int = 0) -> Iterator[Batch]:
        """(states [B, …] on the CPU, targets, int64 [B] numbers) for each list of indices.

        Raises:
            DataError: an item that is not in the store can no longer be read.
        """
        keys = [[self.inputs.identity(index) for index in batch] for batch in batches]
        wanted: set[str] = set()
        missing: list[list[list[Index]]] = []  # for each batch, what no earlier one computes, in groups
        for batch, own in zip(batches, keys, strict=True):
            new = dict(zip(own, batch, strict=True))
            absent = [new[key] for key in new if key not in wanted and key not in self.space]
            missing.append(self.inputs.groups(absent) if absent else [])
            wanted |= new.keys()
        loading = self._load([group for groups in missing for group in groups], workers)
        try:
            for batch, own, groups in zip(batches, keys, missing, strict=True):
                rows = self.space.read(own)
                for group in groups:
                    rows |= self._compute(group, next(loading))
                lost = [index for key, index in zip(own, batch, strict=True) if key not in rows]
                if lost:  # damaged, removed by another process, or not kept
                    again = list({self.inputs.identity(index): index for index in lost}.values())
                    for group in self.inputs.groups(again):
                        rows |= self._compute(group, next(self._load([group], 0)))
                numbers = [number_of(index) for index in batch]
                targets = [self.inputs.items.target(number) for number in numbers]
                yield (
                    _batch_of([rows[key] for key in own]),
                    torch.utils.data.default_collate(targets),
                    torch.tensor(numbers),
                )
        finally:  # also where the run is interrupted
            for space in (self.space, *(each.space for each in self.further)):
                space.flush()

    def _load(self, groups: list[list[Index]], workers: int) -> Iterator[Tensor]:
        """Inputs of each group in turn."""
        if isinstance(self.inputs, Pictures):
            return (tensors for tensors, _, _ in loader(self.inputs, groups, workers))
        return (tensors for tensors, _, _ in self.inputs.batches(groups))

    def _compute(self, group: Sequence[Index], inputs: Tensor) -> dict[str, Tensor]:
        rows: dict[str, Tensor] = {}
        size = self.lower.together(inputs)
        for start in range(0, len(inputs), size):
            part, indices = inputs[start : start + size], group[start : start + size]
            keys = [self.inputs.identity(index) for index in indices]
            asked = [(each, some) for each in self.further if (some := each.wanted(self.inputs, indices))]
            with noting_states([each.entry for each, _ in asked]) as noted:
                found = self.lower.compute(part)
            rows |= zip(keys, _rows_of(found, part), strict=True)
            for each, some in asked:
                state = each.pack(noted[each.entry][: len(part)].cpu(), part)
                own = zip(keys, _rows_of(_laid_out(state), part), strict=True)
                each.space.add({key: row for key, row in own if key in some})
        self.space.add(rows)
        return rows


def _rows_of(states: Tensor, inputs: Tensor) -> list[Tensor]:
    """A row for each item; of texts' tokens, as many as it has."""
    if inputs.is_floating_point() or states.ndim == 2:
        return list(states)
    lengths = (inputs[:, 0] != PADDING).sum(1).tolist()
    return [row[:length] for row, length in zip(states, lengths, strict=True)]


def _laid_out(states: Tensor) -> Tensor:
    """On the CPU, channels last."""
    states = states.cpu()
    return states.permute(0, 2, 3, 1).contiguous() if states.ndim == 4 else states.contiguous()


def _batch_of(rows: list[Tensor]) -> Tensor:
    if rows[0].ndim == 2:  # tokens: of texts, as many as each has, and no more are marked as such
        return pad_sequence(rows, batch_first=True)
    whole = torch.stack(rows)
    return whole.permute(0, 3, 1, 2) if whole.ndim == 4 else whole


def open_space(
    store: Store,
    backbone: Backbone,
    trunk: nn.Module,
    lower: Lower,
    inputs: Inputs,
    *,
    upper: Sequence[Stage],
    precision: str,
    what: str | None = None,
) -> Space:
    """The space of what ``lower`` makes of ``inputs``, with the values below ``upper`` as they are.

    ``what`` names rows that are not simply the state below ``upper``.
    """
    intake = backbone.preprocess
    libraries = _LIBRARIES["text" if backbone.takes_text else "picture"]
    below = what or (upper[0].name if upper else "the head")
    identity = {
        "values": tensors_digest(_lower_values(trunk, upper)),
        "behaviour": _digest(lower.compute_alone(noise_for(intake))),
        "below": below,
        "preprocess": intake.to_dict(),
        "reading": inputs.reading,
        "arithmetic": [
            *(lower.device.type, _processor(lower.device), precision, lower.batch),
            *(version(name) for name in libraries),
        ],
    }
    about = {
        "backbone": backbone.source.id,
        "below": below,
        "input": f"{intake.max_length} tokens" if isinstance(intake, Encoding) else list(intake.size),
        "precision": precision,
    }
    return store.space(identity, about)


def _processor(device: torch.device) -> str:
    """What kernels are chosen by, beside the size of a batch."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return str(torch.backends.cpu.get_cpu_capability())


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
