from __future__ import annotations

import pytest
import torch
from tiny import SMALL, Cnn, Vit
from torch import nn

from graft.backbones import from_module
from graft.errors import BackboneError


def test_classifier_is_taken_out() -> None:
    backbone = from_module(Cnn(), preprocess=SMALL)
    assert backbone.feature_dim == 8
    assert backbone.source.id == "plain/Cnn:own" and len(backbone.source.sha256) == 64
    assert backbone.source.options["head"] == "fc"


def test_features_stay_features() -> None:
    backbone = from_module(Vit(), preprocess=SMALL, pretrained=False)
    assert backbone.feature_dim == 8 and not backbone.source.pretrained
    assert set(backbone.unused) == {"spare.weight", "spare.bias"}
    assert from_module(Cnn(), preprocess=SMALL, head=None).feature_dim == 10


def test_head_by_name() -> None:
    assert from_module(Cnn(), preprocess=SMALL, head="fc").feature_dim == 8
    with pytest.raises(BackboneError, match="'fx'"):
        from_module(Cnn(), preprocess=SMALL, head="fx")


def test_other_channels() -> None:
    backbone = from_module(Cnn(), preprocess=SMALL, channels=2)
    assert backbone.preprocess.channels == 2
    assert backbone.trunk(torch.zeros(1, 2, 16, 16)).shape == (1, 8)


def test_what_gives_no_features_is_refused() -> None:
    with pytest.raises(BackboneError, match=r"\(1, 8, 14, 14\)"):
        from_module(nn.Sequential(nn.Conv2d(3, 8, 3)), preprocess=SMALL)


def test_no_filter_to_adapt() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    with pytest.raises(BackboneError, match="3 channels"):
        from_module(flat, preprocess=SMALL, head=None, channels=1)
