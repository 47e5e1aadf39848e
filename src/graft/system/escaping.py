"""Text of strangers on its way to a person: names, labels, headers and messages that quote them.

A name may hold anything: codes that retitle a terminal or move its cursor, marks that turn the direction of
what follows, halves of characters that cannot be encoded. Whatever graft shows passes through ``printable``
at its exit: the terminal (progress.PlainConsole, and ``say`` for plain lines), a page (reporting.pages) and
a chart (reporting.drawing). What programs read (JSON, CSV) keeps the value as its format has it.
"""

from __future__ import annotations

import re
import sys
from typing import TextIO

_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # controls of terminals, but tabs and ends of lines
    "\u2028\u2029"  # other ends of lines
    "\u202a-\u202e\u2066-\u2069"  # directions that are imposed on what follows
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # marks and tags that are never seen
    "\ud800-\udfff"  # halves of characters
    "]"
    "|\r(?!\n)"  # back to the beginning of the line, which it would overwrite
)


def printable(text: str) -> str:
    """``text`` with an escape, as Python writes it, for whatever would act rather than be seen.

    >>> printable("a\\x1b]0;title\\x07b")
    'a\\\\x1b]0;title\\\\x07b'
    """
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def say(text: str, file: TextIO | None = None, *, end: str = "\n") -> None:
    """Print ``text`` as it can be shown; ``file``: standard output by default."""
    print(printable(text), file=file or sys.stdout, end=end)
