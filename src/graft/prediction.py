"""Labels and probabilities of pictures or texts, and how good they are.

Works on a model and plain values beside it, whether they come from a bundle or from training.
What cannot be read is reported in its place, and the others are done.

Shapes: N items, C classes.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from graft.backbones.contract import Encoding, Intake
from graft.data import read_items, read_labelled
from graft.data.inputs import open_inputs
from graft.data.items import Items, Modality, Problem
from graft.data.texts import list_cut
from graft.errors import DataError, RecipeError, quote
from graft.inference import forward_all
from graft.metrics import Metrics, MultiLabelMetrics
from graft.recipe import DataSettings
from graft.task import Kind, Task

SEPARATOR = "|"
# A comma is only a separator, of labels or within a number: matched in two ways, it would make the search
# exponential.
_NUMBER = r"[+-]?(?:\d[\d.]*|[.,]\d+)(?:[eE][+-]?\d+)?(?:\s?%)?"
_NUMBERS = re.compile(rf"{_NUMBER}(?:[|;,/ ]{_NUMBER})*")
# What of the data settings says how items and labels are found; the rest is the bundle's to say.
_TO_PREDICT: dict[Modality, tuple[str, ...]] = {
    "picture": ("max_megapixels", "separator"),
    "text": ("separator", "text"),
}
_TO_EVALUATE: dict[Modality, tuple[str, ...]] = {
    "picture": ("bad_share", "image", "label", "max_megapixels", "separator", "split"),
    "text": ("bad_share", "label", "separator", "split", "text"),
}


_EXPECTED: dict[Modality, str] = {
    "picture": "No picture was named; files, or folders with pictures, were expected.",
    "text": "No text was named; a table, a file with a text a line, or the words themselves were expected.",
}


@dataclass(frozen=True)
class Prediction:
    """The decision on one item, and the probability of every label; or in ``error`` why there is none.

    ``id``: a file's path, the line of a table or file of texts, the beginning of a text that was given by
    itself, or "item 17" for pictures in memory. ``label`` is that of a single-label task, ``labels`` those
    of a multi-label one (which may be none); the other is None. ``text``: what a text says.
    """

    id: str
    label: str | None = None
    probabilities: dict[str, float] | None = None
    error: str | None = None
    labels: tuple[str, ...] | None = None
    text: str | None = None

    @property
    def probability(self) -> float | None:
        """That of the label decided for; None in a multi-label task."""
        if self.label is None or self.probabilities is None:
            return None
        return self.probabilities[self.label]

    def to_dict(self) -> dict[str, Any]:
        named = {"id": self.id} if self.text is None else {"id": self.id, "text": self.text}
        if self.error is not None:
            return {**named, "error": self.error}
        decided = (
            {"label": self.label, "probability": self.probability}
            if self.labels is None
            else {"labels": list(self.labels)}
        )
        return {**named, **decided, "probabilities": self.probabilities}


@dataclass(frozen=True)
class Predictions(Sequence[Prediction]):
    """One prediction for each item that was given, in that order; ``labels`` as in the task.

    ``problems``: what was odd about the folders that were searched. ``kind``: that of the task.
    ``separator``: what stands between the labels of a picture in a CSV file.
    """

    rows: tuple[Prediction, ...]
    labels: tuple[str, ...]
    problems: tuple[Problem, ...] = ()
    kind: Kind = "single-label"
    separator: str = SEPARATOR

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    @property
    def failed(self) -> tuple[Prediction, ...]:
        """Those that could not be read, each with its error."""
        return tuple(row for row in self.rows if row.error is not None)

    def to_text(self, form: str) -> str:
        """The content of a file: ``form`` is csv, jsonl or json."""
        if form == "json":
            return json.dumps(self.to_dict(), indent=2) + "\n"
        return self.to_jsonl() if form == "jsonl" else self.to_csv()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for one JSON object."""
        return {"predictions": [row.to_dict() for row in self.rows]}

    def to_jsonl(self) -> str:
        """One JSON object a line."""
        return "".join(json.dumps(row.to_dict()) + "\n" for row in self.rows)

    def to_csv(self) -> str:
        """id, label, probability, error, then one column for each label's probability.

        Of texts, text stands behind id. Of a multi-label task, labels (with ``separator`` between them)
        stands in place of label and probability.
        """
        several = self.kind == "multi-label"
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        decided = ["labels"] if several else ["label", "probability"]
        texts = any(row.text is not None for row in self.rows)
        named = ["id", "text"] if texts else ["id"]
        writer.writerow([*named, *decided, "error", *map(plain_cell, self.labels)])
        for row in self.rows:
            if several:
                decided = [plain_cell(self.separator.join(row.labels or ()))]
            else:
                decided = [plain_cell(row.label or ""), _number(row.probability)]
            shares = row.probabilities or {}
            shown = [_number(shares.get(label)) for label in self.labels]
            named = [row.id, row.text or ""] if texts else [row.id]
            writer.writerow([*map(plain_cell, named), *decided, plain_cell(row.error or ""), *shown])
        return buffer.getvalue()


