"""Pictures as a torch dataset, and the loader that decodes them in threads or worker processes.

A view of an item is a function of (seed, view number, content of the item): never of the order in
which workers run, of their number, or of the item's place in the table.

Shapes: B items, K channels, h, w of the network's input.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from graft.data.content import read_picture
from graft.data.items import number_of, to_be_decoded
from graft.data.pixels import pixel_store
from graft.data.random_views import DRAWN, OWN_DRAWN, Augmentation, augment
from graft.data.threads import read_in_threads
from graft.data.transforms import preprocess
from graft.errors import GraftError, WorkersLost, first_line
from graft.schedule import cut_batches
from graft.system.signals import serve_parent

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

    from torch import Tensor

    from graft.backbones.contract import Preprocess
    from graft.data.image import Decoded
    from graft.data.items import Index, Items

Sample: TypeAlias = "tuple[Tensor, int | Tensor, int]"


@dataclass(frozen=True, eq=False)
class Pictures(Dataset[Any]):
    """Items as network inputs: ``pictures[index]`` is (float32 [K, h, w], target or -1, number).

    A target is a class index, or a uint8 tensor [C] of a multi-label task.

    An ``int`` index gives the picture as in evaluation, a pair (number, view) a random view by
    ``preset``, drawn from ``seed``; ``flip``: whether it may be mirrored. ``keep``:
    whether decoded pixels stay in memory, for the next time.

    Raises:
        DataError: when an item is taken that can no longer be read, or that has changed since it was
            scanned; the message names it.
    """

    items: Items
    preprocess: Preprocess
    preset: Augmentation = "none"
    seed: int = 0
    flip: bool = True
    keep: bool = True

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Index) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[Index]) -> list[Sample]:
        """What is to be decoded is so in threads, but not in a worker, which is one of many processes.

        Threads that find a picture decoded would only take the interpreter's lock from each other.
        """
        numbers = [number_of(index) for index in indices]
        alone = get_worker_info() is not None or sum(not self._at_hand(each) for each in set(numbers)) < 2
        decoded = (map if alone else read_in_threads)(self._decode, numbers)
        ready = self._prepare(decoded, [self._seed(index) for index in indices])
        return [(each, self.target(number), number) for each, number in zip(ready, numbers, strict=True)]

    def _prepare(self, decoded: Iterable[Decoded], seeds: Sequence[int | None]) -> Iterable[Tensor]:
        """Decoded pictures as the network takes them, or as the views that seeds draw of them."""
        how, views = self.preprocess, [seed for seed in seeds if seed is not None]
        if len(views) == len(seeds):
            return augment((each.pixels for each in decoded), how, self.preset, views, flip=self.flip)
        return [
            preprocess(each.pixels, how, whole=each.size)
            if seed is None
            else augment([each.pixels], how, self.preset, [seed], flip=self.flip)[0]
            for each, seed in zip(decoded, seeds, strict=True)
        ]

    def _seed(self, index: Index) -> int | None:
        """Of the view of it, or None where the picture is taken as in evaluation."""
        if self.preset == "none" or not isinstance(index, tuple):
            return None
        number, view = index
        return view_seed(self.seed, view, self.items.digests[number])

    def target(self, number: int) -> int | Tensor:
        """As of ``Items``."""
        return self.items.target(number)

    def batches(self, batches: Sequence[list[Any]], workers: int = 0) -> Iterator[Batch]:
        """(pictures, targets, numbers) for each list of indices; see :class:`Loader`."""
        return iter(loader(self, batches, workers))

    def order(self, indices: Sequence[int]) -> list[int]:
        """The items in an order that is quick to compute: as they come."""
        return list(indices)

    def cut(self, draws: Sequence[Any], batch_size: int, seed: int) -> list[list[Any]]:  # noqa: ARG002 (as of texts)
        """Draws in batches of nearly equal size, in their order."""
        return cut_batches(draws, batch_size)

    def groups(self, indices: Sequence[Index]) -> list[list[Index]]:
        """Indices that can be computed together: all of them."""
        return [list(indices)]

    def typical(self, count: int) -> list[int]:
        """At most ``count`` items that take about as long as others."""
        return list(range(min(count, len(self))))

    def identity(self, index: Index) -> str:
        """What decides an item's input beside the preprocessing: its content, and the view drawn of it."""
        digest, seed = self.items.digests[number_of(index)], self._seed(index)
        if seed is None:
            return digest
        by, flip = (OWN_DRAWN, "") if isinstance(self.preset, tuple) else (DRAWN[self.preset], self.flip)
        drawn = f"{digest} {self.preset} {by} {flip} {seed}"
        return hashlib.blake2b(drawn.encode(), digest_size=16).hexdigest()

    @property
    def reading(self) -> list[Any]:
        """What decides inputs beside the preprocessing and the items' content: how pixels were read."""
        items = self.items
        return [items.max_value, items.max_pixels, items.background]

    def _at_hand(self, number: int) -> bool:
        """Whether there is nothing to decode: it is pixels already, or was decoded before."""
        return not to_be_decoded(self.items.sources[number]) or pixel_store.holds(self._key(number))

    def _key(self, number: int) -> tuple[Any, ...]:
        """What decides the decoded pixels."""
        items, how = self.items, self.preprocess
        return items.digests[number], how.least_side, how.channels, *self.reading

    def _decode(self, number: int) -> Decoded:
        items, how = self.items, self.preprocess

        def read() -> Decoded:
            return read_picture(items, number, channels=how.channels, least_side=how.least_side)

        if not to_be_decoded(items.sources[number]):
            return read()  # it is in memory as it is
        return pixel_store.get(self._key(number), read, keep=self.keep)


