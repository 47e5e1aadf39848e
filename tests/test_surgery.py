from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from graft import surgery
from graft.backbones.assembly import state_digest
from graft.backbones.staging import cut_stages
from graft.backbones.tracing import trace_network
from graft.errors import BackboneError

PICTURES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def block(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.5)
    )


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.layer1 = nn.Sequential(block(8), block(8))
        self.layer2 = nn.Sequential(block(8), block(8))
        self.layer3 = nn.Sequential(block(8), block(8))
        self.fc = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv(images))))
        return self.fc(x.mean((2, 3)))


def test_freeze_stops_gradients_and_modes_and_unfreeze_undoes_it() -> None:
    net = Net().train()
    surgery.freeze(net)
    assert surgery.count_parameters(net, trainable=True) == 0
    assert not any(module.training for module in net.modules())
    surgery.unfreeze(net)
    assert surgery.count_parameters(net, trainable=False) == 0
    assert all(module.training for module in net.modules())


def test_freeze_takes_names_beginnings_and_stages() -> None:
    net = Net().train()
    surgery.freeze(net, ["conv", "layer1.0"])
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in net.named_parameters() if n.startswith(("conv.", "layer1.0."))}
    assert not net.layer1[0].training and net.layer1[1].training
    stage = surgery.stages_of(net, PICTURES)[2]
    surgery.freeze(net, stage)
    assert not any(p.requires_grad for p in net.get_submodule(stage.name).parameters())


def test_freeze_takes_every_name_that_stages_of_gives() -> None:
    """The first stage of a ResNet, conv1 and bn1, is called stem: no part of it has that name."""
    net = timm.create_model("test_resnet").train()
    stem, *others = surgery.stages_of(net)
    surgery.freeze(net, [stem.name, "layer1"])
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {*stem.parameters, *others[0].parameters}
    assert not any(net.get_submodule(name).training for name in stem.modules)
    surgery.unfreeze(net, "stem")
    assert all(net.get_parameter(name).requires_grad for name in stem.parameters)
    for stage in others:
        surgery.freeze(net, stage.name)
    with pytest.raises(BackboneError, match=r"'steem'.*Did you mean 'stem'.*stages are: stem, layer1"):
        surgery.freeze(net, "steem")
    with pytest.raises(BackboneError, match=r"'stm'.*stages could not be found: .*does not compute"):
        surgery.freeze(net, "stm", example=torch.zeros(1, 5, 8, 8))


@pytest.mark.parametrize(
    ("name", "last", "below"),
    [("vgg11", "classifier.6", "classifier.3"), ("convnext_tiny", "classifier.2", "classifier.0")],
)
def test_the_classifier_is_a_stage_of_its_own(name: str, last: str, below: str) -> None:
    """Pretrained layers beside it, hidden ones or a norm, are not of its stage."""
    net = torchvision.models.get_model(name, num_classes=5)
    *body, head = surgery.stages_of(net, torch.zeros(1, 3, 32, 32))
    assert (head.name, head.parameters, head.modules) == (last, (f"{last}.weight", f"{last}.bias"), (last,))
    assert below in body[-1].modules
    groups = surgery.param_groups(net, 1e-4, head_lr=1.0, stages=[*body, head])
    assert sum(p.numel() for group in groups if group["lr"] == 1.0 for p in group["params"]) == sum(
        p.numel() for p in net.get_submodule(last).parameters()
    )


def test_without_a_classifier_that_comes_last_stages_are_those_of_the_backbone() -> None:
    net = torchvision.models.VisionTransformer(16, 8, 2, 1, 8, 16)
    surgery.remove_head(net)
    example = torch.zeros(1, 3, 16, 16)
    expected = cut_stages(net, trace_network(net, example))[0]
    assert surgery.stages_of(net, example) == expected


def test_freeze_takes_parts_of_names_and_patterns() -> None:
    for choice in ("layer", "layer?.*", ["ayer1", "layer[23].*"]):
        net = Net().train()
        surgery.freeze(net, choice, example=PICTURES)
        frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
        assert frozen == {name for name, _ in net.named_parameters() if name.startswith("layer")}
        assert not any(m.training for n, m in net.named_modules() if n.startswith("layer") and "." in n)


def test_a_wrong_stage_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(BackboneError, match=r"'layr1'.*'layer1'"):
        surgery.freeze(Net(), "layr1")
    with pytest.raises(BackboneError, match="''"):
        surgery.freeze(Net(), "")


