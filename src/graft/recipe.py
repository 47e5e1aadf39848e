"""Recipe: what the person asked for, as a frozen value.

Settings are documented where they are declared and checked when they are made. A recipe comes from
a TOML file, from ``--set key=value`` and from options, in this order; unknown keys are refused with
the nearest right name. ``None`` means "whatever the strategy says"; the plan shows what that was.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from graft.errors import RecipeError, quote, suggest
from graft.files import is_there
from graft.options import Background, Changes, Frozen, Names, PhaseOptions, Views

DEFAULT_BACKBONE = "graft/resnet18-half-64"


COLUMNS = ("image", "label", "separator", "text")
"""Settings of data that say how a table is read; the split's column is of the training's table alone."""


def _as_written(value: Any) -> Any:
    """A folder's name that was read as a number, as 2019, as text again."""
    return str(value) if isinstance(value, int | float) else value


_Name: TypeAlias = Annotated[str, BeforeValidator(_as_written), Field(min_length=1)]
PartNames: TypeAlias = _Name | Annotated[tuple[_Name, ...], Field(min_length=1)] | None
"""One folder or table, or several; None: as names say."""


def _from_the_start(value: Any) -> Any:
    return {0: value} if isinstance(value, str | list | tuple) else value


Thaw = Annotated[dict[Annotated[int, Field(ge=0)], Names], BeforeValidator(_from_the_start)]
"""Names by epoch; names alone begin at epoch 0."""


class DataSettings(Frozen):
    """Where the labelled data is and how it is read."""

    path: str = ""
    """A folder of class folders (split into train/val/test or not), or a CSV, JSONL or Parquet table."""
    train: PartNames = None
    """Folder or table to train on, or several, where names do not say it: ["fold1", "fold2"]; relative to
    the data's folder or the working folder. A dot: the folders of the data are classes, whatever they are
    called."""
    val: PartNames = None
    """Folder or table to validate on, which may lie anywhere, or several."""
    test: PartNames = None
    """Folder or table to measure the finished model on, or several."""
    validation: Annotated[float, Field(ge=0.0, le=0.5)] | Literal["auto"] = 0.2
    """Share of the training items set aside for validation where the data brings none; 0: none at all;
    auto: what gives the median class 30 items, none where that is more than a fifth (as strategy auto)."""
    image: str = "path"
    """Table column with the picture's path, relative to the table's folder."""
    text: str | Annotated[tuple[str, ...], Field(min_length=2, max_length=2)] | None = None
    """Table column with the text, or two columns of texts that belong together, as ["question", "answer"];
    None: the one column that is called so (text, sentence, review …), or the only one beside the label."""
    max_length: int | None = Field(default=None, ge=4)
    """Tokens of a text that the network sees; longer ones are cut. None: all it can take, up to 512."""
    label: str | Annotated[tuple[str, ...], Field(min_length=2)] = "label"
    """Table column with the label; or one column of 0 and 1 for each label, as ["cat", "dog", "bird"]."""
    task: Literal["classes"] | None = None
    """classes: every label is a class, also where labels are numbers that look like measurements; None:
    such labels are refused (see data/labels.py)."""
    separator: str | None = Field(default=None, min_length=1)
    """What stands between labels in a table's cell, as in cat|dog; a picture then has any number."""
    split: str = "split"
    """Table column with train, val or test; used when the table has it."""
    bad_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Largest share of unreadable items that is set aside with a warning; above it the run stops."""
    max_megapixels: float = Field(default=80.0, gt=0.0)
    """Pictures with more pixels than this are refused before they are decoded (decompression bombs)."""
    channels: int = Field(default=3, ge=1, le=64)
    """Input channels of the network; pictures have 3 (or 1), arrays, .npy and TIFF files any number."""
    max_value: Annotated[float, Field(gt=0.0)] | Literal["auto"] | None = "auto"
    """What counts as full in pixels of more than 8 bits of arrays, .npy, TIFF and grey PNG files; None:
    65535 for 16 bits, 1 for floating point, and other kinds are refused; auto: so, or 255, 1023, 4095 or
    16383 where no picture of 16 bits has more and each uses more than a 16th of it."""
    background: Background = "auto"
    """What transparent pictures are laid over: white or black; auto: black where the mean brightness of
    what can be seen is above three quarters, else white."""
    size: int | None = Field(default=None, ge=8, le=4096)
    """Height and width in pixels that the network sees; None: as its weights were trained."""
    statistics: Literal["auto", "weights", "data"] = "auto"
    """Mean and deviation that pictures are normalised by: the weights' own, or those of the training data;
    auto takes the data's where channels is not 3."""

    augment: Changes | None = None
    """Random changes to training pictures of one's own, in every phase and in place of a preset, as
    ["flip", "crop:0.08-1"]; None: what train.augmentation says."""

    @property
    def full(self) -> float | None:
        """``max_value`` where it is a number."""
        return None if self.max_value == "auto" else self.max_value

    @model_validator(mode="after")
    def _one_way_to_say_labels(self) -> Self:
        if self.separator is not None and not isinstance(self.label, str):
            raise ValueError(
                "data.separator divides one column's cells; leave it out beside several columns"
            )
        if not isinstance(self.label, str) and len(set(self.label)) != len(self.label):
            raise ValueError("data.label names a column twice")
        return self


