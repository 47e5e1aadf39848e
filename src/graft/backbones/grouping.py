"""A first guess at a network's stages, from names and structure alone.

Three sources: ``stage_groups`` of a trunk of ours that knows, timm's own ``group_matcher`` where a model
brings one, and the module tree otherwise.
What comes out is only a guess, a list of groups of parameter names: staging.py makes it agree with
execution.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch import Tensor, nn

from graft.backbones.tracing import Trace

FEWEST = 3
"""A network is taken apart until it has this many parts worth the name, or no more can be had."""

GIANT = 0.9
"""A part with more than this share of all numbers is taken apart too."""

Group = tuple[str, ...]
"""Names of parameters."""


def group_parameters(module: nn.Module, trace: Trace) -> list[Group]:
    """Every parameter of ``module`` in exactly one group, groups in order of execution."""
    known: Any = getattr(module, "stage_groups", None)
    if callable(known):
        return sorted(known(trace), key=lambda group: _middle(group, trace))
    structural = _by_structure(module, trace)
    matched = _by_matcher(module)
    if matched and (len(matched) >= FEWEST or len(matched) >= len(structural)):
        return sorted(matched, key=lambda group: _middle(group, trace))
    return structural


def is_matrix(parameter: Tensor) -> bool:
    """More than one dimension longer than 1: weights and embeddings, but no norm, scale or bias."""
    return sum(size > 1 for size in parameter.shape) > 1


def owner_of(name: str) -> str:
    """The module that holds the parameter: ``layer1.0.conv1`` of ``layer1.0.conv1.weight``."""
    return name.rpartition(".")[0]


def _by_matcher(module: nn.Module) -> list[Group]:
    make_matcher: Any = getattr(module, "group_matcher", None)
    if not callable(make_matcher):
        return []
    # Only timm models have one, and then timm is imported already.
    from timm.models import group_parameters as match

    try:
        groups = match(module, make_matcher(coarse=True))
    except (AssertionError, NotImplementedError, AttributeError, TypeError):
        return []  # some models have the method only to say that they have no groups
    return [tuple(names) for _, names in sorted(groups.items()) if names]


@dataclass(frozen=True)
class _Unit:
    """A module with all its parameters, or one parameter held directly by an expanded module."""

    name: str
    parameters: Group
    size: int  # numbers in its parameters
    owners: int  # modules below that hold parameters themselves; 0 for a single parameter

    @property
    def is_leaf(self) -> bool:
        return self.owners <= 1


def _by_structure(module: nn.Module, trace: Trace) -> list[Group]:
    parameters = dict(module.named_parameters())
    units = _expand(module, "", parameters)
    total = sum(unit.size for unit in units)
    while True:
        parts = [unit for unit in units if not unit.is_leaf]
        largest = max(parts, key=lambda unit: unit.size, default=None)
        if largest is None or (len(parts) >= FEWEST and largest.size <= GIANT * total):
            break
        at = units.index(largest)
        child = module.get_submodule(largest.name)
        units[at : at + 1] = _expand(child, largest.name, parameters)
    units.sort(key=lambda unit: _middle(unit.parameters, trace))
    return _join_leaves(units, parameters, trace)


def _expand(module: nn.Module, name: str, parameters: dict[str, nn.Parameter]) -> list[_Unit]:
    prefix = f"{name}." if name else ""
    own = [prefix + leaf for leaf, _ in module.named_parameters(recurse=False)]
    units = [_Unit(p, (p,), parameters[p].numel(), 0) for p in own if p in parameters]
    for child in dict(module.named_children()):
        inside = tuple(p for p in parameters if p.startswith(f"{prefix}{child}."))
        if inside:
            size = sum(parameters[p].numel() for p in inside)
            owners = len({owner_of(p) for p in inside})
            units.append(_Unit(prefix + child, inside, size, owners))
    return units


def _join_leaves(units: Iterable[_Unit], parameters: dict[str, nn.Parameter], trace: Trace) -> list[Group]:
    """Runs of leaves at one resolution become one group; lone norms join what precedes."""
    groups: list[Group] = []
    resolution: Any = None  # of the run of leaves that the last group is; None where it is no run
    for unit in units:
        if not unit.is_leaf:
            groups.append(unit.parameters)
            resolution = None
            continue
        small = not any(is_matrix(parameters[p]) for p in unit.parameters)
        here = _resolution(unit, trace)
        if groups and (small or (resolution is not None and here in (resolution, "any"))):
            groups[-1] += unit.parameters
        else:
            groups.append(unit.parameters)
            resolution = here
        if resolution == "any":
            resolution = here
    return groups


def _resolution(unit: _Unit, trace: Trace) -> Any:
    """Height and width of what a leaf puts out; "any" for a single parameter, which has neither."""
    call = trace.calls.get(unit.name)
    if unit.owners == 0:
        return "any"
    if call is None or call.shape is None:
        return "flat"
    return call.shape[2:] if len(call.shape) == 4 else "flat"


def _middle(names: Group, trace: Trace) -> float:
    times = [trace.first_use[name] for name in names if name in trace.first_use]
    return median(times) if times else float("inf")
