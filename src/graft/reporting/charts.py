"""Every chart of a report: a function of plain values that returns a matplotlib figure.

They need no run and no report: ``charts.confusion(table, labels).savefig("confusion.png")``. Colours, type
and the way of naming things are those of drawing.py.

Shapes: C classes, N items, B bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from graft.changes import StageChange
from graft.reporting.drawing import COLOURS, FAINT, INK, legend_name, new_figure, shorten, styled

MOST_TICKS = 30  # classes that are named along an axis
MOST_COLOURS = len(COLOURS)
_ROW = 0.24  # inches a row of names takes


class Span(NamedTuple):
    """One phase on the time line, which counts optimiser steps (a solved head takes none).

    ``trains``: names of stages, "head" among them, that move in it. ``rates``: for what shares one, its
    learning rate at some of the steps.
    """

    name: str
    begin: int
    end: int
    trains: tuple[str, ...]
    rates: Mapping[str, Sequence[tuple[int, float]]]


class Epoch(NamedTuple):
    """What one epoch came to, after ``step`` steps of the whole run; None where it was not measured."""

    step: int
    train_loss: float | None
    loss: float | None
    accuracy: float | None
    train_accuracy: float | None = None


class Bar(NamedTuple):
    """A result with its interval from ``low`` to ``high``; ``note`` stands behind the name."""

    name: str
    value: float
    low: float
    high: float
    note: str = ""


@styled
def timeline(spans: Sequence[Span], stages: Sequence[str]) -> Figure:
    """What trains when (above), and at which learning rate (below); ``stages`` from the input up."""
    rows = [*stages, "head"]
    height = max(1.4, min(6.0, 0.6 + _ROW * len(rows)))
    figure, (above, below) = new_figure(
        height + 2.2, rows=2, sharex=True, gridspec_kw={"height_ratios": [height, 2.0]}
    )
    for span in spans:
        for place, stage in enumerate(rows):
            moves = stage in span.trains
            above.barh(
                place,
                max(span.end - span.begin, 0),
                left=span.begin,
                height=0.7,
                color=COLOURS[0] if moves else FAINT,
                alpha=0.9 if moves else 0.18,
                linewidth=0,
            )
    _name_rows(above, rows)
    above.set_title("What trains (blue) and what is frozen (grey)", pad=18)
    above.grid(visible=False)
    _mark_phases(above, spans)
    _draw_rates(below, spans)
    below.set_xlabel("optimiser steps")
    below.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    below.set_xlim(0, max([span.end for span in spans], default=0) or 1)
    return figure


@styled
def curves(
    losses: Sequence[tuple[int, float]],
    epochs: Sequence[Epoch],
    borders: Mapping[str, int] | None = None,
    score: str = "accuracy",
) -> Figure:
    """Loss (left) and score (right), of training and validation, over the steps of a run.

    ``losses``: (step, loss) of batches. ``borders``: the step at which each phase begins.
    """
    figure, (left, right) = new_figure(2.9, columns=2)
    if losses:
        steps, values = zip(*losses, strict=True)
        left.plot(steps, values, color=COLOURS[0], alpha=0.3, linewidth=0.8, label="each batch")
    _line(left, epochs, "train_loss", "training, mean of an epoch", COLOURS[0])
    _line(left, epochs, "loss", "validation", COLOURS[1])
    _line(right, epochs, "train_accuracy", "training, while it goes on", COLOURS[0])
    _line(right, epochs, "accuracy", "validation", COLOURS[1])
    left.set_title("Loss, in nats")
    right.set_title(score[0].upper() + score[1:])
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.set_ylim(top=min(1.005, right.get_ylim()[1]))
    for axes in (left, right):
        axes.set_xlabel("optimiser steps")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for step in list((borders or {}).values())[1:]:
            axes.axvline(step, color=FAINT, linewidth=0.8, linestyle=":")
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    _limit_losses(left, losses, epochs)
    return figure


@styled
def confusion(table: Sequence[Sequence[int]], labels: Sequence[str]) -> Figure:
    """Counts [C, C], rows the truth, columns the decision; colour is the share of the row."""
    counts = np.asarray(table, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    named = len(labels) <= MOST_TICKS
    side = min(6.4, max(2.6, 1.2 + 0.34 * len(labels))) if named else 5.2
    figure, (axes,) = new_figure(side)
    axes.imshow(_tinted(shares, COLOURS[0]), aspect="equal")
    axes.set_anchor("W")
    axes.grid(visible=False)
    axes.set_ylabel("truth")
    axes.set_xlabel("decision")
    if named:
        places, names = range(len(labels)), [shorten(label, 18) for label in labels]
        axes.set_yticks(places, names)
        axes.set_xticks(places, names, rotation=90)
    if len(labels) <= 15:
        for row, column in np.ndindex(counts.shape):
            if counts[row, column]:
                ink = "white" if shares[row, column] > 0.6 else INK
                axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=ink)
    return figure


@styled
def reliability(
    bins: Sequence[tuple[int, float, float]], before: Sequence[tuple[int, float, float]] = ()
) -> Figure:
    """How often what was said with some probability is right: (items, probability, share right) a bin.

    ``before``: the same before the probabilities were calibrated.
    """
    figure, (left, right) = new_figure(3.0, columns=2)
    left.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
    for found, name, colour in ((before, "before calibration", COLOURS[4]), (bins, "as saved", COLOURS[0])):
        shown = [(said, right_share) for count, said, right_share in found if count]
        if shown:
            left.plot(*zip(*shown, strict=True), marker="o", markersize=4, color=colour, label=name)
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability said", title="Share that is right")
    if before:
        left.legend(fontsize=8)
    right.bar(
        [(place + 0.5) / max(len(bins), 1) for place in range(len(bins))],
        [count for count, _, _ in bins],
        width=0.9 / max(len(bins), 1),
        color=COLOURS[0],
    )
    right.set(xlim=(0, 1), xlabel="probability said", title="Items")
    return figure


@styled
def feature_map(
    before: Sequence[tuple[float, float]],
    after: Sequence[tuple[float, float]],
    classes: Sequence[int],
    labels: Sequence[str],
) -> Figure:
    """Items [N] on two axes, with the pretrained features (left) and the adapted ones (right)."""
    figure, sides = new_figure(3.5, columns=2)
    shown = np.asarray(classes)
    common = [int(each) for each in np.argsort(-np.bincount(shown, minlength=len(labels)), kind="stable")]
    for axes, points, title in zip(sides, (before, after), ("Pretrained", "Adapted"), strict=True):
        found = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        for place, number in enumerate(common):
            own = found[shown == number]
            named = place < MOST_COLOURS
            axes.scatter(
                own[:, 0],
                own[:, 1],
                s=13,
                linewidth=0,
                alpha=0.75 if named else 0.3,
                color=COLOURS[place] if named else FAINT,
                label=legend_name(labels[number], 16) if named else None,
            )
        if len(common) > MOST_COLOURS:
            axes.scatter([], [], s=13, color=FAINT, alpha=0.3, label=f"{len(common) - MOST_COLOURS} others")
        axes.set_title(title)
        axes.set(xticks=[], yticks=[])
    handles, names = sides[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(5, len(names)), fontsize=8, markerscale=1.6
    )
    return figure


@styled
def layer_changes(found: Sequence[StageChange]) -> Figure:
    """Which layers changed: weights, outcome, batch-norm means; stages from the input (top) up."""
    looks: list[tuple[str, list[float | None], bool]] = [
        ("Weights moved by", [each.weights for each in found], True),
        ("Outcome is another (1 - CKA)", [_other(each.similarity) for each in found], False),
        ("Batch-norm means moved by", [each.shift for each in found], False),
    ]
    looks = looks[:1] + [look for look in looks[1:] if any(look[1])]  # what moved at all
    figure, sides = new_figure(max(1.5, 0.8 + _ROW * len(found)), columns=len(looks), sharey=True)
    for number, (axes, (title, values, share)) in enumerate(zip(sides, looks, strict=True)):
        axes.barh(
            range(len(found)),
            [math.nan if value is None else value for value in values],
            color=COLOURS[number],
            height=0.7,
        )
        axes.set_title(title, fontsize=9)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.08)
        if share:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    _name_rows(sides[0], [each.stage for each in found])
    sides[0].invert_yaxis()
    return figure


@styled
def results(bars: Sequence[Bar], title: str = "Accuracy") -> Figure:
    """Results with their intervals, the first on top."""
    figure, (axes,) = new_figure(max(1.4, 0.7 + 0.32 * len(bars)))
    for place, bar in enumerate(bars):
        axes.plot([bar.low, bar.high], [place, place], color=COLOURS[0], linewidth=2.4, alpha=0.5)
        axes.plot(bar.value, place, marker="o", markersize=6, color=COLOURS[0])
    _name_rows(axes, [bar.name + (f" ({bar.note})" if bar.note else "") for bar in bars], most=40)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_title(title)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


@styled
def trade(points: Mapping[str, tuple[float, float]], across: str, up: str = "accuracy") -> Figure:
    """What each costs (``across``, on a scale of powers) and what it gives (a share of one)."""
    figure, (axes,) = new_figure(3.2)
    for place, (name, (cost, value)) in enumerate(points.items()):
        axes.scatter(
            cost,
            value,
            s=42,
            color=COLOURS[place % MOST_COLOURS],
            label=legend_name(name),
            marker=_marker(place),
        )
    if all(cost > 0 for cost, _ in points.values()):
        axes.set_xscale("log")
        _name_powers(axes.xaxis)
    axes.set(xlabel=across, ylabel=up)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


@styled
def label_curves(series: Mapping[str, Sequence[tuple[int, float, float, float]]]) -> Figure:
    """The score with its interval over the number of labels, a line a name: (labels, score, low, high)."""
    figure, (axes,) = new_figure(3.4)
    for place, (name, points) in enumerate(series.items()):
        labels, scores, lows, highs = zip(*sorted(points), strict=True)
        colour = COLOURS[place % MOST_COLOURS]
        axes.plot(
            labels, scores, marker=_marker(place), markersize=4, color=colour, label=legend_name(name)
        )
        axes.fill_between(labels, lows, highs, color=colour, alpha=0.12, linewidth=0)
    ticks = sorted({point[0] for points in series.values() for point in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{each:,}" for each in ticks])
    axes.minorticks_off()
    axes.set(xlabel="labels to train on", ylabel="score")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _draw_rates(axes: Axes, spans: Sequence[Span]) -> None:
    colours: dict[str, str] = {}
    for span in spans:
        for name, points in span.rates.items():
            colour = colours.setdefault(name, COLOURS[len(colours) % MOST_COLOURS])
            known = legend_name(name) in axes.get_legend_handles_labels()[1]
            shown = [(step, rate) for step, rate in points if rate > 0]
            if shown:
                axes.plot(
                    *zip(*shown, strict=True), color=colour, label=None if known else legend_name(name)
                )
    axes.set_title("Learning rates")
    if colours:
        axes.set_yscale("log")
        _name_powers(axes.yaxis)
        axes.legend(fontsize=8, ncols=2)
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no steps: the head is solved", ha="center", transform=axes.transAxes)


def _marker(place: int) -> str:
    """Another shape where colours begin anew."""
    return "osD^vPX*"[place // MOST_COLOURS % 8]


def _name_powers(axis: Axis) -> None:
    """Plain numbers along a scale of powers, for text is never set as formulas."""

    def name(value: float, _: int) -> str:
        if value >= 10_000:
            return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k"
        return f"{value:,.0f}" if value >= 10 else f"{value:g}"

    low, high = axis.get_view_interval()
    if high < 100 * low:  # powers of ten alone would name one place or none
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(name))
    axis.set_minor_formatter(NullFormatter())


def _mark_phases(axes: Axes, spans: Sequence[Span]) -> None:
    whole = max([span.end for span in spans], default=0) or 1
    for span in (span for span in spans if span.end > span.begin):
        axes.axvline(span.begin, color=FAINT, linewidth=0.8, linestyle=":")
        if (span.end - span.begin) / whole > 0.06:
            middle = (span.begin + span.end) / 2
            axes.annotate(
                shorten(span.name, max(4, int(60 * (span.end - span.begin) / whole))),
                (middle, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8,
            )


def _name_rows(axes: Axes, names: Sequence[str], most: int = 24) -> None:
    """Names along the upright axis; where there are too many, some of them."""
    step = max(1, len(names) // MOST_TICKS)
    axes.set_yticks(range(0, len(names), step), [shorten(name, most) for name in names[::step]])


def _line(axes: Axes, epochs: Sequence[Epoch], what: str, name: str, colour: str) -> None:
    points = [(each.step, getattr(each, what)) for each in epochs if getattr(each, what) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, label=name, marker="o", markersize=3)


def _limit_losses(axes: Axes, losses: Sequence[tuple[int, float]], epochs: Sequence[Epoch]) -> None:
    """One wild batch must not press all others to the ground."""
    values = [loss for _, loss in losses]
    values += [loss for each in epochs for loss in (each.train_loss, each.loss) if loss is not None]
    if values:
        top = float(np.quantile(values, 0.98)) * 1.15
        axes.set_ylim(0, top if top > 0 else 1)


def _tinted(shares: np.ndarray[Any, Any], colour: str) -> np.ndarray[Any, Any]:
    """One colour, the more opaque the larger the share: [C, C] -> [C, C, 4]."""
    tint = np.empty((*shares.shape, 4))
    tint[..., :3], tint[..., 3] = to_rgb(colour), shares
    return tint


def _other(similarity: float | None) -> float | None:
    return None if similarity is None else min(1.0, max(0.0, 1 - similarity))
