"""What people are taught: which strategy for how many labels and how strange a domain, with the source.

Courses and guides disagree in places; then both are here, and what is measured decides between them.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from graft.errors import RecipeError, quote
from graft.options import Frozen
from graft.recipe import Recipe
from graft.steps import Train
from graft.strategies import Ask, plan_steps, split_name

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


STAGES = ("early", "second", "third", "late")  # of a network that stands for all
Rates = tuple[float | None, float | None, float | None]


class Rule(Frozen):
    """One rule: for this many labels and this likeness, this strategy with these rates.

    ``rates``: those that ``train`` uses under this strategy (:func:`rates_of`).
    """

    size: Size
    likeness: Likeness
    strategy: str
    rates: Rates
    augmentation: Literal["light", "standard", "aggressive"]
    source: str


@cache
def known_rules() -> tuple[Rule, ...]:
    """Every rule, with the rates of pictures."""
    small, some, many, most = (name for _, name in _BOUNDS)
    huge: Size = "a million"
    alike, near, other, strange = LIKENESSES
    rows: tuple[tuple[Size, Likeness, str, str, str], ...] = (
        (small, alike, "probe", "aggressive", CS231N),
        (small, near, "probe", "aggressive", CS231N),
        (small, near, "partial:1", "standard", YOSINSKI),
        (small, other, "partial:2", "standard", CS231N),
        (small, other, "gradual", "standard", ULMFIT),
        (small, strange, "progressive", "aggressive", LPFT),
        (small, strange, "first-only", "aggressive", SURGICAL),
        (some, alike, "partial:1", "standard", YOSINSKI),
        (some, alike, "full", "standard", BIT),
        (some, near, "partial:2", "standard", YOSINSKI),
        (some, near, "two-phase", "standard", LPFT),
        (some, other, "gradual", "standard", ULMFIT),
        (some, other, "partial:2", "standard", CS231N),
        (some, strange, "gradual", "aggressive", ULMFIT),
        (some, strange, "progressive", "aggressive", RAGHU),
        (many, alike, "full", "standard", CS231N),
        (many, near, "full", "standard", CS231N),
        (many, near, "gradual", "standard", ULMFIT),
        (many, other, "two-phase", "standard", BIT),
        (many, strange, "middle", "standard", YOSINSKI),
        (many, strange, "scratch", "standard", CS231N),
        (many, strange, "two-phase", "standard", RAGHU),
        (most, alike, "full", "standard", CS231N),
        (most, near, "full", "standard", CS231N),
        (most, other, "two-phase", "standard", BIT),
        (most, strange, "middle", "standard", YOSINSKI),
        (most, strange, "scratch", "standard", CS231N),
        (most, strange, "two-phase", "standard", HE),
        (huge, alike, "two-phase", "standard", KORNBLITH),
        (huge, near, "two-phase", "standard", KORNBLITH),
        (huge, other, "two-phase", "standard", KORNBLITH),
        (huge, strange, "two-phase", "standard", KORNBLITH),
        (huge, strange, "scratch", "standard", HE),
    )
    keys = ("size", "likeness", "strategy", "augmentation", "source")
    return tuple(
        Rule.model_validate(dict(zip(keys, row, strict=True)) | {"rates": rates_of(row[2])}) for row in rows
    )


def rates_of(strategy: str, *, takes_text: bool = False) -> Rates:
    """Peak rates of head, late and early stages under ``strategy``, in its last phase of steps.

    Of the head None: it is solved, and takes no steps; of stages None: they are frozen.
    """
    name = split_name(strategy)[0]
    ask = Ask(Recipe(strategy=strategy), STAGES, 100, name != "scratch", takes_text=takes_text)
    phases = [step for step in plan_steps(ask) if isinstance(step, Train) and step.objective == "labels"]
    if not phases:
        return None, None, None
    rates = phases[-1].rates
    return rates.head, rates.stages.get(STAGES[-1]), rates.stages.get(STAGES[0])


def size_of(labels: int) -> Size:
    """The class of data size that this many labelled items are in."""
    return next((name for bound, name in _BOUNDS if labels < bound), "a million")


def look_up(labels: int, likeness: str, *, takes_text: bool = False) -> tuple[Rule, ...]:
    """The rules for so many labels of such a domain; more than one where guides disagree.

    ``takes_text``: with the rates of texts.

    Raises:
        RecipeError: no such likeness.
    """
    if likeness not in LIKENESSES:
        raise RecipeError(f"{quote(likeness)}: one of {', '.join(LIKENESSES)} was expected.")
    size = size_of(labels)
    found = (rule for rule in known_rules() if rule.size == size and rule.likeness == likeness)
    if not takes_text:
        return tuple(found)
    return tuple(
        each.model_copy(update={"rates": rates_of(each.strategy, takes_text=True)}) for each in found
    )
