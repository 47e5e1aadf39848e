"""Features on their principal axes are the same features, and a path is the path of single solutions."""

import numpy as np
import pytest
import torch

from graft import regression
from graft.folds import assign_folds
from graft.regression import Axes, Regression, Truth, in_folds


def make_features(n: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n, 5, generator=generator) @ torch.randn(5, width, generator=generator)
    return mixed * 3 + torch.randn(n, width, generator=generator) + 7


@pytest.mark.parametrize(("n", "width"), [(50, 8), (8, 50), (12, 12)])
def test_axes_keep_all_distances(n: int, width: int) -> None:
    features = make_features(n, width)
    axes = Axes.of(features)
    standard = (features.double() - features.double().mean(0)) / features.double().std(0, correction=0)
    assert torch.allclose(torch.cdist(axes.rows, axes.rows), torch.cdist(standard, standard), atol=1e-5)
    assert (axes.rows[:, -1] == 1).all()
    across = axes.rows[:, :-1].T @ axes.rows[:, :-1] / n
    assert torch.allclose(across, torch.diag(axes.spread[:-1]), atol=1e-6)
    assert torch.allclose(axes.project(features), axes.rows, atol=1e-6)


@pytest.mark.parametrize(("n", "width"), [(50, 8), (8, 50)])
def test_weights_on_axes_and_on_features_say_the_same(n: int, width: int) -> None:
    features = make_features(n, width)
    features[:, 3] = 2.5  # never varies
    axes = Axes.of(features)
    weights = torch.randn(4, axes.rows.shape[1], generator=torch.Generator().manual_seed(1)).double()
    weight, bias = axes.on_features(weights)
    assert torch.allclose(features.double() @ weight.T + bias, axes.rows @ weights.T, atol=1e-6)
    assert not weight[:, 3].any()


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_slopes_are_those_of_autograd(multi_label: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    targets = torch.randint(0, 2, (9, 3), generator=generator) if multi_label else torch.arange(9) % 3
    truth = Truth.of(targets.numpy(), 3, torch.tensor([0.5, 1.0, 3.0]))
    logits = torch.randn(9, 2, 3, generator=generator).double().requires_grad_()
    losses, slopes = truth.losses_and_slopes(logits.detach())
    by_hand, _ = truth.losses_and_slopes(logits)
    (expected,) = torch.autograd.grad(_plain(truth, logits).sum(), logits, create_graph=True)
    assert torch.allclose(by_hand, _plain(truth, logits))
    assert torch.allclose(losses, by_hand)
    assert torch.allclose(slopes, expected, atol=1e-12)
    bends = [torch.autograd.grad(expected[..., c].sum(), logits, retain_graph=True)[0] for c in range(3)]
    diagonal = torch.stack([bend[..., c] for c, bend in enumerate(bends)], dim=2)
    assert torch.allclose(truth.curvatures(logits.detach()), diagonal, atol=1e-12)


def _plain(truth: Truth, logits: torch.Tensor) -> torch.Tensor:
    """Losses [N, P] as torch computes them."""
    if not truth.multi_label:
        known = logits.log_softmax(2)
        return -known[torch.arange(len(logits)), :, truth.targets]
    return torch.nn.functional.binary_cross_entropy_with_logits(
        logits,
        truth.targets[:, None].expand_as(logits),
        reduction="none",
        pos_weight=truth.classes,
    ).sum(2)


@pytest.mark.parametrize("rows", [regression.ROWS, 40])
def test_a_path_ends_where_its_last_strength_alone_does(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only a few rows are looked at at a time."""
    features, targets = make_features(60, 10), np.arange(60) % 3
    fold_of = assign_folds(targets, 4)
    truth = Truth.of(targets, 3)
    alone = Regression(Axes.of(features), truth, in_folds(fold_of)).solve(1e-3, 1e-12)
    monkeypatch.setattr(regression, "ROWS", rows)
    together = Regression(Axes.of(features), truth, in_folds(fold_of))
    for strength in (10.0, 1.0, 0.1, 0.01, 1e-3):
        found = together.solve(strength, 1e-12)
    axes = Axes.of(features)
    chances = [(axes.rows @ weights.mT).softmax(2) for weights in (found, alone)]
    assert torch.allclose(*chances, atol=1e-4)


def test_folds_are_solved_as_each_would_be_alone() -> None:
    features, targets = make_features(40, 6), np.arange(40) % 2
    fold_of = assign_folds(targets, 3)
    axes, truth = Axes.of(features), Truth.of(targets, 2)
    problems = Regression(axes, truth, in_folds(fold_of))
    found = problems.solve(0.01, 1e-13)
    for fold in range(3):
        counts = torch.from_numpy(fold_of != fold)[:, None]
        single = Regression(axes, truth, counts).solve(0.01, 1e-13)
        assert torch.allclose(found[fold], single[0], atol=1e-5)
    logits = problems.logits(torch.from_numpy(fold_of))
    for item in (0, 17, 39):
        assert torch.allclose(logits[item], axes.rows[item] @ found[fold_of[item]].T)


def test_large_features_are_solved_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = make_features(80, 12), np.arange(80) % 4
    chances = []
    for exact in (regression.EXACT, 0):
        monkeypatch.setattr(regression, "EXACT", exact)
        axes = Axes.of(features)
        found = Regression(axes, Truth.of(targets, 4), torch.ones(80, 1)).solve(1e-3, 1e-9)
        assert found.dtype == (torch.float64 if exact else torch.float32)
        chances.append((axes.rows @ found[0].T).double().softmax(1))
    assert torch.allclose(*chances, atol=2e-3)
