"""Advice, rankings and their evidence as a person sees them in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graft.advice.answer import Advice
from graft.advice.ranking import Rated, guidance, in_order
from graft.advice.rules import Rule
from graft.advice.survey import Survey
from graft.advice.verdict import kind_of
from graft.lr_finder import RangeTest, Tried

_MOVES = {
    "head": "the head alone is trained",
    "part": "a part of the network moves",
    "whole": "the whole network moves",
    "scratch": "everything is trained from nothing",
}


def show_advice(console: Console, advice: Advice) -> None:
    """What people are taught, what was measured, and what follows."""
    size = f"{advice.labels:,} labelled items"
    console.print(f"[bold]Rules[/]  {size} that look {advice.likeness}, beside the pretraining")
    console.print(rules_table(advice.rules, takes_text=advice.takes_text))
    if advice.takes_text:
        console.print("  Taught for pictures; the rates are those that graft trains texts with")
    if advice.survey is not None:
        console.print("[bold]Evidence[/]")
        console.print(depths_table(advice.survey))
        for line in evidence_lines(advice.survey):
            console.print(f"  {escape(line)}")
    for warning in advice.warnings:
        console.print(f"[yellow]Mind[/]  {escape(warning)}")
    if advice.recipe is None:
        console.print("[bold]Answer[/]  nothing with this backbone keeps the limits")
        return
    moves = _MOVES[kind_of(advice.strategy)]
    first = " after a contrast" if advice.recipe.contrast else ""
    console.print(f"[bold]Answer[/]  {escape(advice.strategy)}{first}: {moves}; {escape(advice.decided)}")
    for reason in advice.reasons:
        console.print(f"  {escape(reason)}")
    if advice.expected is not None:
        low, high = (100 * share for share in advice.expected)
        console.print(f"  Expected accuracy about {low:.0f} to {high:.0f} %, by labels that were held out")
    if advice.measured is not None:
        found = advice.measured
        console.print(
            f"  About {found.seconds:.0f} s and {found.gigabytes:.2f} GB to train; then "
            f"{found.latency:.1f} ms an item, {found.megabytes:.0f} MB of weights"
        )


def rules_table(rules: Iterable[Rule], *, takes_text: bool = False) -> Table:
    """What people are taught to do, with the rates that train uses for head, late and early stages.

    Of texts without the augmentation: nothing changes them at random.
    """
    titles = ("Taught", "Rates: head, late, early", *([] if takes_text else ["Augmentation"]), "By")
    table = Table(*titles)
    for rule in rules:
        head, *stages = rule.rates
        shown = ["solved" if head is None else f"{head:g}"]
        shown += ["frozen" if rate is None else f"{rate:g}" for rate in stages]
        rates = ", ".join(shown)
        changes = [] if takes_text else [rule.augmentation]
        table.add_row(rule.strategy, rates, *changes, escape(rule.source))
    return table


def depths_table(found: Survey) -> Table:
    """What a probe knows at every depth."""
    table = Table("Probe after", "Knows of the labels", "Accuracy out of fold")
    best = found.best.stage
    for depth in found.depths:
        mark = "  best" if depth.stage == best else ""
        known = f"{100 * max(0.0, depth.information):.0f} %"
        table.add_row(escape(depth.stage), known, f"{100 * depth.accuracy:.1f} %{mark}")
    return table


def evidence_lines(found: Survey) -> Iterator[str]:
    """The rest of what was measured, a line each."""
    if found.neighbours is not None:
        yield (
            f"{100 * found.neighbours:.1f} % right by nearest neighbours; H-score {found.h_score:.2f}, "
            f"LogME {found.logme:.3f}; {100 * (found.separability or 0):.0f} % of the variance of features "
            "lies between classes"
        )
    if found.shift is not None:
        yield f"Batch-norm statistics lie {found.shift:.2f} deviations from those of the pretraining"
    if found.confidence is not None:
        yield f"The pretraining's own classifier is {100 * found.confidence:.0f} % sure of its first answer"
    if found.curve:
        points = ", ".join(f"{100 * point.accuracy:.0f} % with {point.labels}" for point in found.curve)
        yield f"Labels: {points}"
    for pair in found.confusions:
        yield f"{pair.label} is taken for {pair.taken_for} in {100 * pair.share:.0f} % of its items"


def ranking_table(rated: Sequence[Rated]) -> Table:
    """Backbones beside each other, the most promising first."""
    table = Table("Backbone", "Knows", "Accuracy", "Neighbours", "LogME", "H-score")
    for title in ("Parameters", "Million mult.", "ms an item", "Reference", "Look"):
        table.add_column(title, justify="right")
    for each in in_order(rated):
        scores = [each.neighbours, each.logme, each.h_score]
        shown = [
            "" if value is None else f"{100 * value:.1f} %" if place == 0 else f"{value:.3f}"
            for place, value in enumerate(scores)
        ]
        table.add_row(
            escape(each.backbone),
            f"{100 * max(0.0, each.score):.0f} %",
            f"{100 * each.accuracy:.1f} %",
            *shown,
            f"{each.parameters:,}",
            f"{each.multiplications:,.0f}",
            f"{each.latency:.1f}",
            "" if each.reference is None else f"{each.reference:.1f} %",
            f"{each.seconds:.1f} s",
        )
    return table


def guidance_table(rated: Sequence[Rated]) -> Table:
    """Which to take for which need."""
    table = Table("For", "Take")
    for need, backbone in guidance(rated):
        table.add_row(need, escape(backbone))
    return table


def range_table(found: RangeTest, rows: int = 16) -> Table:
    """The smoothed loss over rising rates, with a bar."""
    table = Table("Rate", "Loss", "")
    places = sorted({round(each) for each in np.linspace(0, len(found.rates) - 1, rows)})
    shown = [found.smoothed[place] for place in places if place < len(found.smoothed)]
    low, high = min(shown, default=0.0), min(max(shown, default=1.0), 3 * min(shown, default=1.0))
    for place, loss in zip(places, shown, strict=False):
        length = 1 + round(30 * min(1.0, (loss - low) / max(high - low, 1e-12)))
        table.add_row(f"{found.rates[place]:.1e}", f"{loss:.4g}", "▇" * length)
    return table


def sweep_table(tried: Sequence[Tried]) -> Table:
    """Each rate with its curves and what became of it."""
    table = Table("Rate", "Training loss", "Validation loss", "Accuracy", "Verdict")
    for each in tried:
        curves = [" → ".join(f"{loss:.3g}" for loss in losses) for losses in (each.train, each.validation)]
        scores = " → ".join(f"{100 * score:.1f}" for score in each.accuracy)
        table.add_row(f"{each.rate:g}", *curves, f"{scores} %", f"{each.verdict}: {each.words}")
    return table
