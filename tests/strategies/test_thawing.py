"""Thawing little by little: what moves when, at half the rate each deeper stage; and progressive."""

from __future__ import annotations

from typing import Any

import pytest
from asked import NETWORKS, ask, kinds_of, last, phases_of, steps_of
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import RecipeError
from graft.steps import Train
from graft.strategies import notes_of, plan_steps

EVERY_NETWORK = pytest.mark.parametrize("network", NETWORKS)


def halved(moving: tuple[str, ...]) -> dict[str, float]:
    """1e-4 for the topmost, half of it for each one below; ``moving`` from input to top."""
    depth = len(moving) - 1
    return {name: 1e-4 * 0.5 ** (depth - place) for place, name in enumerate(moving)}


@EVERY_NETWORK
@pytest.mark.parametrize(
    ("strategy", "every", "stem"),
    [
        ("gradual", 2, False),
        ("gradual:3", 3, False),
        ("gradual:1+stem", 1, True),
        ("gradual:stem", 2, True),
        ("gradual:2+stem", 2, True),
    ],
)
def test_stages_thaw_from_the_top_one_every_few_epochs(
    network: str, strategy: str, every: int, stem: bool
) -> None:
    stages = NETWORKS[network]
    thawing = len(stages) if stem else len(stages) - 1
    assert kinds_of(strategy=strategy, stages=stages) == ["solve", *["train"] * thawing]
    phases = phases_of(strategy=strategy, stages=stages, per_epoch=1000)
    for number, phase in enumerate(phases, start=1):
        assert phase.stages == stages[-number:]
        assert phase.rates.stages == pytest.approx(halved(stages[-number:]))
        assert phase.rates.head == pytest.approx(3e-4)
    assert [phase.epochs for phase in phases[:-1]] == [every] * (thawing - 1)
    assert sum(phase.epochs for phase in phases) == max(10, every * thawing)
    assert (stages[0] in phases[-1].stages) == stem
    # The rates fall in the last phase only: one course over the whole training.
    assert [phase.schedule for phase in phases] == ["constant"] * (thawing - 1) + ["cosine"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"epochs": 4}, ["4 epochs thaw 2 of 4 stages; 8 would thaw all."]),
        ({"epochs": 5}, ["5 epochs thaw 3 of 4 stages; 8 would thaw all."]),
        ({"epochs": 3, "strategy": "gradual:1"}, ["3 epochs thaw 3 of 4 stages; 4 would thaw all."]),
        ({"epochs": 7}, []),
        ({}, []),
        ({"epochs": 4, "thaw": {"0": ["layer4"]}}, []),  # the table says it itself
        ({"epochs": 4, "strategy": "full"}, []),
    ],
    ids=str,
)
def test_epochs_too_few_to_thaw_every_stage_are_said(settings: dict[str, Any], expected: list[str]) -> None:
    whole: dict[str, Any] = {"strategy": "gradual", "stages": NETWORKS["resnet"]} | settings
    assert list(notes_of(ask(**whole))) == expected
    for note in expected:
        assert f"thaw {len(last(**whole).stages)} of 4" in note


