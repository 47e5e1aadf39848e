"""Which learning rate: a range test (Smith, 2017), and the honest alternative, short runs at several rates.

The range test raises the rate from step to step and watches the loss of the batches; it takes seconds and
answers roughly, or says why it cannot. The sweep trains shortly at every rate, each from the same start and
on the same stored states, and says of each rate what became of it.

A rate is that of the topmost stage that trains (``train.lr``); other groups keep their proportion to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graft.backbones.contract import Backbone
from graft.data.items import Splits
from graft.errors import Diverged, RecipeError, TrainingError
from graft.feeding import feed_for
from graft.looking import Progress
from graft.options import Frozen
from graft.plan import Phase, Plan, make_plan
from graft.recipe import Recipe
from graft.records import Stepped, Validated
from graft.reuse.store import Store
from graft.schedule import epoch_order
from graft.seeds import mix
from graft.solving import solve_phase
from graft.state import State
from graft.stepping import set_modes, stepper_for
from graft.steps import Solve
from graft.training import fit_steps

LOWEST, HIGHEST, STEPS = 1e-7, 1.0, 100
SMOOTH = 0.9  # of the running mean of losses
GIVE_UP = 4.0  # times the lowest smoothed loss, at which the test ends
FEWEST_BATCHES = 8  # of different items, below which the curve is of these few alone
CLEAR = 3.0  # times the noise of the curve that the loss must fall by
LITTLE = 0.25  # of the best rate's gain, below which a rate is too slow
Verdict = Literal["best", "good", "too slow", "forgot", "overfits", "diverged"]


class RangeTest(Frozen):
    """Losses of batches while the rate rises. ``doubts``: why the curve allows no answer; else none.

    ``suggestions``: by rule: ``steepest``, where the loss falls fastest; ``valley``, two thirds through its
    longest fall; ``tenth``, a tenth of the rate with the lowest loss.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestions: dict[str, float]
    doubts: tuple[str, ...] = ()


class Tried(Frozen):
    """A short run at one rate. ``train``, ``validation``: losses by epoch, of the latter the start first.

    ``accuracy``: on the validation items, the start first. ``verdict`` and ``words``: what became of it.
    """

    rate: float
    train: tuple[float, ...]
    validation: tuple[float, ...]
    accuracy: tuple[float, ...]
    verdict: Verdict = "good"
    words: str = ""


def range_test(
    backbone: Backbone,
    splits: Splits,
    plan: Plan,
    *,
    low: float = LOWEST,
    high: float = HIGHEST,
    steps: int = STEPS,
    store: Store | None = None,
    progress: Progress | None = None,
) -> RangeTest:
    """Raise the rate of the plan's last phase from ``low`` to ``high`` and watch the loss.

    The backbone is left as it is, to the bit: everything happens on a copy. ``progress`` is called with
    (steps done, all of them).

    Raises:
        RecipeError: the plan trains nothing by steps, or the rates or steps are none.
    """
    if not 0 < low < high or steps < 10:
        raise RecipeError(
            f"A range from {low:g} to {high:g} in {steps} steps: rates that rise, and 10 steps."
        )
    phase, index = _main_phase(plan)
    run = State(backbone, splits, plan, None, store)
    _solve_before(run, index)
    run.begin_phase(phase)
    top = _top_rate(phase)
    rates = np.geomspace(low, high, steps)
    losses: list[float] = []
    with feed_for(run, phase) as feed, stepper_for(run, phase) as stepper:
        set_modes(run, phase.train)
        batches = list(_batches(run, phase, steps))
        different = len({item for batch in batches for item, _ in batch}) / phase.train.batch_size
        loading = feed.train.batches([run.engine.share(batch) for batch in batches], plan.numerics.workers)
        for rate, batch, (tensors, targets, _) in zip(rates, batches, loading, strict=True):
            try:
                loss = stepper.step([i for i, _ in batch], tensors, targets, factor=float(rate) / top).loss
            except Diverged:
                break
            losses.append(loss)
            smoothed = _smooth(np.array(losses))
            if progress is not None:
                progress(len(losses), steps)
            if len(losses) > 10 and smoothed[-1] > GIVE_UP * smoothed.min():
                break
    return read_curve(rates[: len(losses)], np.array(losses), different)