def predict_items(
    model: nn.Module,
    task: Task,
    intake: Intake,
    data: Any,
    device: torch.device,
    settings: DataSettings,
    *,
    tta: str = "none",
    columns: tuple[str, ...] = (),
) -> Predictions:
    """A prediction for each picture, by paths, folders or arrays; or text, see ``data.read_items``.

    Raises:
        DataError: nothing is found at all.
        RecipeError: a setting of no effect.
    """
    if getattr(data, "ndim", 0) == 4:  # an array or tensor of several pictures
        data = list(data)
    modality = intake.modality
    asked = _for_network(settings, intake, _TO_PREDICT[modality])
    found = read_items(data, asked, modality=modality, columns=columns)
    items, problems = found.items, found.problems
    if isinstance(intake, Encoding):
        problems = (*problems, *list_cut(items, intake))
    _check_pairs(items, columns)
    if not found.given:
        raise DataError("\n".join(map(str, problems)) or _EXPECTED[modality])
    logits = forward_all(model, open_inputs(items, intake), device, tta=tta) if len(items) else None
    decided = [] if logits is None else _decide(items.ids, logits, task)
    rows = tuple(
        Prediction(each.id, error=each.fault, text=each.text)
        if each.item is None
        else replace(decided[each.item], id=each.id, text=each.text)
        for each in found.given
    )
    return Predictions(rows, task.labels, problems, task.kind, settings.separator or SEPARATOR)


def _check_pairs(items: Items, columns: tuple[str, ...]) -> None:
    """Raises DataError where the model was trained on pairs, of these columns, and a text stands alone."""
    alone = (place for place, source in enumerate(items.sources) if getattr(source, "second", "") is None)
    place = next(alone, None)
    if len(columns) == 2 and place is not None:
        raise DataError(
            f"{items.ids[place]} is one text, and the model was trained on pairs, of the columns "
            f"{quote(columns[0])} and {quote(columns[1])}. Give a table with both; from Python also pairs "
            "of strings, as in [(first, second)]."
        )


def _decide(ids: Sequence[str], logits: Tensor, task: Task) -> list[Prediction]:
    rows = []
    table, decided = task.probabilities(logits).tolist(), task.decisions(logits)
    for name, shares, decision in zip(ids, table, decided, strict=True):
        probabilities = dict(zip(task.labels, shares, strict=True))
        labels = task.names_of(decision.tolist())
        if task.multi_label:
            rows.append(Prediction(name, None, probabilities, labels=labels))
        else:
            rows.append(Prediction(name, labels[0], probabilities))
    return rows


def evaluate_items(
    model: nn.Module,
    task: Task,
    intake: Intake,
    data: Any,
    device: torch.device,
    settings: DataSettings,
    *,
    tta: str = "none",
    columns: tuple[str, ...] = (),
    trained_on: Collection[str] = (),
) -> Metrics | MultiLabelMetrics:
    """Metrics on labelled data, of the kind that the task has, with what was odd about the data.

    ``columns``: those of a table that usually hold texts. ``trained_on``: digests of what the model has
    seen; the number of these items is reported among the oddities.

    Raises:
        DataError: the data cannot be read, or has a class that ``task`` does not know.
        RecipeError: a setting of no effect.
    """
    modality = intake.modality
    asked = _for_network(settings, intake, _TO_EVALUATE[modality])
    items, problems = read_labelled(data, asked, task, modality=modality, columns=columns)
    if isinstance(intake, Encoding):
        problems = (*problems, *list_cut(items, intake))
    _check_pairs(items, columns)
    assert items.targets is not None
    logits = forward_all(model, open_inputs(items, intake), device, tta=tta)
    metrics = task.measure(logits.numpy(), items.targets)
    told = [str(problem) for problem in problems]
    known = sum(digest in trained_on for digest in items.digests)
    if known:
        told.append(
            f"{known} of the {len(items)} {modality}s trained this model or chose among its candidates, so "
            "these numbers say little about new ones; measure it on others."
        )
    return replace(metrics, problems=tuple(told))


def as_trained(settings: DataSettings, named: Mapping[str, Any]) -> DataSettings:
    """``settings``, with what the training's recipe ``named`` of a table's columns where they say nothing.

    Of a separator and several columns, which exclude each other, that stays which ``settings`` say.
    """
    said = settings.model_fields_set
    kept = {name: value for name, value in named.items() if name not in said}
    if "label" in said and not isinstance(settings.label, str):
        kept.pop("separator", None)
    if "separator" in said and not isinstance(kept.get("label", ""), str):
        kept.pop("label")
    return type(settings).model_validate(kept | settings.model_dump(exclude_unset=True, mode="json"))


def _for_network(settings: DataSettings, intake: Intake, known: Sequence[str]) -> DataSettings:
    """Pictures are read as for training: as many channels, and the same value for full.

    Raises:
        RecipeError: a setting was given that is none of the ``known`` ones.
    """
    idle = sorted(settings.model_fields_set.difference(known))
    if idle:
        raise RecipeError(
            f"Of no effect here: {', '.join(f'data.{name}' for name in idle)}; of data only "
            f"{', '.join(known)} can be set, because the bundle fixes how items are prepared."
        )
    if isinstance(intake, Encoding):
        return settings
    return settings.model_copy(update=intake.reading)


def _number(share: float | None) -> str:
    return "" if share is None else f"{share:.6g}"


def plain_cell(text: str) -> str:
    """Text that a spreadsheet will not run as a formula, nor any reader take for a new line."""
    guarded = text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) and not _NUMBERS.fullmatch(text)
    safe = f"'{text}" if guarded else text
    return safe.replace("\r", " ")
