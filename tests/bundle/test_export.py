"""A bundle's network goes through torch's exporters as it is."""

from __future__ import annotations

import inspect
import warnings

import torch

from graft.backbones import load_backbone
from test_bundle import bundle_of


def test_the_network_takes_its_inputs_alone() -> None:
    model = bundle_of(load_backbone("tiny/net")).model.eval()
    assert list(inspect.signature(model.forward).parameters) == ["inputs"]
    pictures = torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        expected = model(pictures)
        assert torch.equal(torch.jit.trace(model, pictures)(pictures), expected)
        exported = torch.export.export(model, (pictures,)).module()
        assert torch.allclose(exported(pictures), expected, atol=1e-6)
