"""The solved head is the optimum that scikit-learn finds, and its folds are honest."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from graft.probe import assign_folds, solve_head


def make_features(n: int = 120, dim: int = 20, classes: int = 4, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, dim, generator=generator).relu() * 7 + 3
    truth = torch.randn(dim, classes, generator=generator)
    noise = torch.randn(n, classes, generator=generator) * 20
    return features, (features @ truth + noise).argmax(1).numpy()


def test_the_head_is_scikit_learns_optimum() -> None:
    features, targets = make_features()
    solution = solve_head(features, targets, 4)
    scaled = StandardScaler().fit_transform(features.numpy())
    oracle = LogisticRegression(C=1 / (len(targets) * solution.strength), max_iter=5000, tol=1e-8)
    expected = oracle.fit(scaled, targets).predict_proba(scaled)
    found = (features @ solution.weight.T + solution.bias).softmax(1)
    assert np.abs(found.numpy() - expected).max() < 2e-3


def test_the_strength_kept_has_the_best_out_of_fold_loss() -> None:
    features, targets = make_features()
    solution = solve_head(features, targets, 4)
    assert (solution.strength, solution.loss, solution.accuracy) in solution.path
    assert solution.loss <= min(loss for _, loss, _ in solution.path) + 1e-3
    stronger = [loss for strength, loss, _ in solution.path if strength > solution.strength]
    assert all(loss > solution.loss for loss in stronger)
    assert len(solution.path) > 1


def test_out_of_fold_accuracy_is_not_that_of_memory() -> None:
    """On labels that mean nothing a flexible head learns all by heart; out of fold it is at chance."""
    features = torch.randn(60, 200, generator=torch.Generator().manual_seed(1))
    targets = np.arange(60) % 2
    solution = solve_head(features, targets, 2, strengths=[1e-6])
    learnt = (features @ solution.weight.T + solution.bias).argmax(1).numpy() == targets
    assert learnt.all()
    assert solution.accuracy < 0.75


def test_a_feature_that_never_varies_changes_nothing() -> None:
    features, targets = make_features()
    constant = torch.cat([features, torch.full((len(features), 1), 5.0)], dim=1)
    one, two = (solve_head(x, targets, 4, strengths=[0.1]) for x in (features, constant))
    logits = [x @ s.weight.T + s.bias for x, s in ((features, one), (constant, two))]
    assert torch.allclose(logits[0].softmax(1), logits[1].softmax(1), atol=1e-3)


def test_units_of_features_do_not_matter() -> None:
    features, targets = make_features()
    scale = torch.logspace(-3, 3, features.shape[1])
    one, two = (solve_head(x, targets, 4, strengths=[0.1]) for x in (features, features * scale))
    assert torch.allclose(one.weight, two.weight * scale, rtol=0.02, atol=1e-3)


@settings(max_examples=40)
@given(counts=st.lists(st.integers(1, 12), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_folds_are_stratified_and_whole(counts: list[int], seed: int) -> None:
    targets = np.repeat(np.arange(len(counts)), counts)
    groups = [f"{label}-{index // 2}" for label, n in enumerate(counts) for index in range(n)]
    fold_of = assign_folds(targets, 5, seed=seed, groups=groups)
    for group in set(groups):
        assert len({int(fold_of[i]) for i, name in enumerate(groups) if name == group}) == 1
    for label, count in enumerate(counts):
        held = fold_of[targets == label]
        assert (held == -1).all() == (count <= 2)  # one group of at most two items
        pairs = [int((held == fold).sum()) for fold in range(5)]
        assert count <= 2 or max(pairs) - min(pairs) <= 4


def test_classes_of_one_item_are_learnt_but_never_held_out() -> None:
    features = torch.eye(2) * 3
    solution = solve_head(features, np.array([0, 1]), 2)
    assert (features @ solution.weight.T + solution.bias).argmax(1).tolist() == [0, 1]
    assert (solution.loss, solution.accuracy, solution.path) == (None, None, ())


@pytest.mark.parametrize("bad", ["nan", "length", "none"])
def test_features_that_cannot_be_used_are_refused(bad: str) -> None:
    features, targets = make_features(n=10)
    if bad == "nan":
        features[3, 2] = float("nan")
    elif bad == "length":
        targets = targets[:-1]
    else:
        features, targets = features[:0], targets[:0]
    with warnings.catch_warnings(), pytest.raises(ValueError, match="features"):
        solve_head(features, targets, 4)
