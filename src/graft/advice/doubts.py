"""Why transfer with this backbone may be the wrong tool: by the measurements, the recipe and the data."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from graft.advice.rules import Likeness
from graft.advice.survey import Survey
from graft.backbones.contract import Backbone, Preprocess
from graft.data.image import Shape, shape_of
from graft.data.items import Splits
from graft.seeds import mix

NEAR_CHANCE = 0.03  # information below which no depth knows anything
HUGE = 1_000_000  # labels from which on training from scratch is worth its time
MANY_CHANNELS, SLICES = 4, 16  # more than pictures have; and as many as the slices of a volume
TINY = 32  # pixels, below which a network of photographs finds nothing of the size that it looks for
LOOKED_AT = 200  # pictures whose heads are read
MOST = 0.5  # share of these that a doubt is about


def list_doubts(
    backbone: Backbone, splits: Splits, seen: Survey | None, likeness: Likeness
) -> Iterator[str]:
    """Each doubt as a sentence or two, with what to do."""
    labels = len(splits.train)
    if seen is not None and seen.best.information < NEAR_CHANCE:
        yield (
            "No depth of the backbone knows anything of these labels: either the labels are not in the "
            "items, or these are nothing like what it was pretrained on. Look at some items yourself, then "
            "try another backbone, or --strategy scratch."
        )
    if labels >= HUGE and likeness == "very different":
        yield "With so many labels of so strange a domain, --strategy scratch costs time and little else."
    if isinstance(backbone.preprocess, Preprocess) and backbone.source.pretrained:
        yield from _of_recipe(backbone.preprocess)
        yield from _of_pictures(splits, backbone.preprocess)


def _of_recipe(intake: Preprocess) -> Iterator[str]:
    channels = intake.channels
    if channels == 1:
        yield (
            "One channel: the pretraining knew three colours, and its first filters are summed to one. "
            "Compare with --strategy scratch, or with a backbone that was pretrained on such pictures."
        )
    if channels >= MANY_CHANNELS:
        volume = ", or the slices of a volume, of which a 2-D network sees no depth" * (channels >= SLICES)
        yield (
            f"{channels} channels{volume}: the pretraining knew three, and its first filter was stretched. "
            "A backbone that was pretrained on such data will do better, where there is one."
        )
    if min(intake.size) <= TINY:
        yield (
            f"Pictures of {min(intake.size)} pixels: weights that were pretrained on larger ones look for "
            "larger things. Compare with a larger data.size, and with --strategy scratch."
        )


def _of_pictures(splits: Splits, intake: Preprocess) -> Iterator[str]:
    shown = splits.train.sample(LOOKED_AT, mix(0, "doubts")).sources
    shapes: list[Shape] = [shape for source in shown if (shape := shape_of(source)) is not None]
    if not shapes:
        return
    if sum(shape.colours == 1 for shape in shapes) > MOST * len(shapes) and intake.channels == 3:
        yield (
            "Most pictures have one channel, which is shown to the network three times: what it knows of "
            "colours is of no use. Compare with --strategy scratch, or with a backbone of such pictures."
        )
    if sum(shape.pages > 1 for shape in shapes) > MOST * len(shapes):
        yield (
            "Most files have several pages, as volumes do: a 2-D network sees one of them. Cut volumes "
            "into labelled slices, or take a tool with 3-D networks."
        )
    side = median(min(shape.width, shape.height) for shape in shapes)
    if side <= TINY < min(intake.size):
        yield (
            f"Most pictures have {side:g} pixels or fewer, and the network sees {min(intake.size)}: what "
            "is enlarged so far is nothing like the pretraining. Compare with --strategy scratch."
        )
