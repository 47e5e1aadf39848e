"""Batch-norms of a resting network, folded into the convolutions before them.

A batch-norm with frozen statistics is a scale and a shift of each channel; a convolution that feeds nothing
else can do both on the way. Which ones do is read off a pass, and proved by the features of a second one.

Shapes: B pictures, K channels, h, w of the input; features are [B, D].
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from graft.backbones.contract import Intake
from graft.backbones.modes import attending
from graft.batchnorm import plain_norms
from graft.numerics import Forward, to_device
from graft.reuse.forwards import replace_forward, restore_forwards

CLOSE = 1e-4  # absolute plus relative, between the features of the folded and of the plain network


@contextmanager
def resting(trunk: nn.Module, intake: Intake, how: Forward, device: torch.device) -> Iterator[None]:
    """Inside, the trunk is on ``device``, in eval mode, and attends and is folded as ``how`` says."""
    trunk.eval().to(device)
    noise = to_device(noise_for(intake), device)
    with attending(trunk, how.attention), folded(trunk, noise) if how.folded else nullcontext():
        yield


def noise_for(intake: Intake) -> Tensor:
    """Two inputs of noise, always the same: what a network makes of them tells it apart."""
    return intake.noise(2, 1)


@contextmanager
def folded(trunk: nn.Module, noise: Tensor) -> Iterator[int]:
    """Inside, the trunk computes with its batch-norms folded; yields how many are.

    The trunk must be in eval mode, and its values must not change meanwhile. ``noise``: pictures
    [B, K, h, w] on the trunk's device, for the proof; where features differ, nothing is folded.
    """
    replaced: dict[nn.Module, Any] = {}
    try:
        with torch.no_grad():
            plain = trunk(noise)
            pairs = _pairs(trunk, noise)
            for conv, norm in pairs:
                _fold(conv, norm, replaced)
            if not torch.allclose(trunk(noise), plain, atol=CLOSE * float(plain.abs().max()), rtol=CLOSE):
                restore_forwards(replaced)
                replaced, pairs = {}, []
        yield len(pairs)
    finally:
        restore_forwards(replaced)


def _pairs(trunk: nn.Module, noise: Tensor) -> list[tuple[nn.Conv2d, _BatchNorm]]:
    """Convolutions whose outcome a batch-norm takes, each used once."""
    outcomes: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # tensors are kept, so that no address serves twice
    calls: list[nn.Module] = []
    pairs: list[tuple[nn.Conv2d, _BatchNorm]] = []

    def after(module: nn.Module, _: tuple[Any, ...], outcome: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        outcomes[id(outcome)] = module, outcome
        calls.append(module)

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls.append(module)
        if id(inputs[0]) in outcomes:
            assert isinstance(module, _BatchNorm)
            pairs.append((outcomes[id(inputs[0])][0], module))

    hooks = [
        module.register_forward_hook(after)
        for module in trunk.modules()
        if isinstance(module, nn.Conv2d) and type(module).forward is nn.Conv2d.forward
    ]
    hooks += [norm.register_forward_pre_hook(before) for norm in plain_norms(trunk)]
    try:
        trunk(noise)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if calls.count(pair[0]) == calls.count(pair[1]) == 1]


def _fold(conv: nn.Conv2d, norm: _BatchNorm, replaced: dict[nn.Module, Any]) -> None:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    scale = torch.rsqrt(variance + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
    weight = (conv.weight * scale[:, None, None, None]).contiguous(memory_format=torch.channels_last)
    bias = shift if conv.bias is None else shift + conv.bias * scale
    act = getattr(norm, "act", nn.Identity())  # timm's have an activation of their own
    replace_forward(conv, lambda pictures: conv._conv_forward(pictures, weight, bias), replaced)
    replace_forward(norm, act, replaced)
