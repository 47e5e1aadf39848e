"""The loop: what is frozen stays, the best is kept, and a resumed run ends like one never stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graft import records
from graft.backbones.contract import Backbone
from graft.checkpoint import Checkpoints
from graft.data import read_splits
from graft.data.dataset import Pictures
from graft.data.items import Splits
from graft.errors import Interrupted, TrainingError, WorkersLost
from graft.plan import Plan, make_plan
from graft.recipe import DataSettings, read_recipe
from graft.records import Record
from graft.training import Trained, fit, fit_steps
from small import COLOURS, drain, make_pictures, make_tiny

BASE = {
    "device": "cpu",
    "strategy": "two-phase",
    "train__precision": "fp32",
    "train__batch_size": 8,
    "epochs": 2,
}


def plan_for(backbone: Backbone, splits: Splits, **settings: Any) -> Plan:
    return make_plan(read_recipe(**(BASE | settings)), backbone, splits)


def fit_last(backbone: Backbone, splits: Splits, **settings: Any) -> Trained:
    """Fitted without validation data: the last weights, so that what moves is seen in any case."""
    splits = replace(splits, val=None)
    return fit(backbone, splits, plan_for(backbone, splits, **settings))


def ended(found: list[Record]) -> records.Finished:
    """The end of the last phase of gradient steps."""
    return [each for each in found if isinstance(each, records.Finished) and each.epochs][-1]


def tensors_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("strategy", ["probe", "partial:1", "partial:2", "full", "two-phase"])
@pytest.mark.parametrize("head_init", ["auto", "random"])
def test_what_is_frozen_is_byte_identical_and_the_rest_moves(
    backbone: Backbone, splits: Splits, strategy: str, head_init: str
) -> None:
    before = {name: value.clone() for name, value in backbone.trunk.state_dict().items()}
    trained = fit_last(backbone, splits, strategy=strategy, head_init=head_init, train__lr=1e-2)
    after = trained.model.trunk.state_dict()
    frozen = {"probe": 3, "partial:1": 2, "partial:2": 1, "full": 0, "two-phase": 0}[strategy]
    for index, stage in enumerate(backbone.stages):
        for name in stage.parameters:
            assert torch.equal(before[name], after[name]) == (index < frozen), name
    for name in before:
        if "running" in name or "num_batches" in name:
            assert torch.equal(before[name], after[name]), name
    assert tensors_equal(before, backbone.trunk.state_dict()), "the backbone itself was changed"


def test_from_scratch_the_statistics_of_batchnorm_train(splits: Splits) -> None:
    backbone = make_tiny(pretrained=False)
    trained = fit_last(backbone, splits, strategy="scratch", epochs=1)
    name = "stem.1.running_mean"
    assert not torch.equal(trained.model.trunk.state_dict()[name], backbone.trunk.state_dict()[name])


def test_training_learns(backbone: Backbone, splits: Splits) -> None:
    found, _ = drain(fit_steps(backbone, splits, plan_for(backbone, splits, epochs=6, train__lr=3e-3)))
    losses = [record.loss for record in found if isinstance(record, records.Stepped)]
    assert losses[-1] < losses[0]
    last = [record for record in found if isinstance(record, records.Validated)][-1]
    assert last.accuracy is not None
    assert last.accuracy > 0.6


def test_the_start_is_a_candidate_and_ruin_is_not_kept(backbone: Backbone, splits: Splits) -> None:
    plan = plan_for(backbone, splits, train__lr=50.0, train__clip=None, train__augmentation="none")
    found, trained = drain(fit_steps(backbone, splits, plan))
    assert ended(found).kept_epoch == 0
    assert trained.selected is not None
    assert trained.selected["winner"] == "best"
    state = trained.model.trunk.state_dict()
    assert tensors_equal(dict(state), dict(backbone.trunk.state_dict()))


@pytest.mark.parametrize("select", ["loss", "accuracy"])
def test_the_weights_kept_are_those_of_the_best_score(
    backbone: Backbone, splits: Splits, select: str
) -> None:
    plan = plan_for(
        backbone,
        splits,
        strategy="full",
        epochs=5,
        train__lr=2e-2,
        train__select=select,
        head_init="random",
        # Nothing but the best and the last are there to choose from; none beats the best clearly.
        final__checkpoints=1,
    )
    found, trained = drain(fit_steps(backbone, splits, plan))
    scores = [record for record in found if isinstance(record, records.Validated)]
    key = (lambda r: -r.accuracy) if select == "accuracy" else (lambda r: r.loss)
    best = min(scores, key=key)
    assert ended(found).kept_epoch == best.epoch
    assert trained.selected is not None
    assert trained.selected["winner"] == "best"
    assert [record.best for record in scores].count(True) >= 1
    logits = logits_of(trained, splits)
    loss = splits.task.losses(logits, torch.from_numpy(splits.val.targets)).mean()
    assert float(loss) == pytest.approx(best.loss, rel=1e-4)


def logits_of(trained: Trained, splits: Splits) -> torch.Tensor:
    from graft.data.dataset import Pictures
    from graft.inference import forward_all

    pictures = Pictures(splits.val, make_tiny().preprocess)
    return forward_all(trained.model, pictures, torch.device("cpu"))


def test_without_validation_data_the_last_weights_are_kept_and_the_plan_says_so(
    backbone: Backbone, splits: Splits
) -> None:
    splits = replace(splits, val=None)
    plan = plan_for(backbone, splits)
    assert any("no validation data" in note for note in plan.notes)
    found, trained = drain(fit_steps(backbone, splits, plan))
    assert found[-1] == records.Finished(phase=1, kept_epoch=None, epochs=2)
    told = {"number": 2, "phase": "all stages", "kept": "last", "kept_epoch": None, "epochs": 2}
    assert trained.ends == (told,)


def test_early_stopping_ends_a_phase(backbone: Backbone, splits: Splits) -> None:
    settings = {"train__lr": 50.0, "train__clip": None, "train__patience": 2}
    plan = plan_for(backbone, splits, epochs=30, train__warmup=0, **settings)
    found, _ = drain(fit_steps(backbone, splits, plan))
    assert ended(found).epochs == 2


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_a_batch_in_parts_gives_what_the_whole_batch_gives(
    backbone: Backbone, splits: Splits, optimizer: str
) -> None:
    # Without dropout, whose masks differ by part.
    for module in backbone.trunk.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    settings = {"train__optimizer": optimizer, "train__sampling": "balanced", "train__mixup": 0.2}
    results = [
        fit_last(backbone, splits, train__accumulate=parts, **settings).model.state_dict()
        for parts in (1, 3)
    ]
    for name in results[0]:
        assert torch.allclose(results[0][name], results[1][name], atol=1e-5), name


def test_the_same_plan_gives_the_same_bits_and_another_seed_others(
    backbone: Backbone, splits: Splits
) -> None:
    torch.manual_seed(123)
    one = fit(backbone, splits, plan_for(backbone, splits)).model.state_dict()
    torch.manual_seed(321)
    two = fit(backbone, splits, plan_for(backbone, splits)).model.state_dict()
    other = fit(backbone, splits, plan_for(backbone, splits, seed=1)).model.state_dict()
    assert tensors_equal(one, two)
    assert not tensors_equal(one, other)


def test_training_leaves_the_callers_random_numbers_alone(backbone: Backbone, splits: Splits) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fit(backbone, splits, plan_for(backbone, splits, train__augmentation="standard"))
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(backbone: Backbone, splits: Splits) -> None:
    plan = plan_for(backbone, splits, train__lr=1e30, train__clip=None, epochs=10, head_init="random")
    with pytest.raises(TrainingError, match=r"loss is (nan|inf).*epoch \d+.*item \d+.*train.lr"):
        fit(backbone, splits, plan)


def test_values_that_are_frozen_but_move_are_found_out(splits: Splits) -> None:
    class Sly(torch.nn.Module):
        """Writes to itself in evaluation mode."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.conv(pictures).mean(dim=(2, 3))

    from graft.backbones import from_module

    backbone = from_module(Sly(), preprocess=make_tiny().preprocess, head=None)
    with pytest.raises(TrainingError, match="frozen moved"):
        fit(backbone, splits, plan_for(backbone, splits, strategy="probe"))


