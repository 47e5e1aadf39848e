"""The doctor for loops of one's own: each mistake once made, and once not."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import graft
from small import TinyNet


def batches(scale: float = 1.0, shift: float = 0.0, *, seed: int | None = 0) -> list[Any]:
    generator = torch.Generator()
    generator.manual_seed(seed) if seed is not None else generator.seed()
    return [(scale * torch.randn(8, 3, 8, 8, generator=generator) + shift, torch.zeros(8))]


def ready() -> tuple[nn.Module, torch.optim.Optimizer]:
    """As it should be: frozen below, batch-norm with it, the rest in training mode."""
    model = TinyNet().train()
    graft.freeze(model, ["stem"])
    return model, torch.optim.AdamW(graft.param_groups(model, lr=1e-4, head_lr=1e-3))


def ids(*given: Any, **more: Any) -> list[str]:
    return [each.id for each in graft.doctor(*given, **more)]


def test_what_is_right_is_not_blamed() -> None:
    model, optimizer = ready()
    assert ids(model, batches(), optimizer, validation=batches()) == []
    assert ids(model.eval(), batches()) == []


def test_training_in_evaluation_mode() -> None:
    model, optimizer = ready()
    assert ids(model.eval(), batches(), optimizer) == ["module.trained-in-eval"]


def test_evaluating_in_training_mode() -> None:
    assert ids(TinyNet().train(), batches()) == ["module.evaluated-in-train"]


def test_batch_norm_that_drifts_under_frozen_layers() -> None:
    model, optimizer = ready()
    assert ids(model.train(), batches(), optimizer) == ["module.batchnorm-drift"]


def test_parameters_in_the_wrong_place() -> None:
    model, _ = ready()
    everything = torch.optim.AdamW(model.parameters(), lr=1e-4)
    assert ids(model, batches(), everything) == ["module.frozen-in-optimizer"]
    _, optimizer = ready()
    model, optimizer = ready()
    graft.replace_head(model, classes=2)
    assert ids(model, batches(), optimizer) == [
        "module.not-in-optimizer", "module.foreign-in-optimizer",
    ]  # fmt: skip


def test_a_rate_that_is_too_high() -> None:
    model, _ = ready()
    training = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert ids(model, batches(), torch.optim.Adam(training, lr=0.1)) == ["module.high-rate"]
    assert ids(model, batches(), torch.optim.SGD(training, lr=0.1)) == []


def test_inputs() -> None:
    model, optimizer = ready()
    bytes_ = [torch.randint(0, 255, (8, 3, 8, 8), dtype=torch.uint8)]
    assert ids(model, bytes_, optimizer) == ["module.unscaled-inputs"]
    assert ids(model, batches(60.0, 120.0), optimizer) == ["module.unscaled-inputs"]
    assert ids(model, [torch.rand(8, 3, 8, 8)], optimizer) == ["module.not-normalised"]
    assert ids(model, [torch.zeros(8, 7, dtype=torch.int64)], optimizer) == []  # texts


def test_random_validation() -> None:
    class Random:
        def __iter__(self) -> Any:
            return iter(batches(seed=None))

    model, optimizer = ready()
    assert ids(model, batches(), optimizer, validation=Random()) == ["module.random-validation"]


def test_nothing_is_changed() -> None:
    model, optimizer = ready()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    graft.doctor(model, batches(), optimizer, validation=batches())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes


def learnt() -> nn.Module:
    """A network whose batch-norms are no longer as they were made."""
    model = TinyNet().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def test_one_rate_for_pretrained_layers_and_the_head() -> None:
    """Also where a schedule begins lower; not of fresh weights, of graded rates, or of a gentle one."""
    model = learnt()
    assert ids(model, batches(), torch.optim.AdamW(model.parameters(), lr=1e-3)) == ["module.even-rate"]
    rising = torch.optim.Adam(model.parameters(), lr=1e-3)
    torch.optim.lr_scheduler.LinearLR(rising, start_factor=0.01)
    assert ids(model, batches(), rising) == ["module.even-rate"]
    graded = torch.optim.AdamW(graft.param_groups(model, lr=1e-4, head_lr=1e-3))
    for optimizer in (graded, torch.optim.AdamW(model.parameters(), lr=1e-4)):
        assert ids(model, batches(), optimizer) == []
    assert ids(model, batches(), torch.optim.SGD(model.parameters(), lr=1e-3)) == []
    fresh = TinyNet().train()
    assert ids(fresh, batches(), torch.optim.AdamW(fresh.parameters(), lr=1e-3)) == []


def test_statistics_of_a_handful() -> None:
    model = TinyNet().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for count, expected in ((7, ["module.small-batches"]), (8, [])):
        assert ids(model, [torch.randn(count, 3, 8, 8)], optimizer) == expected
    graft.freeze_batchnorm(model)
    assert ids(model, [torch.randn(2, 3, 8, 8)], optimizer) == ["module.frozen-in-optimizer"]


def test_pictures_of_another_size_than_the_weights() -> None:
    model, optimizer = ready()
    for size, expected in ((8, []), (13, []), (14, ["module.input-size"]), (4, ["module.input-size"])):
        assert ids(model, batches(), optimizer, size=size) == expected
    model.pretrained_cfg = {"input_size": (3, 224, 224)}  # type: ignore[assignment]
    assert ids(model, batches(), optimizer) == ["module.input-size"]


def test_a_head_that_takes_another_number_of_features() -> None:
    model, optimizer = ready()
    model.fc = nn.Linear(32, 5)
    optimizer = torch.optim.AdamW(graft.param_groups(model, lr=1e-4, head_lr=1e-3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    (finding,) = graft.doctor(model, batches(), optimizer)
    assert finding.id == "module.head-inputs"
    assert "fc takes 32 features and is given 16" in finding.measured
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