def test_set_training_mode_rests_what_is_frozen_and_what_holds_it() -> None:
    net = Net()
    stages = surgery.stages_of(net, PICTURES)
    surgery.set_training_mode(net, stages, ["layer3", "fc"])
    awake = {name for name, module in net.named_modules() if module.training}
    assert "layer3.1.3" in awake and "fc" in awake and "layer3.1.1" not in awake
    assert not awake & {"", "layer2", "layer2.0.3", "layer1.0.0"}
    names = [stage.name for stage in stages]
    surgery.set_training_mode(net, stages, names, statistics=names)
    assert all(module.training for module in net.modules())
    surgery.freeze_batchnorm(net)
    surgery.set_training_mode(net, stages, names, statistics=names)
    assert not net.layer1[0][1].training
    with pytest.raises(BackboneError, match="'layer3'"):
        surgery.set_training_mode(net, stages, ["layer4"])
    with pytest.raises(BackboneError, match=r"no stage 'layr1'.*Did you mean 'layer1'"):
        surgery.set_training_mode(net, stages, names, statistics=["layr1"])
    with pytest.raises(BackboneError, match="'layer1' does not train, so its statistics"):
        surgery.set_training_mode(net, stages, ["fc"], statistics=["layer1"])


def test_statistics_follow_in_the_stages_named_and_no_others() -> None:
    net = Net()
    stages = surgery.stages_of(net, PICTURES)
    names = [stage.name for stage in stages]
    for statistics in ([], ["layer1"], ["layer2", "layer3"]):
        surgery.set_training_mode(net, stages, names, statistics=statistics)
        for name, module in net.named_modules():
            follows = name.split(".")[0] in statistics
            assert module.training == (follows or not isinstance(module, nn.BatchNorm2d)), name


def test_frozen_batchnorm_survives_train_and_copies() -> None:
    net = Net()
    keys = list(net.state_dict())
    assert surgery.freeze_batchnorm(net) == 6
    for copied in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        copied.train()
        norm = copied.layer1[0][1]
        assert isinstance(norm, nn.BatchNorm2d)
        assert not norm.training and copied.layer1[0][3].training
        before = norm.running_mean.clone()
        copied(PICTURES)
        assert torch.equal(norm.running_mean, before)
        assert not norm.weight.requires_grad
        assert list(copied.state_dict()) == keys


def test_unfreeze_batchnorm_restores_class_modes_and_what_trained() -> None:
    net = Net()
    net.layer1[0][1].weight.requires_grad_(False)
    surgery.freeze_batchnorm(net)
    surgery.freeze_batchnorm(net)
    assert surgery.unfreeze_batchnorm(net.train()) == 6
    norm = net.layer1[0][1]
    assert type(norm) is nn.BatchNorm2d and norm.training
    assert not norm.weight.requires_grad and norm.bias.requires_grad
    assert surgery.unfreeze_batchnorm(net) == 0


def test_batchnorm_statistics_alone_can_be_frozen() -> None:
    net = Net()
    surgery.freeze_batchnorm(net, affine=False)
    assert all(p.requires_grad for p in net.parameters())
    assert not net.train().layer1[0][1].training


def test_timm_batchnorm_with_activation_is_covered() -> None:
    net = timm.create_model("test_efficientnet", num_classes=0)
    surgery.freeze_batchnorm(net)
    net.train()
    before = {n: b.clone() for n, b in net.named_buffers()}
    net(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(b, before[n]) for n, b in net.named_buffers())


@pytest.mark.parametrize(("kind", "layers"), [("linear", 1), ("mlp", 2)])
def test_replace_head_keeps_the_features(kind: surgery.HeadKind, layers: int) -> None:
    net = Net()
    assert surgery.head_of(net) == ("fc", net.fc)
    head = surgery.replace_head(net, 4, kind=kind, hidden=5)
    assert net.fc is head and net(PICTURES).shape == (2, 4)
    assert sum(isinstance(m, nn.Linear) for m in head.modules()) == layers


def test_remove_head_gives_features() -> None:
    net = Net()
    removed = surgery.remove_head(net)
    assert isinstance(removed, nn.Linear) and removed.out_features == 10
    assert net(PICTURES).shape == (2, 8)


def test_convolutional_head_gives_scores_of_both_signs() -> None:
    import torchvision

    net = torchvision.models.squeezenet1_1(weights=None)
    assert surgery.head_of(net)[0] == "classifier.1"
    surgery.replace_head(net, 20, kind="mlp")
    scores = net.eval()(torch.randn(4, 3, 64, 64))
    assert scores.shape == (4, 20) and bool((scores < 0).any())


def test_parallel_heads_are_all_replaced() -> None:
    net = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1)
    surgery.replace_head(net, 3)
    assert net.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    assert net.head_dist.out_features == 3


def test_no_head_is_an_error() -> None:
    with pytest.raises(BackboneError, match="no classifier"):
        surgery.head_of(nn.Sequential(nn.Conv2d(3, 3, 1)))
    with pytest.raises(BackboneError, match="no classifier"):
        surgery.head_of(timm.create_model("test_vit", num_classes=0))


@pytest.mark.parametrize(
    ("options", "word"),
    [({"kind": "lineer"}, "linear"), ({"dropout": 1.0}, "dropout"), ({"hidden": 0}, "hidden")],
)
def test_wrong_heads_are_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(BackboneError, match=word):
        surgery.make_head(8, 3, **{"kind": "mlp", **options})  # type: ignore[arg-type]
    with pytest.raises(BackboneError, match="classes"):
        surgery.make_head(8, 0)


