"""The head is the whole module that is replaced: for every building block, in every order of calls."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from graft import surgery
from graft.backbones.locating import locate_heads
from graft.errors import BackboneError

# A small member of every family of torchvision, with what its head maps from.
FAMILIES = {
    "alexnet": 4096, "convnext_tiny": 768, "densenet121": 1024, "efficientnet_b0": 1280, "googlenet": 1024,
    "inception_v3": 2048, "maxvit_t": 512, "mnasnet0_5": 1280, "mobilenet_v2": 1280,
    "mobilenet_v3_small": 1024, "regnet_y_400mf": 440, "resnet18": 512, "shufflenet_v2_x0_5": 1024,
    "squeezenet1_1": 512, "swin_t": 768, "vgg11": 4096, "vit_b_16": 768,
}  # fmt: skip
ORDER = ("mlp", "own", "linear", "own", "mlp", "linear")  # every change of one kind of head into another


def build(name: str) -> nn.Module:
    """Without content, and with auxiliary heads where the family has them."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # regnet computes its widths
        net = torchvision.models.get_model(name, weights=None, num_classes=10, **options)
    assert isinstance(net, nn.Module)
    return net.to("meta").eval()


def run(net: nn.Module, size: int = 224) -> tuple[int, ...]:
    scores = net(torch.zeros(2, 3, size, size, device="meta"))
    assert isinstance(scores, Tensor)
    return tuple(scores.shape)


def several(features: int, classes: int, *, convolutional: bool = False) -> nn.Module:
    """A head as people write one."""

    def layer(before: int, after: int) -> nn.Module:
        return nn.Conv2d(before, after, 1) if convolutional else nn.Linear(before, after)

    parts = {
        "drop": nn.Dropout(0.3),
        "one": layer(features, 6),
        "relu": nn.ReLU(),
        "two": layer(6, classes),
    }
    return nn.Sequential(OrderedDict(parts)).to("meta")


def set_head(net: nn.Module, kind: str, classes: int) -> None:
    old = locate_heads(net)[0]
    if kind == "own":
        owner, _, leaf = old.name.rpartition(".")
        new = several(old.features, classes, convolutional=old.convolutional)
        setattr(net.get_submodule(owner), leaf, new.train(net.training))
        return
    new = surgery.replace_head(net, classes, kind="mlp" if kind == "mlp" else "linear")
    assert surgery.head_of(net)[1] is new


def check_one_head(net: nn.Module) -> None:
    """Every building block means the same by the head."""
    heads = locate_heads(net)
    name, head = surgery.head_of(net)
    assert net.get_submodule(name) is head
    own = {id(p) for each in heads for p in each.module.parameters()}
    surgery.freeze(net)
    surgery.unfreeze(net, [each.name for each in heads] if hasattr(net, "head") else "head")
    assert {id(p) for p in net.parameters() if p.requires_grad} == own
    surgery.unfreeze(net)
    groups = surgery.param_groups(net, 1e-5, head_lr=1e-3)
    assert {id(p) for group in groups if group["lr"] == 1e-3 for p in group["params"]} == own
    net.eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_in_every_order_of_the_calls_the_head_is_what_is_replaced(name: str) -> None:
    size = 299 if name == "inception_v3" else 224
    net = build(name)
    check_one_head(net)
    for classes, kind in enumerate(ORDER, start=3):
        set_head(net, kind, classes)
        assert kind == "linear" or run(net, size) == (2, classes)
        check_one_head(net)
    surgery.remove_head(net)
    assert run(net, size) == (2, FAMILIES[name])
    for again in (surgery.head_of, surgery.remove_head, lambda net: surgery.replace_head(net, 3)):
        with pytest.raises(BackboneError, match="has no classifier"):
            again(net)


def test_auxiliary_heads_tell_the_same_classes() -> None:
    for name, count in {"googlenet": 3, "inception_v3": 2}.items():
        net = build(name)
        for kind in ("mlp", "linear"):
            set_head(net, kind, 5)
            assert len(locate_heads(net)) == count
            outputs = net.train()(torch.zeros(2, 3, 299, 299, device="meta"))
            assert [tuple(each.shape) for each in outputs] == [(2, 5)] * count


@pytest.mark.parametrize(
    ("name", "place", "features"),
    [
        ("vgg11", "classifier", 25088),
        ("alexnet", "classifier", 9216),
        ("mobilenet_v3_small", "classifier", 576),
        ("mobilenet_v2", "classifier", 1280),
        ("densenet121", "classifier", 1024),
        ("efficientnet_b0", "classifier", 1280),
        ("vit_b_16", "heads", 768),
        ("swin_t", "head", 768),
        ("resnet18", "fc", 512),
        ("regnet_y_400mf", "fc", 440),
    ],
)
@pytest.mark.odd_input("Building blocks and advice")
def test_a_container_in_place_of_the_whole_classifier_is_the_head(
    name: str, place: str, features: int
) -> None:
    """A head of several layers in place of a network's classifier: all of it is the head.

    For ``param_groups``, ``unfreeze``, ``replace_head``, ``remove_head`` and every other building block.
    """
    net = build(name)
    setattr(net, place, several(features, 5).eval())
    assert surgery.head_of(net) == (place, getattr(net, place))
    check_one_head(net)
    removed = surgery.remove_head(net)
    assert len(list(removed.parameters())) == 4
    assert run(net) == (2, features)


