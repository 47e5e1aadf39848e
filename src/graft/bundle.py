"""Bundle: what came out of a run, in one folder that needs nothing else.

    weights.safetensors   the whole model, trunk and head; or what was learnt of it, adapters and head
    golden.safetensors    two inputs and their logits: every load proves that it computes the same
    tokenizer.json        of texts: the tokenizer, as the library tokenizers writes it
    graft.json            task, head, preprocessing, source, plan, metrics, versions, hash of each file

A bundle is saved atomically and loaded without executing anything from it: the network is built by
graft's own adapters (or the factory of a user's own module) and then filled with the stored tensors.
This module knows nothing of training or planning; the plan is kept as plain values.
"""

from __future__ import annotations

import contextlib
import copy
import json
import platform
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graft.backbones import from_module, rebuild
from graft.backbones.contract import Adapters, Backbone, Encoding, Factory, Intake, Preprocess, Source
from graft.data.items import Items, Text
from graft.data.texts import Texts
from graft.data.transforms import preprocess as prepare_picture
from graft.errors import FAILED, BundleError, DataError
from graft.files import new_folder, read_json, sha256_file, write_json
from graft.metrics import Metrics, MultiLabelMetrics
from graft.model import Head, Model
from graft.numerics import resolve_device
from graft.options import Views
from graft.prediction import Predictions, as_trained, evaluate_items, predict_items
from graft.recipe import DataSettings
from graft.seeds import mix
from graft.task import Task

FORMAT = 3  # 2: temperature, thresholds and views belong to what a prediction is; 3: adapters alone
WHOLE_FORMAT = 2  # of a bundle with the whole model, which older versions read as well
MANIFEST = "graft.json"
WEIGHTS, GOLDEN, TOKENIZER = "weights.safetensors", "golden.safetensors", "tokenizer.json"
GOLDEN_TOLERANCE = 1e-3  # absolute and relative; other machines round differently


