"""Nothing of a stranger's text acts on a terminal, a page or a chart."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table

from graft import cli
from graft.data.items import make_problem
from graft.errors import DataError
from graft.progress import PlainConsole
from graft.reporting.drawing import new_figure, shorten, to_svg
from graft.reporting.pages import render
from graft.system.escaping import printable, say
from graft.terminal import show_problems

CONTROLS, DIRECTIONS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f", "\u202a-\u202e\u2066-\u2069"
ACTS = re.compile(f"[{CONTROLS}{DIRECTIONS}\ufeff\ud800-\udfff]|\r(?!\n)")
HOSTILE = "\x1b]0;title\x07 \x9b31m \u202egnp.exe\u202c \udcff \ufeff [red]x[/] [/nothing] <b>&amp;\r"
anything = st.text(st.characters(codec=None), max_size=30) | st.just(HOSTILE)


@given(anything)
def test_what_is_printable_cannot_act_and_can_be_encoded(text: str) -> None:
    shown = printable(text)
    assert not ACTS.search(shown)
    shown.encode()
    assert printable(shown) == shown
    if not ACTS.search(text) and text.isprintable():
        assert shown == text


@pytest.mark.parametrize("text", ["é", "名前", "مرحبا", "👩\u200d🔬", "a\tb\nc\r\n", "e\u0301", "\u00a0"])
def test_writing_of_all_peoples_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.odd_input("Names in terminals and pages")
@given(anything)
@settings(max_examples=50)
def test_a_terminal_gets_no_control_codes_of_a_name(name: str) -> None:
    """Control codes, imposed writing directions or markup in labels, paths, headers and messages: the
    terminal shows them as escapes, so that they neither retitle it nor colour, move or hide anything.
    """
    written = io.StringIO()
    console = PlainConsole(file=written, force_terminal=False, width=200)
    table = Table("name")
    table.add_row(shorten(name).replace("[", r"\["))
    console.print(table)
    console.print(f"Data  {name}", markup=False)
    show_problems(console, (make_problem("odd", f"{{count}} odd: {name}", [name]),))
    say(f"graft: {name}", written)
    assert not ACTS.search(written.getvalue())


def test_a_consoles_own_codes_reach_the_terminal() -> None:
    written = io.StringIO()
    console = PlainConsole(
        file=written, force_terminal=True, color_system="standard", width=80, highlight=False
    )
    console.print("[bold]Plan[/] \x1b]0;title")
    assert "\x1b[1mPlan" in written.getvalue()
    assert "\x1b]" not in written.getvalue() and r"\x1b]0;title" in written.getvalue()


def test_the_command_says_errors_and_wrong_use_as_they_can_be_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise DataError(f"There is no {HOSTILE}")

    monkeypatch.setattr("sys.argv", ["graft", "strategies", f"--{HOSTILE}"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    said = capsys.readouterr()
    assert said.err.count("title") == 2
    assert not ACTS.search(said.err + said.out)


@pytest.mark.odd_input("Names in terminals and pages")
@given(anything)
@settings(max_examples=25)
def test_a_page_shows_what_it_is_given_as_text(name: str) -> None:
    """Control codes, HTML or halves of characters in names: a report shows them as text, in valid UTF-8."""
    sheet = {"title": name, "heading": name, "subtitle": name}
    page = render("base.html", refresh=None, **sheet)
    page.encode()
    assert not ACTS.search(page)
    if "<b>" in name:
        assert "<b>" not in page


def test_a_chart_shows_names_as_text() -> None:
    figure, (axes,) = new_figure(3)
    axes.set_title(shorten(HOSTILE, 80), parse_math=False)
    svg = to_svg(figure, "chart")
    svg.encode()
    assert not ACTS.search(svg) and "title" in svg
