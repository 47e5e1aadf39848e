"""Progress bars: one for the reading of the data, one for each phase, driven by records."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from graft import records
from graft.records import Record
from graft.system.escaping import printable


class PlainConsole(Console):
    """A console on which names and messages cannot act: only its own control codes reach the terminal."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich's, with the text of each segment as it can be shown."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


@contextlib.contextmanager
def reading(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A function of (what is done, all of it) that shows a bar, gone when the block ends."""
    bars = _bars(console, transient=True)
    task = bars.add_task("looking at the data", total=None, state="")
    # Where there is no terminal, nothing would be shown but an empty line at the end.
    with bars if console.is_interactive else contextlib.nullcontext():
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextlib.contextmanager
def showing(console: Console, score: str = "accuracy") -> Iterator[Callable[[Record], None]]:
    """A function that shows records as a progress bar for each phase, and a line for each epoch.

    ``score``: what the task's score is called.
    """
    with _bars(console) as bars:
        yield _Bars(bars, score).show


@contextlib.contextmanager
def following(console: Console) -> Iterator[Callable[[str, Record | None], None]]:
    """A function that shows several runs one after the other: a line for each, and its bars below."""
    with _bars(console, transient=True) as bars:
        current = _Bars(bars)

        def show(name: str, record: Record | None) -> None:
            if record is not None:
                current.show(record)
                return
            for task in bars.task_ids:
                bars.remove_task(task)
            console.print(name, markup=False)

        yield show


def _bars(console: Console, *, transient: bool = False) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
        console=console,
        transient=transient,
    )


class _Bars:
    """One bar for each phase, driven by records; given the name of a ``score``, also a line an epoch."""

    def __init__(self, bars: Progress, score: str | None = None) -> None:
        self.bars, self.score = bars, score
        self.task = bars.add_task("reading", total=None, state="", visible=False)

    def show(self, record: Record) -> None:
        if isinstance(record, records.Started):
            name = f"{record.phase + 1} {escape(record.name)}"
            self.task = self.bars.add_task(name, total=record.total, completed=record.done, state="")
        elif isinstance(record, records.Extracted):
            self.bars.update(self.task, total=record.total, completed=record.done)
        elif isinstance(record, records.Stepped):
            self.bars.update(self.task, advance=1)
        elif isinstance(record, records.Validated) and record.train_loss is not None:
            self.bars.update(self.task, state=_state(record))
            if self.score:
                self.bars.console.print(epoch_line(record, self.score), highlight=False)
        elif isinstance(record, records.Found):
            self.bars.console.print(f"[yellow]Doctor[/]  {record.id}: {escape(record.measured)}")
        elif isinstance(record, records.Finished):
            done = next(task.completed for task in self.bars.tasks if task.id == self.task)
            self.bars.update(self.task, total=done)
        else:
            self.bars.update(self.task, state=_state(record))


def epoch_line(record: records.Validated, score: str = "accuracy") -> str:
    """What an epoch came to, in one line: loss and score while training, then on validation data."""
    parts = [
        f"{name} {', '.join(shown)}"
        for name, loss, reached in (
            ("training", record.train_loss, record.train_accuracy),
            ("validation", record.loss, record.accuracy),
        )
        if (shown := _shown(loss, score, reached))
    ]
    best = " (best so far)" if record.best and record.accuracy is not None else ""
    return f"Phase {record.phase + 1}, epoch {record.epoch}: {'; '.join(parts)}{best}"


def _shown(loss: float | None, score: str, reached: float | None) -> list[str]:
    shown = [] if loss is None else [f"loss {loss:.3f}"]
    return [*shown, *([] if reached is None else [f"{score} {percent(reached)}"])]


def _state(record: Record) -> str:
    if isinstance(record, records.Solved) and record.accuracy is not None:
        return f"out of fold {percent(record.accuracy)}"
    if isinstance(record, records.Validated) and record.accuracy is not None:
        mark = " (best so far)" if record.best else ""
        return f"epoch {record.epoch}: validation {percent(record.accuracy)}{mark}"
    return ""


def percent(share: float) -> str:
    """A share of one, as percent with one decimal."""
    return f"{100 * share:.1f} %"
