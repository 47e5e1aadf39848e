"""What is reached with no pretraining at all, by the plainest means: the floor under any transfer.

A linear classifier on small pictures (16 x 16 pixels), or on counts of words and pairs of them, solved to
its optimum in a second or two. A fine-tuned network that does no better has gained nothing from what it
began with; so would the same network from random weights have done on so few labels.

Shapes: N items, D numbers of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from graft.backbones.contract import Encoding, Intake
from graft.data.inputs import open_inputs
from graft.data.items import Items, Splits, Text
from graft.data.texts import Texts
from graft.diagnosis.findings import Finding, found
from graft.inference import BATCH
from graft.probe import solve_head

MOST = 2_000  # items of each part that are looked at
SIDE = 16  # pixels
WORDS = 2_048  # columns that words and pairs of them are counted in


def check_worth(splits: Splits, intake: Intake, score: float, *, seed: int) -> Iterator[Finding]:
    """Whether a model with this ``score`` on the validation part beats what needs no pretraining.

    It speaks where the model is worse by more than one standard error.
    """
    assert splits.val is not None and splits.val.targets is not None
    train, val = (items.sample(MOST, seed) for items in (splits.train, splits.val))
    assert train.targets is not None
    solution = solve_head(plain_features(train, intake), train.targets, splits.task.classes, seed=seed)
    logits = plain_features(val, intake) @ solution.weight.T + solution.bias
    plain = splits.task.score(logits, torch.from_numpy(val.targets))
    if math.isfinite(plain) and score < plain - math.sqrt(plain * (1 - plain) / len(val)):
        what = "words" if isinstance(intake, Encoding) else f"{SIDE} x {SIDE} pixels"
        yield found(
            "run.worse-than-scratch",
            "warning",
            f"{100 * score:.1f} % ({splits.task.score_name}) on validation data, where a linear "
            f"classifier on {what} reaches {100 * plain:.1f} %",
            why="What the network was pretrained on does not help here, or training wiped it out.",
            cure="Smaller rates (graft lr finds them), another backbone (graft rank compares), or more "
            "labels with --strategy scratch.",
        )


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