def view_seed(seed: int, view: int, digest: str) -> int:
    """The random seed of one view of one item: 63 bits, the same on every machine."""
    key = f"{seed}/{view}/{digest}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) >> 1


Batch: TypeAlias = "tuple[Tensor, Tensor, Tensor]"


@dataclass(frozen=True)
class Loader:
    """Batches of pictures: iterate over it as often as there are epochs.

    Each batch is (float32 [B, K, h, w], targets, int64 [B] item numbers); targets are int64 [B], -1 where
    there are no labels, or uint8 [B, C] of a multi-label task.
    """

    engine: DataLoader[Any]

    def __len__(self) -> int:
        return len(self.engine)

    def __iter__(self) -> Iterator[Batch]:
        """Raises DataError where an item cannot be read, also when a worker met it; WorkersLost."""
        for batch in _watched(self.engine):
            if isinstance(batch, GraftError):
                try:
                    raise batch
                finally:
                    # its traceback names this frame: left in a cycle, the workers would outlive
                    # the loader and hold up whoever collects it by ten seconds
                    del batch
            pictures, targets, numbers = batch
            yield pictures, targets, numbers


def _watched(engine: DataLoader[Any]) -> Iterator[Any]:
    """The engine's batches; raises WorkersLost where a worker ended before it was asked to."""
    try:
        yield from engine
    except (RuntimeError, OSError, EOFError) as error:
        if not engine.num_workers or not _tells_of_the_end(error):
            raise
        raise WorkersLost(
            f"A decoding worker ended unexpectedly ({first_line(error)}): a system that is short of memory "
            "kills processes. Use fewer workers; with train.workers=0 the training process decodes itself. "
            '(In a script of your own, workers also need if __name__ == "__main__": around what it does.)'
        ) from None


def _tells_of_the_end(error: Exception) -> bool:
    """Whether an error is of the connection to a worker, and not one that a worker met and handed on."""
    text = str(error)
    if isinstance(error, ConnectionError | EOFError | FileNotFoundError):
        return "in DataLoader worker process" not in text
    return "DataLoader worker (pid" in text


def loader(dataset: Pictures, batches: Iterable[list[Any]], workers: int = 0) -> Loader:
    """A loader of ``dataset`` that yields one batch for each list of indices in ``batches``.

    ``batches`` is iterated anew for every pass, so it must be re-iterable where there are several.
    With ``workers`` > 0 as many processes decode, one torch thread each; they are started without
    forking this process (its threads would leave locks behind) and live as long as the loader. A
    script that uses workers needs the usual ``if __name__ == "__main__":``.
    """
    engine: DataLoader[Any] = DataLoader(
        _Guarded(dataset),
        batch_sampler=batches,
        num_workers=workers,
        generator=torch.Generator(),  # or every pass would draw from the caller's random numbers
        collate_fn=_collate,
        multiprocessing_context=_context() if workers else None,
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    return Loader(engine)


@dataclass(frozen=True, eq=False)
class _Guarded(Dataset[Any]):
    """Carries an error of ours out of a worker as a value.

    Torch would raise it in the parent with a traceback as its text.
    """

    dataset: Pictures

    def __getitems__(self, indices: Sequence[Index]) -> list[Any] | GraftError:
        try:
            return self.dataset.__getitems__(indices)
        except GraftError as error:
            return error


def _collate(samples: list[Any] | GraftError) -> Any:
    return samples if isinstance(samples, GraftError) else default_collate(samples)


def _context() -> BaseContext:
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # the server imports torch once; workers forked from it start in milliseconds
    context.set_forkserver_preload([__name__])
    return context


def _start_worker(_worker: int) -> None:
    """A worker sees each of its pictures once an epoch: what it keeps would be memory only."""
    pixel_store.resize(0)
    serve_parent()
    torch.set_num_threads(1)
