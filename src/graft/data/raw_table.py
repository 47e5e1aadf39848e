"""The cells of a table as they stand, whatever file they were read from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.data.items import Problem
from graft.errors import DataError, quote_some


@dataclass(frozen=True)
class Record:
    """One row as it was read."""

    place: str  # "line 17"
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class Cells:
    """A table: its columns' names, its rows, and what was odd.

    ``pictures``: the columns whose cells hold pictures themselves, not their paths.
    """

    names: list[str]
    records: Iterable[Record]
    problems: tuple[Problem, ...] = ()
    pictures: tuple[str, ...] = ()


def check_unique(path: Path, names: Sequence[str]) -> None:
    """Raises DataError where two columns have one name."""
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(f"The table {path} names a column twice: {quote_some(twice)}; rename one of them.")
