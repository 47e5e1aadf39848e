"""Convex problems side by side reach the minima that each has alone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.descent import History, minimise


def quadratics(seed: int, problems: int, size: int, condition: float):
    """Curvatures [P, K, K] between 1 and ``condition``, and minima [P, K]."""
    generator = torch.Generator().manual_seed(seed)
    turns, _ = torch.linalg.qr(torch.randn(problems, size, size, generator=generator).double())
    bends = torch.logspace(0, torch.tensor(condition).log10().item(), size).double()
    return turns * bends @ turns.mT, torch.randn(problems, size, generator=generator).double()


class Counted:
    """Half the squared distance from the minima, by the curvatures; counts how often it is asked."""

    def __init__(self, curvature: torch.Tensor, minima: torch.Tensor) -> None:
        self.curvature, self.minima, self.calls = curvature, minima, 0

    def __call__(self, point: torch.Tensor):
        self.calls += 1
        slope = (self.curvature @ (point - self.minima)[:, :, None])[:, :, 0]
        return 0.5 * ((point - self.minima) * slope).sum(1), slope


@settings(max_examples=25)
@given(seed=st.integers(0, 999), problems=st.integers(1, 4), condition=st.sampled_from([1.5, 30.0, 1e3]))
def test_every_problem_comes_to_its_minimum(seed: int, problems: int, condition: float) -> None:
    curvature, minima = quadratics(seed, problems, 6, condition)
    start = torch.zeros_like(minima)
    found = minimise(Counted(curvature, minima), start, torch.ones_like(start), 1e-12)
    values, _ = Counted(curvature, minima)(found)
    assert (values <= 1e-9).all()
    assert not start.any()  # the start is left as it was


def test_the_curvature_known_beforehand_saves_steps() -> None:
    minima = torch.randn(2, 30, generator=torch.Generator().manual_seed(0)).double()
    bends = torch.logspace(-3, 3, 30).double()
    plain, told = (Counted(torch.diag(bends).expand(2, 30, 30), minima) for _ in range(2))
    minimise(plain, torch.zeros_like(minima), torch.ones_like(minima), 1e-10)
    minimise(told, torch.zeros_like(minima), (1 / bends).expand(2, 30), 1e-10)
    assert told.calls <= 3 < plain.calls


def test_what_was_learned_serves_the_next_problem() -> None:
    curvature, minima = quadratics(1, 1, 12, 300.0)
    penalised = curvature + 5 * torch.eye(12).double()
    alone, after = Counted(penalised, minima), Counted(penalised, minima)
    start, inverse = torch.zeros_like(minima), torch.ones_like(minima)
    minimise(alone, start, inverse, 1e-10)
    history = History()
    minimise(Counted(curvature, minima + 1), start, inverse, 1e-10, history)
    history.bend(torch.full((12,), 5.0).double())
    minimise(after, start, inverse, 1e-10, history)
    assert after.calls < alone.calls
    for change, bend, weight in history:  # of the problem as it is now
        assert torch.allclose(bend, (penalised @ change[:, :, None])[:, :, 0], atol=1e-8)
        assert torch.allclose(weight, 1 / (change * bend).sum(1))


def test_a_solved_problem_rests_while_another_goes_on() -> None:
    curvature, minima = quadratics(2, 2, 5, 50.0)
    start = torch.stack([minima[0], torch.zeros(5).double()])
    found = minimise(Counted(curvature, minima), start, torch.ones_like(start), 1e-12)
    assert torch.equal(found[0], minima[0])
    assert torch.allclose(found[1], minima[1], atol=1e-4)


def test_more_than_the_arithmetic_can_give_ends() -> None:
    curvature, minima = quadratics(3, 2, 5, 1e4)
    single = Counted(curvature.float(), minima.float())
    minimise(single, torch.zeros(2, 5), torch.ones(2, 5), 0.0)
    assert single.calls < 500
