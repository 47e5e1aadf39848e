"""What decides between what the rules say and what the strategy auto would do.

The evidence decides where it compared the two. Where it did not, or the two tie within one standard
error, the rules do, and of several rules the simplest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graft.advice.rules import Rule
from graft.evidence import Evidence

Kind = Literal["head", "part", "whole", "scratch"]
SIMPLEST: tuple[Kind, ...] = ("head", "part", "whole", "scratch")


@dataclass(frozen=True)
class Verdict:
    """``strategy``: that of the rules to take in place of auto's; None: auto's stays. ``words``: why."""

    strategy: str | None
    words: str


def judge(strategy: str, rules: tuple[Rule, ...], evidence: Evidence | None) -> Verdict:
    """Whether auto's ``strategy`` or a rule is the answer, and what decided."""
    alike = [rule.strategy for rule in agreeing(strategy, rules)]
    if alike:
        return Verdict(None, f"as by the rule {' and '.join(alike)}")
    simplest = min(rules, key=lambda rule: SIMPLEST.index(kind_of(rule.strategy))).strategy
    trial = evidence.trial if evidence is not None else None
    if trial is not None and trial.best is None:
        return Verdict(None, "the rules say otherwise, and the evidence decides: training diverged")
    if trial is None or trial.solved is None or trial.trained is None:
        words = f"nothing that was measured compares it with auto's {strategy}, so the rule decides"
        return Verdict(simplest, words)
    both = f"{100 * trial.trained:.1f} % right with the body trained, {100 * trial.solved:.1f} % without"
    if abs(trial.trained - trial.solved) > trial.error:
        return Verdict(None, f"the rules say otherwise, and the evidence decides: {both}")
    words = f"a tie within one standard error ({both}), so the simpler one, that of the rule, is taken"
    return Verdict(simplest, words)


def agreeing(strategy: str, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules of the strategy's kind: that move the head alone, a part, or everything."""
    return tuple(rule for rule in rules if kind_of(rule.strategy) == kind_of(strategy))


def kind_of(strategy: str) -> Kind:
    """What a strategy moves: the head alone, a part of the network, or all of it, perhaps from nothing."""
    name = strategy.partition(":")[0]
    if name in ("probe", "scratch"):
        return "head" if name == "probe" else "scratch"
    return "part" if name in ("partial", "first-only", "stages", "middle") else "whole"
