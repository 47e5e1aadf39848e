"""Identical items where they mislead: across splits, and under different labels (or sets of them).

Both are listed and never repaired: which of two copies is right only a person knows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from graft.data.items import SPLITS, Problem, make_problem, show_labels

if TYPE_CHECKING:
    from graft.data.items import Items, Modality
    from graft.task import Task


def find_leaks(parts: Mapping[str, Items], modality: Modality = "picture") -> tuple[Problem, ...]:
    """Items of val or test that also stand in a split before it."""
    examples: list[str] = []
    seen: dict[str, str] = {}
    for split in (name for name in SPLITS if name in parts):
        items = parts[split]
        for item, digest in zip(items.ids, items.digests, strict=True):
            if digest in seen:
                examples.append(f"{split}: {item} = {seen[digest]}")
        for item, digest in zip(items.ids, items.digests, strict=True):
            seen.setdefault(digest, f"{split}: {item}")
    message = (
        f"{{count}} {modality}{{s}} in val or test identical to one in an earlier split; scores on them "
        "flatter the model: remove one of each pair."
    )
    return (make_problem("leak", message, examples),) if examples else ()


def find_contradictions(
    parts: Mapping[str, Items], task: Task, modality: Modality = "picture"
) -> tuple[Problem, ...]:
    """Identical items under different labels; they are listed, never dropped."""
    by_digest: dict[str, list[tuple[str, tuple[str, ...]]]] = defaultdict(list)
    for items in parts.values():
        assert items.targets is not None
        for item, digest, target in zip(items.ids, items.digests, items.targets, strict=True):
            by_digest[digest].append((item, task.names_of(target)))
    examples = [
        f"{item}: {show_labels(labels)}"
        for group in by_digest.values()
        if len({labels for _, labels in group}) > 1
        for item, labels in group
    ]
    message = (
        f"{{count}} {modality}{{s}} identical to one under another label; all were kept: correct the "
        "labels."
    )
    return (make_problem("contradiction", message, examples),) if examples else ()
