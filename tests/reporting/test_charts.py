"""Charts are functions of plain values: what they draw, and that odd values and names break nothing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from graft.changes import StageChange
from graft.reporting import charts
from graft.reporting.charts import Bar, Epoch, Span
from graft.reporting.drawing import INK, shorten, to_file, to_svg
from graft.reporting.drawn import chart, to_csv
from reporting_names import HOSTILE

SPANS = (
    Span("head", 0, 0, (), {}),
    Span("top", 0, 10, ("layer2", "head"), {"head": [(0, 1e-3), (9, 1e-5)], "layer2": [(0, 1e-4)]}),
    Span("all", 10, 30, ("layer1", "layer2", "head"), {"head": [(10, 1e-3), (29, 0.0)]}),
)
EPOCHS = (Epoch(0, None, 1.2, 0.4), Epoch(10, 1.0, 0.9, 0.6), Epoch(20, 0.8, None, None))
CHANGES = (
    StageChange(stage="stem", parameters=10, weights=0.0, shift=0.0, spread=1.0, similarity=1.0),
    StageChange(stage="layer1", parameters=20, weights=0.1, shift=0.3, spread=1.2, similarity=0.6),
)
BINS = ((0, 0.0, 0.0), (4, 0.5, 0.25), (6, 0.9, 1.0))
DRAWN: dict[str, Callable[[], Figure]] = {
    "timeline": lambda: charts.timeline(SPANS, ("layer1", "layer2")),
    "timeline of a probe": lambda: charts.timeline(SPANS[:1], ("layer1",)),
    "timeline of many stages": lambda: charts.timeline(SPANS, [f"blocks.{n}" for n in range(120)]),
    "curves": lambda: charts.curves([(1, 1.0), (2, 0.8)], EPOCHS, {"top": 0, "all": 10}),
    "curves of nothing": lambda: charts.curves([], []),
    "confusion": lambda: charts.confusion([[3, 1], [0, 4]], HOSTILE[:2]),
    "confusion of many": lambda: charts.confusion([[0] * 120] * 120, [f"c{n}" for n in range(120)]),
    "reliability": lambda: charts.reliability(BINS, BINS),
    "map": lambda: charts.feature_map([(0, 1), (1, 0)], [(2, 2), (3, 3)], [0, 1], HOSTILE[:2]),
    "map of many classes": lambda: charts.feature_map(
        [(n, n) for n in range(40)],
        [(n, 0) for n in range(40)],
        list(range(40)),
        [str(n) for n in range(40)],
    ),
    "changes": lambda: charts.layer_changes(CHANGES),
    "changes of nothing": lambda: charts.layer_changes(CHANGES[:1]),
    "results": lambda: charts.results([Bar(name, 0.5, 0.4, 0.6, "n") for name in HOSTILE]),
    "trade": lambda: charts.trade({name: (n + 1.0, 0.5) for n, name in enumerate(HOSTILE)}, "seconds"),
    "trade of nothing spent": lambda: charts.trade({"probe": (0.0, 0.5)}, "seconds"),
    "label curves": lambda: charts.label_curves({"a": [(1000, 0.7, 0.6, 0.8), (100, 0.5, 0.4, 0.6)]}),
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_chart_is_a_figure_that_can_be_kept(name: str) -> None:
    figure = DRAWN[name]()
    assert isinstance(figure, Figure)
    text = to_svg(figure, "some")
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert "currentColor" in text and INK not in text and "<!--" not in text
    assert "<script" not in text
    assert all(found.startswith("some-") for found in re.findall(r'\bid="([^"]*)"', text))
    assert to_file(figure, "png").startswith(b"\x89PNG") and b"<svg" in to_file(figure, "svg")


def words(figure: Figure) -> list[str]:
    root = ElementTree.fromstring(to_svg(figure, "c"))
    return [(each.text or "").strip() for each in root.iter() if each.tag.endswith("}text")]


def test_what_stands_in_a_chart_is_what_was_given() -> None:
    said = words(DRAWN["confusion"]())
    assert {"3", "1", "4", "<script>alert(1)</script>"[:17] + "…"} <= set(said) and "0" not in said
    assert any("$x^2$" in each for each in words(DRAWN["results"]())), "no formulas are made of names"


def test_no_name_is_taken_for_markup_or_left_out() -> None:
    odd = ("_background_noise_", 'id="x', INK, "url(#a)", "--> <b>")
    for names in (odd, odd[1:]):
        points = [(float(n), 0.0) for n in range(len(names))]
        said = [
            each.strip() for each in words(charts.feature_map(points, points, range(len(names)), names))
        ]
        assert {shorten(name, 16) for name in names} <= set(said)
    assert "_a" in [each.strip() for each in words(charts.trade({"_a": (1.0, 0.5), "b": (2.0, 0.5)}, "s"))]


def test_many_candidates_can_be_told_apart() -> None:
    series = {f"c{n}": [(10, 0.5, 0.4, 0.6), (20, 0.6, 0.5, 0.7)] for n in range(20)}
    lines = charts.label_curves(series).axes[0].get_lines()
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 20


def test_rates_have_plain_numbers() -> None:
    said = words(DRAWN["timeline"]())
    assert "0.001" in said and not any("mathdefault" in each for each in said)


def test_what_did_not_move_has_no_panel() -> None:
    assert len(charts.layer_changes(CHANGES).axes) == 3
    assert len(charts.layer_changes(CHANGES[:1]).axes) == 1


def test_a_wild_batch_does_not_press_the_others_to_the_ground() -> None:
    losses = [(step, 1.0) for step in range(200)] + [(200, 1e6)]
    axes = charts.curves(losses, EPOCHS).axes[0]
    assert axes.get_ylim()[1] < 3


def test_a_persons_own_settings_are_neither_used_nor_changed() -> None:
    with mpl.rc_context({"text.usetex": True, "font.size": 40}):
        before = dict(mpl.rcParams)
        with_theirs = to_svg(DRAWN["curves"](), "a")
        assert dict(mpl.rcParams) == before
    assert to_svg(DRAWN["curves"](), "a") == with_theirs


def test_the_same_values_make_the_same_bytes() -> None:
    for kind in ("svg", "png"):
        assert to_file(DRAWN["changes"](), kind) == to_file(DRAWN["changes"](), kind)


@pytest.mark.parametrize("name", HOSTILE)
def test_short_names_can_be_printed(name: str) -> None:
    assert len(shorten(name)) <= 24 and shorten(name).isprintable()
    assert shorten(" ") == " "


def test_numbers_of_a_chart_are_no_formulas() -> None:
    text = to_csv(("name", "=1+1"), [("=cmd()", 0.5), ("plain", None)])
    assert text == "name,'=1+1\n'=cmd(),0.5\nplain,\n"
    drawn = chart("c", "t", DRAWN["curves"](), "says", ("a",), [(1,)])
    assert drawn.svg.startswith("<svg")
