"""What a report shows of single items and layers: gathered once, after training, as plain values.

Everything in it is of the data's test part, or of validation where there is none. It is kept in the run as
``report/details.json``, so that a report can be written again without model or data.

Shapes: N items, C classes.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from graft.backbones.contract import Backbone, Encoding, Preprocess
from graft.changes import StageChange, compare_values, linear_cka
from graft.data.inputs import open_inputs
from graft.data.items import Items, Text
from graft.looking import Look, Passes
from graft.metrics import bin_sums, confusion_table
from graft.model import Model
from graft.numerics import Forward, Numerics
from graft.options import Frozen
from graft.reporting.attribution import look_at_pictures, look_at_texts
from graft.reuse.store import NOWHERE
from graft.task import Task

CERTAIN = 0.9  # probability of a decision from which on it is not unsure
SHOWN = 12  # items that it is most wrong about, and as many that it is least sure about
MAPPED = 256  # items on the map, and whose outcome of each stage is compared
SECONDS = 3.0  # that looking through both networks may take; slower ones look at fewer items
FEWEST = 32
SLOW, _PASSES = 4.0, 4  # seconds that looking at examples may take; what it is in forward passes
MOST_CLASSES = 200  # of a confusion table
SIDE = 112  # pixels of a thumbnail
_WORDS = 120  # of a text that are shown


class Example(Frozen):
    """One item: what it is, what was decided, with which probability, and that of the truth.

    ``picture`` and ``heat``: as data URIs, as the network sees it, and with what speaks for the decision.
    ``words``: of a text, each with what it says for (above 0) or against the decision.
    """

    id: str
    truth: str
    decided: str
    share: float
    truth_share: float
    picture: str | None = None
    heat: str | None = None
    words: tuple[tuple[str, float], ...] | None = None


class FeatureMap(Frozen):
    """Items on two axes, by features before and after, and their classes."""

    before: tuple[tuple[float, float], ...]
    after: tuple[tuple[float, float], ...]
    classes: tuple[int, ...]


class Details(Frozen):
    """All of it; ``part`` says whose items. ``bins``: (items, probability said, share right)."""

    part: str | None = None
    wrong: tuple[Example, ...] = ()
    unsure: tuple[Example, ...] = ()
    confusion: tuple[tuple[int, ...], ...] | None = None
    bins: tuple[tuple[int, float, float], ...] = ()
    bins_before: tuple[tuple[int, float, float], ...] = ()
    map: FeatureMap | None = None
    changes: tuple[StageChange, ...] = ()
    notes: tuple[str, ...] = ()


def gather_details(
    backbone: Backbone,
    model: Model,
    task: Task,
    numerics: Numerics,
    parts: Mapping[str, Items],
    logits: Mapping[str, NDArray[np.floating[Any]]],
    *,
    seed: int,
) -> Details:
    """Look at what came out.

    ``backbone`` as it was before training, ``model`` as it is now; ``parts``: the labelled items of train,
    validation and test, as far as there are any; ``logits`` [N, C] of those that were measured.
    """
    notes: list[str] = []
    changes: tuple[StageChange, ...] = ()
    plotted: FeatureMap | None = None
    with _noting("What became of each stage", notes):
        changes, plotted = _compare_networks(backbone, model, task, numerics, parts, seed)
        if plotted is None and not task.multi_label:
            notes.append("A map of the features wants 16 items or more.")
    part = next((name for name in ("test", "val") if name in logits), None)
    if part is None:
        return Details(changes=changes, map=plotted, notes=tuple(notes))
    items, found = parts[part], torch.from_numpy(logits[part])
    targets = items.targets
    assert targets is not None
    shares = task.probabilities(found).double().numpy()
    shown = Details(
        part="validation" if part == "val" else part,
        bins=bins_of(shares, targets),
        bins_before=_uncalibrated_bins(task, logits[part], targets),
        changes=changes,
        map=plotted,
        notes=tuple(notes),
    )
    if task.multi_label:
        return shown
    decided = shares.argmax(axis=1)
    wrong, unsure = pick(shares, targets)
    if not wrong:
        notes.append(f"None of the {len(items):,} items was decided wrongly.")
    if not unsure:
        notes.append(f"No other decision had a probability below {CERTAIN:.0%}.")
    examples = _name(task, items, [*wrong, *unsure], shares)
    with _noting("Where the network looks", notes):
        device = torch.device(numerics.device)
        examples = _look_into(
            examples, backbone, model, items.select([*wrong, *unsure]), task, device, notes
        )
    return shown.model_copy(
        update={
            "wrong": examples[: len(wrong)],
            "unsure": examples[len(wrong) :],
            "confusion": _counts(targets, decided, task.classes),
            "notes": tuple(notes),
        }
    )


def pick(
    shares: NDArray[np.floating[Any]], targets: NDArray[np.integer[Any]]
) -> tuple[list[int], list[int]]:
    """The items it is most wrong about (the surest first), and those it is least sure about, wrong or not.

    ``shares``: probabilities [N, C]. No item is in both.
    """
    decided, rows = shares.argmax(axis=1), np.arange(len(targets))
    certainty = shares[rows, decided] - shares[rows, targets]
    wrong = [int(item) for item in np.argsort(-certainty, kind="stable") if decided[item] != targets[item]]
    ordered = np.sort(shares, axis=1)
    margin = ordered[:, -1] - ordered[:, -2] if shares.shape[1] > 1 else ordered[:, -1]
    taken = set(wrong[:SHOWN])
    unsure = [
        int(item)
        for item in np.argsort(margin, kind="stable")
        if int(item) not in taken and ordered[item, -1] < CERTAIN
    ]
    return wrong[:SHOWN], unsure[:SHOWN]


def bins_of(
    shares: NDArray[np.floating[Any]], targets: NDArray[np.integer[Any]]
) -> tuple[tuple[int, float, float], ...]:
    """Probabilities [N, C] in 15 bins of (0, 1]: how many, their mean, and the share that is right.

    Of class indices [N] the probability of what was decided; of zeros and ones [N, C] that of every label.
    """
    if targets.ndim == 2:
        said, right = shares.ravel(), targets.ravel().astype(bool)
    else:
        said, right = shares.max(axis=1), shares.argmax(axis=1) == targets
    sums = zip(*bin_sums(said, right), strict=True)
    return tuple(
        (int(count), float(one / count), float(two / count)) if count else (0, 0.0, 0.0)
        for count, one, two in sums
    )


def _uncalibrated_bins(
    task: Task, logits: NDArray[np.floating[Any]], targets: NDArray[np.integer[Any]]
) -> tuple[tuple[int, float, float], ...]:
    if task.temperature == 1.0:
        return ()
    plain = task.with_temperature(1.0)
    return bins_of(plain.probabilities(torch.from_numpy(logits)).double().numpy(), targets)


def _counts(
    targets: NDArray[np.integer[Any]], decided: NDArray[np.integer[Any]], classes: int
) -> tuple[tuple[int, ...], ...] | None:
    if classes > MOST_CLASSES:
        return None
    table = confusion_table(targets, decided, classes)
    return tuple(tuple(int(count) for count in row) for row in table)


def _compare_networks(
    backbone: Backbone, model: Model, task: Task, numerics: Numerics, parts: Mapping[str, Items], seed: int
) -> tuple[tuple[StageChange, ...], FeatureMap | None]:
    """What became of each stage, and the map of the items' features before and after."""
    items = next(parts[name] for name in ("test", "val", "train") if name in parts)
    plain = numerics.model_copy(update={"forward": Forward(), "workers": 0})
    trunks = [copy.deepcopy(trunk).eval() for trunk in (backbone.trunk, model.trunk)]  # which will be moved
    items = items.sample(_affordable(trunks[0], backbone, items, numerics), seed)

    def look(trunk: torch.nn.Module) -> Look:
        deepest = len(backbone.stages)
        return Look(trunk, backbone, items, task, plain, seed, NOWHERE, Passes(0, None), depths=deepest)

    before, after = map(look, trunks)
    old, new = before.states, after.states
    alike = {name: linear_cka(one, two) for name, one, two in zip(before.names, old, new, strict=True)}
    changes = compare_values(backbone.trunk.state_dict(), model.trunk.state_dict(), backbone.stages, alike)
    targets = items.targets
    if targets is None or targets.ndim == 2 or len(items) < FEWEST // 2:
        return changes, None
    plotted = FeatureMap(
        before=project(old[-1]), after=project(new[-1]), classes=tuple(int(each) for each in targets)
    )
    return changes, plotted


