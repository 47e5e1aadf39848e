"""Setting a validation split aside, where the data brings none.

The split depends on the seed and on what the pictures contain, never on their names, their order
or where they lie; so renaming a folder, or adding a class, moves nothing from one side to the other
in the classes that stayed as they were. Copies of a picture always stay together.

Items with several labels cannot be split class by class: they are dealt by iterative stratification
(stratification.py), which comes near to the share for every label at once.

Shapes: N items, C classes.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graft.data.items import Problem, make_problem
from graft.stratification import deal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graft.data.items import Items

ENOUGH, ENOUGH_IN_ALL = 30, 300  # validation items of the median class, and of all classes
LARGEST_SHARE, SMALLEST_SHARE = 0.2, 0.05

_SINGLE = (
    "{count} class(es) with one distinct item kept whole for training and not validated; add items to them."
)
_UNVALIDATED = (
    "{count} label(s) that no item set aside for validation has, so that nothing can be said of "
    "them; add items with them."
)


def share_by_size(items: Items, classes: int) -> float:
    """The share that gives 300 items to validate on, 30 of the median class; 0 where that costs too much.

    With fewer than 1,500 items, or 150 in the median class, it would be more than a fifth: a choice among
    models on so few items misleads more often than it helps (the standard error of an accuracy on 60 is 5
    points), and training has better use for them. Never less than 5 %.
    """
    median = items_of_median_class(items, classes)
    share = max(ENOUGH / median, ENOUGH_IN_ALL / len(items)) if median else 1.0
    return 0.0 if share > LARGEST_SHARE else max(SMALLEST_SHARE, share)


def items_of_median_class(items: Items, classes: int) -> float:
    """How many items the median class has; of several labels an item, the median label."""
    assert items.targets is not None
    if items.targets.ndim == 2:
        return float(np.median(items.targets.sum(axis=0)))
    return float(np.median(np.bincount(items.targets, minlength=classes)))


def split_off(
    items: Items, labels: Sequence[str], share: float, seed: int
) -> tuple[list[int], list[int], tuple[Problem, ...]]:
    """Indices for training and for validation, each ascending: ``share`` of every class.

    Of each class with two distinct pictures or more at least one goes to each side (of a multi-label
    task: each label stays in training, and goes to validation too where that can be). A picture that
    stands under several labels, or sets of them, stays in training: nothing can be measured on it.
    """
    assert items.targets is not None
    if items.targets.ndim == 2:
        return _split_off_sets(items, labels, share, seed)
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


def draw(items: Items, count: int, seed: int) -> list[int]:
    """Indices of ``count`` items, ascending, every class by its share; fewer are always among more.

    Each class has one item at least, as far as there is room. Which items are drawn depends on the seed and
    on what they contain. Items with several labels are drawn without regard to them.
    """
    assert items.targets is not None
    ranked = sorted(range(len(items)), key=lambda index: _rank(items.digests[index], seed))
    if items.targets.ndim == 2:
        return sorted(ranked[:count])
    sizes = np.bincount(items.targets)
    seen: dict[int, int] = defaultdict(int)
    places: dict[int, float] = {}
    for index in ranked:
        target = int(items.targets[index])
        # The first of each class, then all evenly spread over the order.
        places[index] = (seen[target] + 0.5) / sizes[target] if seen[target] else 0.0
        seen[target] += 1
    return sorted(sorted(ranked, key=lambda index: places[index])[:count])


def _split_off_sets(
    items: Items, labels: Sequence[str], share: float, seed: int
) -> tuple[list[int], list[int], tuple[Problem, ...]]:
    assert items.targets is not None
    members = _copies(items)
    agreed = [index for index in members.values() if _agree(items.targets[index])]
    agreed.sort(key=lambda indices: _rank(items.digests[indices[0]], seed))
    if not agreed:
        return list(range(len(items))), [], (make_problem("unvalidated", _UNVALIDATED, labels),)
    counts = np.array([items.targets[indices].sum(axis=0, dtype=np.int64) for indices in agreed])
    sizes = np.array([len(indices) for indices in agreed])
    total = items.targets.sum(axis=0, dtype=np.int64)
    # Every label with two distinct pictures is to be validated, be the share ever so small.
    least = ((counts > 0).sum(axis=0) > 1).astype(np.float64)
    validated = np.where(least > 0, np.maximum(least, share * total), 0.0)
    wanted = np.stack([counts.sum(axis=0) - validated, validated])
    room = share * len(items) / sizes.sum()
    part_of = deal(counts, sizes, wanted, [1 - room, room])
    _keep_in_training(part_of, counts, total - counts.sum(axis=0))
    taken = sorted(index for group in np.flatnonzero(part_of == 1) for index in agreed[group])
    chosen = set(taken)
    kept = [index for index in range(len(items)) if index not in chosen]
    found = items.targets[taken].sum(axis=0, dtype=np.int64)
    missing = [label for label, count in zip(labels, found, strict=True) if not count]
    problems = (make_problem("unvalidated", _UNVALIDATED, missing),) if missing else ()
    return kept, taken, problems


def _copies(items: Items) -> dict[str, list[int]]:
    members: dict[str, list[int]] = defaultdict(list)
    for index, digest in enumerate(items.digests):
        members[digest].append(index)
    return members


def _agree(rows: NDArray[np.integer[Any]]) -> bool:
    return bool((rows == rows[0]).all())


def _keep_in_training(
    part_of: NDArray[np.int64], counts: NDArray[np.int64], others: NDArray[np.int64]
) -> None:
    """Take groups back from validation, in place, until every label stands in training.

    Rarer labels are dealt first, and may have carried every item of another one away. ``others`` [C]:
    items in training that were not dealt.
    """
    for label in range(counts.shape[1]):
        with_it = np.flatnonzero(counts[:, label] > 0)
        if len(with_it) and not others[label] and (part_of[with_it] == 1).all():
            part_of[with_it[0]] = 0


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
