"""What auto does with texts follows from how many labels there are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from graft.errors import RecipeError
from graft.evidence import Depth, Evidence
from graft.recipe import read_recipe
from graft.schedule import steps_in_epoch
from graft.steps import Train
from graft.strategies import Ask, notes_of, plan_steps

STAGES = ("embeddings", "layer.0", "layer.1")


def asked(per_class: float, *, classes: int = 2, multi_label: bool = False, **settings: Any) -> Ask:
    top = Depth(stage="layer.1", information=0.3, accuracy=0.7)
    items = int(per_class * classes)
    found = Evidence(
        items=items, per_class=per_class, pretrained=top, adapted=None, middle=None, mirrored=None
    )
    recipe = read_recipe(**settings)
    return Ask(
        recipe,
        STAGES,
        steps_in_epoch(items, recipe.train.batch_size),
        pretrained=True,
        validates=False,
        evidence=found,
        items=items,
        takes_text=True,
        multi_label=multi_label,
    )


def phases(per_class: float, **more: Any) -> list[Train]:
    return [step for step in plan_steps(asked(per_class, **more)) if isinstance(step, Train)]


@pytest.mark.parametrize(("per_class", "drawn"), [(8, True), (64, True), (65, False), (3000, False)])
def test_few_labels_begin_with_contrast(per_class: int, drawn: bool) -> None:
    first, *more = phases(per_class)
    assert (first.objective == "contrast") == drawn
    assert [phase.objective for phase in more] == ["labels"] * drawn
    (reason,) = (words for words in notes_of(asked(per_class)) if "median class" in words)
    assert ("drawn together" in reason) == drawn


def test_items_of_many_labels_and_a_recipe_without_contrast_go_without() -> None:
    for phase in (*phases(8, multi_label=True), *phases(8, contrast=0)):
        assert phase.objective == "labels"


@pytest.mark.parametrize(
    ("per_class", "size", "epochs"), [(70, 8, 9), (500, 8, 3), (1000, 16, 3), (1999, 16, 3), (2000, 32, 3)]
)
def test_few_texts_come_in_small_batches(per_class: int, size: int, epochs: int) -> None:
    """So that there are 150 steps, and 375 where three epochs of them can be had."""
    (phase,) = phases(per_class)
    assert (phase.batch_size, phase.epochs) == (size, epochs)
    told = [words for words in notes_of(asked(per_class)) if f"batches of {size}" in words]
    assert bool(told) == (size < 32)


def test_batches_of_the_recipe_win_and_decide_the_epochs() -> None:
    (phase,) = phases(100, train__batch_size=40)
    assert (phase.batch_size, phase.epochs) == (40, 30)
    assert not any("batches of" in words for words in notes_of(asked(100, train__batch_size=16)))
    (phase,) = phases(100, epochs=2)
    assert (phase.batch_size, phase.epochs) == (8, 2)
    (phase,) = phases(100, phase={"2": {"batch_size": 100}})
    assert (phase.batch_size, phase.epochs) == (100, 50)


def test_batches_can_be_cut_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    (phase,) = phases(100, train__accumulate=8)
    assert phase.batch_size == 16
    monkeypatch.setattr("graft.strategies.texts.world_size", lambda: 4)
    assert [phase.batch_size for phase in phases(100, train__accumulate=4)] == [32]


def test_a_phase_that_few_labels_will_bring_can_be_set_before_the_data_is_read() -> None:
    def before(**settings: Any) -> Ask:
        return replace(asked(8, **settings), items=None, evidence=None)

    first, third, fourth = ({"phase": {number: {"clip": 3.0}}} for number in ("1", "3", "4"))
    for settings in (first, third):
        plan_steps(before(**settings))
        assert 3.0 in [phase.clip for phase in phases(8, **settings)]
    for ask in (
        asked(100, **third),
        before(**fourth),
        before(**third, contrast=0),
        before(**fourth, contrast=2),
        replace(before(**third), pretrained=False),
    ):
        with pytest.raises(RecipeError, match="no such phase"):
            plan_steps(ask)
