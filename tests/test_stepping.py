"""One optimiser step: each option does to weights, rates and losses what it says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from graft import records
from graft.averaging import update_average
from graft.backbones.contract import Backbone
from graft.data import read_splits
from graft.data.balance import class_weights
from graft.data.items import Splits
from graft.engine import seeded
from graft.errors import TrainingError
from graft.mixing import mix_batch
from graft.plan import Phase, make_plan
from graft.recipe import DataSettings, read_recipe
from graft.schedule import cycle_momentum, rate_factor
from graft.seeds import mix
from graft.state import State, Trained
from graft.stepping import Stepper, stepper_for
from graft.surgery import set_training_mode, undecayed
from graft.training import fit, fit_steps
from small import COLOURS, make_pictures, make_tiny

# Everything from a random head, by plain steps: no warm-up, no decay, nothing random but the order.
PLAIN: dict[str, Any] = {
    "device": "cpu",
    "strategy": "full",
    "head_init": "random",
    "epochs": 2,
    "train__precision": "fp32",
    "train__batch_size": 8,
    "train__lr": 1e-2,
    "train__augmentation": "none",
    "train__schedule": "constant",
    "train__warmup": 0,
    "train__weight_decay": 0.0,
    "train__clip": 0,
}


@pytest.fixture
def backbone() -> Backbone:
    """The tiny network without dropout."""
    backbone = make_tiny()
    for module in backbone.trunk.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return backbone


@pytest.fixture
def alone(splits: Splits) -> Splits:
    """Without validation data: the last weights are kept, whatever they are worth."""
    return replace(splits, val=None)


@pytest.fixture
def uneven() -> Splits:
    """20 blue pictures, 3 green and 1 red."""
    counts = {"blue": 20, "green": 3, "red": 1}
    pictures = np.concatenate([make_pictures(label, count, seed=0) for label, count in counts.items()])
    labels = [label for label, count in counts.items() for _ in range(count)]
    return read_splits((list(pictures), labels), DataSettings(validation=0.0), seed=0)


def plan_for(backbone: Backbone, splits: Splits, **settings: Any) -> Any:
    return make_plan(read_recipe(**(PLAIN | settings)), backbone, splits)


def fitted(backbone: Backbone, splits: Splits, **settings: Any) -> Trained:
    return fit(backbone, splits, plan_for(backbone, splits, **settings))


@contextmanager
def ready(backbone: Backbone, splits: Splits, **settings: Any) -> Iterator[Stepper]:
    """The stepper of a run's first phase, before any step."""
    run = State(backbone, splits, plan_for(backbone, splits, **settings), None)
    phase = run.plan.phases[0]
    assert isinstance(phase, Phase)
    run.begin_phase(phase)
    set_training_mode(run.model.trunk, backbone.stages, phase.train.stages)
    run.model.head.train()
    with stepper_for(run, phase) as stepper:
        yield stepper


def take_step(stepper: Stepper, number: int = 0) -> float:
    """One step on eight pictures, as the ``number``-th of the first epoch."""
    run = stepper.run
    run.position = replace(run.position, step=number)
    batch = list(range(0, 24, 3))
    pictures = run.inputs(run.splits.train)
    tensors = torch.stack([pictures[item][0] for item in batch])
    assert run.splits.train.targets is not None
    return stepper.step(batch, tensors, torch.from_numpy(run.splits.train.targets[batch])).loss


def weights_of(stepper: Stepper) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in stepper.run.model.named_parameters()}


