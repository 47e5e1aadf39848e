"""Pages in a real browser, where there is one: nothing complains, nothing runs, nothing overlaps."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from graft.comparing import Asked, Candidate, Outcome, cells, outcome_file
from graft.comparison_report import write_comparison
from graft.files import write_json
from graft.reporting.pages import PAGE
from graft.runs import Run
from reporting_names import HOSTILE

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENS = {"desk": (1200, 900), "phone": (375, 800)}
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(
    params=[(screen, scheme) for screen in SCREENS for scheme in ("light", "dark")], ids="-".join
)
def page(request: pytest.FixtureRequest, browser: Any, reported: Run) -> Iterator[Any]:
    """The run's page, opened; what it complained of is in ``page.complaints``."""
    screen, scheme = request.param
    width, height = SCREENS[screen]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    opened = context.new_page()
    opened.complaints = []
    opened.on("console", lambda message: opened.complaints.append(message.text))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
    opened.on("request", lambda request: _note_request(opened, request.url))
    opened.goto((reported.folder / PAGE).as_uri())
    yield opened
    context.close()


def _note_request(page: Any, address: str) -> None:
    if not address.startswith(("file:", "data:")):
        page.complaints.append(f"asked for {address}")


def test_it_opens_without_a_complaint_and_nothing_runs(page: Any) -> None:
    page.wait_for_load_state()
    assert page.complaints == []
    assert page.locator("script").count() == 0


def test_it_is_as_wide_as_the_screen(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_every_chart_is_visible_and_no_two_overlap(page: Any) -> None:
    boxes = [chart.bounding_box() for chart in page.locator("figure").all()]
    assert len(boxes) == 6
    for box in boxes:
        assert box is not None and box["width"] > 200 and box["height"] > 80
    for above, below in pairwise(boxes):
        assert above["y"] + above["height"] <= below["y"]


def test_names_in_a_chart_do_not_overlap(page: Any) -> None:
    """Texts of one chart that lie over each other could not be read."""
    for chart in page.locator("figure svg").all():
        boxes = [text.bounding_box() for text in chart.locator("text").all()]
        for number, one in enumerate(boxes):
            for two in boxes[number + 1 :]:
                assert _shared(one, two) <= 0.2 * min(_area(one), _area(two)), chart.get_attribute("id")


def _shared(one: dict[str, float], two: dict[str, float]) -> float:
    wide = min(one["x"] + one["width"], two["x"] + two["width"]) - max(one["x"], two["x"])
    high = min(one["y"] + one["height"], two["y"] + two["height"]) - max(one["y"], two["y"])
    return max(0.0, wide) * max(0.0, high)


def _area(box: dict[str, float]) -> float:
    return max(box["width"] * box["height"], 1e-6)


def test_text_stands_out_from_its_ground(page: Any) -> None:
    """Contrast of 4.5 and more (WCAG 2.1, AA), in light and in dark, in charts as well."""
    ground, ink, chart = page.evaluate(
        """() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
                  getComputedStyle(document.querySelector('figure svg text')).fill]"""
    )
    for colour in (ink, chart):
        assert _contrast(colour, ground) >= 4.5


def _contrast(one: str, two: str) -> float:
    light, dark = sorted((_luminance(colour) for colour in (one, two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    channels = [float(each) / 255 for each in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [each / 12.92 if each <= 0.03928 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_it_prints(browser: Any, reported: Run, tmp_path: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto((reported.folder / PAGE).as_uri())
    opened.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    context.close()


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a comparison of candidates whose names are long or markup."""
    folder = tmp_path_factory.mktemp("compared")
    names = (*HOSTILE[:3], "probe")
    asked = Asked(
        data="<b>data</b>",
        candidates=tuple(Candidate(name=name, recipe={"strategy": "full", "data": {}}) for name in names),
        seeds=(0, 1),
        labels=(10, 100),
        command="graft compare '<script>alert(1)</script>'",
    )
    (folder / "outcomes").mkdir()
    write_json(folder / "comparison.json", asked.model_dump(mode="json"))
    for number, cell in enumerate(cells(asked)):
        right = tuple(float((item * 7 + number) % 10 < 6) for item in range(40))
        outcome = Outcome(
            candidate=cell.candidate.name, labels=cell.labels or 0, seed=cell.seed, items=40,
            score=sum(right) / 40, right=right, steps=10, seconds=1.0 + number,
            parameters=10**number, whole=10**9, memory=2**20,
        )  # fmt: skip
        write_json(outcome_file(folder, asked, cell), outcome.model_dump(mode="json"))
    return write_comparison(folder)


@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_of_a_comparison_is_as_harmless_and_as_readable(
    screen: str, browser: Any, compared: Path
) -> None:
    width, height = SCREENS[screen]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="dark")
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("dialog", lambda dialog: complaints.append(dialog.message))
    opened.goto(compared.as_uri())
    assert complaints == [] and opened.locator("script").count() == 0
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    boxes = [chart.bounding_box() for chart in opened.locator("figure").all()]
    assert len(boxes) == 4
    for above, below in pairwise(boxes):
        assert above["y"] + above["height"] <= below["y"]
    assert "alert(1)" in opened.inner_text("body")
    context.close()