@dataclass(frozen=True)
class Bundle:
    """A model that is ready for use, and everything known about it.

    ``plan`` and ``metrics`` are plain values; ``path`` is where it was loaded from or saved to. ``tta``:
    which views of a picture predictions are the mean over (see :func:`graft.inference.views_of`).
    ``adapters``: where the bundle is an adapter, to be loaded onto its backbone: what is in the model's
    trunk; ``stored`` then names the values that are saved.
    """

    model: Model
    task: Task
    head: Head
    preprocess: Intake
    source: Source
    plan: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    tta: Views = "none"
    adapters: Adapters | None = None
    stored: tuple[str, ...] = ()

    @property
    def takes_text(self) -> bool:
        return isinstance(self.preprocess, Encoding)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the logits."""
        return self.task.labels

    @property
    def _columns(self) -> tuple[str, ...]:
        """Those of a table that held the texts it was trained on."""
        return tuple(self.plan.get("data", {}).get("columns", ()))

    def predict(
        self, data: Any, *, device: str = "auto", settings: DataSettings | None = None
    ) -> Predictions:
        """Labels and probabilities of pictures: a path, several paths, folders, or arrays.

        Of texts: strings, pairs of strings, or the ``Path`` of a table or of a file with a text a line.
        Unreadable files are reported in the result, and the others done. ``settings`` say how data is
        read, as in a recipe.

        Raises:
            DataError: nothing is found at all.
            RecipeError: a setting of no effect.
        """
        return predict_items(
            self.model,
            self.task,
            self.preprocess,
            data,
            resolve_device(device),
            settings or DataSettings(),
            tta=self.tta,
            columns=self._columns,
        )

    def evaluate(
        self,
        data: Any,
        *,
        device: str = "auto",
        settings: DataSettings | None = None,
        trained_on: Collection[str] = (),
    ) -> Metrics | MultiLabelMetrics:
        """How good the bundle is on labelled data: a folder of class folders, a table, arrays.

        A table's columns are those that it was trained on, unless ``settings`` name them. ``trained_on``:
        digests (sha256) of items that trained it; how many of them are met is told.

        Raises:
            DataError: the data cannot be read, or has a class that the bundle does not know.
            RecipeError: a setting of no effect.
        """
        return evaluate_items(
            self.model,
            self.task,
            self.preprocess,
            data,
            resolve_device(device),
            as_trained(settings or DataSettings(), self.plan.get("data", {}).get("named", {})),
            tta=self.tta,
            columns=self._columns,
            trained_on=trained_on,
        )

    def merged(self) -> Bundle:
        """The same with what its adapters learnt added to the weights: a whole network, not saved yet.

        Raises:
            BundleError: it is whole already.
        """
        if self.adapters is None:
            raise BundleError("The bundle holds its whole network already: there is nothing to merge.")
        from graft.adapters import merge

        model = copy.deepcopy(self.model)
        merge(model.trunk)
        return replace(self, model=model, adapters=None, stored=(), path=None)

    def save(self, folder: str | Path) -> Path:
        """Write the bundle to ``folder``, which must not exist yet; it appears when it is whole.

        Raises:
            BundleError: the folder exists or cannot be written.
        """
        path = Path(folder)
        if path.exists():
            raise BundleError(f"{path} exists; a bundle is only written to a new folder.")
        try:
            with new_folder(path) as fresh:
                self._write(fresh)
        except (OSError, SafetensorError) as error:
            failure = BundleError(
                f"The bundle {path} could not be written: {getattr(error, 'strerror', None) or error}."
            )
            failure.exit_code = FAILED  # of the disk, not of what was asked
            raise failure from None
        return path

    def _write(self, folder: Path) -> None:
        model = self.model.cpu().eval()
        own = model.state_dict()
        names = self.stored if self.adapters else tuple(own)
        if not own.keys() >= set(names):
            raise BundleError("This is one of several adapters in memory; what can be saved is .merged().")
        state = {name: own[name].contiguous() for name in names}
        inputs = self.preprocess.noise(2, mix("golden"))
        with torch.inference_mode():
            logits = model(inputs).float()
        if not all(torch.isfinite(value).all() for value in (*state.values(), logits)):
            raise BundleError("The bundle was not written: its values are not finite.")
        save_file(_unshared(state), folder / WEIGHTS)
        save_file({"inputs": inputs.contiguous(), "logits": logits.contiguous()}, folder / GOLDEN)
        files = [WEIGHTS, GOLDEN]
        if isinstance(self.preprocess, Encoding):
            (folder / TOKENIZER).write_text(self.preprocess.tokenizer, encoding="utf-8")
            files.append(TOKENIZER)
        values = {
            "format": FORMAT if self.adapters else WHOLE_FORMAT,
            "task": self.task.to_dict(),
            "head": self.head.to_dict(),
            (
                "encoding" if isinstance(self.preprocess, Encoding) else "preprocess"
            ): self.preprocess.to_dict(),
            "source": _source_values(self.source),
            "plan": self.plan,
            "metrics": self.metrics,
            "tta": self.tta,
            **({"adapters": json.loads(json.dumps(asdict(self.adapters)))} if self.adapters else {}),
            "provenance": provenance(),
            "files": {name: sha256_file(folder / name) for name in files},
        }
        write_json(folder / MANIFEST, values | {"digest": _digest(values)})


def make_bundle(
    model: Model,
    task: Task,
    head: Head,
    backbone: Backbone,
    *,
    plan: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    tta: Views = "none",
) -> Bundle:
    """A bundle of a trained ``model`` whose trunk came from ``backbone``; not saved yet.

    Where the backbone has adapters, and so the trunk, they and the head are what will be saved.
    """
    stored: tuple[str, ...] = ()
    if backbone.adapters is not None:
        from graft.adapters.on_base import names_to_store

        stored = names_to_store(model, backbone)
    return Bundle(
        model=model,
        task=task,
        head=head,
        preprocess=backbone.preprocess,
        source=backbone.source,
        plan=plan or {},
        metrics=metrics or {},
        tta=tta,
        adapters=backbone.adapters,
        stored=stored,
    )


def load_bundle(
    path: str | Path, *, factory: Factory | None = None, base: Backbone | str | Path | None = None
) -> Bundle:
    """Load a bundle from its folder, or from the folder of the run that made it.

    ``factory`` builds the network where the backbone was a module of the user's own. ``base``: of a bundle
    that is an adapter, its backbone or a file with its weights; by default loaded by its id.

    Raises:
        BundleError: nothing there, damaged, of a newer format, or it does not compute what it did; an
            adapter's backbone cannot be had, or is another one.
    """
    parts = read_parts(path)
    stored, folder = parts.stored, parts.folder
    model = _build(stored, folder, factory, base)
    _fill(model, parts.tensors, folder, partly=stored.adapters is not None)
    prove(model, parts)
    return replace(stored, model=model)


@dataclass(frozen=True)
class Parts:
    """What a bundle's folder holds: ``stored`` is the bundle with no model, ``tensors`` what goes into one.

    ``golden``: two inputs, and the logits that the model must give.
    """

    folder: Path
    stored: Bundle
    tensors: dict[str, Tensor]
    golden: dict[str, Tensor]


def read_parts(path: str | Path) -> Parts:
    """A bundle's parts, each checked by its hash; raises BundleError as :func:`load_bundle`."""
    folder = find_bundle(Path(path))
    values = _read_manifest(folder)
    stored = _describe(values, folder)
    tensors, golden = (_read_tensors(folder / name, values["files"][name]) for name in (WEIGHTS, GOLDEN))
    return Parts(folder, replace(stored, stored=tuple(tensors) if stored.adapters else ()), tensors, golden)


