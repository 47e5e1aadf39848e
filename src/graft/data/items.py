"""Items, problems and splits: what a data reader hands on.

These are plain frozen values. A reader (folder.py, table.py, arrays.py) lists ``Row``s without
opening any picture; scan.py reads each picture once and turns rows into ``Items``; splits.py puts
both together. Nothing here knows where rows came from, and nothing here decodes.

Shapes: N items.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from graft.errors import quote_some, shorten
from graft.files import is_there
from graft.options import Background
from graft.task import Kind, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    Source: TypeAlias = "Path | str | bytes | NDArray[Any] | Tensor | Image.Image | Text"
    """Anything that image.decode accepts as one picture, or a text."""

Modality: TypeAlias = Literal["picture", "text"]
"""What items are."""

Index: TypeAlias = int | tuple[int, int]
"""An item's number (as it is), or a pair (item's number, view's number) (a random view)."""

SPLITS = ("train", "val", "test")

REPLACED = "\ufffd"  # what stands where bytes, or halves of characters, were no text
_HALVES = re.compile("[\ud800-\udfff]")
_SHOWN = 10
_LINE = 60  # characters of a text that are shown


@dataclass(frozen=True)
class Text:
    """A text as it is classified; or two that belong together, as a question and a passage."""

    first: str
    second: str | None = None

    @property
    def digest(self) -> str:
        """sha256 of what it says, in hex."""
        parts = [self.first] if self.second is None else [self.first, self.second]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def words(self) -> str:
        """What it says, a pair on two lines."""
        return self.first if self.second is None else f"{self.first}\n{self.second}"

    def __str__(self) -> str:
        """The beginning, on one line."""
        line = " ".join(self.first.split())
        return line if len(line) <= _LINE else f"{line[: _LINE - 1]}…"


def names_file(text: str) -> bool:
    """Whether ``text``, which was given as a text, is the name of a file."""
    path = Path(text)
    return 0 < len(text) < 256 and "\n" not in text and is_there(path) and path.is_file()


def to_be_decoded(source: Source) -> bool:
    """Whether it is a file, or its bytes; arrays are pixels already."""
    return isinstance(source, Path | str | bytes)


def number_of(index: Index) -> int:
    """The item's number of an index, which may name a view, too."""
    return int(index[0]) if isinstance(index, tuple) else index


@dataclass(frozen=True, eq=False)
class Items:
    """A table of N items, labelled or not.

    ``sources``: what to decode, or texts. ``ids``: unique and safe to print or write as JSON: the path
    below the root with forward slashes, "item 17" for arrays, "line 17" for texts of a table.
    ``targets``: int64 [N] indices into the task's labels, or uint8 [N, C] zeros and ones of a multi-label
    task; None where there are no labels.
    ``digests``: sha256 of the content, in hex: of the file's bytes, of an array's pixels, of a text.
    ``max_pixels``, ``max_value`` and ``background``: how they were read, and will be read again (see
    image.decode).
    """

    sources: tuple[Source, ...]
    ids: tuple[str, ...]
    targets: NDArray[np.integer[Any]] | None
    digests: tuple[str, ...]
    max_pixels: int = 80_000_000
    max_value: float | None = None
    background: Background = "auto"

    def __len__(self) -> int:
        return len(self.sources)

    def target(self, number: int) -> int | Tensor:
        """What an item is: a class index, a row uint8 [C], or -1 where there are no labels."""
        if self.targets is None:
            return -1
        if self.targets.ndim == 1:
            return int(self.targets[number])
        import torch  # which a reader of data need not wait for

        return torch.tensor(self.targets[number])

    def select(self, indices: Iterable[int]) -> Items:
        """The items at ``indices``, in that order."""
        picked = [int(index) for index in indices]
        return Items(
            max_pixels=self.max_pixels,
            max_value=self.max_value,
            background=self.background,
            sources=tuple(self.sources[i] for i in picked),
            ids=tuple(self.ids[i] for i in picked),
            targets=None if self.targets is None else self.targets[picked],
            digests=tuple(self.digests[i] for i in picked),
        )

    def sample(self, most: int, seed: int) -> Items:
        """At most ``most`` of the items, drawn by ``seed``, in their order."""
        if len(self) <= most:
            return self
        return self.select(sorted(np.random.default_rng(seed).permutation(len(self))[:most].tolist()))


@dataclass(frozen=True)
class Problem:
    """Something odd in the data that did not stop the run: what it is, how often, and where.

    ``message`` is a whole sentence that says what was done about it and what the person can do.
    """

    code: str
    message: str
    count: int
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.message}{show(self.examples, self.count)}"