@given(epochs=st.integers(1, 40), every=st.integers(1, 5), stem=st.booleans())
def test_the_epochs_asked_are_those_of_all_phases_together(epochs: int, every: int, stem: bool) -> None:
    strategy = f"gradual:{every}" + ("+stem" if stem else "")
    if stem and epochs <= 4 * every:
        with pytest.raises(RecipeError, match="too few to thaw 5 stages"):
            phases_of(strategy=strategy, stages=NETWORKS["resnet"], epochs=epochs)
        return
    phases = phases_of(strategy=strategy, stages=NETWORKS["resnet"], epochs=epochs)
    assert sum(phase.epochs for phase in phases) == epochs
    assert len(phases) == min(5 if stem else 4, -(-epochs // every))


def test_a_random_head_trains_alone_before_the_first_thaw() -> None:
    alone, *others = phases_of(strategy="gradual", head_init="random")
    assert (alone.stages, alone.epochs, alone.rates.head) == ((), 5, 1e-2)
    assert [phase.rates.head for phase in others] == [1e-3] * len(others)


def test_a_network_of_one_stage_thaws_it() -> None:
    (phase,) = phases_of(strategy="gradual:2+stem", stages=["all"])
    assert phase.stages == ("all",)


# ---------------------------------------------------------------------------------------------
# The explicit table.


def test_a_table_says_which_stages_thaw_when() -> None:
    stages = NETWORKS["resnet"]
    thaw = {"2": ["layer4"], "5": ["layer[23]"], "6": ["stem", "layer3"]}
    alone, *phases = phases_of(strategy="gradual", stages=stages, thaw=thaw, epochs=10)
    assert (alone.stages, alone.epochs, alone.rates.head) == ((), 2, 1e-3)  # of a solved head
    expected = [("layer4",), ("layer2", "layer3", "layer4"), ("stem", "layer2", "layer3", "layer4")]
    assert [phase.stages for phase in phases] == expected
    assert [phase.epochs for phase in phases] == [3, 1, 4]
    assert [phase.rates.stages for phase in phases] == [pytest.approx(halved(names)) for names in expected]


def test_a_table_takes_parts_of_names_and_lists_in_one_text() -> None:
    stages = NETWORKS["resnet"]
    lists = phases_of(strategy="gradual", stages=stages, thaw={"0": ["layer4"], "2": ["layer2", "layer3"]})
    texts = phases_of(strategy="gradual", stages=stages, thaw={"0": "layer4", "2": "layer3, layer2"})
    first = [phases_of(strategy="gradual", stages=stages, thaw=thaw) for thaw in ("layer4", ["layer4"])]
    assert first[0] == first[1] == phases_of(strategy="gradual", stages=stages, thaw={"0": ["layer4"]})
    assert texts == lists
    whole = phases_of(strategy="gradual", stages=stages, thaw={"0": "ayer4", "2": "yer", "3": "stem"})
    assert [phase.stages for phase in whole] == [stages[-1:], stages[1:], stages]


def test_a_table_that_begins_at_once() -> None:
    assert kinds_of(strategy="gradual", thaw={"0": ["top"]}) == ["solve", "train"]
    alone, phase = phases_of(strategy="gradual", thaw={"0": ["top"]}, head_init="random", epochs=4)
    assert (alone.epochs, phase.epochs) == (5, 4)


def test_a_random_head_alone_until_the_table_begins() -> None:
    alone, phase = phases_of(strategy="gradual", thaw={"3": ["top"]}, head_init="random", epochs=4)
    assert (alone.epochs, alone.rates.head, phase.epochs) == (3, 1e-2, 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"thaw": {}}, "thaw: the table thaws nothing"),
        ({"thaw": {"0": []}}, "thaw.0.*nothing thaws at this epoch"),
        ({"thaw": {"0": ["top"], "2": ["t*p"]}}, "thaw.2.*nothing thaws at this epoch"),
        ({"thaw": {"0": ["topp"]}}, "thaw.0: this backbone has no stage 'topp'. Did you mean 'top'"),
        ({"thaw": {"8": ["top"]}, "epochs": 8}, "thaw.8: the training ends after 8 epochs"),
        ({"thaw": {"0": ["top"]}, "strategy": "gradual:2"}, "leave one out"),
        ({"thaw": {"0": ["top"]}, "strategy": "full"}, "thaw is a table for the strategy gradual"),
        ({"strategy": "gradual:0"}, "gradual:2 or gradual:2"),
        ({"strategy": "gradual:2+top"}, "gradual:2 or gradual:2"),
        ({"strategy": "gradual:2.5"}, "gradual:2 or gradual:2"),
        ({"strategy": "gradual:-1"}, "gradual:2 or gradual:2"),
    ],
    ids=str,
)
def test_a_table_or_parameter_that_cannot_be_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        plan_steps(ask(**({"strategy": "gradual"} | settings)))


# ---------------------------------------------------------------------------------------------
# progressive


@EVERY_NETWORK
def test_progressive_has_the_three_phases_of_the_recipe_for_far_domains(network: str) -> None:
    stages = NETWORKS[network]
    head, late, whole = steps_of(strategy="progressive", stages=stages)
    assert isinstance(head, Train)
    assert isinstance(late, Train)
    assert isinstance(whole, Train)
    assert (head.stages, head.epochs, head.rates.head) == ((), 5, 1e-3)
    assert (late.rates.stages, late.epochs) == (dict.fromkeys(stages[-2:], 1e-5), 5)
    assert late.rates.head == 1e-3
    assert whole.stages == stages
    assert whole.rates.stages[stages[0]] == pytest.approx(1e-6)
    assert whole.rates.stages[stages[-1]] == pytest.approx(1e-5)
    assert (whole.rates.head, whole.epochs) == (1e-4, 10)
    ratio = 10 ** (1 / (len(stages) - 1))
    assert list(whole.rates.stages.values()) == pytest.approx([1e-6 * ratio**n for n in range(len(stages))])
    for phase in (head, late, whole):
        assert phase.augmentation == "aggressive"
        assert phase.patience == 5
        assert phase.warmup == 0.1


def test_progressive_with_a_solved_head_moves_it_gently() -> None:
    assert kinds_of(strategy="progressive", head_init="solved") == ["solve", "train", "train"]
    late, whole = phases_of(strategy="progressive", head_init="solved")
    assert late.rates.head == pytest.approx(3e-5)
    assert whole.rates.head == 1e-4


def test_progressives_last_phase_has_the_epochs_asked() -> None:
    assert [phase.epochs for phase in phases_of(strategy="progressive", epochs=3)] == [5, 5, 3]
    assert last(strategy="progressive", train__patience=2).patience == 2
