"""What a label is, whatever it was read from: a cell of a table, or an element of an array or frame.

A label is a text. Numbers are written as Python writes them, and where all labels of the data are whole
numbers, those that were written as 1.0 or 1e0 are written 1: data frames and Parquet make floating-point
numbers of whole ones as soon as a single value is missing, and CSV files keep what they made.

Numbers may also be what is to be predicted, and graft predicts classes. Labels count as numbers where nine
in ten of the items have a number (also 3,5 or $5, or numbers of one unit, as 12 %), and these are

- whole numbers, more than ten different ones, unless they number classes (see :func:`_number_classes`);
- other numbers, more than five different ones.

Such labels are refused until ``data.task=classes`` says that each number is a class.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np

from graft.data.items import REPLACED, Listing, Problem, Row, label_name, make_problem
from graft.errors import DataError, quote

FEW_WHOLE, FEW_OTHERS = 10, 5  # different numbers that are classes whatever they are
MOSTLY = 0.9  # share of items with a number, and of classes with enough items
HILL, HILL_CLASSES = 0.5, 30  # correlation of neighbours' counts, and the fewest numbers that show one
LEFT_OUT = 0.2  # share of numbers that may be left out where they number classes
ENOUGH = 5  # items of a class that is no accident
EVEN = 2  # times as many items in the largest class as in the smallest, where all have equally many

_MISSING = frozenset({"na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", ".", "missing"})
_MONEY = r"(?:[$€£¥₹₩₽]|USD|EUR|GBP|CHF|JPY|CNY|INR|kr)"
_AMOUNT = re.compile(
    rf"(?P<sign>[+\-−]?)\s?(?P<before>{_MONEY}\s?)?(?P<again>[+\-−]?)"
    rf"(?P<digits>[\d.,]*\d[.,]?(?:[eE][+\-]?\d+)?)(?P<after>\s?(?:{_MONEY}|%|‰))?"
)
_SPACED = re.compile(r"(?<=\d)[ '’\u00a0\u202f](?=\d{3}(?!\d))")  # what divides thousands, beside , and .
_THOUSANDS = re.compile(r"\d{1,3}([.,])\d{3}(?:\1\d{3})*")
_WHOLE = re.compile(r"[+-]?\d+")
_FLOAT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_EXACT = 2.0**53  # beyond it, floating-point numbers leave whole ones out

_NUMBERED = (
    "The {count} different labels are whole numbers from {least} to {most}, taken for classes: {examples}."
)
_ALIKE = (
    "{count} group{s} of labels that differ in capitals or blanks alone, taken for different classes; "
    "write them alike where they mean the same."
)

ONE_HOT = Problem(
    "one-hot",
    "The labels are columns of zeros and ones with one 1 in every row, taken for one label an item.",
    1,
)


def is_missing(value: Any) -> bool:
    """Whether nothing stands there: None, NaN, NaT or pandas' NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return (
        value.is_nan()
        if isinstance(value, Decimal)
        else isinstance(value, float | np.floating) and bool(value != value)
    )


def plain_value(value: Any) -> Any:
    """A value of NumPy as Python's own; 0.1 in 32 bits is 0.1."""
    if isinstance(value, np.floating):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) and value.dtype.kind not in "mM" else value


def read_label(value: Any, name: str = "label") -> str:
    """One label as text; ``name`` is its column's.

    Raises:
        ValueError: in words, where there is none, or it is no label.
    """
    value = plain_value(value)
    if is_missing(value) or value == "":
        raise ValueError(f"{name} is empty")
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    text = label_name(value) if isinstance(value, str) else ""
    if REPLACED in text:
        raise ValueError(f"{name} is {quote(text)}, with bytes that are not UTF-8; save the table as UTF-8")
    if not text:
        expected = "" if isinstance(value, str) else "; text or a number was expected"
        raise ValueError(f"{name} is {quote(value)}{expected}")
    return text


