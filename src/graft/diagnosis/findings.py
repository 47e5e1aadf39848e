"""A finding: what is wrong, how that was seen, why it matters, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from graft.options import Frozen

Severity = Literal["error", "warning", "note"]
_SHOWN = 10


class Finding(Frozen):
    """One known mistake that was met.

    ``id``: stable, as data.leak. ``measured``: what was seen, with numbers. ``fix``: recipe settings that
    cure it, nested ones with dots; empty where a person has to.
    """

    id: str
    severity: Severity
    measured: str
    why: str
    cure: str
    examples: tuple[str, ...] = ()
    fix: dict[str, Any] = Field(default_factory=dict)


def found(
    name: str,
    severity: Severity,
    measured: str,
    *,
    why: str,
    cure: str,
    examples: Iterable[str] = (),
    fix: dict[str, Any] | None = None,
) -> Finding:
    """A finding; of the examples the first ten are kept."""
    return Finding(
        id=name,
        severity=severity,
        measured=measured,
        why=why,
        cure=cure,
        examples=tuple(examples)[:_SHOWN],
        fix=fix or {},
    )


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"
