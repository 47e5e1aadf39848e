"""The solved head is the optimum that scikit-learn finds, and its folds are honest."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from graft.data.balance import class_weights
from graft.probe import Solution, solve_head


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
    assert (solution.strength, solution.loss, solution.score) in solution.path
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
    assert solution.score < 0.75


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


def test_classes_of_one_item_are_learnt_but_never_held_out() -> None:
    features = torch.eye(2) * 3
    solution = solve_head(features, np.array([0, 1]), 2)
    assert (features @ solution.weight.T + solution.bias).argmax(1).tolist() == [0, 1]
    assert (solution.loss, solution.score, solution.path) == (None, None, ())


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


# --- weights ----------------------------------------------------------------------------------


def logits_of(solution: Solution, features: torch.Tensor) -> torch.Tensor:
    return features @ solution.weight.T + solution.bias


def test_balanced_class_weights_are_scikit_learns() -> None:
    features, targets = make_features()
    keep = np.concatenate([np.flatnonzero(targets == 0), np.flatnonzero(targets != 0)[:25]])
    features, targets = features[torch.from_numpy(keep)], targets[keep]
    weights = class_weights(targets, 4)
    solution = solve_head(features, targets, 4, strengths=[0.01], class_weights=weights)
    scaled = StandardScaler().fit_transform(features.numpy())
    oracle = LogisticRegression(
        C=1 / (len(targets) * 0.01), class_weight="balanced", max_iter=5000, tol=1e-9
    )
    expected = oracle.fit(scaled, targets).predict_proba(scaled)
    assert np.abs(logits_of(solution, features).softmax(1).numpy() - expected).max() < 2e-3
    plain = solve_head(features, targets, 4, strengths=[0.01])
    assert np.abs(logits_of(plain, features).softmax(1).numpy() - expected).max() > 0.05


def test_weights_of_items_are_scikit_learns() -> None:
    features, targets = make_features()
    weights = torch.from_numpy(np.random.default_rng(0).integers(0, 4, len(targets))).double()
    solution = solve_head(features, targets, 4, strengths=[0.02], weights=weights)
    scaled = StandardScaler().fit_transform(features.numpy())
    oracle = LogisticRegression(C=1 / (len(targets) * 0.02), max_iter=5000, tol=1e-9)
    expected = oracle.fit(scaled, targets, sample_weight=weights.numpy()).predict_proba(scaled)
    assert np.abs(logits_of(solution, features).softmax(1).numpy() - expected).max() < 2e-3


@pytest.mark.parametrize("weights", [torch.ones(3), -torch.ones(4), torch.full((4,), torch.nan)])
def test_weights_that_cannot_be_used_are_refused(weights: torch.Tensor) -> None:
    features, targets = make_features()
    with pytest.raises(ValueError, match="class_weights"):
        solve_head(features, targets, 4, class_weights=weights)


# --- several labels ---------------------------------------------------------------------------


def make_labels(n: int = 120, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Features, and three labels [N, 3]: a frequent one, a middling and a rare one."""
    features, _ = make_features(n, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    truth = torch.randn(features.shape[1], 3, generator=generator)
    scores = features @ truth + torch.randn(n, 3, generator=generator) * 15
    cuts = torch.stack([scores[:, c].quantile(q) for c, q in enumerate((0.4, 0.7, 0.9))])
    return features, (scores > cuts).numpy().astype(np.uint8)


@pytest.mark.parametrize("balanced", [False, True])
def test_each_label_is_scikit_learns_own_regression(balanced: bool) -> None:
    features, targets = make_labels()
    weights = class_weights(targets, 3) if balanced else None
    solution = solve_head(features, targets, 3, strengths=[0.02], class_weights=weights)
    scaled = StandardScaler().fit_transform(features.numpy())
    for label in range(3):
        positive = float(weights[label]) if weights is not None else 1.0
        oracle = LogisticRegression(
            C=1 / (len(targets) * 0.02), class_weight={0: 1.0, 1: positive}, max_iter=5000, tol=1e-9
        )
        expected = oracle.fit(scaled, targets[:, label]).predict_proba(scaled)[:, 1]
        found = logits_of(solution, features)[:, label].sigmoid().numpy()
        assert np.abs(found - expected).max() < 2e-3


def test_the_path_of_several_labels_is_out_of_fold() -> None:
    features, targets = make_labels()
    solution = solve_head(features, targets, 3)
    assert (solution.strength, solution.loss, solution.score) in solution.path
    assert solution.loss <= min(loss for _, loss, _ in solution.path) + 1e-3
    frequency = targets.mean(0)
    chance = -(frequency * np.log(frequency) + (1 - frequency) * np.log(1 - frequency)).mean()
    assert solution.loss < chance
    assert frequency.mean() < solution.score < 1
    noise = np.random.default_rng(0).permutation(targets)
    assert solve_head(features, noise, 3, strengths=[1e-6]).score < 0.6


def test_labels_that_all_have_or_none_get_their_odds() -> None:
    features, targets = make_labels()
    wide = np.column_stack([targets, np.zeros(120, np.uint8), np.ones(120, np.uint8)])
    solution = solve_head(features, wide, 5, strengths=[0.02])
    alone = solve_head(features, targets, 3, strengths=[0.02])
    assert torch.isfinite(solution.weight).all()
    assert (solution.weight[3:] == 0).all()
    assert solution.bias[3:].sigmoid().tolist() == pytest.approx([0.5 / 121, 120.5 / 121], rel=1e-4)
    assert torch.allclose(solution.weight[:3], alone.weight, atol=1e-3)


def test_no_label_varies() -> None:
    solution = solve_head(torch.randn(6, 4), np.zeros((6, 2), np.uint8), 2)
    assert (solution.weight == 0).all()
    assert solution.score == 0.0
