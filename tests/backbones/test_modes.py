from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graft.backbones import load_backbone
from graft.backbones.modes import attending, attends_both_ways, can_recompute, recomputing
from graft.errors import RecipeError
from graft.plan import check
from graft.recipe import read_recipe
from small import make_tiny
from small_text import write_model


@pytest.mark.parametrize("kind", ["bert", "llama", "distilbert"])
def test_both_ways_to_attend_give_the_same(kind: str, tmp_path: Path) -> None:
    trunk = load_backbone(f"hf/{write_model(tmp_path, kind)}")
    inputs, network = trunk.preprocess.noise(4), trunk.trunk.eval()
    assert attends_both_ways(network)
    before = network.network.config._attn_implementation
    with torch.no_grad():
        plain = network(inputs)
        with attending(network, "eager"):
            assert network.network.config._attn_implementation == "eager"
            assert torch.allclose(network(inputs), plain, rtol=1e-4, atol=1e-5)
    assert network.network.config._attn_implementation == before


def test_a_network_without_the_switch_attends_as_ever() -> None:
    trunk = make_tiny().trunk
    assert not attends_both_ways(trunk) and not can_recompute(trunk)
    with attending(trunk, "eager"):
        trunk(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("name", ["text", "timm/vit_tiny_patch16_224:none"])
def test_recomputed_activations_give_the_same_gradients(name: str, tmp_path: Path) -> None:
    if name == "text":
        backbone = load_backbone(f"hf/{write_model(tmp_path, 'bert', hidden_dropout_prob=0.0)}")
    else:
        backbone = load_backbone(name, size=32)
    trunk, inputs = backbone.trunk.train(), backbone.preprocess.noise(2)
    kept: list[int] = []

    def gradients() -> dict[str, torch.Tensor]:
        kept.append(0)
        trunk.zero_grad()
        torch.manual_seed(0)

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept[-1] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            features = trunk(inputs).square().sum()
        features.backward()
        return {n: p.grad.clone() for n, p in trunk.named_parameters() if p.grad is not None}

    assert can_recompute(trunk)
    plain = gradients()
    with recomputing(trunk):
        again = gradients()
    assert kept[1] < kept[0] / 2
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        assert torch.allclose(value, again[name], rtol=1e-4, atol=1e-6), name
    gradients()
    assert kept[2] == kept[0]


def test_it_is_refused_where_it_cannot_be() -> None:
    recipe = read_recipe(strategy="full", device="cpu", train__gradient_checkpointing=True)
    with pytest.raises(RecipeError, match="gradient_checkpointing"):
        check(recipe, make_tiny())
