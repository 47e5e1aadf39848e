"""Data: from what a person has to tensors that a network takes."""

from graft.data.splits import read_items, read_labelled, read_splits

__all__ = ["read_items", "read_labelled", "read_splits"]
