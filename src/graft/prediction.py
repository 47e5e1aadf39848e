"""Labels and probabilities of pictures, and how good they are.

Works on a model and plain values beside it, whether they come from a bundle or from training.
What cannot be read is reported in its place, and the others are done.

Shapes: N items, C classes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from graft.backbones.contract import Preprocess
from graft.data import read_items, read_labelled
from graft.data.dataset import Pictures
from graft.data.items import Problem
from graft.errors import DataError
from graft.inference import forward_all
from graft.metrics import Metrics, score_logits
from graft.recipe import DataSettings
from graft.task import Task


@dataclass(frozen=True)
class Prediction:
    """One picture's decision: its label and the probability of every label, or why there is none."""

    id: str
    label: str | None = None
    probabilities: dict[str, float] | None = None
    error: str | None = None

    @property
    def probability(self) -> float | None:
        """That of the label decided for."""
        if self.label is None or self.probabilities is None:
            return None
        return self.probabilities[self.label]

    def to_dict(self) -> dict[str, Any]:
        if self.error is not None:
            return {"id": self.id, "error": self.error}
        return {
            "id": self.id,
            "label": self.label,
            "probability": self.probability,
            "probabilities": self.probabilities,
        }


@dataclass(frozen=True)
class Predictions(Sequence[Prediction]):
    """Predictions in the order of the pictures, unreadable ones last; ``labels`` as in the task.

    ``problems``: what was odd about the folders that were searched.
    """

    rows: tuple[Prediction, ...]
    labels: tuple[str, ...]
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    @property
    def failed(self) -> tuple[Prediction, ...]:
        """Those without a label, each with its error."""
        return tuple(row for row in self.rows if row.error is not None)

    def to_jsonl(self) -> str:
        """One JSON object a line."""
        return "".join(json.dumps(row.to_dict()) + "\n" for row in self.rows)

    def to_csv(self) -> str:
        """id, label, probability, error, then one column for each label's probability."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["id", "label", "probability", "error", *map(_plain, self.labels)])
        for row in self.rows:
            shown = [
                f"{(row.probabilities or {}).get(label, ''):.6g}" if row.probabilities else ""
                for label in self.labels
            ]
            top = "" if row.probability is None else f"{row.probability:.6g}"
            writer.writerow([_plain(row.id), _plain(row.label or ""), top, _plain(row.error or ""), *shown])
        return buffer.getvalue()


def predict_items(
    model: nn.Module,
    task: Task,
    preprocess: Preprocess,
    data: Any,
    device: torch.device,
    settings: DataSettings,
) -> Predictions:
    """Predictions for paths, folders or arrays.

    Raises:
        DataError: no picture is found at all.
    """
    if getattr(data, "ndim", 0) == 4:  # an array or tensor of several pictures
        data = list(data)
    items, faults, problems = read_items(data, _for_network(settings, preprocess))
    if not items and not faults:
        raise DataError("\n".join(map(str, problems)) or "No picture was named.")
    logits = forward_all(model, Pictures(items, preprocess), device) if len(items) else None
    table = [] if logits is None else task.probabilities(logits).tolist()
    rows = [_decide(name, row, task) for name, row in zip(items.ids, table, strict=True)]
    unreadable = [Prediction(fault.id, error=fault.reason) for fault in faults]
    return Predictions((*rows, *unreadable), task.labels, problems)


def _decide(name: str, row: list[float], task: Task) -> Prediction:
    probabilities = dict(zip(task.labels, row, strict=True))
    return Prediction(name, max(probabilities, key=probabilities.__getitem__), probabilities)


def evaluate_items(
    model: nn.Module,
    task: Task,
    preprocess: Preprocess,
    data: Any,
    device: torch.device,
    settings: DataSettings,
) -> Metrics:
    """Metrics on labelled data, with what was odd about the data.

    Raises:
        DataError: the data cannot be read, or has a class that ``task`` does not know.
    """
    items, problems = read_labelled(data, _for_network(settings, preprocess), task)
    assert items.targets is not None
    logits = forward_all(model, Pictures(items, preprocess), device)
    metrics = score_logits(logits.numpy(), np.asarray(items.targets), task.labels)
    return replace(metrics, problems=tuple(map(str, problems)))


def _for_network(settings: DataSettings, preprocess: Preprocess) -> DataSettings:
    """Pictures are read with as many channels as the network takes."""
    return settings.model_copy(update={"channels": preprocess.channels})


def _plain(text: str) -> str:
    """Text that a spreadsheet will not run as a formula, nor any reader take for a new line."""
    safe = f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
    return safe.replace("\r", " ")
