"""A chart of a page: its figure, what it says, and its numbers as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from graft.files import new_file, write_text
from graft.prediction import plain_cell
from graft.reporting.drawing import to_file, to_svg


@dataclass(frozen=True)
class Drawn:
    """``name``: of its files, and of its ids in the page. ``says``: what to see in it, in words."""

    name: str
    title: str
    figure: Figure
    says: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @property
    def svg(self) -> str:
        return to_svg(self.figure, self.name)


def chart(
    name: str, title: str, figure: Figure, says: str, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> Drawn:
    return Drawn(name, title, figure, says, tuple(header), tuple(tuple(row) for row in rows))


def write_files(charts: Iterable[Drawn], folder: Path) -> None:
    """Each chart as SVG and PNG, and its numbers as CSV, in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in charts:
        for kind in ("svg", "png"):
            with new_file(folder / f"{each.name}.{kind}") as fresh:
                fresh.write_bytes(to_file(each.figure, kind))
        write_text(folder / f"{each.name}.csv", to_csv(each.header, each.rows))


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV that a spreadsheet will not run; None is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([plain_cell(name) for name in header])
    for row in rows:
        writer.writerow(list(_cells(row)))
    return buffer.getvalue()


def _cells(row: Iterable[Any]) -> Iterator[str]:
    for value in row:
        if isinstance(value, float):
            yield f"{value:.6g}"
        else:
            yield "" if value is None else plain_cell(str(value))
