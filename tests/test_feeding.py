"""Phases that read from the store end bit for bit like those that compute everything in every step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from graft import feeding, records
from graft.backbones.contract import Backbone
from graft.checkpoint import Checkpoints
from graft.data import read_splits
from graft.data.items import Splits
from graft.data.pixels import pixel_store
from graft.errors import Interrupted
from graft.plan import Phase, Plan, make_plan
from graft.recipe import DataSettings, read_recipe
from graft.records import Record
from graft.reuse.states import States
from graft.reuse.store import Store
from graft.state import State, Trained
from graft.training import fit, fit_steps
from small import drain, make_tiny

EPOCHS = 4
BASE: dict[str, Any] = {
    "device": "cpu",
    "train__precision": "fp32",
    "train__batch_size": 8,
    "train__lr": 1e-2,
    "train__augmentation": "standard",
    "head_init": "random",
    "epochs": EPOCHS,
    "final__calibrate": False,
    "final__checkpoints": 1,
    "final__interpolate": False,
}
RUNS: dict[str, dict[str, Any]] = {
    "partial": {"strategy": "partial:1"},
    "partial, solved head": {"strategy": "partial:1", "head_init": "solved"},
    "probe": {"strategy": "probe:steps"},
    "gradual": {"strategy": "gradual:1"},
    "partial, balanced, as they are": {
        "strategy": "partial:2",
        "train__sampling": "balanced",
        "train__augmentation": "none",
    },
    "own changes": {"strategy": "partial:1", "train__augmentation": ["flip", "crop:0.3-1", "hue", "shift"]},
    "adapted statistics": {"strategy": "partial:1", "train__batchnorm": "adaptive"},
    "half the precision": {"strategy": "partial:1", "train__precision": "bf16"},
}


def plan_for(splits: Splits, **settings: Any) -> Plan:
    return make_plan(read_recipe(**(BASE | settings)), make_tiny(), splits)


def same(one: Trained, two: Trained) -> bool:
    first, second = one.model.state_dict(), two.model.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def told(found: list[Record]) -> list[Record]:
    return [each for each in found if isinstance(each, records.Stepped | records.Validated)]


def reusing(plan: Plan) -> list[Phase]:
    return [phase for phase in plan.phases if isinstance(phase, Phase) and phase.reuse is not None]


def without(plan: Plan) -> Plan:
    """The plan of the same run without reuse: what comes of it must be alike."""
    phases = [
        phase.model_copy(update={"reuse": None}) if isinstance(phase, Phase) else phase
        for phase in plan.phases
    ]
    return plan.model_copy(update={"phases": tuple(phases)})


@pytest.mark.parametrize("name", RUNS)
def test_with_a_view_for_each_epoch_training_is_that_without_a_store(
    splits: Splits, tmp_path: Path, name: str
) -> None:
    plan = plan_for(splits, reuse__views=3 * EPOCHS, **RUNS[name])
    plain = plan_for(splits, reuse__store=False, **RUNS[name])
    assert reusing(plan)
    assert not reusing(plain)
    expected, trained = drain(fit_steps(make_tiny(), splits, plain))
    for _ in range(2):  # with an empty store, and with what lies in it then
        found, reused = drain(fit_steps(make_tiny(), splits, plan, store=Store(tmp_path)))
        assert told(found) == told(expected)  # every loss, of training and of validation
        assert same(reused, trained)
        assert reused.ends == trained.ends


@pytest.mark.parametrize("name", RUNS)
def test_with_fewer_views_training_is_that_of_the_same_plan_without_a_store(
    splits: Splits, tmp_path: Path, name: str
) -> None:
    plan = plan_for(splits, reuse__views=2, **RUNS[name])
    expected, trained = drain(fit_steps(make_tiny(), splits, without(plan)))
    found, reused = drain(fit_steps(make_tiny(), splits, plan, store=Store(tmp_path)))
    assert told(found) == told(expected)
    assert same(reused, trained)
    _, storeless = drain(fit_steps(make_tiny(), splits, plan))
    assert same(storeless, trained)
    if RUNS[name].get("train__augmentation") != "none":
        more = plan_for(splits, reuse__views=8, **RUNS[name])
        assert told(drain(fit_steps(make_tiny(), splits, more))[0]) != told(found)


@contextmanager
def counting(plan: Plan) -> Iterator[list[int]]:
    """How many pictures go through the first convolution while phases that reuse train and validate.

    Not counted: what goes through it as a feed is opened, by which the network is known.
    """
    seen = [0]
    original = feeding.feed_for

    def count(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        seen[0] += len(given[0])

    @contextmanager
    def watched(run: State, phase: Phase) -> Iterator[feeding.Feed]:
        with original(run, phase) as feed:
            stem = run.model.trunk.get_submodule("stem.0")
            hook = stem.register_forward_pre_hook(count)
            assert isinstance(feed.train, States) == (phase.reuse is not None)
            try:
                yield feed
            finally:
                hook.remove()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graft.training.feed_for", watched)
        yield seen
    assert plan.phases


@pytest.mark.parametrize("name", ["partial", "probe", "adapted statistics"])
def test_a_second_run_computes_nothing_of_what_is_frozen(splits: Splits, tmp_path: Path, name: str) -> None:
    plan = plan_for(splits, reuse__views=2, **RUNS[name])
    with counting(plan) as first:
        fit(make_tiny(), splits, plan, store=Store(tmp_path))
    # Two views of 24 pictures, in the batches of training; 6 pictures to validate with, among blanks.
    assert first[0] == 2 * 24 + 32
    with counting(plan) as second:
        fit(make_tiny(), splits, plan, store=Store(tmp_path))
    assert second[0] == 0
    with counting(without(plan)) as plain:
        fit(make_tiny(), splits, without(plan))
    assert plain[0] == EPOCHS * 24 + (EPOCHS + 1) * 6


def test_gradual_unfreezing_fills_its_places_in_one_pass(splits: Splits, tmp_path: Path) -> None:
    settings = RUNS["gradual"] | {"train__augmentation": "light", "reuse__views": 1, "epochs": 3}
    plan = plan_for(splits, **settings)
    assert [phase.reuse.place for phase in reusing(plan) if phase.reuse] == [3, 2, 1]
    with counting(plan) as seen:
        trained = fit(make_tiny(), splits, plan, store=Store(tmp_path))
    assert seen[0] == 24 + 32
    assert same(trained, fit(make_tiny(), splits, without(plan)))


def test_what_a_pass_comes_by_is_kept_for_whom_it_serves(splits: Splits) -> None:
    plan = plan_for(splits, reuse__views=3, **RUNS["gradual"] | {"epochs": 6})
    first, second, third = reusing(plan)

    def wanted(*phases: object, room: int = 10**9) -> dict[int, set[int]]:
        found = feeding.coming_by(phases, 0, epochs_before=1, items=10, room=room)
        return {place: set(views) for place, views in found.items()}

    assert [phase.train.epochs for phase in (first, second, third)] == [5, 1, 5]
    assert wanted(first, second, third) == {2: {0}, 1: {0, 1, 2}}
    assert wanted(first, third, second) == {1: {2, 0, 1}}, "what lies below the second's place has moved"
    assert wanted(third, second) == {}
    assert wanted(first, second.model_copy(update={"reuse": None}), third) == {}

    def changed(phase: Phase, **values: Any) -> Phase:
        return phase.model_copy(update={"train": phase.train.model_copy(update=values)})

    others = ({"augmentation": "light"}, {"flip": not second.train.flip}, {"adapt": ("stem",)})
    for other in (*others, {"batch_size": 4}, {"sampling": "balanced"}):
        assert wanted(first, changed(second, **other), third) == {}
    balanced = [changed(phase, sampling="balanced") for phase in (first, second, third)]
    assert wanted(*balanced) == {}, "their epochs take further views of what is drawn again"
    many = [phase.model_copy(update={"views": 20}) for phase in (first, second, third)]
    assert wanted(*many) == {2: {6}, 1: {7, 8, 9, 10, 11}}
    one, two, _ = many
    assert wanted(one, two, two, two) == {2: {6, 7, 8}}, "of several that begin at one place"
    assert first.reuse is not None and second.reuse is not None
    both = 10 * (3 * first.reuse.row_bytes + second.reuse.row_bytes)
    assert wanted(first, second, third, room=both) == {2: {0}}
    assert wanted(first, second, third, room=both - 1) == {}


def test_another_learning_rate_uses_the_same_states(splits: Splits, tmp_path: Path) -> None:
    fit(make_tiny(), splits, plan_for(splits, reuse__views=2, **RUNS["partial"]), store=Store(tmp_path))
    plan = plan_for(splits, reuse__views=2, **RUNS["partial"] | {"train__lr": 1e-3})
    with counting(plan) as seen:
        fit(make_tiny(), splits, plan, store=Store(tmp_path))
    assert seen[0] == 0


def test_features_for_the_solved_head_are_computed_once(splits: Splits, tmp_path: Path) -> None:
    plan = plan_for(splits, strategy="probe", head_init="auto")
    plain = fit(make_tiny(), splits, plan)
    assert same(fit(make_tiny(), splits, plan, store=Store(tmp_path)), plain)
    calls: list[int] = []

    def watch(module: nn.Module, given: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        if type(module) is nn.Conv2d and module.in_channels == 3:
            calls.append(len(given[0]))

    hook = nn.modules.module.register_module_forward_hook(watch)
    try:
        assert same(fit(make_tiny(), splits, plan, store=Store(tmp_path)), plain)
    finally:
        hook.remove()
    assert sorted(calls) == [1, 1, 2], "single blanks to learn its form, and the noise by which it is known"


STOPS = {
    "before the first step": lambda r: isinstance(r, records.Validated) and r.epoch == 0,
    "mid-epoch": lambda r: isinstance(r, records.Stepped) and r.step == 2,
    "epoch end, before validation": lambda r: isinstance(r, records.Stepped) and r.step == 3,
    "after validation": lambda r: isinstance(r, records.Validated) and r.epoch == 1,
    "when views begin anew": lambda r: isinstance(r, records.Stepped) and r.step == 8,
}


@pytest.mark.parametrize(
    ("stop", "again"),
    [
        *((stop, "same store") for stop in STOPS),
        ("mid-epoch", "no store"),
        ("when views begin anew", "another store"),
    ],
)
def test_a_resumed_run_ends_bit_for_bit_like_one_never_stopped(
    splits: Splits, tmp_path: Path, stop: str, again: str
) -> None:
    plan = plan_for(splits, reuse__views=2, **RUNS["gradual"])
    expected, whole = drain(fit_steps(make_tiny(), splits, without(plan)))
    before: list[Record] = []
    checkpoints, store = Checkpoints(tmp_path / "run", "run"), Store(tmp_path / "store")
    steps = fit_steps(make_tiny(), splits, plan, checkpoints=checkpoints, store=store)
    with pytest.raises(Interrupted):
        for record in steps:
            before.append(record)
            if STOPS[stop](record):
                steps.throw(Interrupted("stop"))
    stores = {"same store": store, "no store": None, "another store": Store(tmp_path / "other")}
    resumed = fit_steps(make_tiny(), splits, plan, checkpoints=checkpoints, store=stores[again])
    after, trained = drain(resumed)
    assert told(before) + told(after) == told(expected)
    assert same(trained, whole)
    assert trained.ends == whole.ends


def test_the_network_is_whole_after_an_interrupt(splits: Splits, tmp_path: Path) -> None:
    plan = plan_for(splits, **RUNS["partial"])
    run = State(make_tiny(), splits, plan, None, Store(tmp_path))
    (phase,) = reusing(plan)
    pictures = torch.randn(2, 3, 8, 8)
    whole = run.model.eval()(pictures)
    with pytest.raises(Interrupted), feeding.feed_for(run, phase):
        raise Interrupted("stop")
    assert torch.equal(run.model.eval()(pictures), whole)
    assert run.model.trunk.forward.__func__ is type(run.model.trunk).forward  # type: ignore[attr-defined]


@pytest.mark.parametrize("option", ["train__mixup", "train__cutmix"])
def test_mixed_pictures_are_not_kept(splits: Splits, tmp_path: Path, option: str) -> None:
    plan = plan_for(splits, **RUNS["partial"], **{option: 0.3})
    assert not reusing(plan)
    assert all(phase.views is None for phase in plan.phases if isinstance(phase, Phase))
    trained = fit(make_tiny(), splits, plan, store=Store(tmp_path))
    assert not list(tmp_path.iterdir())
    assert same(trained, fit(make_tiny(), splits, plan))


@pytest.mark.parametrize("name", ["partial", "probe"])
@pytest.mark.parametrize("hindrance", ["a file in its place", "no room"])
def test_a_store_that_cannot_be_written_changes_nothing(
    splits: Splits, tmp_path: Path, name: str, hindrance: str
) -> None:
    (tmp_path / "taken").write_text("a file")
    store = Store(tmp_path / "taken") if hindrance == "a file in its place" else Store(tmp_path / "new", 1)
    plan = plan_for(splits, reuse__views=2, **RUNS[name])
    trained = fit(make_tiny(), splits, plan, store=store)
    assert same(trained, fit(make_tiny(), splits, without(plan)))
    assert (tmp_path / "taken").read_text() == "a file"
    assert not list(tmp_path.rglob("*.safetensors"))


def test_workers_end_the_same(splits: Splits, tmp_path: Path) -> None:
    expected = fit(make_tiny(), splits, plan_for(splits, reuse__store=False, **RUNS["partial"]))
    plan = plan_for(splits, reuse__views=EPOCHS, train__workers=2, **RUNS["partial"])
    assert same(fit(make_tiny(), splits, plan, store=Store(tmp_path)), expected)


def test_a_split_that_is_not_there_any_more_is_an_error(backbone: Backbone, splits: Splits) -> None:
    from graft.errors import TrainingError

    plan = plan_for(splits, **RUNS["partial"])
    (phase,) = reusing(plan)
    assert phase.reuse is not None
    wrong = phase.model_copy(update={"reuse": phase.reuse.model_copy(update={"place": 0})})
    run = State(backbone, splits, plan, None, Store(Path("/nowhere")))
    with (
        pytest.raises(TrainingError, match="cannot be split below its stage stem"),
        feeding.feed_for(run, wrong),
    ):
        pass


@pytest.mark.parametrize(("strategy", "keeps"), [("probe", False), ("two-phase", True)])
def test_pixels_stay_in_memory_only_where_they_are_read_again(
    tmp_path: Path, strategy: str, keeps: bool
) -> None:
    for number in range(12):
        (tmp_path / f"c{number % 2}").mkdir(exist_ok=True)
        pixels = np.full((8, 8, 3), 20 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"c{number % 2}" / f"{number}.png")
    files = read_splits(tmp_path, DataSettings(validation=0.0))
    limit = pixel_store.limit
    pixel_store.resize(0)
    pixel_store.resize(limit)
    fit(make_tiny(), files, plan_for(files, strategy=strategy, head_init="auto", epochs=1))
    assert (pixel_store.held > 0) == keeps
