"""What can go wrong, in words a person can act on.

One base error and a few leaves. Each carries an exit code for the command line, and a message that
says what is wrong, where, what was expected and what to do. Nothing here knows any other module.
"""

from __future__ import annotations

import difflib
import reprlib
import signal
from collections.abc import Iterable, Sequence
from typing import Any

MOST_SHOWN = 200  # characters of a value in a message

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


class GraftError(Exception):
    """The base of every error that graft raises on purpose."""

    exit_code = FAILED


class RecipeError(GraftError):
    """The recipe asks for something that does not exist or makes no sense."""

    exit_code = WRONG_USE


class DataError(GraftError):
    """The data cannot be used as it is: missing, unlabelled, unreadable, or contradicting itself."""

    exit_code = WRONG_USE


class BackboneError(GraftError):
    """The backbone is unknown, or its weights cannot be loaded or do not fit."""

    exit_code = WRONG_USE


class BundleError(GraftError):
    """A bundle is missing, damaged, or does not fit the network it is loaded into."""

    exit_code = WRONG_USE


class RunError(GraftError):
    """A run folder cannot be used: occupied, finished, or not a run."""

    exit_code = WRONG_USE


class TrainingError(GraftError):
    """Training cannot go on: the loss is not finite, the disk is full, frozen values moved."""


class Diverged(TrainingError):
    """The loss or the gradient of a step is not finite."""


class WorkersLost(TrainingError):
    """A process that decodes for this one ended unexpectedly."""


class StoreError(GraftError):
    """The store of features cannot be used as it was asked."""


class LaunchError(GraftError):
    """The environment promises several processes, and they do not meet."""

    exit_code = WRONG_USE


class Interrupted(GraftError):
    """The run was asked to stop; what was reached is saved and can be resumed.

    ``number``: of the signal that asked (default: Ctrl-C's). The exit code is 128 more, as in a shell.
    """

    exit_code = INTERRUPTED

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number, self.exit_code = number, 128 + number


def suggest(wrong: str, known: Iterable[str], *, most: int = 3) -> str:
    """A sentence naming the known names nearest to ``wrong``; empty when none is near.

    >>> suggest("two_phase", ["probe", "two-phase"])
    " Did you mean 'two-phase'?"
    """
    near = difflib.get_close_matches(wrong, list(known), n=most, cutoff=0.6)
    if not near:
        return ""
    return f" Did you mean {' or '.join(map(quote, near))}?"


def quote(value: Any) -> str:
    """A value as messages show it: as Python writes it, in at most MOST_SHOWN characters.

    The middle of a longer text, and all but the first elements of a large container, are left out.

    >>> quote("crow"), quote(["crow"] * 99)
    ("'crow'", "['crow', 'crow', 'crow', 'crow', 'crow', 'crow', ...]")
    """
    return _SHORT.repr(value)[:MOST_SHOWN]


def quote_some(values: Sequence[Any], most: int = 20) -> str:
    """The first values, each as :func:`quote` shows it, and how many more there are.

    >>> quote_some(["crow", "owl"]), quote_some(range(7), most=2)
    ("'crow', 'owl'", '0, 1 and 5 more')
    """
    shown = ", ".join(map(quote, values[:most]))
    more = len(values) - most
    return f"{shown} and {more} more" if more > 0 else shown


def shorten(text: str) -> str:
    """A text as it stands, or its first MOST_SHOWN characters, the last of them an ellipsis."""
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


def first_line(error: BaseException, *, lines: int = 1) -> str:
    """What a library says of a failure: its first ``lines``, shortened and without the full stop.

    An error that carries another as its reason (``URLError``) is shown as that one; an error without
    words, as the name of its type.

    >>> first_line(ValueError("No such key. Try another.")), first_line(ValueError())
    ('No such key. Try another', 'ValueError')
    """
    reason = getattr(error, "reason", None)
    if isinstance(reason, Exception):
        return first_line(reason, lines=lines)
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shorten(" ".join(said[:lines]).rstrip(".")) or type(error).__name__


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = MOST_SHOWN
