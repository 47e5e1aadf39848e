"""Folded batch-norms give the same features, and the network is itself again afterwards."""

import pytest
import torch
from torch import nn

from graft.backbones import load_backbone
from graft.reuse.folding import folded, noise_for
from small import make_tiny


def lively(trunk: nn.Module) -> nn.Module:
    """Statistics and scales that matter."""
    generator = torch.Generator().manual_seed(3)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.weight.data, module.bias.data):
                values.copy_(torch.rand(values.shape, generator=generator) + 0.2)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return trunk.eval()


@pytest.mark.parametrize(
    ("name", "least"), [("torchvision/resnet18:none", 20), ("timm/mobilenetv3_small_050:none", 30)]
)
def test_features_are_the_same(name: str, least: int) -> None:
    """With plain batch-norms, and with timm's that have an activation of their own."""
    backbone = load_backbone(name)
    trunk = lively(backbone.trunk)
    before = {module: module.forward for module in trunk.modules()}
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        plain = trunk(pictures)
        with folded(trunk, torch.randn(2, 3, 64, 64, generator=generator)) as count:
            assert count >= least
            found = trunk(pictures)
            assert not torch.equal(found, plain)
        assert torch.allclose(found, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))
        assert torch.equal(trunk(pictures), plain)
    assert all(module.forward == forward for module, forward in before.items())
    assert not any("forward" in module.__dict__ for module in trunk.modules())


class Shared(nn.Module):
    """A convolution whose outcome is used beside its batch-norm, or one used twice."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.twice = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), twice

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        found = self.conv(pictures)
        normed = self.norm(found)
        return (self.norm(self.conv(normed)) if self.twice else normed + found).mean((2, 3))


@pytest.mark.parametrize("twice", [True, False])
def test_what_cannot_be_folded_stays_as_it_is(twice: bool) -> None:
    network = lively(Shared(twice))
    pictures = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        plain = network(pictures)
        with folded(network, pictures) as count:
            assert count == 0
            assert torch.equal(network(pictures), plain)


def test_values_and_training_are_as_before() -> None:
    trunk = lively(make_tiny().trunk)
    values = {name: value.clone() for name, value in trunk.state_dict().items()}
    with folded(trunk, torch.rand(2, 3, 8, 8)):
        pass
    assert all(torch.equal(values[name], value) for name, value in trunk.state_dict().items())
    trunk.train()(torch.rand(4, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in trunk.parameters())


def test_the_noise_is_always_the_same() -> None:
    preprocess = make_tiny().preprocess
    assert torch.equal(noise_for(preprocess), noise_for(preprocess))
    assert noise_for(preprocess).shape == (2, preprocess.channels, *preprocess.size)