@dataclass(frozen=True)
class Fault:
    """A picture that cannot be read, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Splits:
    """The labelled data of a run.

    ``task`` holds the labels in their fixed order: numerically where all are whole numbers, else
    plainly sorted. ``fingerprint``: sha256 over split, id, label and content of every item; it does
    not depend on where the data lies or in which order it was listed. ``columns``: as of ``Listing``.
    """

    train: Items
    val: Items | None
    test: Items | None
    task: Task
    problems: tuple[Problem, ...]
    fingerprint: str
    columns: tuple[str, ...] = ()

    def parts(self) -> Iterator[tuple[str, Items]]:
        """The splits that there are, by name, train first."""
        for name in SPLITS:
            items = getattr(self, name)
            if items is not None:
                yield name, items


@dataclass(frozen=True, eq=False)
class Row:
    """One item before its picture is read. ``place``: where it was named ("line 17"), or "".

    ``labels``: the one label of single-label data; any number of them, each once and sorted, of
    multi-label data; None where the data names none.
    """

    source: Source
    id: str
    labels: tuple[str, ...] | None = None
    split: str = ""  # train, val or test; "" where the data names none
    place: str = ""
    fault: str = ""  # why it cannot be read, where that is known before it is opened

    @property
    def where(self) -> str:
        shown = shorten(self.id)
        return f"{self.place}: {shown}" if self.place else shown


@dataclass(frozen=True)
class Listing:
    """What a reader found: rows in a fixed order, and what it left out.

    ``classes``: every label that the data names for training, those without a single item included.
    ``kind``: whether each item has one label or any number of them. ``columns``: of a table of texts, those
    that hold them.
    """

    rows: tuple[Row, ...]
    problems: tuple[Problem, ...] = ()
    classes: tuple[str, ...] = ()
    kind: Kind = "single-label"
    columns: tuple[str, ...] = ()

    def only(self, split: str) -> Listing:
        return replace(self, rows=tuple(row for row in self.rows if row.split == split))


@dataclass
class Notes:
    """A pad on which a reader collects examples by code, to be made into problems at the end."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, code: str, example: str) -> None:
        self.found.setdefault(code, []).append(example)

    def problems(self, messages: dict[str, str]) -> tuple[Problem, ...]:
        """One problem for each code that has examples, in the order of ``messages``."""
        return tuple(
            make_problem(code, message, self.found[code])
            for code, message in messages.items()
            if code in self.found
        )


def modality_of(rows: Sequence[Row]) -> Modality:
    """What rows are; pictures where there are none."""
    return "text" if rows and isinstance(rows[0].source, Text) else "picture"


def make_problem(code: str, message: str, examples: Sequence[str]) -> Problem:
    """A problem counted by its examples, of which the first ten are kept.

    ``{count}``, and ``{s}`` for the plural, are filled in where ``message`` has them.
    """
    count = len(examples)
    text = message.replace("{count}", str(count)).replace("{s}", "" if count == 1 else "s")
    return Problem(code, text, count, tuple(examples[:_SHOWN]))


def show(examples: Sequence[str], count: int | None = None) -> str:
    """The first ten examples as indented lines, and how many more there are."""
    lines = [f"\n  {example}" for example in examples[:_SHOWN]]
    more = (len(examples) if count is None else count) - len(lines)
    if more > 0 and lines:
        lines.append(f"\n  and {more} more")
    return "".join(lines)


def display(name: str) -> str:
    """A file name that can be printed and written as UTF-8 whatever bytes are in it.

    What cannot be printed is escaped, and a backslash is doubled, so that two different names are
    never shown alike.

    >>> display("a\\udcff.jpg")
    'a\\\\udcff.jpg'
    """
    return "".join(_escape(char) for char in name)


def _escape(char: str) -> str:
    if char == "\\":
        return "\\\\"
    return char if char.isprintable() else char.encode("unicode_escape").decode("ascii")


def place_of(path: Path, root: Path) -> Path:
    """``path`` relative to ``root``, also where it lies elsewhere: the same from any working folder."""
    if path.is_relative_to(root):
        return path.relative_to(root)
    try:
        return Path(os.path.relpath(path, root))
    except ValueError:  # on another drive
        return path.absolute()


def whole_text(text: str) -> str:
    """A text in which every half of a character that stands alone is replaced by REPLACED."""
    return text if text.isascii() else _HALVES.sub(REPLACED, text)


def label_name(text: str) -> str:
    """A label from a folder's name or a table's cell, composed (NFC) and safe to write as UTF-8.

    macOS decomposes accented letters in file names; without composing them "é" from a folder and
    "é" from a table would be two classes.
    """
    whole = unicodedata.normalize("NFC", text.strip())
    return whole.encode("utf-8", "backslashreplace").decode("utf-8")


def order_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Each label once: by number where all are whole numbers (2 before 10), else plainly sorted."""
    names = set(labels)
    if all(_is_whole(name) for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def _is_whole(name: str) -> bool:
    digits = name.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(name) < 20 and str(int(name)) == name


def make_fingerprint(parts: Iterable[tuple[str, Items]], task: Task) -> str:
    """sha256 over what every item is and where it belongs, whatever the order of listing."""
    lines = [
        json.dumps([split, items.ids[i], label_of(items, i, task), items.digests[i]])
        for split, items in parts
        for i in range(len(items))
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def label_of(items: Items, index: int, task: Task) -> str | list[str] | None:
    """One item's label as a plain value, the list of its labels in a multi-label task; None without."""
    if items.targets is None:
        return None
    names = task.names_of(items.targets[index])
    return list(names) if task.multi_label else names[0]


def named_classes(rows: Iterable[Row]) -> tuple[str, ...]:
    """The labels of rows for training, in the order in which they come."""
    return tuple(
        dict.fromkeys(label for row in rows if row.split in ("", "train") for label in row.labels or ())
    )


def show_labels(labels: Sequence[str]) -> str:
    """Labels as they stand in a message.

    >>> show_labels(["cat", "dog"]), show_labels([])
    ("'cat', 'dog'", 'no label')
    """
    return quote_some(labels) or "no label"