RATES = ("lr", "head_lr", "lowest_lr", "layer_decay", "rates")
"""Settings that say peak rates, of every phase or of one."""


class RateSettings(PhaseOptions):
    """Options of phases, and their peak rates."""

    lr: float | None = Field(default=None, gt=0.0)
    """Peak learning rate of the topmost stage that trains."""
    head_lr: float | None = Field(default=None, gt=0.0)
    """Peak learning rate of the head."""
    lowest_lr: float | None = Field(default=None, gt=0.0)
    """Peak rate of the lowest stage that trains; stages between follow geometrically."""
    layer_decay: float | None = Field(default=None, gt=0.0, le=1.0)
    """Factor of the rate from each stage that trains to the one below it."""
    rates: dict[str, Annotated[float, Field(gt=0.0)]] | None = None
    """Peak rates by stage, in place of the four above: {"head": 1e-3, "layer4": 1e-4, "stem": 1e-5}; names
    may be patterns, as layer[1-3]."""

    @model_validator(mode="after")
    def _one_way_to_say_rates(self) -> Self:
        if self.rates is not None:
            beside = [name for name in RATES[:-1] if getattr(self, name)]
            if beside:
                raise ValueError(f"rates names every rate; leave out {', '.join(beside)} beside it")
        if self.lowest_lr is not None and self.layer_decay is not None:
            raise ValueError("give lowest_lr or layer_decay: each fixes all rates")
        return self


class TrainSettings(RateSettings):
    """How phases of gradient steps run: options of every phase, and rates."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of training steps; auto takes bf16 where the machine computes it natively."""
    gradient_checkpointing: bool = False
    """Activations are computed again in the backward pass (Chen et al., 2016): less memory, more time."""
    workers: int | None = Field(default=None, ge=0, le=64)
    """Processes that decode pictures; 0 decodes in the training process."""


class PhaseSettings(RateSettings):
    """What one phase does otherwise than the others."""

    epochs: int | None = Field(default=None, ge=1)
    """Length of this phase."""


class FinalSettings(Frozen):
    """What is done after training."""

    checkpoints: int = Field(default=3, ge=1, le=20)
    """Best checkpoints of the last phase that are kept for a greedy average (1: no average)."""
    interpolate: bool = True
    """Whether blends of the start and the end are tried (WiSE-FT, Wortsman et al., 2022)."""
    calibrate: bool = True
    """Whether probabilities are made honest by a temperature (Guo et al., 2017)."""
    tta: Views | None = None
    """Test-time augmentation: logits are the mean over the picture and its mirror image, its middle
    (seven eighths of each side), or both and the mirrored middle. Predictions take that much longer."""


class ReuseSettings(Frozen):
    """What is kept of frozen stages, so that it is computed once."""

    store: bool = True
    """Whether what frozen stages make of pictures is kept on disk, for this run and others."""
    limit: float = Field(default=10.0, gt=0.0)
    """Gigabytes that the whole store may take; what was not used for the longest time goes first."""
    views: int | None = Field(default=None, ge=1)
    """How many augmented views of a picture are kept: epoch e sees view e mod K. From as many as there are
    epochs on training is that without a store. None: a fifth as many as epochs, as far as they fit."""

    @property
    def limit_bytes(self) -> int:
        return int(self.limit * 1e9)

    @property
    def room(self) -> int:
        """Bytes that one run may count on."""
        return room_of(self.limit_bytes)


def room_of(limit: int) -> int:
    """Bytes that one run may count on, of a store of ``limit``."""
    return limit // 2


Share = Annotated[float, Field(ge=0.0, lt=1.0)]


def _joined(value: Any) -> Any:
    """``["query", "value"]`` as ``"query,value"``."""
    several = isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
    return ",".join(value) if several else value


