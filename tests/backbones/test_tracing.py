from __future__ import annotations

import pytest
import torch
from tiny import Cnn, Vit
from torch import Tensor, nn

from graft.backbones.assembly import state_digest
from graft.backbones.tracing import trace_network
from graft.errors import BackboneError

PICTURE = torch.randn(1, 3, 16, 16)


def test_order_of_first_use_is_that_of_execution_not_of_declaration() -> None:
    trace = trace_network(Cnn(), PICTURE)
    order = sorted(trace.first_use, key=trace.first_use.__getitem__)
    assert order[0] == "conv.weight" and order[-1].startswith("fc.")
    assert trace.first_use["lower.1.conv.weight"] < trace.first_use["upper.0.conv.weight"]


def test_parameters_used_without_their_module_are_seen() -> None:
    trace = trace_network(Vit(), PICTURE)
    assert trace.first_use["positions"] < trace.first_use["blocks.0.linear1.weight"]
    assert trace.first_use["late_token"] > trace.first_use["blocks.2.linear2.weight"]
    assert "spare.weight" not in trace.first_use


def test_every_parameter_of_fused_attention_has_its_own_time() -> None:
    trace = trace_network(Vit(), PICTURE)
    attention = trace.first_use["blocks.0.self_attn.in_proj_weight"]
    assert attention < trace.first_use["blocks.0.linear1.weight"] < trace.first_use["blocks.0.norm2.weight"]


def scale_by(x: Tensor, scales: list[Tensor]) -> Tensor:
    return x * scales[0]


# torch itself says that scripting is deprecated; timm still scripts some of its functions.
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_parameters_inside_scripted_functions_are_seen() -> None:
    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return traced(x, [self.scale]).mean((2, 3))

    traced = torch.jit.script(scale_by)
    assert "scale" in trace_network(Scripted(), PICTURE).first_use


@pytest.mark.parametrize("make", [Cnn, Vit])
def test_nothing_is_changed(make: type[nn.Module]) -> None:
    model = make().train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    before, random = state_digest(model), torch.get_rng_state()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    trace_network(model, PICTURE)
    assert state_digest(model) == before
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.backends.mha.get_fastpath_enabled() == fastpath
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_state_is_known_where_one_tensor_carries_everything() -> None:
    trace = trace_network(Cnn(), PICTURE)
    assert trace.calls["upper"].state is not None
    assert trace.calls["upper"].shape == (1, 8, 7, 7)
    assert trace.calls["lower"].end < trace.calls["upper"].start


def test_a_wrong_input_is_an_error_in_words() -> None:
    with pytest.raises(BackboneError, match="1x5x16x16"):
        trace_network(Cnn(), torch.zeros(1, 5, 16, 16))
