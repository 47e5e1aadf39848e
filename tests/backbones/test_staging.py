from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torchvision
from tiny import Cnn, Parallel, Vit
from torch import Tensor, nn

from graft.backbones.contract import Stage
from graft.backbones.staging import _longest_nondecreasing, cut_stages
from graft.backbones.tracing import trace_network
from graft.errors import BackboneError

PICTURE = torch.randn(1, 3, 16, 16)


def stages_of(module: nn.Module, picture: Tensor = PICTURE) -> tuple[Stage, ...]:
    return cut_stages(module, trace_network(module, picture))[0]


@pytest.mark.parametrize("make", [Cnn, Vit, Parallel])
def test_every_parameter_is_in_one_stage_in_order_of_use(make: type[nn.Module]) -> None:
    model = make()
    trace = trace_network(model, PICTURE)
    stages, unused = cut_stages(model, trace)
    names = [name for stage in stages for name in stage.parameters]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    used = [name for name in names if name not in unused]
    assert used == sorted(used, key=trace.first_use.__getitem__)
    assert len({stage.name for stage in stages}) == len(stages) >= 3


def test_names_and_entries_of_a_residual_network() -> None:
    stages = stages_of(Cnn())
    assert [stage.name for stage in stages] == ["stem", "lower", "middle", "upper", "fc"]
    assert [stage.entry for stage in stages] == [None, "lower", "middle", "upper", "fc"]
    assert "lower.0.drop" in stages[1].modules


def test_plain_stacks_get_a_stage_a_resolution() -> None:
    model = torchvision.models.vgg11(weights=None, init_weights=False)
    names = [stage.name for stage in stages_of(model, torch.zeros(1, 3, 32, 32))]
    assert names[:3] == ["features.0", "features.3", "features.6"]
    assert names[-1] == "classifier"


def test_a_late_token_goes_where_it_is_used_and_unused_is_listed() -> None:
    model = Vit()
    stages, unused = cut_stages(model, trace_network(model, PICTURE))
    assert set(unused) == {"spare.weight", "spare.bias"}
    assert "late_token" in stages[-1].parameters or "late_token" in stages[-2].parameters
    assert "positions" in stages[0].parameters


def test_a_block_that_keeps_its_input_for_later_has_no_entry() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = self.two(x + self.one(x))
            return y.mean((2, 3)) + x.mean((2, 3))

    assert [stage.entry for stage in stages_of(Skip())] == [None] * len(stages_of(Skip()))


def test_branches_side_by_side_have_no_entry() -> None:
    stages = stages_of(Parallel())
    assert len(stages) == 4 and all(stage.entry is None for stage in stages)


@pytest.mark.parametrize("make", [Cnn, Vit, Parallel])
def test_disturbing_a_stage_leaves_everything_below(make: type[nn.Module]) -> None:
    model = make().eval()
    for number, stage in enumerate(stages_of(model)):
        changed = copy.deepcopy(model)
        with torch.no_grad():
            for name in stage.parameters:
                changed.get_parameter(name).add_(0.5)
        below = {name for lower in stages_of(model)[:number] for name in lower.modules}
        clean, found = outputs(model), outputs(changed)
        assert all(torch.equal(clean[name], found[name]) for name in below & set(clean))


def keep(seen: dict[str, Tensor], name: str, _module: nn.Module, _args: object, out: Tensor) -> None:
    seen.setdefault(name, out.clone())


def outputs(model: nn.Module) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if next(module.children(), None) is None:
            module.register_forward_hook(partial(keep, seen, name))
    with torch.no_grad():
        model(PICTURE)
    for module in model.modules():
        module._forward_hooks.clear()
    return seen


def test_longest_nondecreasing() -> None:
    assert _longest_nondecreasing([0, 0, 5, 1, 1, 2, 0, 3]) == {0, 1, 3, 4, 5, 7}
    assert _longest_nondecreasing([3]) == {0}


def test_a_network_without_parameters_is_refused() -> None:
    model = nn.Flatten()
    with pytest.raises(BackboneError, match="none of its parameters"):
        cut_stages(model, trace_network(model, PICTURE))
