"""Setting a validation split aside, where the data brings none.

The split depends on the seed and on what the pictures contain, never on their names, their order
or where they lie; so renaming a folder, or adding a class, moves nothing from one side to the other
in the classes that stayed as they were. Copies of a picture always stay together.

Shapes: N items.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graft.data.items import Problem, make_problem

if TYPE_CHECKING:
    from graft.data.items import Items

_SINGLE = (
    "{count} class(es) with one distinct picture kept whole for training and not validated; add "
    "pictures to them."
)


def split_off(
    items: Items, labels: Sequence[str], share: float, seed: int
) -> tuple[list[int], list[int], tuple[Problem, ...]]:
    """Indices for training and for validation, each ascending: ``share`` of every class.

    Of each class with two distinct pictures or more at least one goes to each side. A picture that
    stands under several labels stays in training: nothing can be measured on it.
    """
    assert items.targets is not None
    taken: list[int] = []
    single: list[str] = []
    by_class = _groups(items)
    for target, label in enumerate(labels):
        groups, count = by_class[target]
        picked = _pick(groups, count, share, seed)
        if not picked and count:
            single.append(label)
        taken += picked
    chosen = set(taken)
    kept = [index for index in range(len(items)) if index not in chosen]
    problems = (make_problem("single", _SINGLE, single),) if single else ()
    return kept, sorted(taken), problems


def _groups(items: Items) -> dict[int, tuple[dict[str, list[int]], int]]:
    """For each class its copies by digest, contradictory ones left out, and its number of items."""
    assert items.targets is not None
    targets = items.targets.tolist()
    named: dict[str, set[int]] = defaultdict(set)
    for digest, target in zip(items.digests, targets, strict=True):
        named[digest].add(target)
    groups: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    counts: dict[int, int] = defaultdict(int)
    for index, (digest, target) in enumerate(zip(items.digests, targets, strict=True)):
        counts[target] += 1
        if len(named[digest]) == 1:
            groups[target][digest].append(index)
    return defaultdict(lambda: ({}, 0), {target: (groups[target], counts[target]) for target in counts})


def _pick(groups: dict[str, list[int]], count: int, share: float, seed: int) -> list[int]:
    """About ``share`` of ``count`` items, in whole groups, leaving one group at least."""
    spare = len(groups) - 1 if sum(map(len, groups.values())) == count else len(groups)
    wanted = max(1, int(share * count + 0.5))
    order = sorted(groups, key=lambda digest: _rank(digest, seed))
    picked: list[int] = []
    used = 0
    for digest in order:
        if used < spare and len(picked) + len(groups[digest]) <= wanted:
            picked += groups[digest]
            used += 1
    if not picked and spare > 0:
        picked = groups[min(order, key=lambda digest: len(groups[digest]))]
    return picked


def _rank(digest: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{digest}".encode()).hexdigest()
