"""What decides between the rules and the strategy auto: what compared them, else the rules."""

from __future__ import annotations

import pytest

from graft.advice.rules import look_up
from graft.advice.verdict import judge
from graft.evidence import Depth, Evidence, RateTrial

TOP = Depth(stage="top", information=0.8, accuracy=0.9)


def evidence(**trial: float) -> Evidence:
    found = RateTrial(losses={3e-4: 0.5}, **trial) if trial else None
    return Evidence(
        items=90, per_class=30, pretrained=TOP, adapted=None, middle=None, mirrored=None, trial=found
    )


def test_evidence_that_compared_decides() -> None:
    rules = look_up(500, "similar")
    found = judge("two-phase", rules, evidence(solved=0.8, trained=0.9, error=0.05))
    assert found.strategy is None and "the evidence decides: 90.0 % right" in found.words


@pytest.mark.odd_input("Building blocks and advice")
@pytest.mark.parametrize("trained", [0.84, 0.8, 0.76])
def test_a_tie_goes_to_the_simpler_and_says_so(trained: float) -> None:
    """A rule of `advise` and the strategy auto that tie within one standard error: the simpler one is
    advised, and that it is a tie is said."""
    found = judge(
        "two-phase", look_up(500, "somewhat similar"), evidence(solved=0.8, trained=trained, error=0.05)
    )
    assert found.strategy == "probe"
    assert "a tie within one standard error" in found.words


@pytest.mark.parametrize("missing", [None, evidence()])
def test_without_evidence_the_rule_decides(missing: Evidence | None) -> None:
    found = judge("two-phase", look_up(500, "similar"), missing)
    assert found.strategy == "probe" and "the rule decides" in found.words


def test_what_a_rule_says_needs_no_decision() -> None:
    found = judge("two-phase", look_up(5_000, "similar"), None)
    assert found.strategy is None and found.words == "as by the rule full"