def write_whole(rows: Sequence[Row]) -> list[Row]:
    """Rows whose labels, where all are whole numbers, are written so: 1.0 as 1."""
    labels = {label for row in rows for label in row.labels or ()}
    if all(map(_WHOLE.fullmatch, labels)) or not all(map(_is_whole, labels)):
        return list(rows)
    written = {label: label if _WHOLE.fullmatch(label) else str(int(float(label))) for label in labels}
    return [_renamed(row, written) for row in rows]


def write_as_known(rows: Sequence[Row], known: Iterable[str]) -> list[Row]:
    """Rows whose labels, where they are not ``known`` but equal a known number, are written as that."""
    named = set(known)
    numbers = {float(label): label for label in named if _FLOAT.fullmatch(label)}
    others = {label for row in rows for label in row.labels or ()} - named
    written = {
        label: numbers[float(label)]
        for label in others
        if _FLOAT.fullmatch(label) and float(label) in numbers
    }
    return [_renamed(row, written) for row in rows] if written else list(rows)


def _is_whole(label: str) -> bool:
    return _FLOAT.fullmatch(label) is not None and abs(float(label)) < _EXACT and float(label).is_integer()


def _renamed(row: Row, written: Mapping[str, str]) -> Row:
    if row.labels is None:
        return row
    return replace(row, labels=tuple(sorted({written.get(label, label) for label in row.labels})))


def read_number(text: str) -> float | None:
    """The number that a text is, as 12, -0.5, 1e-3, 3,5, 1.234,50, 12 % or $5; None where it is none.

    Of "1,234" the comma divides thousands.
    """
    text = _SPACED.sub("", text.strip())
    bare = text[1:-1] if text.startswith("(") and text.endswith(")") else text  # below zero, in accounts
    found = _AMOUNT.fullmatch(bare)
    if found is None or (found["sign"] and found["again"]):
        return None
    try:
        size = float(_with_point(found["digits"]))
    except ValueError:  # a date or a version: 1.2.3
        return None
    below = bare != text or (found["sign"] or found["again"]) in ("-", "−")
    return -size if below else size


def _with_point(digits: str) -> str:
    """Digits without what divides thousands, and with a point before the decimals."""
    if digits.count(".") <= 1 and "," not in digits:
        return digits
    if _THOUSANDS.fullmatch(digits):
        return digits.replace(",", "").replace(".", "")
    comma = digits.rfind(",") > digits.rfind(".")
    return digits.replace(".", "").replace(",", ".") if comma else digits.replace(",", "")


def check_numbers(rows: Iterable[Row], task: str | None, where: str) -> tuple[Problem, ...]:
    """Nothing, or the problem that numbers are taken for classes; see the module for the rule.

    ``rows``: all of the data, of which those to train on count. ``task``: as of ``data.task``.

    Raises:
        DataError: the labels are numbers, and ``task`` does not say that they are classes.
    """
    counts = Counter(
        label for row in rows if row.split in ("", "train") for label in (row.labels or ())[:1]
    )
    numbers, plain = _numbers_of(counts)
    whole = all(value.is_integer() for value in numbers)
    if task is not None or len(numbers) <= (FEW_WHOLE if whole else FEW_OTHERS):
        return ()
    examples = ", ".join(quote(label)[1:-1] for label in list(counts)[:5])
    if whole and plain and _number_classes(numbers):
        message = _NUMBERED.format(
            count=len(numbers), least=int(min(numbers)), most=int(max(numbers)), examples=f"{examples}, …"
        )
        return (Problem("numbered", message, 1),)
    raise DataError(
        f"The labels{where} are numbers, {len(numbers)} different ones of {sum(counts.values())} items: "
        f"{examples}, … graft predicts classes. If each number is a class, say so with "
        "--set data.task=classes. If not, put ranges in their place, such as low, middle and high, or name "
        "the column of classes with --set data.label=NAME."
    )


def _numbers_of(counts: Mapping[str, int]) -> tuple[dict[float, int], bool]:
    """How many items have which number, none where too few labels are one; and whether none has a unit."""
    unit = _unit_of(counts)
    numbers: dict[float, int] = defaultdict(int)
    present, plain = 0, True
    for label, count in counts.items():
        present += 0 if label.casefold() in _MISSING else count
        value = read_number(label.removesuffix(unit))
        if value is not None:
            numbers[value] += count
            plain = plain and _FLOAT.fullmatch(label) is not None
    return (dict(numbers), plain) if sum(numbers.values()) >= MOSTLY * present else ({}, plain)