class AdapterSettings(Frozen):
    """Low-rank adapters, for the strategies that train them (lora)."""

    rank: int = Field(default=8, ge=1, le=1024)
    """Width of an adapter: a layer of m inputs and n outputs gets rank * (m + n) parameters."""
    alpha: int = Field(default=16, ge=1)
    """What an adapter adds is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout before each adapter."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank), so that high ranks learn as fast (rsLoRA, Kalajdzievski, 2023)."""
    dora: bool = False
    """Learn the size of each output's weights apart from their direction (DoRA, Liu et al., 2024)."""
    bias: Literal["none", "targets", "all"] = "none"
    """Which biases train beside the adapters: those of adapted layers, or all in the same stages."""
    targets: Annotated[str, BeforeValidator(_joined)] = Field(default="all", min_length=1)
    """Layers that get an adapter: all (linear ones; in CNNs the convolutions too), attention, the ends of
    their names as query,value, or a regular expression that their whole names match."""
    quantize: Literal["none", "4bit"] = "none"
    """4bit: the frozen weights of adapted layers in NF4 (QLoRA, Dettmers et al., 2023), by bitsandbytes on
    a CUDA device."""
    bundle: Literal["merged", "adapter"] = "merged"
    """What is saved: the whole network with what was learnt added to its weights; or that alone, to be
    loaded onto the backbone that it began with."""


