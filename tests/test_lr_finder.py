"""The learning-rate finder: what curves say, that nothing moves, and the verdicts of a sweep."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import graft
from graft.backbones import state_digest
from graft.errors import RecipeError
from graft.lr_finder import Tried, judge, range_test, read_curve, sweep
from graft.plan import Phase, Plan, make_plan
from graft.recipe import Recipe, read_recipe
from small import SETTINGS, make_tiny
from test_evidence import coloured

RATES = np.geomspace(1e-7, 1.0, 100)


def asked(**settings: Any) -> Recipe:
    return read_recipe(**(SETTINGS | {"strategy": "full", "head_init": "random"} | settings))


def planned(count: int = 40, **settings: Any) -> tuple[Any, Plan]:
    splits = coloured(count)
    return splits, make_plan(asked(**settings), make_tiny(), splits)


def valley(noise: float = 0.0, depth: float = 1.0) -> np.ndarray:
    """A loss that falls around 1e-3, is lowest at 1e-2 and explodes above."""
    x = np.log10(RATES)
    losses = 2 - depth / (1 + np.exp(-4 * (x + 3))) + np.exp(6 * (x + 1.2))
    return losses + noise * np.random.default_rng(0).normal(size=len(x))


def test_suggestions_lie_where_the_loss_falls() -> None:
    found = read_curve(RATES, valley(0.01))
    assert not found.doubts
    assert set(found.suggestions) == {"steepest", "valley", "tenth"}
    for rule, rate in found.suggestions.items():
        assert 3e-4 < rate < 3e-2, rule
    assert found.suggestions["steepest"] == pytest.approx(2e-3, rel=0.8)


@pytest.mark.parametrize(
    ("losses", "batches", "words"),
    [
        (np.full(100, 2.0), math.inf, "Flat"),
        (2 + np.linspace(0, 3, 100), math.inf, "Flat"),
        (valley(1.5, depth=0.3), math.inf, "Noisy"),
        (valley(), 2, "Too few items"),
        (valley()[:5], math.inf, "no number after 5 steps"),
    ],
)
def test_curves_that_allow_no_answer_say_so(losses: np.ndarray, batches: float, words: str) -> None:
    found = read_curve(RATES[: len(losses)], losses, batches)
    assert not found.suggestions
    assert any(words in doubt for doubt in found.doubts), found.doubts


def test_the_test_finds_a_rate_and_moves_nothing() -> None:
    backbone = make_tiny()
    before, modes = state_digest(backbone.trunk), [m.training for m in backbone.trunk.modules()]
    splits, plan = planned()
    done: list[int] = []
    found = range_test(backbone, splits, plan, progress=lambda number, _: done.append(number))
    assert state_digest(backbone.trunk) == before
    assert [m.training for m in backbone.trunk.modules()] == modes
    assert done == list(range(1, len(found.losses) + 1))
    assert not found.doubts and found.rates[0] == pytest.approx(1e-7)
    assert all(1e-6 < rate < 1 for rate in found.suggestions.values())
    again = range_test(make_tiny(), splits, plan)
    assert again == found


def test_groups_keep_their_proportions(monkeypatch: pytest.MonkeyPatch) -> None:
    from graft.stepping import Stepper

    seen: list[list[float]] = []
    step = Stepper.step

    def look(self: Stepper, *args: Any, **kwargs: Any) -> float:
        loss = step(self, *args, **kwargs)
        seen.append([group["lr"] for group in self.optimizer.param_groups])
        return loss

    monkeypatch.setattr(Stepper, "step", look)
    splits, plan = planned()
    found = range_test(make_tiny(), splits, plan, steps=20, high=1e-2)
    (phase,) = [each for each in plan.phases if isinstance(each, Phase)]
    rates = [group.rate for group in phase.groups]
    top = phase.train.rates.stages["top"]
    assert len(set(rates)) > 2
    for number, used in enumerate(seen):
        assert used == pytest.approx([rate * found.rates[number] / top for rate in rates])


def test_what_has_no_rate_is_refused() -> None:
    splits, plan = planned(strategy="probe", head_init="auto")
    with pytest.raises(RecipeError, match="trains nothing by steps"):
        range_test(make_tiny(), splits, plan)
    splits, plan = planned()
    with pytest.raises(RecipeError, match="rates that rise"):
        range_test(make_tiny(), splits, plan, low=1.0, high=0.1)
    with pytest.raises(RecipeError, match="validation items"):
        sweep(asked(), make_tiny(), splits, [1e-3])
    with pytest.raises(RecipeError, match="rates above zero"):
        sweep(asked(), make_tiny(), splits, [0.0])


def test_a_sweep_tells_the_rates_apart() -> None:
    recipe = asked(head_init="solved", epochs=3, data__validation=0.25)
    backbone = make_tiny()
    splits = graft.read_splits(recipe, backbone, _noisy())
    before = state_digest(backbone.trunk)
    found = sweep(recipe, backbone, splits, [1e-6, 1e-2, 100.0])
    assert state_digest(backbone.trunk) == before
    assert [each.rate for each in found] == [1e-6, 1e-2, 100.0]
    assert found[-1].verdict in ("diverged", "forgot")
    assert sum(each.verdict == "best" for each in found) == 1
    assert all(each.words for each in found)
    alike = {each.validation[0] for each in found if each.validation}
    assert len(alike) == 1  # every run began at the same start


def _noisy() -> Any:
    splits = coloured(40)
    pictures = np.stack([np.asarray(source) for source in splits.train.sources])
    return pictures, [splits.task.labels[target] for target in splits.train.targets]


def tried(rate: float, train: list[float], validation: list[float], accuracy: list[float]) -> Tried:
    return Tried(rate=rate, train=tuple(train), validation=tuple(validation), accuracy=tuple(accuracy))


def test_verdicts() -> None:
    runs = {
        "best": tried(1e-3, [1.0, 0.4], [1.1, 0.8, 0.6], [0.5, 0.7, 0.8]),
        "too slow": tried(1e-5, [1.1, 1.08], [1.1, 1.1, 1.09], [0.5, 0.5, 0.5]),
        "forgot": tried(1e-1, [2.0, 1.9], [1.1, 1.9, 2.0], [0.5, 0.1, 0.1]),
        "diverged": tried(10.0, [2.0, 9.0], [1.1, 8.0, 9.0], [0.5, 0.4, 0.4]),
        "overfits": tried(3e-3, [0.9, 0.1], [1.1, 0.7, 1.4], [0.5, 0.75, 0.74]),
        "good": tried(5e-4, [1.0, 0.5], [1.1, 0.8, 0.7], [0.5, 0.7, 0.78]),
    }
    found = judge([*runs.values(), tried(99.0, [2.0], [1.1], [0.5])], 400)
    assert [each.verdict for each in found] == [*runs, "diverged"]
    assert judge([tried(1.0, [], [], [])], 10)[0].verdict == "diverged"