# ---------------------------------------------------------------------------------------------
# Rates, momentum, decay, clipping.


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step", "one-cycle", "constant"])
def test_every_group_follows_the_schedule_from_its_own_peak(
    backbone: Backbone, alone: Splits, schedule: str
) -> None:
    settings = {"train__schedule": schedule, "train__drop_epochs": 1, "train__warmup": "2 steps"}
    with ready(backbone, alone, train__head_lr=0.05, **settings) as stepper:
        phase = stepper.phase
        assert len({group.rate for group in phase.groups}) == 4  # three stages and the head
        for number in range(phase.steps):
            stepper._set_rates(number)
            factor = rate_factor(
                number, steps=6, warmup=2, schedule=schedule, drop_every=3, drop_factor=0.1
            )
            for group, planned in zip(stepper.optimizer.param_groups, phase.groups, strict=True):
                assert group["lr"] == pytest.approx(planned.rate * factor)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_one_cycle_moves_the_momentum_and_the_others_leave_it(
    backbone: Backbone, alone: Splits, optimizer: str
) -> None:
    def momenta(stepper: Stepper) -> set[float]:
        return {
            group.get("momentum", group.get("betas", [0])[0]) for group in stepper.optimizer.param_groups
        }

    with ready(
        backbone, alone, train__optimizer=optimizer, train__schedule="one-cycle", train__warmup="2 steps"
    ) as stepper:
        for number in (0, 1, 2, 5):
            stepper._set_rates(number)
            assert momenta(stepper) == {cycle_momentum(number, steps=6, warmup=2)}
    with ready(backbone, alone, train__optimizer=optimizer) as stepper:
        stepper._set_rates(3)
        assert momenta(stepper) == {0.9}
        assert all(group.get("nesterov", True) for group in stepper.optimizer.param_groups)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_weight_decay_spares_norms_and_biases(backbone: Backbone, alone: Splits, optimizer: str) -> None:
    results = []
    for decay in (0.0, 0.5):
        with ready(backbone, alone, train__weight_decay=decay, train__optimizer=optimizer) as stepper:
            before = weights_of(stepper)
            take_step(stepper)
            results.append(weights_of(stepper))
            spared = undecayed(stepper.run.model)
    assert spared == {name for name in before if before[name].dim() == 1}
    for name, start in before.items():
        plain, decayed = (each[name] for each in results)
        if name in spared:
            assert torch.equal(plain, decayed), name
        else:
            assert not torch.equal(plain, decayed), name
            if optimizer == "adamw":  # apart from the gradient: a share of the weight itself
                group = next(g for g in stepper.phase.groups if name in g.parameters)
                assert torch.allclose(decayed, plain - group.rate * 0.5 * start, atol=1e-7), name


@pytest.mark.parametrize(("clip", "largest"), [(1e-3, 1e-3), (1e3, None), (0, None), (None, None)])
def test_clipping_limits_the_norm_of_the_whole_gradient(
    backbone: Backbone, alone: Splits, clip: float | None, largest: float | None
) -> None:
    """The first step of sgd with Nesterov momentum is 1.9 times rate times gradient."""
    given = {**PLAIN, "train__optimizer": "sgd", "strategy": "full:0.1", "train__lr": None}
    del given["train__clip"]
    recipe = read_recipe(settings=[f"train.clip={'null' if clip is None else clip}"], **given)
    run = State(backbone, alone, make_plan(recipe, backbone, alone), None)
    phase = run.plan.phases[0]
    assert isinstance(phase, Phase)
    with stepper_for(run, phase) as stepper:
        before = weights_of(stepper)
        take_step(stepper)
        after = weights_of(stepper)
    moves = torch.cat([((before[name] - after[name]) / 0.19).flatten() for name in before])
    if largest is None:
        assert float(moves.norm()) > 0.1
    else:
        assert float(moves.norm()) == pytest.approx(largest, rel=1e-2)


def test_a_loss_that_is_not_finite_stops(backbone: Backbone, alone: Splits) -> None:
    with ready(backbone, alone) as stepper:
        with torch.no_grad():
            for parameter in stepper.run.model.head.parameters():
                parameter.fill_(float("nan"))
        with pytest.raises(
            TrainingError, match=r"loss is nan in phase 'all stages'.*item \d+, .*train\.lr"
        ):
            take_step(stepper)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_what_thaws_steps_beside_what_moved_before(
    backbone: Backbone, alone: Splits, optimizer: str
) -> None:
    """In one group, and as if alone: its first step is that of an optimiser that begins with it."""
    table = {"train__rates": {"*": 1e-2, "head": 1e-2}, "train__lr": None, "train__optimizer": optimizer}
    plan = plan_for(backbone, alone, strategy="two-phase", phase={"1": {"epochs": 1}}, **table)
    run = State(backbone, alone, plan, None)
    alone_phase, whole = plan.phases
    assert isinstance(alone_phase, Phase)
    assert isinstance(whole, Phase)
    with stepper_for(run, alone_phase) as stepper:
        take_step(stepper)
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    run.position = replace(run.position, phase=1)
    with stepper_for(run, whole) as stepper:
        take_step(stepper)
    moved = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    with torch.no_grad():
        for name, value in run.model.named_parameters():
            value.copy_(before[name])
    run.optimizer_state = {}
    with stepper_for(run, whole) as stepper:
        take_step(stepper)
    for name, value in run.model.named_parameters():
        if name.startswith("trunk."):
            assert not torch.equal(value, before[name]), name
            assert torch.allclose(value, moved[name], atol=1e-7), name
        else:
            assert not torch.equal(value, moved[name]), name  # the head remembers


# ---------------------------------------------------------------------------------------------
# L2-SP.