def read_curve(
    rates: NDArray[np.float64], losses: NDArray[np.float64], batches: float = math.inf
) -> RangeTest:
    """What a curve of losses over rising rates says; ``batches``: how many different ones there were."""
    if len(losses) < 10:
        doubt = f"The loss was no number after {len(losses)} steps: begin lower (--low)."
        return RangeTest(
            rates=tuple(rates),
            losses=tuple(losses),
            smoothed=tuple(losses),
            suggestions={},
            doubts=(doubt,),
        )
    smoothed = _smooth(losses)
    lowest = int(smoothed.argmin())
    doubts = []
    if batches < FEWEST_BATCHES:
        doubts.append(
            f"Too few items: {batches:.0f} different batches, and the loss tells more about these than "
            "about the rate."
        )
    noise = float(np.std(np.diff(losses[: max(lowest, 10)]))) / math.sqrt(2)
    fall = float(smoothed[: min(10, lowest + 1)].mean() - smoothed[lowest])
    if fall < 1e-3 * abs(float(smoothed[0])):
        doubts.append("Flat: the loss does not fall at any rate that was tried.")
    elif fall < CLEAR * noise / math.sqrt(1 / (1 - SMOOTH)):
        doubts.append(f"Noisy: the loss falls by {fall:.3g}, and jumps by {noise:.3g} from batch to batch.")
    suggestions = {} if doubts else _suggest(rates, smoothed, lowest)
    return RangeTest(
        rates=tuple(map(float, rates)),
        losses=tuple(map(float, losses)),
        smoothed=tuple(map(float, smoothed)),
        suggestions=suggestions,
        doubts=tuple(doubts),
    )


def sweep(
    recipe: Recipe,
    backbone: Backbone,
    splits: Splits,
    rates: Sequence[float],
    *,
    store: Store | None = None,
    progress: Progress | None = None,
) -> tuple[Tried, ...]:
    """Train at each rate from the same start, and say what became of it.

    Raises:
        RecipeError: no rates, or no validation items to tell by.
    """
    if not rates or any(not 0 < rate < math.inf for rate in rates):
        raise RecipeError("A sweep wants rates above zero: --sweep 1e-2,1e-3,1e-4,1e-5.")
    if splits.val is None:
        raise RecipeError("A sweep is read off validation items; leave data.validation as it is.")
    tried = []
    for number, rate in enumerate(rates):
        train = recipe.train.model_copy(update={"lr": rate})
        plan = make_plan(recipe.model_copy(update={"train": train}), backbone, splits)
        tried.append(_try(rate, backbone, splits, plan, store))
        if progress is not None:
            progress(number + 1, len(rates))
    return judge(tried, len(splits.val))


def judge(tried: Sequence[Tried], items: int) -> tuple[Tried, ...]:
    """The same with a verdict each; ``items``: how many validated."""
    whole = [each for each in tried if len(each.validation) > 1]
    best = min(whole, key=lambda each: (-each.accuracy[-1], each.validation[-1]), default=None)
    return tuple(each.model_copy(update=_verdict(each, best, items)) for each in tried)


def _verdict(each: Tried, best: Tried | None, items: int) -> dict[str, str]:
    if len(each.validation) < 2 or best is None:
        return _told("diverged", "The loss was no number: far too high.")
    start, end = each.accuracy[0], each.accuracy[-1]
    error = math.sqrt(max(start * (1 - start), 0.25 / items) / items)
    if each.train[-1] > 1.2 * each.train[0] or each.validation[-1] > 3 * each.validation[0] > 0:
        return _told(
            "diverged", f"The loss rose, from {each.train[0]:.3g} to {each.train[-1]:.3g}: too high."
        )
    if end < start - error:
        return _told(
            "forgot",
            f"Accuracy fell from {100 * start:.1f} to {100 * end:.1f} %: steps so large wipe out what the "
            "pretraining knew.",
        )
    if each is best:
        return _told(
            "best", f"The best of these: {100 * end:.1f} % after {100 * start:.1f} % at the start."
        )
    gain, most = each.train[0] - each.train[-1], best.train[0] - best.train[-1]
    if end < best.accuracy[-1] - error and gain < LITTLE * max(most, 1e-9):
        return _told(
            "too slow", f"The training loss fell by {max(gain, 0):.2g}, at the best rate by {most:.2g}."
        )
    if each.validation[-1] > 1.1 * min(each.validation) and each.train[-1] < 0.5 * each.train[0]:
        return _told(
            "overfits", "Training loss falls on while that of validation rises: stop earlier, or lower."
        )
    return _told("good", f"{100 * end:.1f} %, beside {100 * best.accuracy[-1]:.1f} % at the best rate.")


