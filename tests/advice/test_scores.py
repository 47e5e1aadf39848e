"""Scores of features, beside what they must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from graft.advice import logme
from graft.advice.scores import forecast, h_score, knn_accuracy, log_evidence, separability


def drawn(count: int, width: int, *, signal: float = 0.0, classes: int = 2, seed: int = 0) -> Any:
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = generator.normal(size=(classes, width))
    return generator.normal(size=(count, width)) + signal * centres[labels], labels


def direct(features: np.ndarray, target: np.ndarray, weight: float, noise: float) -> float:
    """Log density a sample, with nothing but the covariance of the target written out."""
    covariance = np.eye(len(target)) / noise + features @ features.T / weight
    return float(multivariate_normal(np.zeros(len(target)), covariance).logpdf(target)) / len(target)


@pytest.mark.parametrize(("count", "width"), [(60, 8), (40, 40), (30, 90)])
def test_the_evidence_is_the_density_written_out(count: int, width: int) -> None:
    features, labels = drawn(count, width, signal=0.5)
    left, sizes, _ = np.linalg.svd(features, full_matrices=False)
    for weight, noise in ((1.0, 1.0), (0.3, 20.0), (50.0, 0.5)):
        target = (labels == 1).astype(float)
        found = log_evidence(left, sizes**2, target, weight, noise)
        assert found == pytest.approx(direct(features, target, weight, noise), abs=1e-8)


@pytest.mark.parametrize(("count", "width", "signal"), [(60, 8, 0.5), (30, 90, 0.3), (100, 512, 0.0)])
def test_logme_is_the_largest_evidence(count: int, width: int, signal: float) -> None:
    features, labels = drawn(count, width, signal=signal)
    best = []
    for each in np.unique(labels):
        target = (labels == each).astype(float)
        values = [
            -minimize(
                lambda x, target=target: -direct(features, target, np.exp(x[0]), np.exp(x[1])),
                start,
                method="Nelder-Mead",
                options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000},
            ).fun
            for start in ([0.0, 0.0], [4.0, 1.0])
        ]
        best.append(max(values))
    assert logme(features, labels) == pytest.approx(np.mean(best), abs=1e-8)


def test_more_features_than_samples_are_no_evidence_by_themselves() -> None:
    noise, labels = drawn(100, 512)
    assert -1.2 < logme(noise, labels) < 0.0  # the published fixed point gives above 10 here
    clear, _ = drawn(100, 512, signal=0.5)
    assert logme(clear, labels) > logme(noise, labels) + 0.1


def test_scores_rise_with_what_features_know() -> None:
    for score in (logme, h_score, knn_accuracy, separability):
        found = [score(*drawn(200, 16, signal=signal, classes=4)) for signal in (0.0, 0.7, 3.0)]
        assert found == sorted(found) and found[0] < found[2], score.__name__


def test_scores_do_not_depend_on_order_or_direction() -> None:
    features, labels = drawn(80, 6, signal=0.8, classes=3)
    order = np.random.default_rng(1).permutation(80)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))
    for score in (logme, h_score, knn_accuracy, separability):
        assert score(features[order] @ turn, labels[order]) == pytest.approx(
            score(features, labels), abs=1e-9
        )


def test_h_score_without_shrinkage_is_that_of_the_paper() -> None:
    features, labels = drawn(20_000, 4, signal=1.0, classes=3)
    centred = features - features.mean(0)
    means = np.stack([centred[labels == each].mean(0) for each in labels])
    plain = np.trace(np.linalg.inv(np.cov(centred.T)) @ np.cov(means.T))
    assert h_score(features, labels) == pytest.approx(plain, rel=0.01)


def test_neighbours_of_few_items() -> None:
    features = np.array([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]])
    assert knn_accuracy(features, np.array([0, 0, 1, 1]), neighbours=1) == 1.0
    assert knn_accuracy(features, np.array([0, 1, 0, 1]), neighbours=1) == 0.0


def test_separability_is_a_share() -> None:
    labels = np.array([0, 0, 1, 1])
    assert separability(np.array([[0.0], [0.0], [1.0], [1.0]]), labels) == 1.0
    assert separability(np.array([[0.0], [1.0], [0.0], [1.0]]), labels) == 0.0
    assert separability(np.zeros((4, 2)), labels) == 0.0


def test_a_power_law_is_carried_on() -> None:
    counts = np.array([100, 200, 400, 800])
    assert forecast(counts, 3 * counts**-0.5, 1600) == pytest.approx(3 * 1600**-0.5)
    assert forecast(counts, [0.1, 0.2, 0.3, 0.4], 1600) is None  # errors that rise
    assert forecast(counts, [0.1, 0.05, 0.0, 0.0], 1600) is None


@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (np.zeros(3), np.zeros(3, int), "expected"),
        (np.zeros((3, 2)), np.zeros(2, int), "expected"),
        (np.full((3, 2), np.nan), np.zeros(3, int), "finite"),
        (np.zeros((3, 2)), np.array([0.0, 1.0, 1.0]), "whole numbers"),
        (np.zeros((3, 2)), np.array([0, -1, 1]), "whole numbers"),
    ],
)
def test_what_is_no_data_is_refused(features: Any, labels: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        logme(features, labels)
