"""Stages in execution order, for any network: grouping's guess made to agree with a trace.

Parameters are put in order of first use, and the stages cut that order into contiguous runs. Hence,
by construction, disturbing stage i cannot change anything that was computed before its first use:
every activation below is left as it was. Where names and execution disagree, execution wins.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Sequence
from statistics import median

from torch import nn

from graft.backbones.contract import Stage
from graft.backbones.grouping import Group, group_parameters, is_matrix, owner_of
from graft.backbones.tracing import Trace
from graft.errors import BackboneError


def cut_stages(
    module: nn.Module, trace: Trace, *, head: Collection[str] = ()
) -> tuple[tuple[Stage, ...], tuple[str, ...]]:
    """The stages of ``module`` from input to top, and the parameters that the pass never used.

    Every parameter is in exactly one stage; an unused one is in the stage that its name suggests. Those
    named in ``head`` are the last stage, and nothing else is in it, where they are used last.

    Raises:
        BackboneError: the network used no parameter at all.
    """
    groups = group_parameters(module, trace)
    order = sorted(trace.first_use, key=trace.first_use.__getitem__)
    if not order:
        raise BackboneError(f"{type(module).__name__} used none of its parameters: nothing to train.")
    body = [name for name in order if name not in head]
    apart = order[len(body) :] if body and order[: len(body)] == body else []
    runs = _cut_order(body if apart else order, groups)
    runs = _merge_small(runs, dict(module.named_parameters()))
    runs += [apart] if apart else []
    unused = tuple(n for n, _ in module.named_parameters() if n not in trace.first_use)
    return _make_stages(module, trace, _place_unused(runs, unused, groups)), unused


def _cut_order(order: Sequence[str], groups: Sequence[Group]) -> list[list[str]]:
    """``order`` cut into runs, one a group, with as few parameters as possible moved."""
    group_of = {name: number for number, names in enumerate(groups) for name in names}
    places: dict[int, list[int]] = {}
    for place, name in enumerate(order):
        places.setdefault(group_of[name], []).append(place)
    ranked = sorted(places, key=lambda group: median(places[group]))
    rank = {group: number for number, group in enumerate(ranked)}
    numbers = [rank[group_of[name]] for name in order]
    kept = _longest_nondecreasing(numbers)
    current = numbers[min(kept)]
    runs: dict[int, list[str]] = {}
    for place, name in enumerate(order):
        current = numbers[place] if place in kept else current
        runs.setdefault(current, []).append(name)
    return [runs[number] for number in sorted(runs)]


def _longest_nondecreasing(numbers: Sequence[int]) -> set[int]:
    """Positions of a longest non-decreasing subsequence."""
    tails: list[int] = []  # smallest last number of a subsequence of each length
    ends: list[int] = []  # its position
    before: list[int] = []
    for place, number in enumerate(numbers):
        length = bisect_right(tails, number)
        before.append(ends[length - 1] if length else -1)
        tails[length : length + 1] = [number]
        ends[length : length + 1] = [place]
    kept = set()
    place = ends[-1]
    while place >= 0:
        kept.add(place)
        place = before[place]
    return kept


def _merge_small(runs: list[list[str]], parameters: dict[str, nn.Parameter]) -> list[list[str]]:
    """Runs without any matrix (a final norm) join the run before, the first one the run after."""
    merged: list[list[str]] = []
    for run in runs:
        small = not any(is_matrix(parameters[name]) for name in run)
        first_is_small = len(merged) == 1 and not any(is_matrix(parameters[n]) for n in merged[0])
        if merged and (small or first_is_small):
            merged[-1] += run
        else:
            merged.append(list(run))
    return merged


def _place_unused(runs: list[list[str]], unused: Sequence[str], groups: Sequence[Group]) -> list[list[str]]:
    placed = [list(run) for run in runs]
    run_of = {name: number for number, run in enumerate(runs) for name in run}
    group_of = {name: names for names in groups for name in names}
    for name in unused:
        siblings = Counter(run_of[n] for n in group_of[name] if n in run_of)
        at = siblings.most_common(1)[0][0] if siblings else len(runs) - 1
        placed[at].append(name)
    return placed


def _make_stages(module: nn.Module, trace: Trace, runs: list[list[str]]) -> tuple[Stage, ...]:
    stage_of = {name: number for number, run in enumerate(runs) for name in run}
    entries = [_find_entry(trace, number, stage_of) for number in range(len(runs))]
    starts = [_start(trace, run, entry) for run, entry in zip(runs, entries, strict=True)]
    modules = _place_modules(module, trace, starts, stage_of)
    names = _stage_names(runs, dict(module.named_parameters()))
    return tuple(Stage(names[i], tuple(runs[i]), tuple(modules[i]), entries[i]) for i in range(len(runs)))


def _find_entry(trace: Trace, number: int, stage_of: dict[str, int]) -> str | None:
    """The outermost module whose call begins stage ``number`` and whose input is all it needs."""
    if number == 0:
        return None
    below = [name for name, stage in stage_of.items() if stage < number and name in trace.last_use]
    own = [name for name, stage in stage_of.items() if stage == number and name in trace.first_use]
    closed = max(trace.last_use[name] for name in below)
    opened = min(trace.first_use[name] for name in own)
    calls = [(call.start, name) for name, call in trace.calls.items() if name]
    for start, name in sorted(calls):
        if closed < start < opened and _is_entry(trace, name, number, stage_of):
            return name
    return None


def _is_entry(trace: Trace, name: str, number: int, stage_of: dict[str, int]) -> bool:
    inside = [stage for p, stage in stage_of.items() if p.startswith(f"{name}.")]
    call = trace.calls[name]
    if not inside or min(inside) < number or call.state is None:
        return False
    return all(
        content == call.state and time < call.end
        for content, time in trace.reads
        if content[1] < call.start < time
    )


def _start(trace: Trace, run: Sequence[str], entry: str | None) -> int:
    """When a stage begins: with its entry, or else with the module that first uses a parameter."""
    if entry is not None:
        return trace.calls[entry].start
    first = next(name for name in run if name in trace.first_use)
    used, call = trace.first_use[first], trace.calls.get(owner_of(first))
    return call.start if call is not None and owner_of(first) and call.start < used else used


def _place_modules(
    module: nn.Module, trace: Trace, starts: Sequence[int], stage_of: dict[str, int]
) -> list[list[str]]:
    """Leaf modules by stage: by their parameters, or else by their first call."""
    placed: list[list[str]] = [[] for _ in starts]
    for name, child in module.named_modules():
        if next(child.children(), None) is not None or not name:
            continue
        own = [stage_of[p] for n, _ in child.named_parameters() if (p := f"{name}.{n}") in stage_of]
        if own:
            placed[min(own)].append(name)
        elif name in trace.calls:
            at = bisect_right(starts, trace.calls[name].start) - 1
            placed[max(at, 0)].append(name)
    return placed


def _stage_names(runs: list[list[str]], parameters: dict[str, nn.Parameter]) -> list[str]:
    names: list[str] = []
    for number, run in enumerate(runs):
        matrices = [name for name in run if is_matrix(parameters[name])] or run
        others = [name for other in runs if other is not run for name in other]
        # Norms and biases are let go of above: a final norm belongs to the last block's stage.
        owners = [owner_of(name) for name in (matrices if number else run)]
        name = _shorten(_main_prefix(owners, share=2 / 3 if number else 1.0), others)
        if not name:
            first = owner_of(matrices[0])
            name = (_shorten(first, others) or first or matrices[0]) if number else "stem"
        while name in names:
            name += "+"
        names.append(name)
    return names


def _main_prefix(owners: Sequence[str], share: float) -> str:
    """The longest dotted prefix that at least this share of the names has."""
    best = ""
    for depth in range(1, 1 + max(owner.count(".") + 1 for owner in owners)):
        prefixes = [".".join(parts[:depth]) for o in owners if len(parts := o.split(".")) >= depth]
        prefix, count = Counter(prefixes).most_common(1)[0]
        if count < share * len(owners) or not prefix:
            break
        best = prefix
    return best


def _shorten(name: str, others: Sequence[str]) -> str:
    """``name`` without its last parts, as long as no other stage has parameters below it."""
    if any(other.startswith(f"{name}.") for other in others):
        return ""
    parent = owner_of(name)
    while parent and not any(other.startswith(f"{parent}.") for other in others):
        name, parent = parent, owner_of(parent)
    return name
