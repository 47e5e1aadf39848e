"""Recipe: what the person asked for, as a frozen value.

Settings are documented where they are declared and checked when they are made. A recipe comes from
a TOML file, from ``--set key=value`` and from options, in this order; unknown keys are refused with
the nearest right name. ``None`` means "whatever the strategy says"; the plan shows what that was.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graft.errors import RecipeError, suggest

DEFAULT_BACKBONE = "graft/resnet18-half-64"


class Frozen(BaseModel):
    """A value that refuses unknown keys and never changes."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,  # a column or folder that is called 2024
        use_attribute_docstrings=True,
    )


class DataSettings(Frozen):
    """Where the labelled data is and how it is read."""

    path: str = ""
    """A folder of class folders (split into train/val/test or not), or a CSV, JSONL or Parquet table."""
    validation: float = Field(default=0.2, ge=0.0, le=0.5)
    """Share of the training items set aside for validation where the data brings none; 0: none at all."""
    image: str = "path"
    """Table column with the picture's path, relative to the table's folder."""
    label: str = "label"
    """Table column with the label."""
    split: str = "split"
    """Table column with train, val or test; used when the table has it."""
    bad_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Largest share of unreadable items that is set aside with a warning; above it the run stops."""
    max_megapixels: float = Field(default=80.0, gt=0.0)
    """Pictures with more pixels than this are refused before they are decoded (decompression bombs)."""
    channels: int = Field(default=3, ge=1, le=64)
    """Input channels of the network; pictures have 3, arrays may have any number."""


class TrainSettings(Frozen):
    """How phases of gradient steps run; the strategy fills what is None."""

    batch_size: int = Field(default=32, ge=1)
    """Items an optimiser step sees, over all processes and accumulated parts together."""
    accumulate: int = Field(default=1, ge=1)
    """Parts a batch is cut into to save memory; the result is that of the whole batch."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """sgd runs with Nesterov momentum 0.9."""
    lr: float | None = Field(default=None, gt=0.0)
    """Peak learning rate of the topmost stage that trains."""
    head_lr: float | None = Field(default=None, gt=0.0)
    """Peak learning rate of the head."""
    lowest_lr: float | None = Field(default=None, gt=0.0)
    """Peak rate of the lowest stage that trains; stages between follow geometrically."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Course of the rates after the warm-up; cosine falls to zero."""
    warmup: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of a phase's steps in which the rates rise linearly from zero."""
    weight_decay: float | None = Field(default=None, ge=0.0)
    """Decay of weights; biases and normalisation parameters have none."""
    clip: float | None = Field(default=1.0, ge=0.0)
    """Largest global norm of the gradient; 0: no limit."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of each target spread over all classes."""
    augmentation: Literal["none", "light", "standard", "aggressive"] | None = None
    """Preset of random changes to training pictures."""
    batchnorm: Literal["frozen", "train"] | None = None
    """Batch-norm statistics: kept from pretraining, or updated from the data."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of training steps; auto takes bf16 where the machine computes it natively."""
    patience: int | None = Field(default=None, ge=1)
    """Stop a phase after this many epochs without a better validation score."""
    select: Literal["loss", "accuracy"] = "loss"
    """Which validation score decides which weights are kept."""
    workers: int | None = Field(default=None, ge=0, le=64)
    """Processes that decode pictures; 0 decodes in the training process."""


class Recipe(Frozen):
    """Everything a person can ask of a run."""

    backbone: str = DEFAULT_BACKBONE
    """What to start from: library/name[:weights]."""
    weights: str | None = None
    """A local file (.safetensors, .pth) with the backbone's weights, used in place of a download."""
    strategy: str = "two-phase"
    """A named strategy, with its parameter after a colon where it takes one: partial:2."""
    epochs: int | None = Field(default=None, ge=1)
    """Length of the main phase."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Everything random is a function of this number."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    head: Literal["linear", "mlp"] = "linear"
    """linear, or dropout - linear - ReLU - dropout - linear."""
    head_hidden: int = Field(default=256, ge=1)
    """Width of the mlp head's hidden layer."""
    head_dropout: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Dropout before each linear layer of the head; None: 0 for linear, 0.25 for mlp."""
    head_init: Literal["auto", "solved", "random"] = "auto"
    """How the head starts; auto solves it to its optimum wherever it can be solved."""
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()

    def to_json(self) -> str:
        """What was asked, and only that: what a strategy may choose stays open."""
        return self.model_dump_json(indent=2, exclude_unset=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.model_validate_json(text)


def read_recipe(
    file: str | Path | None = None,
    settings: Iterable[str] = (),
    **options: Any,
) -> Recipe:
    """Build a recipe from a TOML file, then ``key=value`` settings, then options that are not None.

    Nested keys are written with dots, as in ``train.batch_size=64``. An option named with double
    underscores is nested likewise: ``data__path="photos/"``.

    Raises:
        RecipeError: no such file, broken TOML, an unknown key, or a value that is not allowed.
    """
    values: dict[str, Any] = _read_toml(Path(file)) if file is not None else {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise RecipeError(f"--set {setting!r} is not of the form key=value, as in train.lr=1e-4.")
        _put(values, key.strip(), _parse(text.strip()))
    for name, value in options.items():
        if value is not None:
            _put(values, name.replace("__", "."), value)
    return make_recipe(values)


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values, refused in words when a key or value is not right.

    Raises:
        RecipeError: naming every wrong key, with the nearest right one, and every wrong value.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError("\n".join(_explain(problem) for problem in error.errors())) from None


def recipe_keys() -> list[str]:
    """Every key that can be set, nested ones with their dots."""
    keys: list[str] = []
    for name, info in Recipe.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Frozen):
            keys += [f"{name}.{inner}" for inner in kind.model_fields]
        else:
            keys.append(name)
    return keys


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"Cannot read the recipe {path}: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise RecipeError(f"The recipe {path} is not UTF-8 text; a TOML file was expected.") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"The recipe {path} is not valid TOML: {error}.") from None


def _parse(text: str) -> Any:
    """A value as JSON where it is JSON (numbers, true, null, lists), else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for name in parents:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"{key!r}: {name!r} is a single value, not a table of settings.")
        values = inner
    values[last] = value


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = recipe_keys()
        near = suggest(key, known)
        hint = near or f" The keys are: {', '.join(known)}."
        return f"There is no recipe key {key!r}.{hint}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{key} = {problem['input']!r}: {message}."