def test_l2sp_pulls_the_bodys_weights_toward_the_pretrained_ones(backbone: Backbone, alone: Splits) -> None:
    """After a step apart from the gradient, by rate times strength of the way back."""
    results = []
    for strength in (0.0, 20.0):
        with ready(backbone, alone, train__l2sp=strength, train__weight_decay=0.3) as stepper:
            take_step(stepper)
            results.append(weights_of(stepper))
            phase = stepper.phase
    start = {f"trunk.{name}": value for name, value in backbone.trunk.named_parameters()}
    decays = {name: group.weight_decay for group in phase.groups for name in group.parameters}
    rates = {name: group.rate for group in phase.groups for name in group.parameters}
    for name, value in results[1].items():
        decayed = value.dim() > 1
        assert decays[name] == (0.3 if decayed and name.startswith("head.") else 0.0), name
        if decayed and name.startswith("trunk."):
            # Without its pull, the step would have ended at ``free``: there is no decay to zero beside it.
            share = rates[name] * 20.0
            free = (value - share * start[name]) / (1 - share)
            plain = results[0][name] + rates[name] * 0.3 * start[name]
            assert torch.allclose(free, plain, atol=1e-5), name
        else:
            assert torch.equal(value, results[0][name]), name


def test_a_strong_pull_keeps_the_body_at_its_start_and_the_head_goes_on(
    backbone: Backbone, alone: Splits
) -> None:
    """Strength is cut at the whole way back: it never overshoots."""
    ends = [fitted(backbone, alone, train__l2sp=strength).model.state_dict() for strength in (0.0, 1e6)]
    start = backbone.trunk.state_dict()
    for name in ("stem.0.weight", "top.0.weight"):
        assert not torch.equal(ends[0][f"trunk.{name}"], start[name])
        assert torch.allclose(ends[1][f"trunk.{name}"], start[name], atol=1e-7)


# ---------------------------------------------------------------------------------------------
# EMA.


def test_the_running_average_is_that_of_the_weights_after_each_step(
    backbone: Backbone, alone: Splits
) -> None:
    plan = plan_for(backbone, alone, train__ema=0.9)
    steps = fit_steps(backbone, alone, plan)
    expected: dict[str, Tensor] = {}
    seen, number = None, 0
    while True:
        try:
            record = next(steps)
        except StopIteration as end:
            trained: Trained = end.value
            break
        run: State = steps.gi_frame.f_locals["run"]
        if isinstance(record, records.Started):
            expected = {name: value.clone() for name, value in run.moving_values().items()}
        if isinstance(record, records.Stepped):
            number += 1
            update_average(expected, run.moving_values(), 0.9, number)
            seen = {name: value.clone() for name, value in run.moving_values().items()}
    assert number == plan.phases[0].steps
    assert seen is not None
    # Without validation data the average is what is kept.
    kept = trained.model.state_dict()
    for name, value in expected.items():
        assert torch.allclose(kept[name], value, atol=1e-6), name
        assert not torch.equal(kept[name], seen[name]) or not value.is_floating_point(), name


# ---------------------------------------------------------------------------------------------
# Losses.


def loss_of(backbone: Backbone, splits: Splits, **settings: Any) -> float:
    with ready(backbone, splits, **settings) as stepper:
        return take_step(stepper)


def batch_of(backbone: Backbone, splits: Splits) -> tuple[Tensor, Tensor]:
    """Log-probabilities and targets of the batch of ``take_step``, before the step."""
    with ready(backbone, splits) as stepper:
        run = stepper.run
        pictures = run.inputs(run.splits.train)
        tensors = torch.stack([pictures[item][0] for item in range(0, 24, 3)])
        with torch.no_grad():
            logs = run.model(tensors).log_softmax(1)
        assert run.splits.train.targets is not None
        return logs, torch.from_numpy(run.splits.train.targets[list(range(0, 24, 3))])


def test_the_loss_is_as_asked(backbone: Backbone, uneven: Splits) -> None:
    logs, targets = batch_of(backbone, uneven)
    own = logs.gather(1, targets[:, None]).squeeze(1)
    weights = class_weights(uneven.train.targets, 3)
    assert weights.tolist() == pytest.approx([24 / (3 * 20), 24 / (3 * 3), 24 / 3])
    expected = {
        "plain": (-own, {}),
        "smoothed": (-0.8 * own - 0.2 * logs.mean(1), {"train__label_smoothing": 0.2}),
        "focal": (-((1 - own.exp()) ** 2) * own, {"train__focal": 2.0}),
        "balanced": (-own * weights[targets], {"train__class_weights": "balanced"}),
    }
    found = {name: loss_of(backbone, uneven, **more) for name, (_, more) in expected.items()}
    assert found == pytest.approx({name: float(loss.mean()) for name, (loss, _) in expected.items()})
    assert len({round(value, 4) for value in found.values()}) == 4


