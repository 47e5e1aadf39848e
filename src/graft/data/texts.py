"""Texts as a torch dataset: tokens once, then batches of texts of like length.

Batches are cut from an order that is sorted by length within stretches of it, and padded to their longest
text, so that hardly any padding is computed.

Shapes: B texts, T tokens of the longest, C classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from graft.backbones.contract import PADDING
from graft.backbones.tokenizer_limits import MOST_NORMALISED, open_tokenizer, read_rules, reported
from graft.data.items import Text, make_problem, number_of
from graft.errors import DataError
from graft.schedule import cut_batches
from graft.seeds import mix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graft.backbones.contract import Encoding
    from graft.data.dataset import Batch
    from graft.data.items import Index, Items, Problem

STRETCH = 50  # batches that are sorted together
_TOGETHER = 1000  # texts that are tokenised together

Tokens: TypeAlias = "tuple[NDArray[np.int32], NDArray[np.int32], int]"
"""Numbers of a text's tokens and of their segments, and how many there were before it was cut."""
_made: WeakKeyDictionary[Items, tuple[Encoding, list[Tokens]]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Texts:
    """Items as token numbers; see :class:`graft.data.dataset.Pictures`, whose place it takes."""

    items: Items
    encoding: Encoding

    def __len__(self) -> int:
        return len(self.items)

    def target(self, number: int) -> int | Tensor:
        """As of ``Items``."""
        return self.items.target(number)

    def batches(self, batches: Sequence[list[Any]], workers: int = 0) -> Iterator[Batch]:  # noqa: ARG002
        """(int64 [B, 2, T], targets, int64 [B] numbers) for each list of indices; in this process."""
        for batch in batches:
            numbers = [number_of(index) for index in batch]
            targets = default_collate([self.target(number) for number in numbers])
            yield self._padded(numbers), targets, torch.tensor(numbers)

    def order(self, indices: Sequence[int]) -> list[int]:
        """The items in an order that wastes no padding: the longest first, for what needs most memory."""
        return sorted(indices, key=lambda number: (-int(self.lengths[number]), number))

    def cut(self, draws: Sequence[Any], batch_size: int, seed: int) -> list[list[Any]]:
        """Draws in batches of texts of like length, these in an order by ``seed``."""
        stretch = STRETCH * batch_size
        ordered: list[Any] = []
        for start in range(0, len(draws), stretch):
            part = draws[start : start + stretch]
            ordered += sorted(part, key=lambda draw: int(self.lengths[number_of(draw)]))
        batches = cut_batches(ordered, batch_size)
        places = np.random.default_rng(mix(seed, "batches")).permutation(len(batches))
        return [batches[place] for place in places]

    def groups(self, indices: Sequence[Index]) -> list[list[Index]]:
        """Indices whose texts are of one length: without padding, none depends on its neighbours."""
        found: dict[int, list[Index]] = defaultdict(list)
        for index in indices:
            found[int(self.lengths[number_of(index)])].append(index)
        return list(found.values())

    def typical(self, count: int) -> list[int]:
        """At most ``count`` items, of about the median length."""
        ordered = np.argsort(self.lengths, kind="stable")
        start = max(0, (len(ordered) - count) // 2)
        return ordered[start : start + count].tolist()  # type: ignore[no-any-return]

    def identity(self, index: Index) -> str:
        """What decides an item's input beside the encoding."""
        return self.items.digests[number_of(index)]

    @property
    def reading(self) -> list[Any]:
        """What decides inputs beside the encoding and the items' content: nothing."""
        return []

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text that are taken, int64 [N]."""
        return np.array([len(tokens[0]) for tokens in self._tokens], dtype=np.int64)

    @cached_property
    def whole_lengths(self) -> NDArray[np.int64]:
        """Tokens of each text before it is cut, int64 [N]."""
        return np.array([whole for *_, whole in self._tokens], dtype=np.int64)

    @cached_property
    def _tokens(self) -> list[Tokens]:
        return tokenised(self.items, self.encoding)

    def _padded(self, numbers: Sequence[int]) -> Tensor:
        rows = [self._tokens[number] for number in numbers]
        length = max(len(row[0]) for row in rows)
        whole = np.full((len(rows), 2, length), PADDING, dtype=np.int64)
        for place, (ids, kinds, _) in enumerate(rows):
            whole[place, 0, : len(ids)], whole[place, 1, : len(ids)] = ids, kinds
        return torch.from_numpy(whole)


def tokenised(items: Items, encoding: Encoding) -> list[Tokens]:
    """The tokens of every text, made once as long as the items are there: every phase opens them anew."""
    known = _made.get(items)
    if known is None or known[0] != encoding:
        known = _made[items] = encoding, _tokenise(items, encoding)
    return known[1]


def _tokenise(items: Items, encoding: Encoding) -> list[Tokens]:
    tokenizer, most = open_tokenizer(encoding.tokenizer), encoding.max_length
    letters = MOST_NORMALISED // read_rules(encoding.tokenizer).growth
    given = [_given(source, letters) for source in items.sources]
    _check_room(tokenizer.num_special_tokens_to_add(any(isinstance(each, tuple) for each in given)), most)
    with reported(DataError, "The tokenizer cannot read these texts"):
        found = [
            (each.ids, each.type_ids, len(each.ids))
            for start in range(0, len(given), _TOGETHER)
            for each in tokenizer.encode_batch(given[start : start + _TOGETHER])
        ]
        long = [number for number, (ids, _, _) in enumerate(found) if len(ids) > most]
        tokenizer.enable_truncation(most)  # special tokens at the end are kept by it
        for number, each in zip(long, tokenizer.encode_batch([given[i] for i in long]), strict=True):
            found[number] = (each.ids, each.type_ids, found[number][2])
    # Of a text in which nothing is known, the first token of all stands for it.
    return [
        (np.array(ids or [0], np.int32), np.array(kinds or [0], np.int32), max(1, whole))
        for ids, kinds, whole in found
    ]


def _check_room(around: int, most: int) -> None:
    """Raises DataError where the tokens that are put around a text leave no room for it among ``most``."""
    if around >= most:
        raise DataError(
            f"The tokenizer puts {around} tokens around each text, and the network takes {most} in all, so "
            "that no room is left for the text. Set a larger data.max_length, as far as the network goes, "
            "or take the tokenizer that belongs to it."
        )


def list_cut(items: Items, encoding: Encoding) -> tuple[Problem, ...]:
    """The problem that texts are longer than the network takes, with the share of tokens that it costs."""
    texts = Texts(items, encoding)
    over = np.flatnonzero(texts.whole_lengths > texts.lengths)
    if not len(over):
        return ()
    lost = 1 - texts.lengths.sum() / texts.whole_lengths.sum()
    message = (
        f"{{count}} text{{s}} of more than {encoding.max_length} tokens cut at the end, which leaves out "
        f"{100 * lost:.1f} % of all tokens; data.max_length says where, as far as the network goes."
    )
    longest = over[np.argsort(-texts.whole_lengths[over], kind="stable")]
    examples = [f"{items.ids[i]}: {texts.whole_lengths[i]} tokens" for i in longest.tolist()]
    return (make_problem("cut", message, examples),)


def _given(source: Any, letters: int) -> Any:
    """A text or a pair as the tokenizer takes it; of each its first ``letters`` characters."""
    assert isinstance(source, Text)
    first = source.first[:letters]
    return first if source.second is None else (first, source.second[:letters])
