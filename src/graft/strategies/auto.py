"""The strategy auto: what to do follows from what was measured on the data, by a few stated rules.

The rules and their constants come from the study in benchmarks/study.py, on training parts only.
They speak of shares, standard errors and items a class, never of particular data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from graft.options import Views
from graft.steps import Step, Train
from graft.strategies.asking import ALONE_HEAD_RATE, Ask, Trying, flat
from graft.strategies.named import scratch
from graft.strategies.texts import choose_for_texts, reasons_for_texts

if TYPE_CHECKING:
    from graft.data.random_views import Preset
    from graft.evidence import Depth, Evidence, Mirrored, RateTrial

KNOWN = 0.1  # information below which the features say next to nothing about the labels
RISES = 1.07  # how much more the top must know than the middle, where the domain is near
COSTS, LOST = 2.5, 0.95  # standard errors of loss, and share of information: mirroring changes labels

Domain = Literal["near", "between", "far"]
Statistics = Literal["frozen", "adaptive"]
AUGMENTATION: Preset = "standard"  # of every domain
PLENTY = 0.6  # information from which on a solved head may be better than any training of the body
TRIAL_STEPS = 150
ENOUGH_TO_TRY = 30  # items in the median class, a fifth of which can tell rates apart


@dataclass(frozen=True)
class Habit:
    """How to train in a domain: the body's peak rate, and for how long.

    About ``steps`` steps or ``fewest`` epochs, whichever is more, but at most ``epochs`` epochs. Where
    these have fewer steps, the rate is higher by the root of what is missing, at most ``faster`` times.
    """

    rate: float
    steps: int
    fewest: int
    epochs: int
    faster: float = 1.0


HABITS: dict[Domain, Habit] = {
    "near": Habit(3e-4, steps=200, fewest=15, epochs=36, faster=1.4),
    "between": Habit(3e-4, steps=600, fewest=20, epochs=200),
    "far": Habit(1e-3, steps=600, fewest=20, epochs=200),
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
    if ask.takes_text:
        return choose_for_texts(ask)
    decision = decide(ask.evidence)
    batchnorm: Statistics = "adaptive" if decision.adapts else "frozen"
    if not decision.moves and ask.solve_head:
        return (ask.solve("probe", batchnorm=batchnorm),)
    whole = ask.phase(
        "all stages",
        flat(ask.stages, _rate(ask, decision)),
        epochs=_length(ask, decision),
        augmentation=AUGMENTATION,
        flip=decision.flips,
        batchnorm=batchnorm,
    )
    if ask.solve_head:
        return ask.solve(), whole
    alone = ask.head_phase(
        ALONE_HEAD_RATE, epochs=5, augmentation=AUGMENTATION, flip=decision.flips, batchnorm=batchnorm
    )
    return alone, whole


def reasons(ask: Ask, _: str) -> Iterator[str]:
    """What was decided and why, but for what the recipe decides."""
    if not ask.pretrained:
        return
    if ask.takes_text:
        yield from reasons_for_texts(ask)
        return
    settings = (ask.recipe.train, *ask.recipe.phase.values())
    asked = {name for each in settings for name in each.model_fields_set if getattr(each, name) is not None}
    if "rates" in asked:
        asked.add("lr")
    of_presets = any(each.augmentation in ("light", "standard", "aggressive") for each in settings)
    if ask.recipe.data.augment is not None or ("augmentation" in asked and not of_presets):
        asked.add("flip")
    decision = decide(ask.evidence)
    yield from (words for name, words in decision.reasons if name not in asked)
    habit, epochs = HABITS[decision.domain], _length(ask, decision)
    if decision.moves and epochs > habit.fewest and ask.recipe.epochs is None and "epochs" not in asked:
        count = f"{ask.steps_per_epoch} step{'s' * (ask.steps_per_epoch > 1)}"
        quicker = _rate(ask, decision) / decision.rate
        yield (
            f"{epochs} epochs, for one has {count}, and the body wants about "
            f"{habit.steps} of them, in {habit.epochs} epochs at most"
            + (
                f"; with fewer, at {quicker:.2g} times the rate."
                if quicker > 1 and "lr" not in asked
                else "."
            )
        )


def _length(ask: Ask, decision: Decision) -> int:
    """Epochs in which the body moves."""
    habit = HABITS[decision.domain]
    return ask.epochs(habit.fewest, steps=habit.steps, most=habit.epochs)


def _rate(ask: Ask, decision: Decision) -> float:
    """The body's peak rate; higher where the epochs end before there were enough steps."""
    habit, asked = HABITS[decision.domain], ask.recipe.phase.values()
    longer = ask.recipe.epochs or any(each.epochs or each.batch_size for each in asked)
    if longer or (ask.evidence is not None and ask.evidence.trial is not None):  # tried as it is
        return decision.rate
    share = _length(ask, decision) * ask.steps_per_epoch / habit.steps
    return decision.rate * min(habit.faster, max(1.0, math.sqrt(1 / share)))


