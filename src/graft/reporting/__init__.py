"""What happened, on one page: written while a run goes on, and whole when it has ended.

``write_report`` makes it from a run's files; the functions of :mod:`graft.reporting.charts` take plain
values, for whoever wants a figure of their own.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from graft.files import write_json
from graft.runs import Run

if TYPE_CHECKING:
    from graft.reporting.details import Details

EVERY, SHARE = 20.0, 0.05  # seconds between two writings while training, or more: their share of the time


def write_report(run: Run, details: Details | None = None) -> Path:
    """The run's page, as far as the run has come; ``details`` are kept, for it to be written again.

    Raises:
        RunError: a file of the run is missing or damaged.
    """
    from graft.reporting.pages import write_run_page  # matplotlib comes up slowly
    from graft.reporting.story import DETAILS, FOLDER, read_story

    if details is not None:
        (run.folder / FOLDER).mkdir(exist_ok=True)
        write_json(run.folder / FOLDER / DETAILS, details.model_dump(mode="json"))
    return write_run_page(read_story(run))


def wants_report() -> bool:
    """Whether runs write their page; GRAFT_REPORT=0 says no."""
    return os.environ.get("GRAFT_REPORT", "1").lower() not in ("0", "no", "off", "false")


@contextlib.contextmanager
def sparing(run: Run, what: str) -> Iterator[None]:
    """Inside, what cannot be made is told as a warning: hours of training are not lost for a page."""
    try:
        yield
    except Exception as error:
        warnings.warn(
            f"{what} of {run.folder} could not be made ({type(error).__name__}: {error}); the run itself "
            f"is not touched by that. graft report {run.folder} tries again.",
            stacklevel=2,
        )


class Reporter:
    """Writes a run's page now and then while it goes on."""

    def __init__(self, run: Run) -> None:
        self.run, self.last, self.cost = run, time.monotonic(), 0.0

    def look(self) -> None:
        """Write the page where the last one is old, for what it costs."""
        began = time.monotonic()
        if began - self.last > max(EVERY, self.cost / SHARE):
            with sparing(self.run, "The report"):
                write_report(self.run)
            self.last = time.monotonic()
            self.cost = self.last - began
