"""What every backbone is, whatever library it comes from.

An adapter (torchvision.py, timm.py, transformers.py, bundled.py, plain.py) builds a network and hands
over a ``Backbone``: a trunk that maps a batch of pictures or texts to features, its stages in execution
order, the preprocessing that its weights were trained with, and where it came from. Everything above this
package works on these values and never asks which library is behind them.

A batch is one tensor: of pictures float32 [B, K, height, width]; of texts int64 [B, 2, T], the numbers of
tokens and of their segments, with ``PADDING`` for both behind the end of a text.

Shapes: B items, K input channels, T tokens of the longest text, D features.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from graft.options import Background

Pooling: TypeAlias = Literal["cls", "mean", "last"]
"""Which states of the last layer stand for a text: the first token's, their mean, or the last token's."""

PADDING = -1
NOISE_LENGTH = 13  # tokens of a text of noise


@dataclass(frozen=True)
class Preprocess:
    """How a decoded picture becomes the network's input, as its weights were trained.

    A uint8 picture [K, height, width] is resized (shorter side to ``resize`` pixels; exactly to
    (height, width) when a pair; not at all when None), centre-cropped to ``size``, scaled to 0-1
    and normalised by ``mean`` and ``std`` (one value a channel). ``max_value``: what counts as 255 in
    pixels of more than 8 bits of arrays, .npy and TIFF files (see data.image); None where each kind of
    pixel has its own. ``background``: what transparent pictures are laid over (see data.colours).
    """

    modality: ClassVar[Literal["picture", "text"]] = "picture"
    size: tuple[int, int]  # height, width in pixels
    resize: int | tuple[int, int] | None
    interpolation: str = "bilinear"  # nearest, bilinear or bicubic; always antialiased
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    max_value: float | None = None
    background: Background = "auto"

    def __post_init__(self) -> None:
        for name in ("size", "resize", "mean", "std"):  # lists are no keys
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))

    @property
    def channels(self) -> int:
        """K, the number of input channels."""
        return len(self.mean)

    @property
    def reading(self) -> dict[str, Any]:
        """The data settings by which pictures are read as for training."""
        return {name: getattr(self, name) for name in ("channels", "max_value", "background")}

    @property
    def least_side(self) -> int | None:
        """Pixels of the shorter side that a picture needs: twice those that are kept when it is resized.

        A larger JPEG may be decoded at a half, a quarter or an eighth of its size as long as it keeps so
        many (see data.image.decode). None where nothing is resized.
        """
        if self.resize is None:
            return None
        return 2 * max(self.size) if isinstance(self.resize, tuple) else 2 * max(self.resize, *self.size)

    def noise(self, count: int, seed: int = 0) -> Tensor:
        """Random inputs [count, K, height, width] as normalised pictures are distributed, by ``seed``."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, self.channels, *self.size, generator=generator)

    def pack(self, state: Tensor, inputs: Tensor) -> Tensor:  # noqa: ARG002 (as of texts)
        """What goes with a state [B, …] between the two parts of a network: nothing else."""
        return state

    def unpack(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """The state, and inputs that stand in for those that it was made of."""
        blank = torch.zeros((), device=packed.device)
        return packed, blank.expand(len(packed), self.channels, *self.size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; without those that were the only ones before they could be chosen."""
        values = asdict(self)
        return {name: value for name, value in values.items() if (name, value) not in _FORMER.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """The inverse of :meth:`to_dict`, also after a round trip through JSON.

        Raises:
            ValueError: they are no such values.
        """
        return TypeAdapter(cls).validate_python({**_FORMER, **values})


_FORMER = {"max_value": None, "background": "white"}
"""What was so in files that were written before it was a setting."""


@dataclass(frozen=True)
class Encoding:
    """How a text becomes the network's input: its tokenizer, and how many tokens of it count.

    ``tokenizer``: a fast tokenizer as its JSON text (``tokenizer.json``), special tokens included.
    ``vocabulary``: how many tokens the network knows. Texts of more than ``max_length`` tokens are cut
    at their end, of a pair the longer one first.
    """

    modality: ClassVar[Literal["picture", "text"]] = "text"
    tokenizer: str = field(repr=False)
    max_length: int
    vocabulary: int

    @cached_property
    def digest(self) -> str:
        """sha256 of the tokenizer's JSON text, in hex."""
        return hashlib.sha256(self.tokenizer.encode()).hexdigest()

    def noise(self, count: int, seed: int = 0, *, length: int = NOISE_LENGTH) -> Tensor:
        """Random texts [count, 2, T] of ``length`` tokens, but every second one of fewer, by ``seed``."""
        generator = torch.Generator().manual_seed(seed)
        length = min(length, self.max_length)
        texts = torch.zeros(count, 2, length, dtype=torch.int64)
        texts[:, 0] = torch.randint(self.vocabulary, (count, length), generator=generator)
        texts[1::2, :, max(1, length - 3) :] = PADDING
        return texts

    def pack(self, state: Tensor, inputs: Tensor) -> Tensor:
        """A state [B, T, D] with a last column that is one where there is a token: [B, T, D + 1]."""
        real = (inputs[:, 0] != PADDING).to(state)
        return torch.cat([state, real.unsqueeze(-1)], dim=-1)

    def unpack(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """The state [B, T, D], and inputs that stand in for those that it was made of."""
        blank = torch.where(packed[..., -1] > 0, 0, PADDING)
        return packed[..., :-1].contiguous(), torch.stack([blank, blank], dim=1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the tokenizer's digest in place of the tokenizer."""
        return {"tokenizer": self.digest, "max_length": self.max_length, "vocabulary": self.vocabulary}


Intake: TypeAlias = Preprocess | Encoding
"""How items become inputs: of pictures, or of texts."""


@dataclass(frozen=True)
class Stage:
    """A run of the trunk that trains or stays frozen as one, named as in the network's own code.

    ``parameters``: canonical names (as in ``trunk.named_parameters()``), in order of first use.
    ``modules``: names of the leaf modules that first run inside this stage, also those without
    parameters (dropout, stochastic depth, activations), so that its mode can be set as a whole.
    ``entry``: the module whose call begins this stage and whose input is the state handed up by the
    stage below, as its first positional argument and the only thing handed up that depends on the
    pictures (checked by following the data); None where there is no such module: a stage that
    cannot be cut off from below.
    """

    name: str
    parameters: tuple[str, ...]
    modules: tuple[str, ...]
    entry: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a backbone came from, for provenance and for building it again."""

    library: str  # graft, torchvision, timm, hf, or plain for a module of the user's own
    name: str
    weights: str  # name of the weights ("none" = random), or "file"
    sha256: str = ""  # of the weights as loaded: state_dict names and bytes; empty for random weights
    licence: str = ""
    labels: tuple[str, ...] = ()  # what the pretrained head told apart, where known
    accuracy: float | None = None  # published top-1 in percent, where known
    options: dict[str, Any] = field(default_factory=dict)  # what else the adapter needs to rebuild it

    @property
    def id(self) -> str:
        """``library/name:weights``."""
        return f"{self.library}/{self.name}:{self.weights}"

    @property
    def pretrained(self) -> bool:
        return self.weights != "none"


@dataclass(frozen=True)
class Target:
    """A layer that an adapter is around: its name, its stage, its weight's shape.

    ``parameters``: how many the adapter adds.
    """

    name: str
    stage: str
    shape: tuple[int, ...]
    parameters: int

    @property
    def fewer(self) -> float:
        """How many times as many parameters the weight has."""
        return math.prod(self.shape) / self.parameters


@dataclass(frozen=True)
class Adapters:
    """What was put into a trunk so that little of it trains (see graft.adapters).

    ``settings``: as in a recipe, all of them. ``parameters``: names of those that train in place of a
    stage's own. ``base``: digest of the trunk without them. ``unread``: layers that the network reads and
    never calls, around which an adapter would have no effect.
    """

    settings: dict[str, Any]
    targets: tuple[Target, ...]
    parameters: tuple[str, ...]
    base: str
    unread: tuple[str, ...] = ()

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages with adapters, lowest first."""
        return tuple(dict.fromkeys(target.stage for target in self.targets))


@dataclass(frozen=True)
class Backbone:
    """A network without its head: ``trunk`` maps a batch of inputs to features [B, D].

    ``unused`` names trunk parameters that no forward pass reads (left-overs of distillation heads
    and the like); they belong to a stage but never train. ``adapters``: what is in the trunk beside the
    network itself; None where nothing is. ``classifier``: weight [L, D] and bias [L] of the pretraining's
    own head, where it is linear and came with the weights.
    """

    trunk: nn.Module
    feature_dim: int
    stages: tuple[Stage, ...]
    preprocess: Intake
    source: Source
    unused: tuple[str, ...] = ()
    adapters: Adapters | None = None
    classifier: tuple[Tensor, Tensor] | None = None

    @property
    def stage_names(self) -> tuple[str, ...]:
        return tuple(stage.name for stage in self.stages)

    @property
    def takes_text(self) -> bool:
        return isinstance(self.preprocess, Encoding)


Factory = Callable[[], nn.Module]
"""A function without arguments that builds a module of the user's own, weights random or not."""
