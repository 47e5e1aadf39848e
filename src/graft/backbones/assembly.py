"""From a network and what is known about it to a ``Backbone``: what every adapter does last.

The network is traced once; its stages, the true width of its features and the fingerprint of its
weights come from the network itself, not from what a library says about it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graft.backbones.contract import Backbone, Encoding, Intake, Pooling, Preprocess, Source
from graft.backbones.grouping import owner_of
from graft.backbones.staging import cut_stages
from graft.backbones.tracing import Trace, trace_network
from graft.errors import BackboneError

RGB = 3


@dataclass(frozen=True)
class Request:
    """What an adapter is asked for.

    ``weights``: a name of the library's, "none" for random ones, None for its default.
    ``size``: height and width of the pictures in pixels; None: as the weights were trained.
    ``file``: a local file with the weights. ``random``: build as for ``weights``, but load none.
    ``drop_path``: above 0, the network is built with its modules of stochastic depth in place.
    ``config``: what an adapter once stored in ``Source.options["config"]`` to need no network now, and
    ``encoding`` the tokenizer that a network of texts had then. ``pooling``, ``max_length``: how states of
    texts are pooled, and how many tokens of one are taken; None: as the model's makers do.
    """

    name: str
    weights: str | None = None
    channels: int = RGB
    size: int | None = None
    file: Path | None = None
    random: bool = False
    drop_path: float = 0.0
    config: dict[str, Any] | None = None
    encoding: Encoding | None = None
    pooling: Pooling | None = None
    max_length: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What ``Source.options`` must hold to build the same network again."""
        return {"channels": self.channels, "size": self.size}


def assemble(trunk: nn.Module, preprocess: Intake, source: Source, channels: int) -> Backbone:
    """Make a backbone of a network without its head.

    ``preprocess`` is that of the pretrained weights; where the network does not take ``channels``
    yet, its first filter is adapted, and mean and std with it.

    Raises:
        BackboneError: the output is not [B, D], a weight is not finite, or the first filter cannot
            be adapted.
    """
    trunk.eval()
    if any(parameter.is_meta for parameter in trunk.parameters()):
        return Backbone(trunk, 0, (), preprocess, source)  # a sketch, through which nothing can run
    _check_finite(trunk, source)
    example = preprocess.noise(1)
    trace = trace_network(trunk, example)
    feature_dim = _feature_dim(trace.output, source)
    stages, unused = cut_stages(trunk, trace)
    if isinstance(preprocess, Preprocess) and preprocess.channels != channels:
        adapt_input(trunk, trace, preprocess.channels, channels)
        preprocess = adapt_channels(preprocess, channels)
    if source.pretrained and not source.sha256:
        source = replace(source, sha256=state_digest(trunk))
    return Backbone(trunk, feature_dim, stages, preprocess, source, unused)


def state_digest(module: nn.Module) -> str:
    """sha256 (hex) over the sorted names, types, shapes and bytes of the module's state_dict."""
    return tensors_digest(module.state_dict())


def tensors_digest(tensors: Mapping[str, object]) -> str:
    """sha256 (hex) over the sorted names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def resized(preprocess: Preprocess, size: int | None) -> Preprocess:
    """The same preprocessing for square pictures of ``size`` pixels; None leaves it as it is."""
    if size is None or preprocess.size == (size, size):
        return preprocess
    resize = preprocess.resize
    if isinstance(resize, tuple):
        resize = (size, size)
    elif resize is not None:
        resize = round(resize * size / min(preprocess.size))
    return replace(preprocess, size=(size, size), resize=resize)


def adapt_channels(preprocess: Preprocess, channels: int) -> Preprocess:
    """Mean and std for another number of channels: their mean for one, else repeated in turn."""
    mean, std = preprocess.mean, preprocess.std
    if channels == 1:
        return replace(preprocess, mean=(sum(mean) / len(mean),), std=(sum(std) / len(std),))
    cycled = [i % len(mean) for i in range(channels)]
    mean, std = tuple(mean[i] for i in cycled), tuple(std[i] for i in cycled)
    return replace(preprocess, mean=mean, std=std)


def adapt_input(trunk: nn.Module, trace: Trace, before: int, channels: int) -> None:
    """Make the first convolution take ``channels`` in place of ``before``, keeping what it learnt.

    One channel: the filters summed, so that a grey picture gives what it gave in colour. More: the
    filters repeated in turn and scaled, so that the sum keeps its size.

    Raises:
        BackboneError: no convolution without groups takes the picture.
    """
    modules = dict(trunk.named_modules())
    for name in sorted(trace.first_use, key=trace.first_use.__getitem__):
        owner = owner_of(name)
        conv = modules.get(owner)
        if isinstance(conv, nn.Conv2d) and conv.in_channels == before and conv.groups == 1:
            _replace_filter(conv, channels)
            return
    raise BackboneError(
        f"{type(trunk).__name__} has no convolution that takes {before} channels, so it cannot be "
        f"adapted to {channels}: give it pictures with {before} channels."
    )


def _replace_filter(conv: nn.Conv2d, channels: int) -> None:
    old = conv.weight.detach()
    before = old.shape[1]
    if channels == 1:
        weight = old.sum(dim=1, keepdim=True)
    else:
        weight = old[:, [i % before for i in range(channels)]] * (before / channels)
    # In place: subclasses (padding as in TensorFlow, standardised weights) keep their class.
    conv.in_channels = channels
    conv.weight = nn.Parameter(weight.contiguous(), requires_grad=conv.weight.requires_grad)


def _feature_dim(output: object, source: Source) -> int:
    if isinstance(output, Tensor) and output.ndim == 2:
        return int(output.shape[1])
    found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise BackboneError(
        f"{source.id} gives {found} for one picture; features of shape [1, D] were expected. "
        "It is no network for whole pictures; choose a classification model."
    )


def _check_finite(trunk: nn.Module, source: Source) -> None:
    if not source.pretrained:
        return
    for name, tensor in trunk.state_dict().items():
        floating = isinstance(tensor, Tensor) and tensor.is_floating_point()
        if floating and not bool(torch.isfinite(tensor).all()):
            raise BackboneError(
                f"The weights of {source.id} hold values that are no numbers, first in {name}: "
                "they are damaged or incomplete. Choose other weights."
            )
