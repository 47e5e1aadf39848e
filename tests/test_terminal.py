"""What a plan looks like in a terminal."""

from __future__ import annotations

from graft.backbones import load_backbone
from graft.plan import Phase, make_plan
from graft.recipe import read_recipe
from graft.terminal import _rates
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
