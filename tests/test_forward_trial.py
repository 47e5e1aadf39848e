"""What the trial of the resting backbone chooses is faster, and says what the plain way says."""

import numpy as np
import pytest
import torch

import graft
from graft import forward_trial
from graft.forward_trial import Choice, choose_forward
from graft.numerics import Forward, resolve_numerics
from graft.plan import make_plan
from graft.recipe import read_recipe
from graft.workflow import try_forward
from small import make_tiny
from test_evidence import coloured

CPU = resolve_numerics(read_recipe(device="cpu"))


@pytest.fixture(autouse=True)
def every_trial_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_trial, "WORTHWHILE", 0.0)


def timed(monkeypatch: pytest.MonkeyPatch, seconds) -> None:
    """The trial sees these seconds instead of its clock's."""
    monkeypatch.setattr(forward_trial._Timed, "seconds", lambda _, how: seconds(how))


def choose(passes: int = 1) -> Choice | None:
    backbone = make_tiny()
    return choose_forward(backbone, coloured(10).train, CPU, passes=passes, seed=0)


def test_what_gains_is_taken_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, lambda how: 4.0 - how.folded - 0.5 * (how.batch == 64))
    found = choose()
    assert found is not None
    assert found.forward == Forward(folded=True, batch=64)
    assert found.gain == pytest.approx(4.0 / 2.5)
    assert "batch-norms folded, 64 pictures at a time: 1.60 times" in found.note


def test_what_gains_too_little_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, lambda how: 4.0 - 0.15 * how.folded - 0.15 * (how.batch == 64))
    assert choose() == Choice(Forward(), 1.0)


def test_what_changes_features_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, lambda how: 4.0 - how.folded)
    plain = forward_trial._Timed.features

    def spoilt(self: forward_trial._Timed, how: Forward) -> torch.Tensor:
        found = plain(self, how)
        return found.flip(0) if how.folded else found

    monkeypatch.setattr(forward_trial._Timed, "features", spoilt)
    assert choose() == Choice(Forward(), 1.0)


@pytest.mark.parametrize(("pretrained", "error", "agrees"), [(True, 0.01, True), (True, 0.05, False)])
def test_agreement_of_pretrained_features(pretrained: bool, error: float, agrees: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(40, 6, generator=generator) * 3 + 100  # the mean is no part of the error
    noise = torch.randn(40, 6, generator=generator) * 3
    asks = forward_trial._Agreement(plain, None, pretrained=pretrained)
    assert asks(plain + error * noise) == agrees
    assert not asks(plain.masked_fill(plain == plain[3, 2], torch.nan))


def test_agreement_is_also_of_decisions() -> None:
    """Whatever the error: random weights have no mean worth measuring by."""
    targets = np.arange(40) % 2
    plain = torch.from_numpy(np.where(targets, 1.0, -1.0)).float()[:, None] * torch.ones(3)
    asks = forward_trial._Agreement(plain, targets, pretrained=False)
    assert asks(plain * 1.3)
    turned = plain.clone()
    turned[7] *= -1
    assert not asks(turned)


def test_little_work_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_trial, "WORTHWHILE", 10.0)
    timed(monkeypatch, lambda how: 1.0 - 0.5 * how.folded)  # for all 30 pictures
    assert choose(passes=9) is None
    found = choose(passes=10)
    assert found is not None
    assert found.forward.folded


def test_a_probe_of_folded_features_predicts_as_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, lambda how: 4.0 - how.folded)
    recipe = read_recipe(backbone="plain/tiny", strategy="probe", device="cpu")
    backbone, splits = make_tiny(), coloured(10)
    choice = try_forward(recipe, backbone, splits)
    assert choice is not None
    plan = make_plan(recipe, backbone, splits, forward=choice)
    assert plan.numerics.forward.folded
    assert choice.note in plan.notes
    one, two = (graft.fit(backbone, splits, each) for each in (plan, make_plan(recipe, backbone, splits)))
    pictures = torch.rand(8, 3, 8, 8)
    assert torch.allclose(one.model(pictures), two.model(pictures), atol=1e-3)
    assert not torch.equal(one.model(pictures), two.model(pictures))


def test_strategies_that_solve_nothing_try_nothing() -> None:
    recipe = read_recipe(backbone="plain/tiny", strategy="full", head_init="random", device="cpu")
    assert try_forward(recipe, make_tiny(), coloured(10)) is None