class Tied(torch.nn.Module):
    """Two names for one weight, and a buffer that moves in training (both are common in the wild)."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.two = torch.nn.utils.spectral_norm(torch.nn.Conv2d(3, 3, 3, padding=1))
        self.three = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.three.weight = self.one.weight

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.three(self.two(self.one(pictures)).relu()).mean(dim=(2, 3))


@pytest.mark.parametrize("strategy", ["full", "probe"])
def test_tied_weights_and_moving_buffers_train_with_their_stage(splits: Splits, strategy: str) -> None:
    from graft.backbones import from_module

    torch.manual_seed(0)
    backbone = from_module(Tied(), preprocess=make_tiny().preprocess, head=None)
    before = {name: value.clone() for name, value in backbone.trunk.state_dict().items()}
    trained = fit_last(backbone, splits, strategy=strategy)
    after = trained.model.trunk.state_dict()
    for name in ("one.weight", "three.weight", "two.weight_u"):
        assert torch.equal(before[name], after[name]) == (strategy == "probe"), name


def test_features_that_are_not_finite_name_their_pictures(splits: Splits) -> None:
    from graft.backbones import from_module

    class Dividing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3)

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return self.conv(pictures).mean(dim=(2, 3)) / (pictures.mean(dim=(1, 2, 3)) > 0)[:, None]

    backbone = from_module(Dividing(), preprocess=make_tiny().preprocess, head=None)
    with pytest.raises(TrainingError, match=r"not finite for \d+ of 24 items \(item \d+"):
        fit(backbone, splits, plan_for(backbone, splits, strategy="probe"))


def test_optimiser_state_survives_into_the_next_phase(backbone: Backbone, splits: Splits) -> None:
    from graft import stepping

    seen: list[dict[str, int]] = []
    original = stepping._make_optimizer

    def watch(run: Any, phase: Any) -> torch.optim.Optimizer:
        optimizer = original(run, phase)
        names = {id(p): name for name, p in run.model.named_parameters()}
        seen.append({names[id(p)]: int(state["step"]) for p, state in optimizer.state.items()})
        return optimizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stepping, "_make_optimizer", watch)
        fit(backbone, splits, plan_for(backbone, splits, head_init="random"))
    per_epoch = 3
    assert seen == [{}, {"head.weight": 5 * per_epoch, "head.bias": 5 * per_epoch}] or seen[1] == {
        "head.0.weight": 5 * per_epoch,
        "head.0.bias": 5 * per_epoch,
    }


# ---------------------------------------------------------------------------------------------
# Exact resume. With 24 items in batches of 8 an epoch has 3 steps. The records of the run, two
# phases: Started Extracted Solved Finished | Started Validated(0) Step Step Step Validated(1) …

STOPS = {
    "after the head is solved": lambda r: isinstance(r, records.Solved),
    "between phases": lambda r: isinstance(r, records.Finished) and r.phase == 0,
    "before the first step": lambda r: isinstance(r, records.Validated) and r.epoch == 0,
    "step 1": lambda r: isinstance(r, records.Stepped) and r.step == 1,
    "mid-epoch": lambda r: isinstance(r, records.Stepped) and r.step == 2,
    "epoch end, before validation": lambda r: isinstance(r, records.Stepped) and r.step == 3,
    "after validation": lambda r: isinstance(r, records.Validated) and r.epoch == 1,
    "second epoch": lambda r: isinstance(r, records.Stepped) and r.step == 5,
    "the end of training": lambda r: isinstance(r, records.Finished) and r.phase == 1,
    "the choice": lambda r: isinstance(r, records.Selected),
    "the end": lambda r: isinstance(r, records.Calibrated),
}


def stop_and_resume(backbone: Backbone, splits: Splits, plan: Plan, stop: Any, folder: Path) -> Any:
    """Stop at the first record for which ``stop`` holds, then go on from the disk alone."""
    steps = fit_steps(backbone, splits, plan, checkpoints=Checkpoints(folder, "run"))
    before: list[Record] = []
    with pytest.raises(Interrupted):
        for record in steps:
            before.append(record)
            if stop(record):
                steps.throw(Interrupted("stop"))
    again = fit_steps(make_tiny(), splits, plan, checkpoints=Checkpoints(folder, "run"))
    after, trained = drain(again)
    return before, after, trained


def told(found: list[Record]) -> list[Record]:
    kinds = (records.Stepped, records.Validated, records.Solved)
    return [record for record in found if isinstance(record, kinds)]


@pytest.mark.parametrize("stop", STOPS)
def test_a_resumed_run_ends_bit_for_bit_like_one_never_stopped(
    backbone: Backbone, splits: Splits, tmp_path: Path, stop: str
) -> None:
    """With a solved head; test_state.py has the other combinations of options."""
    plan = plan_for(backbone, splits, train__lr=5e-3, train__augmentation="standard")
    whole, expected = drain(fit_steps(backbone, splits, plan))
    before, after, trained = stop_and_resume(backbone, splits, plan, STOPS[stop], tmp_path)
    assert tensors_equal(trained.model.state_dict(), expected.model.state_dict())
    solving = stop in ("after the head is solved", "between phases")
    assert trained.ends == expected.ends
    done = [] if solving else told(before)  # solving begins anew
    assert done + told(after) == told(whole)


@pytest.mark.parametrize("stop", ["mid-epoch", "after validation"])
def test_a_resumed_run_with_workers_ends_the_same(
    backbone: Backbone, splits: Splits, tmp_path: Path, stop: str
) -> None:
    settings = {"train__augmentation": "standard", "train__lr": 5e-3}
    expected = fit(backbone, splits, plan_for(backbone, splits, **settings))
    plan = plan_for(backbone, splits, train__workers=2, **settings)
    _, _, trained = stop_and_resume(backbone, splits, plan, STOPS[stop], tmp_path)
    assert tensors_equal(trained.model.state_dict(), expected.model.state_dict())


def test_the_log_count_of_a_checkpoint_is_the_number_of_records_told(
    backbone: Backbone, splits: Splits, tmp_path: Path
) -> None:
    plan = plan_for(backbone, splits)
    before, _, _ = stop_and_resume(backbone, splits, plan, STOPS["mid-epoch"], tmp_path / "a")
    steps = fit_steps(backbone, splits, plan, checkpoints=Checkpoints(tmp_path / "b", "run"))
    with pytest.raises(Interrupted):
        for record in steps:
            if STOPS["mid-epoch"](record):
                steps.throw(Interrupted("stop"))
    found = Checkpoints(tmp_path / "b", "run").newest()
    assert found is not None
    assert found.position.records == sum(record.logged for record in before)


def test_steps_before_a_worker_is_lost_are_saved(
    backbone: Backbone, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Pictures.batches

    def torn(self: Pictures, batches: list[Any], workers: int = 0) -> Iterator[Any]:
        for number, batch in enumerate(whole(self, batches, workers)):
            if number == 2 and self.preset != "none":  # of the training pictures
                raise WorkersLost("lost")
            yield batch

    plan = plan_for(backbone, splits, strategy="full", train__augmentation="light")
    kept = Checkpoints(tmp_path, "run")
    with monkeypatch.context() as patch:
        patch.setattr(Pictures, "batches", torn)
        with pytest.raises(WorkersLost):
            drain(fit_steps(backbone, splits, plan, checkpoints=kept))
    found = kept.newest()
    assert found is not None and (found.position.epoch, found.position.step) == (0, 2)
    resumed = fit(make_tiny(), splits, plan, checkpoints=kept)
    straight = fit(make_tiny(), splits, plan)
    assert tensors_equal(resumed.model.state_dict(), straight.model.state_dict())


def test_labels_of_one_picture_each_can_be_trained_on(backbone: Backbone) -> None:
    pictures = [make_pictures(label, 1, seed=0)[0] for label in COLOURS]
    splits = read_splits((pictures, list(COLOURS)), DataSettings(), seed=0)
    trained = fit(backbone, splits, plan_for(backbone, splits))
    assert np.isfinite(trained.seconds)