def _told(verdict: Verdict, words: str) -> dict[str, str]:
    return {"verdict": verdict, "words": words}


def _try(rate: float, backbone: Backbone, splits: Splits, plan: Plan, store: Store | None) -> Tried:
    _, index = _main_phase(plan)
    train, validation, accuracy = [], [], []
    within: list[float] = []
    try:
        for record in fit_steps(backbone, splits, plan, store=store):
            if record.phase != index:
                continue
            if isinstance(record, Stepped):
                within.append(record.loss)
            if isinstance(record, Validated) and record.loss is not None and math.isfinite(record.loss):
                validation.append(record.loss)
                accuracy.append(record.accuracy or 0.0)
                if within:
                    train.append(float(np.mean(within)))
                    within = []
    except TrainingError:
        train, validation, accuracy = train[:1], validation[:1], accuracy[:1]
    return Tried(rate=rate, train=tuple(train), validation=tuple(validation), accuracy=tuple(accuracy))


def _main_phase(plan: Plan) -> tuple[Phase, int]:
    found = [(phase, index) for index, phase in enumerate(plan.phases) if isinstance(phase, Phase)]
    if not found:
        raise RecipeError(
            f"The strategy {plan.strategy} trains nothing by steps, so it has no learning rate; name "
            "another, as in --strategy full."
        )
    return found[-1]


def _top_rate(phase: Phase) -> float:
    rates = phase.train.rates
    return next(reversed(rates.stages.values()), rates.head)


def _solve_before(run: State, index: int) -> None:
    """What comes before the phase and needs no steps: the solved head."""
    for number, phase in enumerate(run.plan.phases[:index]):
        if isinstance(phase, Solve):
            for _ in solve_phase(run, phase):
                pass
        if number < index:
            run.next_phase()


def _batches(run: State, phase: Phase, steps: int) -> Iterator[list[tuple[int, int]]]:
    """Batches of items, with the view of each: epoch after epoch, as many as there are steps."""
    made, epoch = 0, 0
    while made < steps:
        order = epoch_order(len(run.splits.train), seed=mix(run.plan.seed, "range test"), epoch=epoch)
        size = phase.train.batch_size
        view = epoch if phase.views is None else epoch % phase.views
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            if made < steps and (len(batch) == size or len(order) < size):
                yield [(item, view) for item in batch]
                made += 1
        epoch += 1


def _smooth(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """The running mean of losses, without the pull of where it began."""
    mean, found = 0.0, []
    for number, loss in enumerate(losses, start=1):
        mean = SMOOTH * mean + (1 - SMOOTH) * loss
        found.append(mean / (1 - SMOOTH**number))
    return np.array(found)


def _suggest(rates: NDArray[np.float64], smoothed: NDArray[np.float64], lowest: int) -> dict[str, float]:
    slopes = np.gradient(smoothed, np.log(rates))
    start, end = _longest_fall(smoothed[: lowest + 1])
    return {
        "steepest": float(rates[int(slopes[: lowest + 1].argmin())]),
        "valley": float(rates[start + round((end - start) * 2 / 3)]),
        "tenth": float(rates[lowest] / 10),
    }


def _longest_fall(losses: NDArray[np.float64]) -> tuple[int, int]:
    """Begin and end of the longest run of losses that falls all the way."""
    best, start = (0, len(losses) - 1 if len(losses) == 1 else 0), 0
    for place in range(1, len(losses)):
        if losses[place] >= losses[place - 1]:
            start = place
        if place - start > best[1] - best[0]:
            best = (start, place)
    return best


__all__ = ["RangeTest", "Tried", "judge", "range_test", "read_curve", "sweep"]
