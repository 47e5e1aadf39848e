"""The strategy auto: what to do follows from what was measured on the data, by a few stated rules.

The rules and their constants come from the study in benchmarks/study.py, on training parts only.
They speak of shares, standard errors and items a class, never of particular data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from graft.steps import Step
from graft.strategies.asking import ALONE_HEAD_RATE, Ask, flat
from graft.strategies.named import scratch

if TYPE_CHECKING:
    from graft.evidence import Evidence, Mirrored, RateTrial

KNOWN = 0.1  # information below which the features say next to nothing about the labels
RISES = 1.07  # how much more the top must know than the middle, where the domain is near
COSTS, LOST = 2.5, 0.95  # standard errors of loss, and share of information: mirroring changes labels

Domain = Literal["near", "between", "far"]
Augmentation = Literal["light", "standard"]
Statistics = Literal["frozen", "adaptive"]
FEWEST_EPOCHS = 20
PLENTY = 0.6  # information from which on a solved head may be better than any training of the body
TRIAL_STEPS = 150
ENOUGH_TO_TRY = 30  # items in the median class, a fifth of which can tell rates apart


@dataclass(frozen=True)
class Habit:
    """How to train in a domain: the body's peak rate, the augmentation, and for how long.

    About ``steps`` steps or ``FEWEST_EPOCHS`` epochs, whichever is more, but at most ``epochs`` epochs.
    """

    rate: float
    augmentation: Augmentation
    steps: int
    epochs: int


HABITS: dict[Domain, Habit] = {
    "near": Habit(2e-4, "light", steps=80, epochs=40),
    "between": Habit(3e-4, "standard", steps=600, epochs=200),
    "far": Habit(1e-3, "standard", steps=600, epochs=200),
}


@dataclass(frozen=True)
class Decision:
    """What follows from the evidence, each with the setting it decides and the reason in words.

    ``adapts``: batch-norm statistics of the pictures. ``domain``: how like those of the pretraining the
    pictures are. ``flips``: a mirrored picture keeps its label. ``moves``: the body trains, too.
    """

    adapts: bool
    domain: Domain
    flips: bool
    moves: bool
    rate: float
    reasons: tuple[tuple[str, str], ...] = ()


def choose(ask: Ask, _: str) -> tuple[Step, ...]:
    """Chosen by graft from the data and the backbone; the plan says what and why."""
    if not ask.pretrained:
        return scratch(ask, "")
    decision = decide(ask.evidence)
    habit = HABITS[decision.domain]
    batchnorm: Statistics = "adaptive" if decision.adapts else "frozen"
    if not decision.moves and ask.solve_head:
        return (ask.solve("probe", batchnorm=batchnorm),)
    whole = ask.phase(
        "all stages",
        flat(ask.stages, decision.rate),
        epochs=ask.epochs(FEWEST_EPOCHS, steps=habit.steps, most=habit.epochs),
        augmentation=habit.augmentation,
        flip=decision.flips,
        batchnorm=batchnorm,
    )
    if ask.solve_head:
        return ask.solve(), whole
    alone = ask.head_phase(
        ALONE_HEAD_RATE, epochs=5, augmentation=habit.augmentation, flip=decision.flips, batchnorm=batchnorm
    )
    return alone, whole


def decide(evidence: Evidence | None) -> Decision:
    """The rules. Without evidence, the ones that cost least where they are wrong."""
    if evidence is None:
        reasons = (("", "Nothing was measured, so the gentlest rules hold."),)
        return Decision(
            adapts=False, domain="near", flips=False, moves=True, rate=HABITS["near"].rate, reasons=reasons
        )
    domain = _domain(evidence)
    trial = evidence.trial
    decision = Decision(
        # Statistics of a far domain tell nothing beforehand, and training goes better with its own.
        adapts=evidence.adapts or (evidence.adapted is not None and domain == "far"),
        domain=domain,
        flips=_keeps_labels(evidence.mirrored),
        moves=trial is None or not trial.spoils,
        rate=(trial and trial.best) or HABITS[domain].rate,
    )
    return replace(decision, reasons=tuple(_reasons(evidence, decision)))


def rates_to_try(evidence: Evidence, *, validates: bool) -> tuple[float, ...]:
    """Body rates to try for a few steps, where there are labels enough for that.

    Between near and far the features cannot tell which one suits. Near the pretraining they can, but the
    solved head may know so much that any movement spoils it; ``validates``: validation data will tell.
    """
    if evidence.per_class < ENOUGH_TO_TRY:
        return ()
    domain = _domain(evidence)
    if domain == "between":
        return HABITS["between"].rate, HABITS["far"].rate
    spoilable = domain == "near" and evidence.top.information > PLENTY and not validates
    return (HABITS["near"].rate,) if spoilable else ()


def _domain(found: Evidence) -> Domain:
    """Near pictures are told apart by what the network knows at its top, far ones by nothing in it."""
    if found.top.information < KNOWN:
        return "far"
    return "near" if found.top.information > RISES * found.middle.information else "between"


def _keeps_labels(mirrored: Mirrored) -> bool:
    if mirrored.known < KNOWN:
        return False  # nothing can be told by it, and a wrong mirror costs more than a missing one
    return not (mirrored.t > COSTS and mirrored.kept < LOST)


def _reasons(evidence: Evidence, decision: Decision) -> Iterator[tuple[str, str]]:
    if evidence.adapted is not None:
        one, two = evidence.pretrained.information, evidence.adapted.information
        which = "of the pictures" if decision.adapts else "of the pretraining"
        yield (
            "batchnorm",
            f"Batch-norm statistics {which}: with the pictures' own a probe knows {_percent(two)} of the "
            f"labels, with the pretraining's {_percent(one)}.",
        )
    verb = "moves" if decision.moves else "would move"
    where = {"near": "Near", "between": "Neither near nor far", "far": "Far"}[decision.domain]
    how = {"near": "gently", "between": "moderately", "far": "fast and longer"}[decision.domain]
    yield (
        "lr",
        f"{where} from the pretraining: a probe on the features knows "
        f"{_percent(evidence.top.information)} of the labels, one on the middle ({evidence.middle.stage}) "
        f"{_percent(evidence.middle.information)}; so the body {verb} {how}.",
    )
    if evidence.trial is not None:
        yield from _trial_reasons(evidence.trial, decision.moves)
    yield (
        "flip",
        f"Pictures are {'' if decision.flips else 'not '}mirrored: of mirrored ones a probe knows "
        f"{_percent(evidence.mirrored.kept)} of what it knows of the others.",
    )


def _trial_reasons(trial: RateTrial, moves: bool) -> Iterator[tuple[str, str]]:
    losses = ", ".join(f"{loss:.3g} at {rate:g}" for rate, loss in trial.losses.items())
    yield (
        "lr",
        f"Tried for about {TRIAL_STEPS} steps on "
        f"four fifths of the labels, with this loss on the rest: {losses or 'none was finite'}.",
    )
    if trial.solved is not None and trial.trained is not None:
        yield (
            "lr",
            f"There the solved head alone was right for {_percent(trial.solved)}, the trained network for "
            f"{_percent(trial.trained)}"
            + ("." if moves else ", clearly fewer: so the body stays frozen, and the head is solved."),
        )


def _percent(share: float) -> str:
    return f"{100 * max(0.0, share):.0f} %"