def test_mixing_is_seeded_by_the_step(backbone: Backbone, alone: Splits) -> None:
    settings = {"train__mixup": 0.5}
    assert loss_of(backbone, alone, **settings) == loss_of(backbone, alone, **settings)
    with ready(backbone, alone, **settings, train__lr=1e-30, train__head_lr=1e-30) as stepper:
        losses = [take_step(stepper, number) for number in range(3)]
    assert len({round(loss, 5) for loss in losses}) == 3
    with ready(backbone, alone, train__lr=1e-30, train__head_lr=1e-30) as stepper:
        plain = [take_step(stepper, number) for number in range(3)]
    assert plain == pytest.approx([plain[0]] * 3)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_sets_of_labels_are_mixed_as_rows(backbone: Backbone, kind: str) -> None:
    """Blue pictures are called cold, too: where two meet, what both have is there whole."""
    sets = [["blue", "cold"], ["green", "cold"], ["red"]] * 8
    pictures = [make_pictures(names[0], 1, seed=number)[0] for number, names in enumerate(sets)]
    splits = read_splits((pictures, sets), DataSettings(validation=0.0))
    assert splits.task.multi_label
    # A batch of every third picture from the first would be of one kind.
    splits = replace(splits, train=splits.train.select(np.random.default_rng(0).permutation(24)))
    with ready(backbone, splits, **{f"train__{kind}": 1.0}) as stepper:
        run, strengths = stepper.run, {"mixup": 0.0, "cutmix": 0.0, kind: 1.0}
        batch = list(range(0, 24, 3))
        tensors = torch.stack([run.inputs(splits.train)[item][0] for item in batch])
        rows = torch.from_numpy(splits.train.targets[batch]).float()
        for number in range(2):
            with torch.no_grad(), seeded(mix(run.plan.seed, 0, number, 0), torch.device("cpu")):
                mixed, shares = mix_batch(tensors, rows, **strengths)
                expected = float(splits.task.losses(run.model(mixed), shares).mean())
            assert ((shares > 0) & (shares < 1)).any()
            assert (shares.sum(1) > 1).any()
            before = weights_of(stepper)
            assert take_step(stepper, number) == pytest.approx(expected, abs=1e-6)
            assert any(not torch.equal(before[name], value) for name, value in weights_of(stepper).items())


# ---------------------------------------------------------------------------------------------
# Sampling.


def drawn(backbone: Backbone, splits: Splits, **settings: Any) -> list[list[str]]:
    """The labels drawn in each epoch."""
    plan = plan_for(backbone, splits, epochs=3, **settings)
    from graft.training import _draws

    run = State(backbone, splits, plan, None)
    phase = plan.phases[0]
    assert splits.train.targets is not None
    return [
        [splits.task.labels[splits.train.targets[item]] for item, _ in _draws(run, phase, epoch)]
        for epoch in range(3)
    ]


def test_balanced_sampling_draws_every_class_alike(backbone: Backbone, uneven: Splits) -> None:
    for epoch in drawn(backbone, uneven):
        assert [epoch.count(label) for label in COLOURS] == [20, 3, 1]
    for epoch in drawn(backbone, uneven, train__sampling="balanced"):
        assert [epoch.count(label) for label in COLOURS] == [8, 8, 8]


def test_an_item_that_is_drawn_again_is_seen_in_another_view(backbone: Backbone, uneven: Splits) -> None:
    from graft.training import _draws

    plan = plan_for(backbone, uneven, train__sampling="balanced")
    run = State(backbone, uneven, plan, None)
    phase = plan.phases[0]
    draws = [_draws(run, phase, epoch) for epoch in range(4)]
    for epoch in draws:
        assert len(set(epoch)) == len(epoch) == 24
    rare = [item for epoch in draws for item in epoch if uneven.train.targets[item[0]] == 2]
    assert len(set(rare)) == len(rare) == 32  # also from epoch to epoch


@pytest.mark.parametrize("option", ["sampling", "class_weights"])
def test_balance_keeps_a_head_from_following_the_frequency(
    backbone: Backbone, uneven: Splits, option: str
) -> None:
    """On features that are all alike a head can learn nothing but the share of each class."""
    with torch.no_grad():
        backbone.trunk.top[1].weight.zero_()
    shares = {}
    for how in ("plain", "balanced"):
        asked = {f"train__{option}": how} if how == "balanced" else {}
        trained = fitted(
            backbone,
            uneven,
            strategy="probe:steps",
            epochs=60,
            train__head_lr=0.1,
            head_dropout=0.0,
            **asked,
        )
        with torch.no_grad():
            shares[how] = trained.model(torch.zeros(1, 3, 8, 8)).softmax(1)[0].tolist()
    assert shares["plain"] == pytest.approx([20 / 24, 3 / 24, 1 / 24], abs=0.08)
    assert shares["balanced"] == pytest.approx([1 / 3] * 3, abs=0.08)
