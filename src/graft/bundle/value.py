"""What a bundle is, and how it is written."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from graft.backbones.contract import Adapters, Backbone, Encoding, Intake, Source
from graft.bundle.machine import provenance
from graft.bundle.manifest import (
    FORMAT,
    GOLDEN,
    MANIFEST,
    TOKENIZER,
    WEIGHTS,
    WHOLE_FORMAT,
    manifest_digest,
)
from graft.errors import FAILED, BundleError
from graft.files import new_folder, sha256_file, write_json
from graft.metrics import Metrics, MultiLabelMetrics
from graft.model import Head, Model
from graft.numerics import resolve_device
from graft.options import Views
from graft.prediction import Predictions, as_trained, evaluate_items, predict_items
from graft.recipe import DataSettings
from graft.seeds import mix
from graft.task import Task


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
        digests (sha256) of items that trained it; their number among the items is reported.

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
            "sizes": {name: (folder / name).stat().st_size for name in files},
        }
        write_json(folder / MANIFEST, values | {"digest": manifest_digest(values)})


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


def _unshared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tied tensors as copies, for safetensors refuses memory that is shared."""
    seen: set[int] = set()
    result = {}
    for name, tensor in state.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return result


def _source_values(source: Source) -> dict[str, Any]:
    return {name: getattr(source, name) for name in Source.__dataclass_fields__}
