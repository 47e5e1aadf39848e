"""What people are taught: which strategy for how many labels and how strange a domain, with the source.

Courses and guides disagree in places; then both are here, and what is measured decides between them.
"""

from __future__ import annotations

from typing import Literal

from graft.errors import RecipeError, quote
from graft.options import Frozen

Size = Literal["below 1,000", "1,000 to 10,000", "10,000 to 100,000", "100,000 to a million", "a million"]
Likeness = Literal["similar", "somewhat similar", "different", "very different"]
LIKENESSES: tuple[Likeness, ...] = ("similar", "somewhat similar", "different", "very different")
_BOUNDS: tuple[tuple[int, Size], ...] = (
    (1_000, "below 1,000"),
    (10_000, "1,000 to 10,000"),
    (100_000, "10,000 to 100,000"),
    (1_000_000, "100,000 to a million"),
)

CS231N = "Stanford CS231n, Transfer Learning (the four cases of size and likeness)"
YOSINSKI = "Yosinski et al., 2014: lower layers are general, upper ones belong to their task"
ULMFIT = "Howard and Ruder, 2018: stages thaw from the top, each deeper one slower"
LPFT = "Kumar et al., 2022: the head first, then everything at small rates"
BIT = "Kolesnikov et al., 2020: fine-tune everything, for at least 500 steps"
RAGHU = "Raghu et al., 2019: on medical pictures low layers matter, and small networks do as well"
SURGICAL = "Lee et al., 2023: where inputs differ, the lower stages are what must move"
KORNBLITH = "Kornblith et al., 2019: with plenty of data, pretraining wins time and little accuracy"
HE = "He et al., 2019: with enough data and steps, training from scratch catches up"


class Rule(Frozen):
    """One rule: for this many labels and this likeness, this strategy with these rates.

    ``rates``: of head, late and early stages; None: these stay frozen.
    """

    size: Size
    likeness: Likeness
    strategy: str
    rates: tuple[float, float | None, float | None]
    augmentation: Literal["light", "standard", "aggressive"]
    source: str


def _rules() -> tuple[Rule, ...]:
    small, some, many, most = (name for _, name in _BOUNDS)
    huge: Size = "a million"
    alike, near, other, strange = LIKENESSES
    frozen: tuple[float, None, None] = (1e-3, None, None)
    top: tuple[float, float, None] = (1e-3, 1e-4, None)
    graded = (1e-3, 1e-4, 1e-5)
    careful = (1e-4, 1e-5, 1e-6)
    even = (1e-3, 1e-4, 1e-4)
    anew = (1e-3, 1e-3, 1e-3)
    rows: tuple[tuple[Size, Likeness, str, tuple[float, float | None, float | None], str, str], ...] = (
        (small, alike, "probe", frozen, "aggressive", CS231N),
        (small, near, "probe", frozen, "aggressive", CS231N),
        (small, near, "partial:1", top, "standard", YOSINSKI),
        (small, other, "partial:2", top, "standard", CS231N),
        (small, other, "gradual", graded, "standard", ULMFIT),
        (small, strange, "progressive", careful, "aggressive", LPFT),
        (small, strange, "first-only", graded, "aggressive", SURGICAL),
        (some, alike, "partial:1", top, "standard", YOSINSKI),
        (some, alike, "full", graded, "standard", BIT),
        (some, near, "partial:2", top, "standard", YOSINSKI),
        (some, near, "two-phase", graded, "standard", LPFT),
        (some, other, "gradual", graded, "standard", ULMFIT),
        (some, other, "partial:2", top, "standard", CS231N),
        (some, strange, "gradual", graded, "aggressive", ULMFIT),
        (some, strange, "progressive", careful, "aggressive", RAGHU),
        (many, alike, "full", graded, "standard", CS231N),
        (many, near, "full", graded, "standard", CS231N),
        (many, near, "gradual", graded, "standard", ULMFIT),
        (many, other, "full", even, "standard", BIT),
        (many, strange, "middle", even, "standard", YOSINSKI),
        (many, strange, "full", even, "standard", RAGHU),
        (most, alike, "full", graded, "standard", CS231N),
        (most, near, "full", graded, "standard", CS231N),
        (most, other, "full", even, "standard", BIT),
        (most, strange, "middle", even, "standard", YOSINSKI),
        (most, strange, "full", even, "standard", HE),
        (huge, alike, "full", even, "standard", KORNBLITH),
        (huge, near, "full", even, "standard", KORNBLITH),
        (huge, other, "full", even, "standard", KORNBLITH),
        (huge, strange, "full", even, "standard", KORNBLITH),
        (huge, strange, "scratch", anew, "standard", HE),
    )
    keys = ("size", "likeness", "strategy", "rates", "augmentation", "source")
    return tuple(Rule.model_validate(dict(zip(keys, row, strict=True))) for row in rows)


RULES = _rules()


def size_of(labels: int) -> Size:
    """The class of data size that this many labelled items are in."""
    return next((name for bound, name in _BOUNDS if labels < bound), "a million")


def look_up(labels: int, likeness: str) -> tuple[Rule, ...]:
    """The rules for so many labels of such a domain; more than one where guides disagree.

    Raises:
        RecipeError: no such likeness.
    """
    if likeness not in LIKENESSES:
        raise RecipeError(f"{quote(likeness)}: one of {', '.join(LIKENESSES)} was expected.")
    size = size_of(labels)
    return tuple(rule for rule in RULES if rule.size == size and rule.likeness == likeness)
