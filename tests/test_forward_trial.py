"""What the trial of the resting backbone chooses is faster, and says what the plain way says."""

import numpy as np
import pytest
import torch
from torch import nn

import graft
from graft import forward_trial
from graft.forward_trial import Choice, choose_forward
from graft.numerics import Forward, resolve_numerics
from graft.plan import make_plan
from graft.preparation import try_forward
from graft.recipe import read_recipe
from small import make_tiny
from test_evidence import coloured

CPU = resolve_numerics(read_recipe(device="cpu"))


@pytest.fixture(autouse=True)
def every_trial_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_trial, "WORTHWHILE", 0.0)


def timed(monkeypatch: pytest.MonkeyPatch, seconds, spoils=lambda _: False) -> None:
    """The trial sees these seconds a picture in place of its clock's, and features in a wrong order."""
    plain = forward_trial._Trial._timed

    def told(self, how: Forward, parts):
        features, _ = plain(self, how, parts)
        features = [each.flip(0) if spoils(how) else each for each in features]
        return features, [seconds(how) * len(part) for part in parts]

    monkeypatch.setattr(forward_trial._Trial, "_timed", told)


def choose(passes: int = 1) -> Choice | None:
    return choose_forward(make_tiny(), coloured(10).train, CPU, passes=passes, seed=0)


def test_what_gains_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, lambda how: 4.0 - 1.5 * how.folded)
    found = choose()
    assert found is not None
    assert found.forward == Forward(folded=True)
    assert found.gain == pytest.approx(1.6)
    assert "batch-norms folded, 32 items at a time: 1.60 times" in found.note


def test_what_gains_too_little_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_trial, "has_fast_bf16", lambda _: True)
    timed(monkeypatch, lambda how: 4.0 - 0.15 * (how.precision == "bf16") + 0.1 * how.folded)
    assert choose() == Choice(Forward(), 1.0)


def test_folding_is_work_left_out_so_that_any_gain_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, lambda how: 4.0 - 0.15 * how.folded)
    found = choose()
    assert found is not None
    assert found.forward == Forward(folded=True)


def test_where_nothing_can_be_folded_that_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, lambda how: 4.0 - how.folded)
    backbone = make_tiny()
    backbone.trunk.stem, backbone.trunk.middle, backbone.trunk.top = (
        nn.Sequential(*modules)
        for modules in (
            (nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.ReLU()),
            (nn.BatchNorm2d(8), nn.Conv2d(8, 12, 3), nn.ReLU()),
            (nn.BatchNorm2d(12), nn.Conv2d(12, 16, 3), nn.ReLU()),
        )
    )
    found = choose_forward(backbone, coloured(10).train, CPU, passes=1, seed=0)
    assert found == Choice(Forward(), 1.0)


def test_what_changes_features_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, lambda how: 4.0 - how.folded, spoils=lambda how: how.folded)
    assert choose() == Choice(Forward(), 1.0)


def test_each_gain_stands_on_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_trial, "has_fast_bf16", lambda _: True)
    timed(monkeypatch, lambda how: 4.0 - 2 * (how.precision == "bf16") - how.folded)
    found = choose()
    assert found is not None
    assert found.forward == Forward(precision="bf16", folded=True)
    assert found.gain == pytest.approx(4.0)


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
    timed(monkeypatch, lambda how: 0.04 - 0.02 * how.folded)  # of 30 pictures
    assert choose(passes=8) is None
    found = choose(passes=9)
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