def find_bundle(path: Path) -> Path:
    """The bundle's folder, given itself or its run's.

    Raises:
        BundleError: there is none.
    """
    for folder in (path, path / "bundle"):
        if (folder / MANIFEST).is_file():
            return folder
    if (path / "recipe.json").is_file():
        raise BundleError(f"The run {path} has not finished: go on with graft resume {path}.")
    raise BundleError(
        f"There is no bundle in {path}: {MANIFEST} was expected there. graft train makes one, in "
        "the folder given with --out (runs/latest is the last one)."
    )


def provenance() -> dict[str, str]:
    """What the result was made with."""
    from importlib.metadata import PackageNotFoundError, version

    names = ("graft-ml", "torch", "torchvision", "timm", "transformers", "accelerate", "numpy", "pillow")
    found = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):  # what is optional
            found[name] = version(name)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": _hardware(),
        **found,
    }


def _hardware() -> str:
    """The processor, and the GPU where there is one."""
    names = [platform.processor() or platform.machine()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")][
            :1
        ] or names
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return " and ".join(names)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    values = read_json(path, BundleError)
    if not isinstance(values, dict) or type(values.get("format")) is not int or values["format"] < 1:
        raise BundleError(f"{path} is damaged: it does not describe a bundle.")
    if values["format"] > FORMAT:
        raise BundleError(
            f"{folder} has format {values['format']}; this graft reads up to {FORMAT}. Update graft."
        )
    try:
        whole = values.pop("digest", None) == _digest(values)
    except ValueError:  # a number beyond all bounds
        whole = False
    if not whole:
        raise BundleError(f"{path} is damaged: its content does not match its digest.")
    return values


def _describe(values: dict[str, Any], folder: Path) -> Bundle:
    """The bundle without its model; every value of the type that it must have."""
    try:
        texts = "encoding" in values
        for name in (WEIGHTS, GOLDEN, *([TOKENIZER] if texts else [])):
            TypeAdapter(str).validate_python(values["files"][name])
        stored = Bundle(
            model=Model(nn.Identity(), nn.Identity()),
            task=TypeAdapter(Task).validate_python(values["task"]),
            head=TypeAdapter(Head).validate_python(values["head"]),
            preprocess=_read_encoding(values, folder)
            if texts
            else TypeAdapter(Preprocess).validate_python(values["preprocess"]),
            source=TypeAdapter(Source).validate_python(values["source"]),
            plan=TypeAdapter(dict[str, Any]).validate_python(values["plan"]),
            metrics=TypeAdapter(dict[str, Any]).validate_python(values["metrics"]),
            path=folder,
            tta=TypeAdapter(Views).validate_python(values.get("tta", "none")),
            adapters=TypeAdapter(Adapters | None).validate_python(values.get("adapters")),
        )
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder / MANIFEST} is damaged: {error}") from None
    if stored.head.classes != stored.task.classes:
        raise BundleError(
            f"{folder / MANIFEST} is damaged: {stored.task.classes} labels for a head of "
            f"{stored.head.classes} classes."
        )
    return stored


def _read_encoding(values: dict[str, Any], folder: Path) -> Encoding:
    """The tokenizer beside the manifest, which is what the manifest says."""
    file, told = folder / TOKENIZER, dict(values["encoding"])
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"Cannot read {file}: {getattr(error, 'strerror', None) or error}.") from None
    if sha256_file(file) != values["files"][TOKENIZER]:
        raise BundleError(f"{file} is damaged: its content does not match its hash.")
    del told["tokenizer"]
    return TypeAdapter(Encoding).validate_python({**told, "tokenizer": text})


