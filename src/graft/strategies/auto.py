"""The strategy auto: what to do follows from what was measured on the data, by a few stated rules.

The rules and their constants come from the study in benchmarks/study.py, on training parts only.
They speak of shares, standard errors and items a class, never of particular data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from graft.steps import Step
from graft.strategies.asking import ALONE_HEAD_RATE, Ask, flat
from graft.strategies.named import scratch

if TYPE_CHECKING:
    from graft.evidence import Evidence, Mirrored

KNOWN = 0.1  # information below which the features say next to nothing about the labels
RISES = 1.07  # how much more the top must know than the middle, where the domain is near
COSTS, LOST = 2.5, 0.95  # standard errors of loss, and share of information: mirroring changes labels

Domain = Literal["near", "between", "far"]
Augmentation = Literal["light", "standard"]
HABITS: dict[Domain, tuple[float, Augmentation, int]] = {
    "near": (2e-4, "light", 300),
    "between": (3e-4, "standard", 600),
    "far": (1e-3, "standard", 600),
}
"""By domain: the body's peak rate, the augmentation, and about how many steps at least."""
FEWEST_EPOCHS, MOST_EPOCHS = 20, 200
ENOUGH_TO_TRY = 30  # items in the median class, a fifth of which can tell rates apart


@dataclass(frozen=True)
class Decision:
    """What follows from the evidence, each with the setting it decides and the reason in words.

    ``adapts``: batch-norm statistics of the pictures. ``domain``: how like those of the pretraining the
    pictures are. ``flips``: a mirrored picture keeps its label.
    """

    adapts: bool
    domain: Domain
    flips: bool
    rate: float
    reasons: tuple[tuple[str, str], ...]


def choose(ask: Ask, _: str) -> tuple[Step, ...]:
    """Chosen by graft from the data and the backbone; the plan says what and why."""
    if not ask.pretrained:
        return scratch(ask, "")
    decision = decide(ask.evidence)
    augmentation, steps = HABITS[decision.domain][1:]
    batchnorm = "adaptive" if decision.adapts else "frozen"
    whole = ask.phase(
        "all stages",
        flat(ask.stages, decision.rate),
        epochs=ask.epochs(FEWEST_EPOCHS, steps=steps, most=MOST_EPOCHS),
        augmentation=augmentation,
        flip=decision.flips,
        batchnorm=batchnorm,
    )
    if ask.solve_head:
        return ask.solve(), whole
    alone = ask.head_phase(
        ALONE_HEAD_RATE, epochs=5, augmentation=augmentation, flip=decision.flips, batchnorm=batchnorm
    )
    return alone, whole


def decide(evidence: Evidence | None) -> Decision:
    """The rules. Without evidence, the ones that cost least where they are wrong."""
    if evidence is None:
        reasons = (("", "Nothing was measured, so the gentlest rules hold."),)
        return Decision(False, "near", False, HABITS["near"][0], reasons)
    flips = _keeps_labels(evidence.mirrored)
    domain = _domain(evidence)
    # Statistics of a far domain tell nothing beforehand, and training goes better with its own.
    adapts = evidence.adapts or (evidence.adapted is not None and domain == "far")
    tried = evidence.rates
    rate = min(tried, key=tried.__getitem__) if tried else HABITS[domain][0]
    return Decision(adapts, domain, flips, rate, tuple(_reasons(evidence, adapts, domain, flips)))


def rates_to_try(evidence: Evidence) -> tuple[float, ...]:
    """Body rates between which the features cannot decide, where there are labels enough to try them."""
    undecided = _domain(evidence) == "between" and evidence.per_class >= ENOUGH_TO_TRY
    return (HABITS["between"][0], HABITS["far"][0]) if undecided else ()


def _domain(found: Evidence) -> Domain:
    """Near pictures are told apart by what the network knows at its top, far ones by nothing in it."""
    if found.top.information < KNOWN:
        return "far"
    return "near" if found.top.information > RISES * found.middle.information else "between"


def _keeps_labels(mirrored: Mirrored) -> bool:
    if mirrored.known < KNOWN:
        return False  # nothing can be told by it, and a wrong mirror costs more than a missing one
    return not (mirrored.t > COSTS and mirrored.kept < LOST)


def _reasons(evidence: Evidence, adapts: bool, domain: Domain, flips: bool) -> Iterator[tuple[str, str]]:
    if evidence.adapted is not None:
        one, two = evidence.pretrained.information, evidence.adapted.information
        which = "of the pictures" if adapts else "of the pretraining"
        yield (
            "batchnorm",
            f"Batch-norm statistics {which}: with the pictures' own a probe knows {_percent(two)} of the "
            f"labels, with the pretraining's {_percent(one)}.",
        )
    where = {"near": "Near", "between": "Neither near nor far", "far": "Far"}[domain]
    how = {"near": "gently", "between": "moderately", "far": "fast and longer"}[domain]
    yield (
        "lr",
        f"{where} from the pretraining: a probe on the features knows "
        f"{_percent(evidence.top.information)} of the labels, one on the middle ({evidence.middle.stage}) "
        f"{_percent(evidence.middle.information)}; so the body moves {how}.",
    )
    if evidence.rates:
        losses = ", ".join(f"{loss:.3g} at {rate:g}" for rate, loss in evidence.rates.items())
        yield (
            "lr",
            f"Rates were tried for 150 steps on four fifths of the labels; loss on the rest: {losses}.",
        )
    yield (
        "flip",
        f"Pictures are {'' if flips else 'not '}mirrored: of mirrored ones a probe knows "
        f"{_percent(evidence.mirrored.kept)} of what it knows of the others.",
    )


def _percent(share: float) -> str:
    return f"{100 * max(0.0, share):.0f} %"
