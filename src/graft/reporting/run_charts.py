"""The charts of a run's report, with what to see in each and its numbers."""

from __future__ import annotations

from collections.abc import Iterator

from graft.changes import StageChange, summarise
from graft.reporting import charts
from graft.reporting.details import Details
from graft.reporting.drawn import Drawn, chart
from graft.reporting.story import Story, borders_of, epochs_of, losses_of, spans_of


def plan_charts(story: Story) -> Iterator[Drawn]:
    spans, stages = spans_of(story.plan), [stage.name for stage in story.plan.stages]
    rows = [
        (span.name, name, step, rate)
        for span in spans
        for name, points in span.rates.items()
        for step, rate in points
    ]
    yield chart(
        "timeline",
        "What trains when, and how fast",
        charts.timeline(spans, stages),
        "Each row is a stage of the network, the input at the bottom; below, the learning rate of what "
        "trains.",
        ("phase", "what", "step", "rate"),
        rows,
    )


def course_charts(story: Story) -> Iterator[Drawn]:
    losses, epochs = losses_of(story), epochs_of(story)
    if not losses and not epochs:
        return
    score = "mean average precision" if story.multi_label else "accuracy"
    yield chart(
        "curves",
        "Training and validation",
        charts.curves(losses, epochs, borders_of(story.plan), score),
        "A dotted line is where a phase begins. Where training goes on falling and validation rises, the "
        "network learns its items by heart. Training figures are those of the epoch's batches as they were "
        "trained on: augmented, with dropout, by weights that move meanwhile.",
        ("step", "batch loss", "train loss", "validation loss", f"validation {score}", f"train {score}"),
        [
            *((step, loss, None, None, None, None) for step, loss in losses),
            *((each.step, None, *each[1:]) for each in epochs),
        ],
    )


def result_charts(story: Story, details: Details) -> Iterator[Drawn]:
    labels = story.plan.labels
    if details.confusion is not None:
        yield chart(
            "confusion",
            "What is taken for what",
            charts.confusion(details.confusion, labels),
            f"Rows are the truth, columns the decision, of {details.part} items; the darker, the larger a "
            "share of its row.",
            ("truth", *labels),
            [(label, *row) for label, row in zip(labels, details.confusion, strict=True)],
        )
    if any(count for count, *_ in details.bins):
        yield chart(
            "reliability",
            "Whether probabilities can be believed",
            charts.reliability(details.bins, details.bins_before),
            "On the dashed line, what is said with 80 % is right 80 % of the time; below it the network is "
            "too sure.",
            ("calibrated", "items", "probability said", "share right"),
            [
                (word, *row)
                for word, rows in (("no", details.bins_before), ("as saved", details.bins))
                for row in rows
            ],
        )


def network_charts(story: Story, details: Details) -> Iterator[Drawn]:
    labels = story.plan.labels
    if details.map is not None:
        found = details.map
        yield chart(
            "map",
            "The features before and after",
            charts.feature_map(found.before, found.after, found.classes, labels),
            "Each point is an item, on the two axes along which features vary most (PCA). Classes that lie "
            "apart on the right and not on the left are what training taught the backbone.",
            ("class", "x before", "y before", "x after", "y after"),
            [
                (labels[number], *old, *new)
                for number, old, new in zip(found.classes, found.before, found.after, strict=True)
            ],
        )
    if details.changes:
        yield changes_chart(details.changes)


def changes_chart(found: tuple[StageChange, ...]) -> Drawn:
    return chart(
        "changes",
        "Which layers changed",
        charts.layer_changes(found),
        summarise(found),
        ("stage", "parameters", "weights moved by", "moved most", "batch-norm means moved by",
         "batch-norm deviations times", "similarity (CKA)"),
        [
            (c.stage, c.parameters, c.weights, c.largest, c.shift, c.spread, c.similarity) for c in found
        ],
    )  # fmt: skip