def _build(
    stored: Bundle, folder: Path, factory: Factory | None, base: Backbone | str | Path | None
) -> Model:
    """The network as it is made, weights still random, or those of the backbone that an adapter is for."""
    if stored.adapters is not None:
        from graft.adapters.on_base import load_base, rebuild_trunk

        found = load_base(stored.source, stored.preprocess, stored.adapters.base, base)
        return Model(rebuild_trunk(found, stored.adapters), stored.head.build(seed=0))
    if base is not None:
        raise BundleError(f"{folder} holds its whole network; leave out the backbone given beside it.")
    own = _make_own(stored, factory) if stored.source.library == "plain" else None
    try:
        trunk = rebuild(stored.source, stored.preprocess).trunk if own is None else own
        return Model(trunk, stored.head.build(seed=0))
    except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
        # Options and sizes that no network has.
        raise BundleError(f"{folder / MANIFEST} is damaged, its network cannot be built: {error}") from None


def _make_own(stored: Bundle, factory: Factory | None) -> nn.Module:
    if factory is None:
        raise BundleError(
            f"{stored.source.id} was a module of your own and no code is stored: load the bundle from "
            "Python, with factory=the function that builds the module."
        )
    head = stored.source.options.get("head")  # where it was taken out before
    return from_module(factory(), preprocess=stored.preprocess, name=stored.source.name, head=head).trunk


def _read_tensors(file: Path, expected: str) -> dict[str, Tensor]:
    try:
        if not file.is_file():  # a pipe would never end
            raise BundleError(f"Cannot read {file}: it is missing, or no regular file.")
        if sha256_file(file) != expected:
            raise BundleError(f"{file} is damaged: its content does not match its hash.")
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"Cannot read {file}: {getattr(error, 'strerror', None) or error}.") from None


def _fill(model: Model, tensors: dict[str, Tensor], folder: Path, *, partly: bool) -> None:
    """Every value of the model from the bundle: same names, same shapes, all finite.

    ``partly``: those of a backbone may be missing.
    """
    own = model.state_dict()
    if partly:
        own = {name: v for name, v in own.items() if name in tensors or _is_learnt(name)}
    missing, extra = sorted(own.keys() - tensors), sorted(tensors.keys() - own)
    if missing or extra:
        raise BundleError(
            f"{folder / WEIGHTS} does not fit its network: missing {missing[:5]}, unknown {extra[:5]}."
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise BundleError(
                f"{folder / WEIGHTS}: {name} is {tensor.dtype} {tuple(tensor.shape)}; the network has "
                f"{own[name].dtype} {tuple(own[name].shape)}."
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BundleError(f"{folder / WEIGHTS}: {name} holds values that are not finite.")
    model.load_state_dict(tensors, strict=not partly)
    model.eval()


def _is_learnt(name: str) -> bool:
    """Whether a value is of an adapter or of the head, which no backbone has."""
    return name.startswith("head.") or ".lora_" in name


def prove(model: Model, parts: Parts) -> None:
    """Raises BundleError where the network does not compute what it did when it was saved."""
    folder, golden, intake = parts.folder, parts.golden, parts.stored.preprocess
    try:
        ready = _prepared(intake)
        shape = tuple(intake.noise(1).shape[1:])
        with torch.inference_mode():
            logits = model(golden["inputs"]).float()
        worst = float((logits - golden["logits"]).abs().max())
        fits = golden["inputs"].shape == (2, *shape) and golden["logits"].shape == logits.shape
        fits = fits and golden["logits"].dtype == logits.dtype
        if isinstance(intake, Preprocess):
            fits = fits and tuple(ready.shape[1:]) == shape and bool(torch.isfinite(ready).all())
    except (DataError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise BundleError(f"{folder} does not fit together: {error}") from None
    if not fits:
        raise BundleError(f"{folder} does not fit together: its proof is of other inputs.")
    if not torch.allclose(logits, golden["logits"], rtol=GOLDEN_TOLERANCE, atol=GOLDEN_TOLERANCE):
        raise BundleError(
            f"{folder} does not compute what it did when it was saved (logits differ by {worst:.2g}): "
            "the network's code changed. Load it with the versions listed in its graft.json."
        )


def _prepared(intake: Intake) -> Tensor:
    """A small item as it is prepared for the network, as a batch of one."""
    if isinstance(intake, Preprocess):
        picture = torch.zeros(intake.channels, 8, 8, dtype=torch.uint8)
        return prepare_picture(picture, intake).unsqueeze(0)
    items = Items((Text("A word."),), ("",), None, ("",))
    ((inputs, _, _),) = Texts(items, intake).batches([[0]])
    return inputs


def _unshared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tied tensors as copies, for safetensors refuses memory that is shared."""
    seen: set[int] = set()
    result = {}
    for name, tensor in state.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return result


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode()).hexdigest()


def _source_values(source: Source) -> dict[str, Any]:
    return {name: getattr(source, name) for name in Source.__dataclass_fields__}
