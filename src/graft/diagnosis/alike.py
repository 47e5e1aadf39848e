"""Items that are all but others: crops of one picture, frames of one film, a text with a word changed.

Shapes: N items of a part, M training items, D features.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from graft.data.items import Items, Text

ALIKE = 0.995  # cosine of centred features from which on two items are taken for copies
SHARED = 0.7  # of the runs of letters in two texts, which both have, from which on these are
RUN, FEWEST = 5, 20  # letters of a run; of a text below which it must be the same but for punctuation
BEGINNING = 400  # letters of a text that are looked at
Pairs = list[tuple[int, int]]


def pairs_of(items: Items, features: Tensor, train: Items, others: Tensor) -> Pairs:
    """Each item's most similar training item of other content, by place, where it is all but a copy.

    Features [N, D] of items and [M, D] of training ones. Where both parts are the same, a pair is told
    once, at its later item.
    """
    if isinstance(items.sources[0], Text):
        alike, least = _shared_runs(items, train), SHARED
    else:
        alike, least = _directions(features, others) @ _directions(others, others).T, ALIKE
    if items is train:
        alike = alike.tril(-1)
    own, theirs = np.asarray(items.digests), np.asarray(train.digests)
    found = []
    for row in torch.nonzero(alike.amax(1) >= least).flatten().tolist():
        places = torch.nonzero(alike[row] >= least).flatten()
        # Exact copies are told elsewhere.
        other = places[torch.from_numpy(theirs[places.numpy()] != own[row])]
        if len(other):
            found.append((row, int(other[alike[row, other].argmax()])))
    return found


def _directions(features: Tensor, beside: Tensor) -> Tensor:
    centred = features - beside.mean(0)
    directions: Tensor = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return directions


def _shared_runs(items: Items, train: Items) -> Tensor:
    """How alike each two texts are, float32 [N, M]; of pairs of texts, by the half that is less so."""
    alike = None
    for half in ("first", "second"):
        ones, twos = ([_plain(getattr(each, half)) for each in part.sources] for part in (items, train))
        if alike is None or any(ones) or any(twos):
            found = _shares(ones, twos)
            alike = found if alike is None else np.minimum(alike, found)
    return torch.from_numpy(alike)


def _plain(text: str | None) -> str:
    """Letters and digits, with one space between words, as far as they are looked at."""
    return " ".join(re.findall(r"\w+", (text or "").casefold()))[:BEGINNING]


def _shares(ones: Sequence[str], twos: Sequence[str]) -> np.ndarray:
    """Of each two texts, the share of their runs of letters that both have (Jaccard, 1901), [N, M].

    Of short texts, 1 where they are the same and 0 elsewhere; so of nothing beside something.
    """
    from scipy.sparse import csr_matrix

    runs = [[_runs(text) for text in part] for part in (ones, twos)]
    numbers = {run: number for number, run in enumerate(set().union(*runs[0], *runs[1]))}

    def matrix(part: list[set[str]]) -> csr_matrix:
        places = [numbers[run] for each in part for run in each]
        starts = np.cumsum([0, *map(len, part)])
        return csr_matrix((np.ones(len(places), np.float32), places, starts), (len(part), len(numbers)))

    both = (matrix(runs[0]) @ matrix(runs[1]).T).toarray()
    one, two = (np.array([len(each) for each in part], np.float32) for part in runs)
    return np.asarray(both / (one[:, None] + two[None] - both), np.float32)


def _runs(text: str) -> set[str]:
    """Every run of letters; of a short text itself, so that it is like no other."""
    if len(text) < FEWEST:
        return {f"<{text}>"}
    return {text[start : start + RUN] for start in range(len(text) - RUN + 1)}
