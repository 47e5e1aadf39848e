"""Options of a phase of gradient steps: how it learns, whatever it trains.

Settings are documented where they are declared and checked when they are made. A person sets them in the
recipe (``train.*`` for every phase, ``phase.N.*`` for the N-th), a strategy gives those that nobody set
its own values, and the plan's phases carry the outcome.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from graft.augmentations import KINDS, parse_changes
from graft.schedule import parse_warmup

Views = Literal["none", "flip", "zoom", "flip+zoom"]
"""Test-time augmentation: which views of a picture, beside the plain one, a prediction is the mean over."""

Background = Literal["auto", "white", "black"]
"""What transparent pictures are laid over; auto: black where what can be seen is bright, else white."""

BatchNorm = Literal["frozen", "adaptive", "train"]


def _split_names(value: Any) -> Any:
    """``"a, b"`` as ``["a", "b"]``."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _split_changes(value: Any) -> Any:
    """As :func:`_split_names` where a text lists changes; any other may be the name of a preset."""
    lists = isinstance(value, str) and ("," in value or value.partition(":")[0].strip() in KINDS)
    return _split_names(value) if lists else value


def _checked_changes(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if isinstance(value, tuple):
        parse_changes(value)
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_split_names)]
"""A list of names, or one text with commas between them."""

Changes = Annotated[Names, AfterValidator(_checked_changes)]
"""Random changes to training pictures, as :func:`graft.augmentations.parse_changes` reads them."""

Augmentation = Annotated[
    Literal["none", "light", "standard", "aggressive"] | tuple[str, ...],
    BeforeValidator(_split_changes),
    AfterValidator(_checked_changes),
]
"""A preset of such changes, or a list of them."""


class Frozen(BaseModel):
    """A value that refuses unknown keys and never changes."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,  # a column or folder that is called 2024
        use_attribute_docstrings=True,
    )


class PhaseOptions(Frozen):
    """How phases of gradient steps run; what is not set is for the strategy to say."""

    batch_size: int = Field(default=32, ge=1)
    """Items an optimiser step sees, over all processes and accumulated parts together."""
    accumulate: int = Field(default=1, ge=1)
    """Parts a batch is cut into to save memory; the result is that of the whole batch."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """sgd runs with Nesterov momentum 0.9."""
    schedule: Literal["cosine", "linear", "step", "one-cycle", "constant"] = "cosine"
    """Course of the rates after the warm-up; one-cycle (Smith, 2018) also moves the momentum."""
    warmup: float | str = 0.1
    """Rise of the rates from zero: a share of the phase's steps, or "2 epochs", or "100 steps"."""
    drop_epochs: int = Field(default=7, ge=1)
    """Epochs between two drops of the schedule step."""
    drop_factor: float = Field(default=0.1, gt=0.0, lt=1.0)
    """What a drop of the schedule step multiplies the rates with."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """Decay of weights toward zero; biases and normalisation parameters have none."""
    l2sp: float = Field(default=0.0, ge=0.0)
    """Decay of the body's weights toward the pretrained ones, in place of zero (L2-SP, Li et al., 2018)."""
    clip: float | None = Field(default=1.0, ge=0.0)
    """Largest global norm of the gradient; 0: no limit."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of each target spread over all classes."""
    focal: float = Field(default=0.0, ge=0.0, le=10.0)
    """Exponent of the focal loss (Lin et al., 2017), which plays down what is decided well; 0: plain."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: the loss weighs every class alike, however many items it has."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """balanced: every class is drawn equally often, the items of small ones several times."""
    mixup: float = Field(default=0.0, ge=0.0, le=10.0)
    """Pairs of pictures and labels are blended by a share from Beta(a, a) (Zhang et al., 2018)."""
    cutmix: float = Field(default=0.0, ge=0.0, le=10.0)
    """A rectangle of one picture covers another, its share from Beta(a, a) (Yun et al., 2019)."""
    ema: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Decay of a running average of the weights, which stands for choice at the end; 0: none."""
    drop_path: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Stochastic depth (Huang et al., 2016): chance to skip the last block, less for those before it; None:
    as the network's library builds it."""
    augmentation: Augmentation = "light"
    """Preset of random changes to training pictures; or a list of one's own, as ["flip", "crop:0.08-1"]."""
    flip: bool = True
    """Whether presets may mirror pictures; letters and digits change their meaning by it."""
    batchnorm: BatchNorm | dict[str, BatchNorm] = "frozen"
    """Statistics: frozen as pretrained; adaptive: those of the training pictures, taken once, before
    anything trains (AdaBN, Li et al., 2017); train: following the batches. Or a table from stages to these
    words; stages it does not name are frozen."""
    patience: int | None = Field(default=None, ge=1)
    """Stop a phase after this many epochs without a better validation score."""
    select: Literal["loss", "accuracy"] = "loss"
    """Which validation score decides which weights are kept; accuracy of a multi-label task is its macro
    mean average precision."""

    @model_validator(mode="before")
    @classmethod
    def _unset(cls, values: Any) -> Any:
        """``null`` leaves a setting to the strategy, where it is not a value of its own."""
        if not isinstance(values, dict):
            return values
        nullable = {name for name, info in cls.model_fields.items() if info.default is None} | {"clip"}
        return {name: value for name, value in values.items() if value is not None or name in nullable}

    @field_validator("warmup")
    @classmethod
    def _check_warmup(cls, value: float | str) -> float | str:
        parse_warmup(value)
        return value


def options_set(*given: PhaseOptions) -> dict[str, Any]:
    """The options that somebody set in ``given``, the later ones winning."""
    return {
        name: getattr(each, name)
        for each in given
        for name in PhaseOptions.model_fields
        if name in each.model_fields_set
    }