def test_an_mlp_has_a_dropout_for_each_layer() -> None:
    net = Net()
    head = surgery.replace_head(net, 3, kind="mlp", dropout=(0.1, 0.6))
    assert [m.p for m in head.modules() if isinstance(m, nn.Dropout)] == [0.1, 0.6]
    for kind, shares in {"mlp": (0.1,), "linear": (0.1, 0.2)}.items():
        with pytest.raises(BackboneError, match=f"a head of kind {kind} has"):
            surgery.make_head(8, 3, kind=kind, dropout=shares)  # type: ignore[arg-type]
    with pytest.raises(BackboneError, match="at least 0 and below 1"):
        surgery.make_head(8, 3, kind="mlp", dropout=(0.1, 1.0))


def test_make_head_has_dropout_where_asked() -> None:
    assert isinstance(surgery.make_head(8, 3), nn.Linear)
    assert isinstance(surgery.make_head(8, 3, dropout=0.1), nn.Sequential)
    kinds = [type(layer) for layer in surgery.make_head(8, 3, "mlp")]  # type: ignore[arg-type]
    assert kinds == [nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]


def test_truncate_computes_the_lower_part_and_holds_no_more() -> None:
    net = Net().eval()
    before = state_digest(net)
    lower = surgery.truncate(net, "layer2", PICTURES)
    wanted = net.layer2(net.layer1(net.conv(PICTURES)))
    assert torch.equal(lower(PICTURES), wanted)
    above = sum(p.numel() for m in (net.layer3, net.fc) for p in m.parameters())
    assert surgery.count_parameters(lower) == surgery.count_parameters(net) - above
    assert state_digest(net) == before
    whole = surgery.truncate(net, "fc", PICTURES)
    assert torch.equal(whole(PICTURES), net(PICTURES))


def test_truncate_of_a_network_that_walks_over_its_upper_modules() -> None:
    """Found by the contract: containers above the cut are iterated over, or hold the cut itself."""

    class Walking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)) for _ in range(3)
            )
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
            return self.fc(x.mean(dim=(2, 3)))

    net = Walking().eval()
    pictures = torch.randn(2, 3, 8, 8)
    first, second = surgery.stages_of(net, pictures)[:2]
    assert torch.equal(surgery.truncate(net, first, pictures)(pictures), net.stem(pictures))
    assert torch.equal(surgery.truncate(net, second, pictures)(pictures), net.blocks[0](net.stem(pictures)))


def test_truncate_names_the_stages_there_are() -> None:
    with pytest.raises(BackboneError, match="layer1, layer2, layer3"):
        surgery.truncate(Net(), "layer9", PICTURES)


def test_truncate_refuses_where_several_tensors_are_handed_up() -> None:
    net = timm.create_model("crossvit_9_240", depth=([1, 1, 0], [1, 1, 0], [1, 1, 0]))
    with pytest.raises(BackboneError, match="more than one tensor"):
        surgery.truncate(net, "stem", torch.zeros(1, 3, 240, 240))


def test_param_groups_cover_what_trains_once_with_geometric_rates() -> None:
    net = Net()
    surgery.freeze(net, "conv")
    groups = surgery.param_groups(net, 1e-2, lowest_lr=1e-4, head_lr=1.0, example=PICTURES)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in net.parameters() if p.requires_grad)
    rates = sorted({group["lr"] for group in groups})
    assert rates == pytest.approx([1e-4, 1e-3, 1e-2, 1.0])
    torch.optim.AdamW(groups)


def test_param_groups_decay_weights_only() -> None:
    for group in surgery.param_groups(Net(), 1e-2):
        dims = {p.ndim > 1 for p in group["params"]}
        assert dims == {group["weight_decay"] > 0}
    assert len(surgery.param_groups(Net(), 1e-2, layer_decay=0.5, example=PICTURES)) == 10


def test_param_groups_take_the_stages_of_a_part() -> None:
    trunk = Net()
    surgery.remove_head(trunk)
    stages = surgery.stages_of(trunk, PICTURES)
    whole = nn.ModuleDict({"trunk": trunk, "top": nn.Linear(8, 2)})
    groups = surgery.param_groups(whole, 1e-2, head_lr=1.0, layer_decay=0.5, stages=stages, prefix="trunk.")
    top = [group for group in groups if group["lr"] == 1.0]
    assert sum(p.numel() for group in top for p in group["params"]) == 18
    assert min(group["lr"] for group in groups) == pytest.approx(1e-2 * 0.5**3)


def test_param_groups_refuse_two_ways_to_say_it() -> None:
    with pytest.raises(BackboneError, match="either"):
        surgery.param_groups(Net(), 1e-2, lowest_lr=1e-3, layer_decay=0.5)
    with pytest.raises(BackboneError, match="positive"):
        surgery.param_groups(Net(), 1e-2, layer_decay=0.0)


def test_summary_names_parts_head_and_stages() -> None:
    text = surgery.summary(Net(), PICTURES)
    assert "head: fc" in text and "layer2" in text
    assert f"{surgery.count_parameters(Net()):,}" in text