def _affordable(trunk: torch.nn.Module, backbone: Backbone, items: Items, numerics: Numerics) -> int:
    """How many items both networks can look at in the seconds that there are."""
    few = items.select(range(min(8, len(items))))
    source = open_inputs(few, backbone.preprocess)
    device = torch.device(numerics.device)
    trunk.to(device)
    began = time.perf_counter()
    with torch.inference_mode():
        for tensors, _, _ in source.batches([list(range(len(few)))]):
            trunk(tensors.to(device)).float().cpu()
    each = (time.perf_counter() - began) / len(few)
    return int(min(MAPPED, max(FEWEST, SECONDS / 2 / each)))


def project(features: Tensor) -> tuple[tuple[float, float], ...]:
    """Rows [N, D] on their first two principal axes, in units of the larger one's deviation."""
    centred = (features - features.mean(0)).double()
    left, lengths, _ = torch.linalg.svd(centred, full_matrices=False)
    points = torch.zeros(len(features), 2, dtype=torch.float64)
    kept = min(2, len(lengths))
    points[:, :kept] = left[:, :kept] * lengths[:kept]
    # Which way an axis points is arbitrary: the heavier side is made the positive one.
    points *= torch.where((points**3).sum(0) < 0, -1.0, 1.0)
    points /= points.std(0).max().clamp_min(1e-12)
    return tuple((round(float(x), 4), round(float(y), 4)) for x, y in points)


