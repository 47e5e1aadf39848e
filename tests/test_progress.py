"""The bar of the reading: gone when it ends, and never there where nobody watches."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from graft.errors import DataError
from graft.progress import reading


def test_in_a_file_the_reading_leaves_nothing() -> None:
    written = io.StringIO()
    with pytest.raises(DataError), reading(Console(file=written)) as told:
        told(1, 2)
        raise DataError("refused")
    with reading(Console(file=written)) as told:
        told(2, 2)
    assert written.getvalue() == ""


def test_on_a_terminal_the_reading_is_shown() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, force_interactive=True, width=100)
    with reading(console) as told:
        told(7, 9)
    assert "looking at the data" in written.getvalue()
    assert "7/9" in written.getvalue()
