"""What labels mean: losses are torch's own, decisions and thresholds do what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sklearn.metrics import average_precision_score, f1_score
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torchvision.ops import sigmoid_focal_loss

from graft.errors import DataError
from graft.task import Task

ONE = Task(("a", "b", "c", "d"))
MANY = Task(("a", "b", "c", "d"), "multi-label")
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.25])


def draw(seed: int = 0, n: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits [N, 4], class indices [N], and zeros and ones uint8 [N, 4]."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 4, generator=generator) * 3
    indices = torch.randint(0, 4, (n,), generator=generator)
    return logits, indices, (torch.rand(n, 4, generator=generator) < 0.3).to(torch.uint8)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_single_label_losses_are_torchs(smoothing: float) -> None:
    logits, targets, _ = draw()
    expected = cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    assert torch.allclose(ONE.losses(logits, targets, smoothing=smoothing), expected, atol=1e-6)
    rows = torch.rand(30, 4, generator=torch.Generator().manual_seed(1)).softmax(1)
    expected = cross_entropy(logits, rows, reduction="none", label_smoothing=smoothing)
    assert torch.allclose(ONE.losses(logits, rows, smoothing=smoothing), expected, atol=1e-6)


def test_class_weights_multiply_and_are_not_divided_out() -> None:
    logits, targets, _ = draw()
    expected = cross_entropy(logits, targets, WEIGHTS, reduction="none")
    assert torch.allclose(ONE.losses(logits, targets, weights=WEIGHTS), expected, atol=1e-6)
    smooth = ONE.losses(logits, targets, weights=WEIGHTS, smoothing=0.2)
    assert torch.allclose(smooth, WEIGHTS[targets] * ONE.losses(logits, targets, smoothing=0.2), atol=1e-6)
    rows = ONE.target_rows(targets) * 0.7 + ONE.target_rows(targets.roll(1)) * 0.3
    expected = cross_entropy(logits, rows, WEIGHTS, reduction="none")
    assert torch.allclose(ONE.losses(logits, rows, weights=WEIGHTS), expected, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"smoothing": 0.1}, {"gamma": 2.0}, {"weights": WEIGHTS, "gamma": 1.5, "smoothing": 0.3}],
)
@pytest.mark.parametrize("task", [ONE, MANY], ids=["one", "many"])
def test_the_loss_of_mixed_targets_is_the_mix_of_their_losses(task: Task, options) -> None:
    """As MixUp wants it; rows that are not mixed lose what the targets themselves lose."""
    logits, indices, rows = draw()
    targets = rows if task.multi_label else indices
    first, second = task.target_rows(targets), task.target_rows(targets.roll(1, 0))
    alone = task.losses(logits, targets, **options)
    assert torch.allclose(task.losses(logits, first, **options), alone, atol=1e-6)
    expected = 0.7 * alone + 0.3 * task.losses(logits, targets.roll(1, 0), **options)
    assert torch.allclose(task.losses(logits, 0.7 * first + 0.3 * second, **options), expected, atol=1e-5)


def test_focal_loss_is_that_of_the_paper() -> None:
    logits, targets, rows = draw()
    p = logits.softmax(1)[torch.arange(30), targets]
    assert torch.allclose(ONE.losses(logits, targets, gamma=2.0), (1 - p) ** 2 * -p.log(), atol=1e-5)
    expected = sigmoid_focal_loss(logits, rows.float(), alpha=-1, gamma=2.0).mean(1)
    assert torch.allclose(MANY.losses(logits, rows, gamma=2.0), expected, atol=1e-5)


@pytest.mark.parametrize("task", [ONE, MANY], ids=["one", "many"])
def test_focal_loss_of_what_is_certain_has_a_finite_slope(task: Task) -> None:
    logits = torch.tensor([[200.0, -200.0, -200.0, -200.0]], requires_grad=True)
    targets = torch.tensor([[1, 0, 0, 0]]) if task.multi_label else torch.tensor([0])
    task.losses(logits, targets, gamma=0.5).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_multi_label_losses_are_torchs() -> None:
    logits, _, rows = draw()
    expected = binary_cross_entropy_with_logits(logits, rows.float(), reduction="none").mean(1)
    assert torch.allclose(MANY.losses(logits, rows), expected, atol=1e-6)
    expected = binary_cross_entropy_with_logits(
        logits, rows.float(), reduction="none", pos_weight=WEIGHTS
    ).mean(1)
    assert torch.allclose(MANY.losses(logits, rows, weights=WEIGHTS), expected, atol=1e-6)
    smooth = rows.float() * 0.8 + 0.1
    expected = binary_cross_entropy_with_logits(logits, smooth, reduction="none").mean(1)
    assert torch.allclose(MANY.losses(logits, rows, smoothing=0.2), expected, atol=1e-6)


def test_probabilities_and_decisions() -> None:
    logits, _, _ = draw()
    assert torch.equal(ONE.decisions(logits), logits.argmax(1))
    assert torch.allclose(ONE.probabilities(logits).sum(1), torch.ones(30))
    assert torch.equal(MANY.decisions(logits), logits >= 0)
    strict = Task(MANY.labels, "multi-label", (0.9, 0.1, 0.5, 0.5))
    assert torch.equal(strict.decisions(logits)[:, 0], logits[:, 0].sigmoid() >= 0.9)
    cool = strict.with_temperature(2.0)
    assert torch.allclose(cool.probabilities(logits), (logits / 2).sigmoid())
    assert torch.equal(cool.decisions(logits)[:, 0], (logits[:, 0] / 2).sigmoid() >= 0.9)
    assert torch.equal(cool.losses(logits, draw()[2]), strict.losses(logits, draw()[2]))


@given(seed=st.integers(0, 5000), n=st.integers(1, 25), levels=st.integers(2, 50))
@example(seed=162, n=18, levels=21)  # where sigmoid of equal logits differs in the last bit
def test_no_threshold_has_a_better_f1(seed: int, n: int, levels: int) -> None:
    """Against every cut there is; few levels make ties."""
    generator = np.random.default_rng(seed)
    logits = torch.tensor(generator.integers(0, levels, (n, 2)) / levels * 6 - 3.1).float()
    truth = generator.integers(0, 2, (n, 2)).astype(np.uint8)
    task = Task(("x", "y"), "multi-label")
    chosen = task.choose_thresholds(logits, torch.from_numpy(truth))
    shares = task.probabilities(logits).numpy()
    decided = chosen.decisions(logits).numpy()
    for label in range(2):
        cuts = [0.5, *shares[:, label]]
        found = [f1_score(truth[:, label], shares[:, label] >= cut, zero_division=0) for cut in cuts]
        reached = f1_score(truth[:, label], decided[:, label], zero_division=0)
        assert reached == pytest.approx(max(found))
        if not truth[:, label].any() or found[0] == pytest.approx(max(found)):
            assert chosen.thresholds[label] == 0.5


def test_thresholds_are_of_multi_label_tasks_alone() -> None:
    assert ONE.choose_thresholds(*draw()[:2]) is ONE
    saturated = torch.tensor([[-60.0], [-200.0], [200.0], [200.0]])
    task = Task(("x",), "multi-label").choose_thresholds(saturated, torch.tensor([[1], [0], [1], [1]]))
    assert 0 < task.thresholds[0] < 1
    assert task.decisions(saturated).flatten().tolist() == [True, False, True, True]


def test_the_score_is_accuracy_or_mean_average_precision() -> None:
    logits, targets, rows = draw()
    assert ONE.score(logits, targets) == pytest.approx(float((logits.argmax(1) == targets).float().mean()))
    expected = average_precision_score(rows.numpy(), logits.numpy(), average="macro")
    assert MANY.score(logits, rows) == pytest.approx(expected)
    rows[:, 1] = 0
    kept = [0, 2, 3]
    expected = average_precision_score(rows[:, kept].numpy(), logits[:, kept].numpy(), average="macro")
    assert MANY.score(logits, rows) == pytest.approx(expected)
    assert math.isnan(MANY.score(logits, torch.zeros_like(rows)))
    assert (ONE.score_name, MANY.score_name) == ("accuracy", "mean average precision")


def test_measuring_follows_the_task() -> None:
    logits, targets, rows = draw()
    cool = ONE.with_temperature(3.0)
    plain, cooled = (task.measure(logits.numpy(), targets.numpy()) for task in (ONE, cool))
    assert plain.accuracy == cooled.accuracy
    assert cooled.loss == pytest.approx(float(ONE.losses(logits / 3, targets).mean()), rel=1e-4)
    found = MANY.measure(logits.numpy(), rows.numpy())
    assert found.loss == pytest.approx(float(MANY.losses(logits, rows).mean()), rel=1e-4)
    assert found.mean_average_precision == pytest.approx(MANY.score(logits, rows))


def test_a_task_survives_being_written_down() -> None:
    full = Task(("a", "b"), "multi-label", (0.25, 0.5), temperature=1.5)
    for task in (ONE, MANY, full):
        assert Task.from_dict(task.to_dict()) == task
        assert TypeAdapter(Task).validate_python(task.to_dict()) == task
    assert Task.from_dict({"kind": "single-label", "labels": ["a", "b"]}) == Task(("a", "b"))
    assert ONE.to_dict() == {"kind": "single-label", "labels": ["a", "b", "c", "d"]}


def test_names_of_targets() -> None:
    assert ONE.names_of(np.int64(2)) == ("c",)
    assert MANY.names_of(np.array([1, 0, 1, 0], np.uint8)) == ("a", "c")
    assert MANY.names_of(torch.zeros(4)) == ()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"labels": ("a",)}, "one class, 'a'; at least two"),
        ({"labels": (), "kind": "multi-label"}, "no class"),
        ({"labels": ("a", "b", "a")}, "repeated: \\['a'\\]"),
        ({"labels": ("a", "b"), "kind": "ranking"}, "no task 'ranking'"),
        ({"labels": ("a", "b"), "thresholds": (0.5, 0.5)}, "single-label task has no thresholds"),
        ({"labels": ("a", "b"), "kind": "multi-label", "thresholds": (0.5,)}, "each of the 2 labels"),
        ({"labels": ("a", "b"), "kind": "multi-label", "thresholds": (0.5, math.nan)}, "between 0 and 1"),
        ({"labels": ("a", "b"), "temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_other_tasks_are_refused(values, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Task(**values)


def test_one_label_is_enough_where_it_may_be_absent() -> None:
    assert Task(("cat",), "multi-label").classes == 1