def _name(
    task: Task, items: Items, numbers: Sequence[int], shares: NDArray[np.floating[Any]]
) -> tuple[Example, ...]:
    """Examples of the items ``numbers``, in words."""
    targets = items.targets
    assert targets is not None
    return tuple(
        Example(
            id=items.ids[number],
            truth=task.labels[int(targets[number])],
            decided=task.labels[int(shares[number].argmax())],
            share=float(shares[number].max()),
            truth_share=float(shares[number, int(targets[number])]),
        )
        for number in numbers
    )


def _look_into(
    examples: tuple[Example, ...],
    backbone: Backbone,
    model: Model,
    items: Items,
    task: Task,
    device: torch.device,
    notes: list[str],
) -> tuple[Example, ...]:
    """The examples with what the network sees of them, and where it looks."""
    if not examples:
        return ()
    decided = [task.labels.index(example.decided) for example in examples]
    intake = backbone.preprocess
    source = open_inputs(items, intake)
    looked = copy.deepcopy(model).to(device)
    if isinstance(intake, Encoding):
        texts = [each if isinstance(each, Text) else Text(str(each)) for each in items.sources]
        ((inputs, _, _),) = source.batches([list(range(len(items)))])
        rows = look_at_texts(looked, intake, texts, inputs.to(device), decided)
        if rows is None:
            notes.append("Which words count is not shown: the network has no layer of words.")
            rows = [[(word, 0.0) for word in f"{t.first} {t.second or ''}".split()] for t in texts]
        return tuple(
            example.model_copy(
                update={"words": tuple((word, round(score, 3)) for word, score in row[:_WORDS])}
            )
            for example, row in zip(examples, rows, strict=True)
        )
    inputs = torch.cat([tensors for tensors, _, _ in source.batches([[n] for n in range(len(items))])])
    pictures = [_visible(each, intake) for each in inputs]
    shown = [
        each.model_copy(update={"picture": _uri(p)}) for each, p in zip(examples, pictures, strict=True)
    ]
    began = time.perf_counter()
    with torch.inference_mode():
        looked.eval()(inputs[:1].to(device))
    if (time.perf_counter() - began) * _PASSES * len(shown) > SLOW:
        notes.append("Where the network looks is not shown: on this machine it would take too long.")
        return tuple(shown)
    maps = look_at_pictures(looked, inputs.to(device), decided)
    if maps is None:
        notes.append("Where the network looks is not shown: none of its layers has places.")
        return tuple(shown)
    return tuple(
        each.model_copy(update={"heat": _uri(_heated(picture, places))})
        for each, picture, places in zip(shown, pictures, maps, strict=True)
    )


@contextlib.contextmanager
def _noting(what: str, notes: list[str]) -> Iterator[None]:
    """Inside, what cannot be made is noted on the page: one part that fails does not cost the others."""
    try:
        yield
    except Exception as error:
        notes.append(f"{what} could not be looked at ({type(error).__name__}: {error}).")


def _visible(inputs: Tensor, preprocess: Preprocess) -> Image.Image:
    """What the network sees [K, h, w] as a picture: three channels, or the first one of other numbers."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (preprocess.mean, preprocess.std))
    pixels = (inputs.cpu() * std + mean).clamp(0, 1)
    pixels = pixels if len(pixels) == 3 else pixels[:1].expand(3, -1, -1)
    array = (255 * pixels.permute(1, 2, 0)).round().byte().numpy()
    picture = Image.fromarray(array)
    scale = SIDE / max(picture.size)
    size = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _heated(picture: Image.Image, places: NDArray[np.float64]) -> Image.Image:
    """The picture, grey and dark but where the network looks."""
    heat = Image.fromarray((255 * places).astype(np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
    share = np.asarray(heat, dtype=np.float64)[..., None] / 255
    grey = np.asarray(picture.convert("L").convert("RGB"), dtype=np.float64)
    glow = 255 * colormaps["inferno"](share[..., 0])[..., :3]
    blended = grey * (1 - 0.65 * share) * 0.8 + glow * 0.65 * share
    return Image.fromarray(blended.clip(0, 255).astype(np.uint8))


def _uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
