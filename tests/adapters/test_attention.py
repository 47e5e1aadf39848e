"""torch's attention, opened: the same numbers and parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graft.adapters.attention import OpenAttention, can_open, close_attention, open_attention

WIDTH, HEADS, ITEMS, LENGTH = 8, 2, 3, 5


def make_attention(**settings: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    return nn.MultiheadAttention(WIDTH, HEADS, **settings).eval()


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MASK = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
PADDING = torch.tensor([[False] * 5, [False] * 4 + [True], [False] * 3 + [True] * 2])
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "without weights": {"need_weights": False},
    "by head": {"average_attn_weights": False},
    "masked": {"attn_mask": MASK},
    "masked by numbers": {"attn_mask": inputs(LENGTH, LENGTH), "need_weights": False},
    "masked by head": {"attn_mask": inputs(ITEMS * HEADS, LENGTH, LENGTH), "need_weights": False},
    "padded": {"key_padding_mask": PADDING},
    "both": {"attn_mask": MASK, "key_padding_mask": PADDING, "need_weights": False},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_opened_computes_the_same(way: str, batch_first: bool) -> None:
    closed = make_attention(batch_first=batch_first)
    x = inputs(ITEMS, LENGTH, WIDTH) if batch_first else inputs(LENGTH, ITEMS, WIDTH)
    expected, weights = closed(x, x, x, **WAYS[way])
    found, own = OpenAttention(closed)(x, x, x, **WAYS[way])
    torch.testing.assert_close(found, expected)
    assert (own is None) == (weights is None)
    if weights is not None:
        torch.testing.assert_close(own, weights)


@pytest.mark.parametrize("bias", [True, False])
def test_opened_attends_to_other_keys_and_takes_one_item(bias: bool) -> None:
    closed = make_attention(batch_first=True, bias=bias)
    query, key, value = inputs(4, WIDTH), inputs(6, WIDTH, seed=2), inputs(6, WIDTH, seed=3)
    expected, weights = closed(query, key, value)
    found, own = OpenAttention(closed)(query, key, value)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(own, weights)


def test_parameters_are_the_same_ones_and_come_back() -> None:
    network = nn.ModuleDict({"attend": make_attention(batch_first=True), "other": nn.Linear(2, 2)})
    before = dict(network.named_parameters())
    x = inputs(ITEMS, LENGTH, WIDTH)
    expected = network["attend"](x, x, x)[0]
    open_attention(network)
    opened = dict(network.named_parameters())
    assert opened["attend.in_proj.weight"] is before["attend.in_proj_weight"]
    assert len(opened) == len(before)
    close_attention(network)
    after = dict(network.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    torch.testing.assert_close(network["attend"](x, x, x)[0], expected, rtol=0, atol=0)


def test_dropout_acts_in_training_alone() -> None:
    opened = OpenAttention(make_attention(batch_first=True, dropout=0.5))
    x = inputs(ITEMS, LENGTH, WIDTH)
    assert torch.equal(opened(x, x, x)[0], opened(x, x, x)[0])
    opened.train()
    for need_weights in (True, False):
        first, second = (opened(x, x, x, need_weights=need_weights)[0] for _ in range(2))
        assert not torch.equal(first, second)


def test_what_it_cannot_stand_for_stays_closed() -> None:
    assert not can_open(make_attention(kdim=4))
    assert not can_open(make_attention(add_bias_kv=True))
    assert not can_open(make_attention(add_zero_attn=True))
    assert not can_open(nn.Linear(2, 2))