class Recipe(Frozen):
    """Everything a person can ask of a run."""

    backbone: str = DEFAULT_BACKBONE
    """What to start from: library/name[:weights]."""
    weights: str | None = None
    """A local file (.safetensors, .pth) with the backbone's weights, used in place of a download."""
    strategy: str = "auto"
    """A named strategy, with its parameter after a colon where it takes one: partial:2."""
    epochs: int | None = Field(default=None, ge=1)
    """Length of the main phase; in gradual, of all phases in which stages train."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Everything random is a function of this number."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    pooling: Literal["auto", "cls", "mean", "last"] = "auto"
    """What of a text's last states stands for it: the first token's, the mean, or the last token's; auto:
    as the model's makers have it."""
    head: Literal["linear", "mlp"] = "linear"
    """linear, or dropout - linear - ReLU - dropout - linear."""
    head_hidden: int = Field(default=256, ge=1)
    """Width of the mlp head's hidden layer."""
    head_dropout: Share | tuple[Share, Share] | None = None
    """Dropout before each linear layer of the head, or of an mlp one share a layer, as [0.25, 0.5]; None: 0
    for linear, 0.25 for mlp."""
    head_init: Literal["auto", "solved", "random"] = "auto"
    """How the head starts; auto solves it to its optimum wherever it can be solved."""
    contrast: int | None = Field(default=None, ge=0)
    """Epochs of a first stage, before there is a head, in which features of one label are drawn together
    (after SetFit, Tunstall et al., 2022); 0: none; None: as the strategy says."""
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    phase: dict[Annotated[int, Field(ge=1)], PhaseSettings] = Field(default_factory=dict)
    """What single phases do otherwise, by their number in the plan: phase.2.augmentation=none."""
    thaw: Thaw | None = None
    """For the strategy gradual: which stages begin to train at which epoch, as {"0": ["layer4"]}: names,
    patterns, or parts of names; several also as "layer3,layer2". Names without an epoch train from 0 on."""
    final: FinalSettings = FinalSettings()
    reuse: ReuseSettings = ReuseSettings()
    adapters: AdapterSettings = AdapterSettings()

    @model_validator(mode="after")
    def _one_way_to_say_augmentation(self) -> Self:
        if self.data.augment is not None and "augmentation" in self.train.model_fields_set:
            raise ValueError("data.augment and train.augmentation both say what changes; leave one out")
        return self

    @model_validator(mode="after")
    def _one_share_a_layer(self) -> Self:
        if isinstance(self.head_dropout, tuple) and self.head == "linear":
            raise ValueError("head_dropout has two shares, and a linear head has one layer; set head=mlp")
        return self

    @property
    def drop_path(self) -> float:
        """The largest rate of stochastic depth in any phase."""
        return max(each.drop_path or 0.0 for each in (self.train, *self.phase.values()))

    def to_json(self) -> str:
        """What was asked, and only that: what a strategy may choose stays open."""
        return self.model_dump_json(indent=2, exclude_unset=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.model_validate_json(text)

    def to_toml(self) -> str:
        """What was asked, as a file that :func:`read_recipe` takes."""
        values = json.loads(self.model_dump_json(exclude_unset=True, exclude_none=True))
        return "\n".join(_toml_lines(values)).lstrip("\n") + "\n"


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
    values: dict[str, Any] = {}
    if file is not None:
        values = _read_toml(Path(file))
        _find_beside(values, Path(file).parent, options.get("data__path"))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise RecipeError(f"--set {quote(setting)} is not of the form key=value, as in train.lr=1e-4.")
        put(values, key.strip(), _parse(text.strip()))
    for name, value in options.items():
        if value is not None:
            put(values, name.replace("__", "."), value)
    return make_recipe(values)


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values, refused in words when a key or value is not right.

    Raises:
        RecipeError: naming every wrong key, with the nearest right one, and every wrong value.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        by_key: dict[str, str] = {}
        for problem in error.errors():  # of alternatives, each gives a problem: the first says it best
            by_key.setdefault(_key_of(problem), _explain(problem))
        raise RecipeError("\n".join(by_key.values())) from None


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


def _find_beside(values: dict[str, Any], folder: Path, data: str | None) -> None:
    """Paths that lie beside the recipe, and not in the working folder, point there.

    ``data``: where the data is, if an option says it.
    """

    def find(path: str) -> str:
        return str(folder / path) if not is_there(Path(path)) and is_there(folder / path) else path

    change_paths(values, find, data)


def change_paths(values: dict[str, Any], change: Callable[[str], str], data: str | None = None) -> None:
    """Replace every path in the plain values of a recipe by what ``change`` makes of it.

    Parts that lie in the folder of the data, or of its table, stay: they are relative to that. ``data``:
    where the data is, whatever the values say.
    """
    _change(values, "weights", change)
    settings = values.get("data")
    if not isinstance(settings, dict):
        return
    _change(settings, "path", change)
    path = Path(str(data or settings.get("path", "")))
    root = path.parent if is_there(path) and path.is_file() else path
    for part in ("train", "val", "test"):
        _change(settings, part, lambda name: name if is_there(root / name) else change(name))


def _change(table: dict[str, Any], key: str, change: Callable[[str], str]) -> None:
    """Change the path, or each of several, under a key; other values are refused later."""
    found = table.get(key)
    if isinstance(found, list):
        table[key] = [change(path) if isinstance(path, str) else path for path in found]
    elif isinstance(found, str) and found:
        table[key] = change(found)


def _toml_lines(values: Mapping[str, Any], parents: tuple[str, ...] = ()) -> Iterator[str]:
    """Single values first, then tables, as TOML wants it; strings and keys are written as in JSON."""
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    for key, value in values.items():
        if key not in tables:
            yield f"{json.dumps(key) if not key.isidentifier() else key} = {json.dumps(value)}"
    for key, inner in tables.items():
        path = (*parents, key if key.isidentifier() else json.dumps(key))
        if any(not isinstance(value, dict) for value in inner.values()):
            yield f"\n[{'.'.join(path)}]"
        yield from _toml_lines(inner, path)


def _parse(text: str) -> Any:
    """A value as JSON where it is JSON (numbers, true, null, lists), else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """``value`` under a key with dots; raises RecipeError where a part of it holds a single value."""
    *parents, last = key.split(".")
    for name in parents:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"{quote(key)}: {quote(name)} is a single value, not a table of settings.")
        values = inner
    values[last] = value


def _key_of(problem: Any) -> str:
    """The key with its dots, without what pydantic adds for alternatives of a type."""
    return ".".join(str(part) for part in problem["loc"] if "[" not in str(part))


_ALSO_CALLED = {
    "learning_rate": "lr",
    "learningrate": "lr",
    "batchsize": "batch_size",
    "bs": "batch_size",
    "wd": "weight_decay",
    "aug": "augmentation",
    "opt": "optimizer",
    "optimiser": "optimizer",
    "smoothing": "label_smoothing",
}
"""What other tools call a setting of ours, by its last name."""


def _explain(problem: Any) -> str:
    key = _key_of(problem)
    if problem["type"] == "extra_forbidden":
        known = recipe_keys()
        parent, _, last = key.rpartition(".")
        if problem["loc"][0] == "phase":
            if last in TrainSettings.model_fields:
                return f"{key}: this holds for all phases alike; set train.{last}."
            known = [f"phase.{problem['loc'][1]}.{name}" for name in PhaseSettings.model_fields]
        meant = f"{parent}.{_ALSO_CALLED.get(last.lower(), last)}".lstrip(".")
        near = f" Did you mean {quote(meant)}?" if meant in known else suggest(key, known)
        hint = near or f" The keys are: {', '.join(known)}."
        return f"There is no recipe key {quote(key)}.{hint}"
    if problem["type"] == "value_error":  # one of ours
        message = str(problem["ctx"]["error"])
        if isinstance(problem["input"], dict):  # of several settings together, which it names
            return f"{key}: {message}." if key and not message.startswith(f"{key}.") else f"{message}."
    else:
        message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{key} = {quote(problem['input'])}: {message}."
