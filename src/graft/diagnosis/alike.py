"""Items that are all but others: crops of one picture, frames of one film, a text with a word changed.

Shapes: N items of a part, M training items, D features.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graft.data.items import Items, Text

ALIKE = 0.995  # cosine of centred features from which on two items are taken for copies
SHARED = 0.8  # of two texts' words, which both have, from which on these are
FEWEST_WORDS = 5  # below which texts share many words by chance, and must have all in common
Pairs = list[tuple[int, int]]


def pairs_of(items: Items, features: Tensor, train: Items, others: Tensor) -> Pairs:
    """Each item's most similar training item of other content, by place, where it is all but a copy.

    Features [N, D] of items and [M, D] of training ones. Where both parts are the same, a pair is told
    once, at its later item.
    """
    same = items is train
    if isinstance(items.sources[0], Text):
        alike, least = _shared_words(items, train), SHARED
    else:
        alike, least = _directions(features, others) @ _directions(others, others).T, ALIKE
    if same:
        alike = alike.tril(-1)
    own, theirs = np.asarray(items.digests), np.asarray(train.digests)
    found = []
    for row in torch.nonzero(alike.amax(1) >= least).flatten().tolist():
        places = torch.nonzero(alike[row] >= least).flatten()
        other = places[
            torch.from_numpy(theirs[places.numpy()] != own[row])
        ]  # exact copies are told elsewhere
        if len(other):
            found.append((row, int(other[alike[row, other].argmax()])))
    return found


def _directions(features: Tensor, beside: Tensor) -> Tensor:
    centred = features - beside.mean(0)
    directions: Tensor = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return directions


def _shared_words(items: Items, train: Items) -> Tensor:
    """Of each two texts, the share of their words that both have (Jaccard, 1901), float32 [N, M].

    Case and punctuation do not count. Of short texts, 1 where they say the same and 0 elsewhere.
    """
    from scipy.sparse import csr_matrix

    words: dict[str, int] = {}
    sets = [[_words(source) for source in part.sources] for part in (items, train)]
    for word in sorted(set().union(*sets[0], *sets[1])):
        words[word] = len(words)

    def matrix(part: list[frozenset[str]]) -> csr_matrix:
        places = [words[word] for each in part for word in sorted(each)]
        starts = np.cumsum([0, *(len(each) for each in part)])
        return csr_matrix((np.ones(len(places), np.float32), places, starts), (len(part), len(words)))

    both = (matrix(sets[0]) @ matrix(sets[1]).T).toarray()
    one, two = (np.array([len(each) for each in part], np.float32) for part in sets)
    shares: NDArray[np.float32] = both / np.maximum(one[:, None] + two[None] - both, 1)
    short = np.minimum(one[:, None], two[None]) < FEWEST_WORDS
    return torch.from_numpy(np.where(short & (shares < 1), np.float32(0), shares))


def _words(source: object) -> frozenset[str]:
    assert isinstance(source, Text)
    said = f"{source.first} {source.second or ''}".casefold()
    return frozenset(re.findall(r"\w+", said))
