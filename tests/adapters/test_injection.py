"""Adapters in a backbone: where they are, how they begin, and how they go away."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from graft.adapters import adapt, merge
from graft.adapters.injection import take_out
from graft.backbones import Backbone, state_digest
from graft.errors import RecipeError
from graft.preparation import load_backbone
from graft.recipe import AdapterSettings, read_recipe
from small import make_tiny


def adapted(stages: Any = None, *, seed: int = 0, **settings: Any) -> tuple[Backbone, Backbone]:
    backbone = make_tiny()
    return backbone, adapt(backbone, AdapterSettings(**settings), stages or backbone.stage_names, seed=seed)


def disturb(backbone: Backbone) -> None:
    assert backbone.adapters is not None
    generator = torch.Generator().manual_seed(1)
    parameters = dict(backbone.trunk.named_parameters())
    with torch.no_grad():
        for name in backbone.adapters.parameters:
            parameters[name] += 0.3 * torch.randn(parameters[name].shape, generator=generator)


def features(trunk: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return trunk.eval()(make_tiny().preprocess.noise(3))


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"rslora": True}, {"bias": "all"}])
def test_they_change_nothing_until_they_learn_and_merge_into_the_plain_network(settings: dict) -> None:
    backbone, with_adapters = adapted(**settings)
    torch.testing.assert_close(
        features(with_adapters.trunk), features(backbone.trunk), rtol=1e-5, atol=1e-5
    )
    disturb(with_adapters)
    learnt = features(with_adapters.trunk)
    assert not torch.allclose(learnt, features(backbone.trunk), atol=1e-2)
    merged = copy.deepcopy(with_adapters.trunk)
    merge(merged)
    torch.testing.assert_close(features(merged), learnt, rtol=1e-5, atol=1e-5)
    assert merged.state_dict().keys() == backbone.trunk.state_dict().keys()
    assert not hasattr(merged, "peft_config")
    if not settings:  # nothing beside the adapters moved
        take_out(with_adapters.trunk)
        assert state_digest(with_adapters.trunk) == state_digest(backbone.trunk)


def test_scaling() -> None:
    ends = {}
    for name, settings in {
        "plain": {"rank": 4, "alpha": 8},
        "twice": {"rank": 4, "alpha": 16},
        "by root": {"rank": 4, "alpha": 8, "rslora": True},
    }.items():
        _, with_adapters = adapted(["top"], targets=r"top\.0", **settings)
        disturb(with_adapters)
        layer = with_adapters.trunk.get_submodule("top.0")
        ends[name] = layer.get_delta_weight("own")
    torch.testing.assert_close(ends["twice"], 2 * ends["plain"])
    torch.testing.assert_close(ends["by root"], 2 * ends["plain"])  # 8 / sqrt(4) in place of 8 / 4


@pytest.mark.parametrize(("bias", "expected"), [("none", 0), ("targets", 1), ("all", 2)])
def test_biases_that_train_are_of_the_adapted_stages(bias: str, expected: int) -> None:
    _, with_adapters = adapted(["top"], bias=bias)
    assert with_adapters.adapters is not None
    own = [name for name in with_adapters.adapters.parameters if ".lora_" not in name]
    assert len(own) == expected  # of the convolution; and of its batch-norm
    assert all(name.startswith("top.") for name in own)


def test_stages_keep_their_order_modules_and_entries() -> None:
    backbone, with_adapters = adapted()
    assert with_adapters.stage_names == backbone.stage_names
    assert [s.entry for s in with_adapters.stages] == [s.entry for s in backbone.stages]
    modules = dict(with_adapters.trunk.named_modules())
    placed = [name for stage in with_adapters.stages for name in stage.modules]
    assert set(placed) <= set(modules) and len(placed) == len(set(placed))
    assert "top.0.base_layer" in with_adapters.stages[-1].modules
    assert "top.0.lora_A.own" in with_adapters.stages[-1].modules


def test_beginnings_are_a_function_of_the_seed_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    digests = [state_digest(adapted(seed=seed)[1].trunk) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    torch.manual_seed(5)
    adapted()
    torch.manual_seed(5)
    backbone = make_tiny()
    torch.manual_seed(5)
    adapt(backbone, AdapterSettings(), backbone.stage_names)
    assert torch.equal(torch.rand(1), expected)


def test_a_recipe_loads_its_backbone_with_adapters() -> None:
    recipe = read_recipe(backbone="tiny/net", strategy="lora:2", adapters__rank=3)
    backbone = load_backbone(recipe)
    assert backbone.adapters is not None
    assert backbone.adapters.stages == backbone.stage_names[-2:]
    assert backbone.adapters.settings["rank"] == 3
    assert load_backbone(recipe.model_copy(update={"strategy": "full"})).adapters is None


def test_without_peft_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(RecipeError, match=r"pip install graft-ml\[adapters\]"):
        adapted()
