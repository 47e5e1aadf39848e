"""What is reached with no pretraining at all, by the plainest means: the floor under any transfer.

A linear classifier on small pictures (16 x 16 pixels), or on counts of words and pairs of them, solved to
its optimum in a second or two. A fine-tuned network that does no better has gained nothing from what it
began with; so would the same network from random weights have done on so few labels.

Shapes: N items, D numbers of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from graft.backbones.contract import Encoding, Intake
from graft.data.inputs import open_inputs
from graft.data.items import Items, Splits, Text
from graft.data.texts import Texts
from graft.diagnosis.findings import Finding, found
from graft.inference import BATCH
from graft.probe import solve_head
from graft.task import Task

MOST = 500  # items of each part that are looked at
SIDE = 16  # pixels
WORDS = 2_048  # columns that words and pairs of them are counted in


def check_worth(
    splits: Splits, intake: Intake, logits: NDArray[np.floating[Any]], *, seed: int
) -> Iterator[Finding]:
    """Whether a model with these ``logits`` [N, C] of the validation items beats what needs no pretraining.

    It speaks where the model is behind by more than two standard errors, paired by item.
    """
    task, val = splits.task, splits.val
    assert val is not None and val.targets is not None
    places = sorted(np.random.default_rng(seed).permutation(len(val))[:MOST].tolist())
    train, shown = splits.train.sample(MOST, seed), val.select(places)
    assert train.targets is not None and shown.targets is not None
    solution = solve_head(plain_features(train, intake), train.targets, task.classes, seed=seed)
    truth, tuned = torch.from_numpy(shown.targets), torch.from_numpy(logits[places])
    plain = plain_features(shown, intake) @ solution.weight.T + solution.bias
    ahead = (_right(task, plain, truth) - _right(task, tuned, truth)).numpy()
    error = float(ahead.std()) / math.sqrt(len(ahead))
    if ahead.mean() > 2 * error and ahead.mean() > 0:
        what = "words" if isinstance(intake, Encoding) else f"{SIDE} x {SIDE} pixels"
        own, other = (100 * float(_right(task, each, truth).mean()) for each in (tuned, plain))
        yield found(
            "run.worse-than-scratch",
            "warning",
            f"{own:.1f} % of {len(shown)} validation items are right, where a linear classifier on {what} "
            f"has {other:.1f} % right",
            why="What the network was pretrained on does not help here, or training wiped it out.",
            cure="Smaller rates (graft lr finds them), another backbone (graft rank compares), or more "
            "labels with --strategy scratch.",
        )


def _right(task: Task, logits: Tensor, truth: Tensor) -> Tensor:
    """Of each item [N] 1 where it is right, else 0; of several labels, the share that is."""
    right = (task.decisions(logits) == truth).double()
    return right if right.ndim == 1 else right.mean(1)


def plain_features(items: Items, intake: Intake) -> Tensor:
    """What a classifier that knows nothing sees of N items: [N, D]."""
    inputs = open_inputs(items, intake)
    if isinstance(inputs, Texts):
        return _count_words(items)
    batches = [list(range(start, min(start + BATCH, len(items)))) for start in range(0, len(items), BATCH)]
    rows = [adaptive_avg_pool2d(tensors, SIDE).flatten(1) for tensors, _, _ in inputs.batches(batches)]
    return torch.cat(rows)


def _count_words(items: Items) -> Tensor:
    from sklearn.feature_extraction.text import HashingVectorizer

    texts = [
        " ".join(filter(None, (source.first, source.second)))
        for source in items.sources
        if isinstance(source, Text)
    ]
    counts = HashingVectorizer(n_features=WORDS, ngram_range=(1, 2), alternate_sign=False).transform(texts)
    return torch.from_numpy(counts.toarray()).float()
