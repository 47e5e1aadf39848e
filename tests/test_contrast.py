from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.contrast import contrast_batches, contrast_losses
from graft.schedule import steps_in_epoch


def test_the_loss_is_that_of_every_pair() -> None:
    features = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 0, 2, 1])
    losses = contrast_losses(features, targets)
    for i in range(5):
        pairs = [
            (torch.cosine_similarity(features[i], features[j], dim=0) - float(targets[i] == targets[j]))
            ** 2
            for j in range(5)
            if j != i
        ]
        assert losses[i].item() == pytest.approx(float(sum(pairs)) / 4, rel=1e-5)


def test_it_is_nothing_where_labels_stand_apart_already() -> None:
    features = torch.eye(3)[[0, 1, 0, 2]] * 7.0
    assert contrast_losses(features, torch.tensor([0, 1, 0, 2])).abs().max() < 1e-12
    assert contrast_losses(features[:1], torch.tensor([0])).tolist() == [0.0]


def test_descending_draws_labels_together() -> None:
    features = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    targets = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    optimizer = torch.optim.SGD([features], lr=1.0)
    for _ in range(300):
        optimizer.zero_grad()
        contrast_losses(features, targets).mean().backward()
        optimizer.step()
    assert contrast_losses(features, targets).mean().item() < 1e-3


@given(st.lists(st.integers(0, 4), min_size=2, max_size=50), st.integers(2, 9), st.integers(0, 3))
def test_items_come_in_pairs_of_one_label_and_none_twice(targets: list[int], size: int, seed: int) -> None:
    labels = np.array(targets)
    batches = contrast_batches(labels, size, seed=seed, epoch=0)
    items = [item for batch in batches for item in batch]
    assert len(items) == len(set(items)) and all(batches)
    assert len(batches) <= steps_in_epoch(len(targets), size)
    if any((labels == label).sum() > 1 for label in labels):
        for batch in batches:
            for one, other in zip(batch[::2], batch[1::2], strict=True):
                assert labels[one] == labels[other]
        left = set(range(len(targets))) - set(items)
        assert len({targets[item] for item in left}) == len(left)  # one of a label at most
    assert batches == contrast_batches(labels, size, seed=seed, epoch=0)