def test_a_single_layer_behind_the_pretrained_ones_is_the_head() -> None:
    for head in (nn.Linear(4096, 5), several(4096, 5)):
        net = build("vgg11")
        net.set_submodule("classifier.6", head.to("meta"))
        assert surgery.head_of(net)[0] == "classifier.6"
        check_one_head(net)


class Mlp(nn.Module):
    """A head with a forward of its own; ``pools``: it takes maps."""

    def __init__(self, features: int, classes: int, *, pools: bool = False) -> None:
        super().__init__()
        self.two, self.one = nn.Linear(6, classes), nn.Linear(features, 6)  # registered as they are not run
        self.norm = nn.BatchNorm1d(features)
        self.pools = pools

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3)) if self.pools else x
        scores: Tensor = self.two(self.one(self.norm(x)).relu())
        return scores


class Flattening(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = super().forward(x.flatten(1))
        return scores


class Net(nn.Module):
    def __init__(self, head: nn.Module, *, name: str = "head", pool: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.add_module(name, head)
        self.name, self.pool = name, pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        scores: Tensor = self.get_submodule(self.name)(x.mean((2, 3)) if self.pool else x)
        return scores


PICTURES = torch.zeros(2, 3, 8, 8)


def test_in_networks_of_ones_own() -> None:
    chain = [nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5)]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for name, head, pool, features in [
        ("head", Mlp(8, 5), True, 8),
        ("classifier", nn.Sequential(*chain, nn.LogSoftmax(1)), True, 8),
        ("head", nn.Sequential(*pooled, *chain), False, 8),
        ("decide", nn.Sequential(*pooled, *chain), False, 8),  # not a name that libraries use
        ("decide", nn.Sequential(nn.BatchNorm1d(8), *chain), True, 8),
        ("decide", nn.Sequential(nn.Sequential(*chain)), True, 8),
        ("head", torchvision.ops.MLP(8, [6, 5]), True, 8),
        ("head", nn.Sequential(nn.Flatten(), nn.Linear(128, 6), nn.ReLU(), nn.Linear(6, 5)), False, 128),
        ("decide", Flattening(128, 5), False, 128),
    ]:
        net = Net(head, name=name, pool=pool).eval()
        assert surgery.head_of(net) == (name, head)
        check_one_head(net)
        assert surgery.replace_head(net, 7, kind="mlp") is net.get_submodule(name)
        assert net(PICTURES).shape == (2, 7)
        assert surgery.head_of(net)[0] == name
        surgery.remove_head(net)
        assert net(PICTURES).shape == (2, features)
        with pytest.raises(BackboneError, match="has no classifier"):
            surgery.head_of(net)


def test_a_container_that_does_more_keeps_all_but_its_last_layer() -> None:
    net = Net(nn.ModuleDict({"inner": Mlp(8, 5, pools=True)})["inner"]).eval()
    name, head = surgery.head_of(net)
    assert isinstance(head, nn.Linear) and name.startswith("head.")
    assert isinstance(net.head, Mlp)


def test_a_chain_ends_in_its_head() -> None:
    trunk = torchvision.models.resnet18(num_classes=10)
    surgery.remove_head(trunk)
    for head in (nn.Linear(512, 5), surgery.make_head(512, 5, "mlp")):
        net = nn.Sequential(trunk, head)
        assert surgery.head_of(net) == ("1", head)
        check_one_head(net)
    with pytest.raises(BackboneError, match="has no classifier"):
        surgery.head_of(nn.Sequential(trunk))


@pytest.mark.parametrize("place", ["fc", "head.fc", "head"])
def test_what_was_put_where_timm_has_its_classifier_is_the_head(place: str) -> None:
    net = timm.create_model("test_resnet" if place == "fc" else "test_convnext2", num_classes=10).eval()
    features = int(net.num_features)  # type: ignore[arg-type] # torch declares tensors and modules only
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if place == "head" else []
    net.set_submodule(place, nn.Sequential(*pooled, nn.Linear(features, 6), nn.ReLU(), nn.Linear(6, 5)))
    assert surgery.head_of(net) == (place, net.get_submodule(place))
    check_one_head(net)
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    surgery.remove_head(net)
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, features)


def test_stages_hold_the_whole_head_apart() -> None:
    net = torchvision.models.squeezenet1_1(num_classes=10)
    surgery.replace_head(net, 5, kind="mlp")
    *_, head = surgery.stages_of(net, torch.zeros(1, 3, 64, 64))
    assert set(head.parameters) == {f"classifier.1.{n}" for n, _ in net.classifier[1].named_parameters()}
    assert "head: classifier.1" in surgery.summary(net, torch.zeros(1, 3, 64, 64))
