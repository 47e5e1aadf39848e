"""Known mistakes of data: each check a function from what was gathered to findings, most often none.

Shapes: N items, D features, C classes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graft.backbones.contract import Backbone, Preprocess
from graft.data.image import shape_of
from graft.data.items import Items, Splits
from graft.diagnosis.alike import pairs_of
from graft.diagnosis.findings import Finding, Severity, found, percent
from graft.probe import held_out_logits, solve_head

MOST_PAIRS = 4_000  # items that are compared with each other
SURE, UNLIKELY = 0.9, 0.05  # of another label, and of its own: a label that is suspect
FEW, UNEVEN = 5, 10  # items of a small class; times as many in the largest as in the smallest
APART = 0.7  # share of items that a probe must tell by their part of the data
GROUPED = 0.1  # share of the other part's items whose group is in training
LONG, SMALL = 3.0, 0.5  # sides to each other; beside what the network sees


@dataclass
class Gathered:
    """What checks look at. ``features``: [N, D] of some items of each part, which ``looked`` holds."""

    backbone: Backbone
    splits: Splits
    looked: dict[str, Items] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)
    seed: int = 0

    @property
    def others(self) -> list[str]:
        """The parts beside training that were looked at."""
        return [name for name in self.looked if name != "train"]


def unreadable_files(seen: Gathered) -> Iterator[Finding]:
    for problem in seen.splits.problems:
        if problem.code == "unreadable":
            yield found(
                "data.unreadable",
                "warning",
                problem.message,
                why="They are set aside; if they are of one class or source, the rest is not what you "
                "think.",
                cure="Look at them: an interrupted copy is the usual cause.",
                examples=problem.examples,
            )


_ODD = {
    "uniform": (
        "There is nothing to learn from a picture without anything in it; where many are so, they are read "
        "otherwise than they were meant.",
        "Look at the originals; of 16 bits see data.max_value, of transparent ones data.background.",
    ),
    "range": (
        "What uses a 16th of the range keeps 16 of 256 grey levels, and a network sees it as black.",
        "Say what counts as full: data.max_value.",
    ),
    "beyond": ("What is cut off is white, whatever it was.", "Raise data.max_value, or leave it to auto."),
    "pages": (
        "The network sees what was read of them and nothing else.",
        "Save what the label is about as a file of its own, or its pages as channels (data.channels).",
    ),
    "alike-labels": (
        "If they mean the same, the network learns to tell apart what is alike.",
        "Write labels that mean the same in one way.",
    ),
}
"""Why oddities of pictures and labels matter and what to do, by the code of their problem."""


def odd_data(seen: Gathered) -> Iterator[Finding]:
    for problem in seen.splits.problems:
        if problem.code in _ODD:
            why, cure = _ODD[problem.code]
            yield found(
                f"data.{problem.code}",
                "note" if problem.code == "pages" else "warning",
                problem.message,
                why=why,
                cure=cure,
                examples=problem.examples,
            )


def contradictions(seen: Gathered) -> Iterator[Finding]:
    for problem in seen.splits.problems:
        if problem.code in ("contradiction", "leak"):
            leak = problem.code == "leak"
            yield found(
                f"data.{problem.code}",
                "error" if leak else "warning",
                problem.message,
                why="What is measured on items that trained says nothing about new ones."
                if leak
                else "The same content with two labels: one is wrong, and nothing can be learnt from "
                "the pair.",
                cure="Take them out of one part." if leak else "Decide on one label.",
                examples=problem.examples,
            )


def copies(seen: Gathered) -> Iterator[Finding]:
    """The same content several times in the training part."""
    counts = Counter(seen.splits.train.digests)
    more = sum(count - 1 for count in counts.values())
    if more:
        ids = [i for i, digest in zip(seen.splits.train.ids, seen.splits.train.digests, strict=True)
               if counts[digest] > 1]  # fmt: skip
        yield found(
            "data.copies",
            "note",
            f"{more} training items are copies of others",
            why="They count several times; folds and validation keep copies together, so nothing leaks.",
            cure="Remove them, unless their number means something.",
            examples=ids,
        )


@dataclass(frozen=True)
class _Told:
    severity: Severity
    others: str
    why: str


_WITHIN = _Told(
    "note", "others", "They count several times, and where such pairs are divided between parts, they leak."
)
_ACROSS = _Told(
    "warning",
    "a training item",
    "Crops, frames of one film and texts with a word changed leak as copies do: scores come out too good.",
)


def near_copies(seen: Gathered) -> Iterator[Finding]:
    """Items that are all but a training item, of other parts and among the training items themselves."""
    train = seen.looked.get("train")
    if train is None or "train" not in seen.features:
        return
    for name in ("train", *seen.others):
        items, own = seen.looked[name], seen.features.get(name)
        pairs = [] if own is None else pairs_of(items, own, train, seen.features["train"])
        if not pairs:
            continue
        told = _WITHIN if name == "train" else _ACROSS
        yield found(
            "data.near-copies",
            told.severity,
            f"{len(pairs)} of {len(items)} items of {name} are all but copies of {told.others}",
            why=told.why,
            cure="Look at some pairs; put what belongs together into one part.",
            examples=[f"{items.ids[row]} like {train.ids[place]}" for row, place in pairs],
        )


def suspect_labels(seen: Gathered) -> Iterator[Finding]:
    """Items that a probe, which never saw them, is sure are of another class."""
    items = seen.looked.get("train")
    if items is None or items.targets is None or items.targets.ndim != 1:
        return
    task, targets = seen.splits.task, items.targets
    features = seen.features["train"]
    head = solve_head(features, targets, task.classes, seed=seen.seed, groups=items.digests)
    held, (logits,) = held_out_logits(
        [features], targets, task.classes, strength=head.strength, seed=seen.seed, groups=items.digests
    )
    chances = logits.softmax(1)
    best, other = chances.max(1)
    own = chances[torch.arange(len(targets)), torch.from_numpy(targets)]
    rows = torch.nonzero(held & (best > SURE) & (own < UNLIKELY)).flatten().tolist()
    rows.sort(key=lambda row: float(own[row]))
    if rows:
        yield found(
            "data.labels",
            "warning",
            f"{len(rows)} of {len(items)} items looked at are surely of another class, says a probe that "
            "did not see them",
            why="Wrong labels are learnt as faithfully as right ones.",
            cure="Look at them. Nothing is dropped: some are merely odd, and those teach most.",
            examples=[
                f"{items.ids[row]}: {task.labels[int(targets[row])]}, looks like "
                f"{task.labels[int(other[row])]} ({100 * float(best[row]):.0f} %)"
                for row in rows
            ],
        )


def classes(seen: Gathered) -> Iterator[Finding]:
    """Classes with hardly any items, or far fewer than others."""
    targets, task = seen.splits.train.targets, seen.splits.task
    assert targets is not None
    counts = targets.sum(0) if targets.ndim == 2 else np.bincount(targets, minlength=task.classes)
    small = [f"{task.labels[n]}: {int(count)}" for n, count in enumerate(counts) if count < FEW]
    if small:
        yield found(
            "data.small-classes",
            "warning",
            f"{len(small)} of {task.classes} classes have fewer than {FEW} training items",
            why="Nothing that is measured on so few means anything, and a class of one cannot be held out.",
            cure="Collect more, or join classes.",
            examples=small,
        )
    largest, smallest = int(counts.max()), int(max(counts.min(), 1))
    if largest >= UNEVEN * smallest:
        yield found(
            "data.imbalance",
            "warning",
            f"The largest class has {largest} training items, the smallest {smallest}",
            why="A network that never names the rare class is right most of the time.",
            cure="Weigh classes alike (train.class_weights=balanced) and look at the balanced accuracy.",
            fix={"train.class_weights": "balanced"},
        )


def shapes(seen: Gathered) -> Iterator[Finding]:
    """Pictures much smaller than the network's input, very long ones, and grey among coloured ones."""
    intake, items = seen.backbone.preprocess, seen.looked.get("train")
    if not isinstance(intake, Preprocess) or items is None:
        return
    known = {
        name: size
        for name, source in zip(items.ids, items.sources, strict=True)
        if (size := shape_of(source))
    }
    if not known:
        return
    least = SMALL * min(intake.size)
    small = [name for name, (width, height, *_) in known.items() if min(width, height) < least]
    if len(small) > 0.1 * len(known):
        yield found(
            "data.small-pictures",
            "note",
            f"{len(small)} of {len(known)} pictures are smaller than half of the {min(intake.size)} pixels "
            "that the network sees",
            why="Pixels that are not there cannot be learnt from; enlarging them costs time and gains "
            "nothing.",
            cure="Train at a smaller size (data.size), or find larger originals.",
            examples=small,
        )
    long = [name for name, (w, h, *_) in known.items() if max(w, h) > LONG * min(w, h)]
    if long:
        yield found(
            "data.long-pictures",
            "note",
            f"{len(long)} of {len(known)} pictures are more than {LONG:g} times as long as wide",
            why="The middle is all that the network sees of them.",
            cure="Crop them to what the label is about, or cut them into several.",
            examples=long,
        )
    grey = [name for name, (_, _, colours, _) in known.items() if colours == 1]
    if 0 < len(grey) < 0.5 * len(known) and len(grey) >= 3:
        yield found(
            "data.grey-pictures",
            "note",
            f"{len(grey)} of {len(known)} pictures are grey, the others coloured",
            why="Where one class is greyer than another, that is what will be learnt.",
            cure="See whether grey ones are spread over the classes.",
            examples=grey,
        )


