"""How every chart is drawn: one style, and figures as SVG for a page or as files.

Ink is one colour, which a page replaces by its own, so that a chart can be read on light and on dark
ground. Text in a chart comes from data: it is drawn as it is, with no markup, shortened, and without what
cannot be printed.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from graft.system.escaping import printable

INK, FAINT = "#22262b", "#8a9199"
# Okabe and Ito (2008), told apart by colour-blind people; black and yellow, unfit for one ground, left out.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#a6761d")
WIDTH = 7.2  # inches
_LONGEST = 24
_SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.alpha": 0.25,
    "grid.color": FAINT,
    "image.interpolation": "nearest",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # text as text: it can be searched, and has the page's fonts
    "text.color": INK,
    "text.parse_math": False,  # a class may be called $x$
    "text.usetex": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
Given = ParamSpec("Given")


@contextmanager
def style(name: str = "graft") -> Iterator[None]:
    """Inside, figures are drawn and saved alike, whatever the person's own settings.

    ``name``: makes ids in an SVG those of one chart, for a page holds several.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE | {"svg.hashsalt": name})
        yield


def styled(draw: Callable[Given, Figure]) -> Callable[Given, Figure]:
    """A chart that is drawn in the one style."""

    @wraps(draw)
    def drawn(*args: Given.args, **kwargs: Given.kwargs) -> Figure:
        with style():
            return draw(*args, **kwargs)

    return drawn


def new_figure(height: float, columns: int = 1, rows: int = 1, **more: Any) -> tuple[Figure, list[Axes]]:
    """A figure of the common width, ``height`` in inches, and its axes from left to right."""
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(rows, columns, squeeze=False, **more)
    return figure, list(axes.flat)


def to_svg(figure: Figure, name: str) -> str:
    """The figure as SVG text, to stand in a page: ink takes the page's colour, ids begin with ``name``."""
    buffer = io.StringIO()
    _lay_out(figure)
    with style(name):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    root = ElementTree.fromstring(text)
    for part in root.iter():
        for key, value in part.attrib.items():
            part.set(key, _for_page(key, value, name))
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    return ElementTree.tostring(root, encoding="unicode")


def to_file(figure: Figure, kind: str) -> bytes:
    """The figure as a file of its own, on white: ``svg`` or ``png`` (150 pixels an inch)."""
    buffer = io.BytesIO()
    _lay_out(figure)
    metadata = {"Date": None} if kind == "svg" else None
    with style():
        figure.savefig(buffer, format=kind, dpi=150, facecolor="white", metadata=metadata)
    return buffer.getvalue()


def shorten(name: str, most: int = _LONGEST) -> str:
    """A name as it can stand in a chart."""
    shown = printable(" ".join(name.split()) or name)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def legend_name(name: str, most: int = _LONGEST) -> str:
    """A name as it can stand in a legend, which leaves out what begins with an underscore."""
    shown = shorten(name, most)
    return f"\u2009{shown}" if shown.startswith("_") else shown


def _lay_out(figure: Figure) -> None:
    """Find the places of everything once, and not each time that the figure is saved."""
    if figure.get_layout_engine() is not None:
        with style():
            figure.draw_without_rendering()
        figure.set_layout_engine("none")


def _for_page(key: str, value: str, name: str) -> str:
    """An attribute as it stands in a page: ids, and what refers to them, with the chart's name before."""
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href") and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return value.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
