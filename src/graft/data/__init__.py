"""Data: from what a person has to tensors that a network takes."""

from graft.data.splits import read_labelled, read_splits
from graft.data.unlabelled import read_items

__all__ = ["read_items", "read_labelled", "read_splits"]