def shift(seen: Gathered) -> Iterator[Finding]:
    """A probe that tells items of another part from training ones."""
    if "train" not in seen.features:
        return
    for name in seen.others:
        count = min(len(seen.looked["train"]), len(seen.looked[name]))
        if count < 20:
            continue
        pick = np.random.default_rng(seen.seed)
        both = [seen.features[part][np.sort(pick.permutation(len(seen.looked[part]))[:count])]
                for part in ("train", name)]  # fmt: skip
        targets = np.repeat([0, 1], count).astype(np.int64)
        told = solve_head(torch.cat(both), targets, 2, strengths=[1.0, 0.1, 0.01], seed=seen.seed)
        if told.score is not None and told.score - 2 * math.sqrt(0.25 / (2 * count)) > APART:
            yield found(
                "data.shift",
                "warning",
                f"A probe tells items of {name} from training ones: right for {percent(told.score)} "
                "(half is chance)",
                why="The network will meet what it did not train on, and scores there come out lower.",
                cure="Find out how they differ (camera, source, time), and train on some of that kind.",
            )


def groups(seen: Gathered) -> Iterator[Finding]:
    """Files that seem to belong together by their names, on both sides."""
    splits = seen.splits
    labels = {label.lower() for label in splits.task.labels}
    train = [_group(name) for name in splits.train.ids]
    members = Counter(key for key in train if key)
    several = {key for key, count in members.items() if count > 1 and key.lower() not in labels}
    if len(several) <= splits.task.classes or sum(members[key] for key in several) < 0.3 * len(train):
        return
    for name, items in splits.parts():
        if name == "train":
            continue
        shared = [i for i in items.ids if _group(i) in several]
        if len(shared) > GROUPED * len(items):
            yield found(
                "data.groups",
                "warning",
                f"{percent(len(shared) / len(items))} of {name} share the beginning of their names "
                "with training "
                "items, as pictures of one patient or film would",
                why="Where they belong together, the score tells how well a patient is recognised, not "
                "an illness.",
                cure="Put whole groups into one part: a table with a split column does it.",
                examples=[f"{i}: group {_group(i)}" for i in shared],
            )


CHECKS: tuple[Callable[[Gathered], Iterator[Finding]], ...] = (
    unreadable_files,
    odd_data,
    contradictions,
    copies,
    near_copies,
    suspect_labels,
    classes,
    shapes,
    shift,
    groups,
)


def _group(name: str) -> str:
    """What stands before the last number of a file's name: patient12_03.png -> patient12."""
    stem = Path(name).stem
    match = re.match(r"^(.*?[A-Za-z0-9])[-_ .]+[A-Za-z]*\d+$", stem)
    return match.group(1) if match and re.search(r"\d", match.group(1)) else ""


__all__ = ["CHECKS", "Gathered"]