def views(ask: Ask, steps: Sequence[Step]) -> Views:
    """Predictions look closer, too, and at the mirror image where that was measured to keep its label."""
    if ask.evidence is None or ask.takes_text:
        return "none"
    mirrors = all(step.flip for step in steps if isinstance(step, Train))
    return "flip+zoom" if mirrors and decide(ask.evidence).flips else "zoom"


def decide(evidence: Evidence | None) -> Decision:
    """The rules. Without evidence, those of near domains: they are the shortest."""
    if evidence is None:
        reasons = (("", "Nothing was measured, so the rules for what is near the pretraining hold."),)
        return Decision(
            adapts=False, domain="near", flips=False, moves=True, rate=HABITS["near"].rate, reasons=reasons
        )
    domain, trial = _domain(evidence), evidence.trial
    decision = Decision(
        # Statistics of a far domain tell nothing beforehand, and training goes better with its own.
        adapts=evidence.adapts or (evidence.adapted is not None and domain == "far"),
        domain=domain,
        flips=_keeps_labels(evidence.mirrored),
        moves=trial is None or not trial.spoils,
        rate=(trial and trial.best) or HABITS[domain].rate,
    )
    return replace(decision, reasons=tuple(_reasons(evidence, decision)))


def what_to_try(ask: Ask) -> Trying | None:
    """What to try for a few steps, where there are labels enough for that.

    Between near and far the features cannot tell which rate suits. Near the pretraining they can, but where
    they know much, training the body may spoil it: then the trial is compared with the head solved on the
    resting body. With validation data that head is a candidate of the choice anyway.
    """
    evidence = ask.evidence
    if ask.takes_text or evidence is None or evidence.per_class < ENOUGH_TO_TRY:
        return None
    domain = _domain(evidence)
    compares = ask.solve_head and not ask.validates and evidence.top.information > PLENTY
    if domain == "between":
        return Trying((HABITS["between"].rate, HABITS["far"].rate), compares)
    return Trying((HABITS["near"].rate,), compares) if domain == "near" and compares else None


def _domain(found: Evidence) -> Domain:
    """Near pictures are told apart by what the network knows at its top, far ones hardly by that."""
    if found.top.information < KNOWN:
        return "far"
    if found.middle is None:
        return "between"  # nothing to compare with
    return "near" if found.top.information > RISES * found.middle.information else "between"


def _keeps_labels(mirrored: Mirrored | None) -> bool:
    if mirrored is None or mirrored.known < KNOWN:
        return False  # nothing can be told by it, and a wrong mirror costs more than a missing one
    return not (mirrored.t > COSTS and mirrored.kept < LOST)


def _reasons(evidence: Evidence, decision: Decision) -> Iterator[tuple[str, str]]:
    if evidence.adapted is not None:
        one, two = evidence.pretrained.information, evidence.adapted.information
        which = "of the pictures" if decision.adapts else "of the pretraining"
        yield (
            "batchnorm",
            f"Batch-norm statistics {which}: with the pictures' own a probe knows {_percent(two)} of the "
            f"labels, with the pretraining's {_percent(one)} (which would stay if they knew over 10 more).",
        )
    verb = "moves" if decision.moves else "would move"
    where = {
        "near": "Near the pretraining",
        "between": "Neither near the pretraining nor far from it",
        "far": "Far from the pretraining",
    }[decision.domain]
    how = {"near": "moderately", "between": "moderately and longer", "far": "fast and longer"}[
        decision.domain
    ]
    yield (
        "lr",
        f"{where}: a probe on the features knows "
        f"{_percent(evidence.top.information)} of the labels, {_middle_words(evidence.middle)}; "
        f"so the body {verb} {how}.",
    )
    if evidence.trial is not None:
        yield from _trial_reasons(evidence.trial, decision.moves)
    if evidence.mirrored is not None:
        yield (
            "flip",
            f"Pictures are {'' if decision.flips else 'not '}mirrored: of mirrored ones a probe knows "
            f"{_percent(min(1.0, evidence.mirrored.kept))} of what it knows of the others.",
        )


def _trial_reasons(trial: RateTrial, moves: bool) -> Iterator[tuple[str, str]]:
    rests = "" if moves else " So the body stays frozen, and the head is solved."
    losses = ", ".join(f"{loss:.3g} at {rate:g}" for rate, loss in trial.losses.items())
    tried = f"Tried for about {TRIAL_STEPS} steps, with a fifth of the labels held out"
    if not trial.losses:
        yield "lr", f"{tried}: training diverged at every rate.{rests}"
        return
    yield "lr", f"{tried}; loss on these: {losses}."
    if trial.solved is not None and trial.trained is not None:
        yield (
            "lr",
            f"There the solved head alone was right for {_percent(trial.solved)}, the trained network for "
            f"{_percent(trial.trained)}.{rests}",
        )


def _middle_words(middle: Depth | None) -> str:
    if middle is None:
        return "and nothing below its top can be looked at"
    return f"one on the middle ({middle.stage}) {_percent(middle.information)}"


def _percent(share: float) -> str:
    return f"{100 * max(0.0, share):.0f} %"
