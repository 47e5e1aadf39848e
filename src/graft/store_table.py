"""The store in the terminal: what is kept of frozen stages, and what it takes. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.markup import escape
from rich.table import Table

from graft.reuse.inventory import Use


def uses_table(uses: Sequence[Use]) -> Table:
    """One row for each space: whose stages made it, of which inputs, and how much it is."""
    table = Table("Backbone", "What lies below", "Input", "Precision")
    for title in ("Rows", "Size", "Last used"):
        table.add_column(title, justify="right")
    for use in uses:
        about = use.about
        table.add_row(
            escape(str(about.get("backbone", "?"))),
            escape(str(about.get("below", "?"))),
            escape(_input(about.get("input"))),
            escape(str(about.get("precision", "?"))),
            f"{use.rows:,}",
            gigabytes(use.bytes),
            f"{datetime.fromtimestamp(use.used):%Y-%m-%d %H:%M}" if use.used else "",
        )
    return table


def _input(told: object) -> str:
    """Pixels of pictures, or tokens of texts."""
    return " × ".join(str(side) for side in told) if isinstance(told, list) else str(told or "?")


def gigabytes(count: int) -> str:
    """Bytes as reuse.limit counts them.

    >>> gigabytes(2_340_000_000), gigabytes(51_000_000), gigabytes(7_000)
    ('2.34 GB', '51.0 MB', '0.0 MB')
    """
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
