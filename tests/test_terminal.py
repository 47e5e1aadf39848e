"""What a plan looks like in a terminal."""

from __future__ import annotations

from graft.backbones import load_backbone
from graft.plan import Phase, make_plan
from graft.recipe import read_recipe
from graft.terminal import result_table
from graft.wording import _rates, kept_lines
from test_plan import SPLITS


def test_every_rate_of_a_deep_network_is_shown() -> None:
    recipe = read_recipe(device="cpu", backbone="timm/vit_tiny_patch16_224:none", strategy="layer-decay")
    recipe = recipe.model_copy(update={"head_init": "random"})
    plan = make_plan(recipe, load_backbone(recipe), SPLITS)
    (phase,) = (each for each in plan.phases if isinstance(each, Phase))
    shown = _rates(phase)
    assert len(set(phase.train.rates.stages.values())) > 8
    for name, rate in phase.train.rates.stages.items():
        assert f"{name} {rate:.3g}" in shown


SELECTED = {
    "winner": "best",
    "by": "loss",
    "best_epoch": 1,
    "candidates": {"best": {}, "start": {"accuracy": 0.75, "loss": 0.5}},
}


def test_what_training_began_with_stands_beside_what_came_out() -> None:
    metrics = {
        "probe": {"accuracy": 0.5, "loss": 1.0},
        "validation": {"accuracy": 0.8, "loss": 0.4, "n": 20},
        "selected": SELECTED,
    }
    columns = [list(column.cells) for column in result_table([("full", metrics)]).columns]
    assert columns[0] == ["solved head", "before training", "full"]
    assert columns[3] == ["50.0 %", "75.0 %", "80.0 %"]


def test_a_result_that_nothing_measured_is_called_so() -> None:
    ends = [{"number": 2, "phase": "all stages", "kept": "last", "kept_epoch": None, "epochs": 1}]
    alone = {"probe": {"accuracy": 0.5, "loss": 1.0}, "phases": ends}
    assert any("Unmeasured" in line for line in kept_lines(alone))
    assert any("last of 1 epoch," in line for line in kept_lines(alone))
    tested = alone | {"test": {"accuracy": 0.5, "loss": 1.0, "n": 3}}
    assert not any("Unmeasured" in line for line in kept_lines(tested))
    assert not any("Unmeasured" in line for line in kept_lines({"probe": alone["probe"]}))