def _unit_of(labels: Iterable[str]) -> str:
    """What stands behind every number alike: " kg", "°C", "/10"."""
    backwards = [label[::-1] for label in labels if label[:1].isdecimal() or label[:1] in "+-−."]
    if not backwards:
        return ""
    first, last = min(backwards), max(backwards)  # what these have in common, all between them have
    same = sum(1 for _ in itertools.takewhile(bool, map(str.__eq__, first, last)))
    return first[:same][::-1].lstrip("0123456789.,")


def _number_classes(numbers: Mapping[float, int]) -> bool:
    """Whether whole numbers are those of classes.

    They begin at 0 or 1, and at most one in five is left out. Nine in ten have five items or more, and the
    counts do not rise to a middle and fall again, as those of ages do; or all have about equally many, as
    numbers from 0 to 100, which would be percent, must.
    """
    least, most, counts = min(numbers), max(numbers), [numbers[value] for value in sorted(numbers)]
    if least not in (0, 1) or len(numbers) < (1 - LEFT_OUT) * (most - least + 1):
        return False
    if min(counts) > 1 and max(counts) <= EVEN * min(counts):
        return True
    enough = sum(count >= ENOUGH for count in counts)
    return enough >= MOSTLY * len(counts) and not _is_hill(counts) and (least, most) != (0, 100)


def _is_hill(counts: Sequence[int]) -> bool:
    """Whether neighbours have like counts, the highest of which stand neither first nor last."""
    if len(counts) < HILL_CLASSES:
        return False
    alike = np.corrcoef(counts[:-1], counts[1:])[0, 1]
    top = np.argsort(counts)[-(len(counts) // 10) :].mean() / len(counts)
    return bool(alike > HILL and MOSTLY > top > 1 - MOSTLY)


def is_one_hot(rows: Sequence[Row]) -> bool:
    """Whether every row has exactly one of several labels, each of which columns of zeros and ones name."""
    return bool(rows) and all(len(row.labels or ()) == 1 for row in rows)


def alike_kinds(parts: Mapping[str, Listing]) -> dict[str, Listing]:
    """Parts of one data set: one-hot columns name any number of labels where another part has several."""
    if all(part.kind == "single-label" for part in parts.values()):
        return dict(parts)
    return {
        name: replace(part, kind="multi-label", problems=tuple(p for p in part.problems if p != ONE_HOT))
        if ONE_HOT in part.problems
        else part
        for name, part in parts.items()
    }


def join_listings(listings: Sequence[Listing], where: str) -> Listing:
    """All rows as one listing of ``where``; what several say alike is said once.

    Raises:
        DataError: some have one label for each item, others any number.
    """
    parts = alike_kinds({str(number): listing for number, listing in enumerate(listings)}).values()
    kinds = {part.kind for part in parts} or {"single-label"}
    if len(kinds) > 1:
        raise DataError(f"Some parts of {where} have one label for each item, others any number.")
    problems = {str(problem): problem for part in parts for problem in part.problems}
    return Listing(
        tuple(row for part in parts for row in part.rows),
        tuple(problems.values()),
        tuple(dict.fromkeys(name for part in parts for name in part.classes)),
        kinds.pop(),
        next((part.columns for part in parts), ()),
    )


def find_alike(labels: Iterable[str]) -> tuple[Problem, ...]:
    """The problem that labels differ in capitals or blanks alone, or nothing."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        groups[_bare(label)].append(label)
    alike = [group for group in groups.values() if len(group) > 1]
    if not alike:
        return ()
    problem = make_problem("alike-labels", _ALIKE, [" and ".join(map(quote, group)) for group in alike])
    return (problem,)


def _bare(label: str) -> str:
    """A label without capitals, blanks and characters that nobody sees."""
    return "".join(
        char for char in label.casefold() if not char.isspace() and unicodedata.category(char) != "Cf"
    )
