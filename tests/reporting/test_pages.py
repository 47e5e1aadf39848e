"""The page of a run: whole, harmless, small, and there while the run goes on."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graft
from graft.conclusion import look_back, report_again
from graft.errors import RunError
from graft.preparation import prepare_again
from graft.reporting import Reporter, sparing, wants_report, write_report
from graft.reporting.details import Details, Example
from graft.reporting.pages import PAGE, score_interval, show_cell
from graft.reporting.story import DETAILS, FOLDER, read_story
from graft.runs import Run
from reporting_names import HOSTILE
from small import SETTINGS, make_tiny

SECTIONS = ("plan", "course", "classes", "wrong", "unsure", "network", "data", "provenance")
CHARTS = ("timeline", "curves", "confusion", "reliability", "map", "changes")


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(run: Run) -> Page:
    return Page((run.folder / PAGE).read_text(encoding="utf-8"))


def test_the_page_has_every_section_and_chart(reported: Run) -> None:
    page = page_of(reported)
    ids = [attributes.get("id") for _, attributes in page.found]
    assert set(SECTIONS) | {f"chart-{name}" for name in CHARTS} <= set(ids)
    assert len([each for each in ids if each]) == len({each for each in ids if each}), "an id stands twice"
    links = [a["href"] for tag, a in page.found if tag == "a" and "href" in a]
    assert all(str(link).removeprefix("#") in ids for link in links)


def test_what_refers_to_something_in_the_page_finds_it(reported: Run) -> None:
    text = (reported.folder / PAGE).read_text(encoding="utf-8")
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    wanted = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    assert wanted and wanted <= ids


def test_names_are_text_and_nothing_else(reported: Run) -> None:
    page = page_of(reported)
    assert not [tag for tag, _ in page.found if tag == "script"]
    assert not [name for _, attributes in page.found for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text  # told as it is
    assert "\u202e" not in page.text and "x" * 200 not in page.text
    wanted = [a[name] or "" for _, a in page.found for name in ("src", "href") if name in a]
    assert all(each.startswith(("data:image/", "#")) for each in wanted), "something from elsewhere"
    (policy,) = [a["content"] for _, a in page.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and "default-src 'none'" in policy and "script" not in policy


def test_names_of_files_are_text_as_well(with_odd_files: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"train__lr": 0.5, "epochs": 1, "data__validation": 0.5}
    graft.train(with_odd_files, out=tmp_path / "run", quiet=True, **settings)
    run = Run(tmp_path / "run")
    report_again(run.folder)
    details = read_story(run).details
    assert details is not None
    splits = prepare_again(run).splits
    assert splits.val is not None
    name = next(each for each in (*splits.train.ids, *splits.val.ids) if "onerror" in each)
    odd = Example(id=name, truth="red", decided="blue", share=0.9, truth_share=0.1)
    write_report(run, details.model_copy(update={"wrong": (odd,)}))  # whichever items were shown before
    page = page_of(run)
    assert not [a for _, a in page.found if "onerror" in a] and "<img src=x onerror" in page.text


def test_every_chart_is_a_file_too_with_its_numbers(reported: Run) -> None:
    folder = reported.folder / FOLDER
    for name in CHARTS:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")
        text = (folder / f"{name}.csv").read_text(encoding="utf-8")
        rows = list(csv.reader(io.StringIO(text, newline="")))
        assert len(rows) > 1 and len({len(row) for row in rows}) == 1
    recipe = graft.read_recipe(folder / "recipe.toml")
    assert recipe == reported.recipe


def test_it_says_what_was_measured(reported: Run) -> None:
    text, result = page_of(reported).text, json.loads((reported.folder / "result.json").read_text())
    assert f"{100 * result['test']['accuracy']:.1f} %" in text
    assert read_story(reported).plan.data.fingerprint in text
    assert f"graft train --recipe {(reported.folder / 'report' / 'recipe.toml').absolute()}" in text


def test_the_page_is_written_again_from_the_files_alone(reported: Run) -> None:
    before = (reported.folder / PAGE).read_text(encoding="utf-8")
    assert report_again(reported.folder) == reported.folder / PAGE
    assert (reported.folder / PAGE).read_text(encoding="utf-8") == before


def test_a_run_without_details_looks_at_its_data_again(tmp_path: Path, photos: Path) -> None:
    graft.train(photos, out=tmp_path / "run", quiet=True, **SETTINGS)
    run = Run(tmp_path / "run")
    assert not (run.folder / PAGE).exists(), "tests ask for no reports"
    report_again(run.folder)
    assert {"network", "classes"} <= {a.get("id") for _, a in page_of(run).found}
    (run.folder / FOLDER / DETAILS).write_text('{"wrong": 3}')
    with pytest.raises(RunError, match="is damaged"):
        report_again(run.folder)


def test_a_run_that_goes_on_has_a_page(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graft.preparation import prepare
    from graft.runs import choose_run
    from graft.workflow import carry_out

    monkeypatch.setattr("graft.reporting.EVERY", 0.0)
    monkeypatch.setattr("graft.reporting.SHARE", 1e9)
    recipe = graft.read_recipe(data__path=str(photos), **SETTINGS)
    run = choose_run(tmp_path / "run", recipe)
    steps = carry_out(prepare(recipe), run, report=True)
    for record in steps:
        if isinstance(record, graft.records.Validated) and record.epoch == 1:
            break
    text = (run.folder / PAGE).read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' in text and "a run that goes on" in text and "chart-curves" in text
    assert not (run.folder / FOLDER / "curves.png").exists()
    steps.close()
    assert report_again(run.folder).is_file()  # of what is there


def test_pages_are_not_written_too_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Run] = []
    now = [0.0]
    monkeypatch.setattr("graft.reporting.time.monotonic", lambda: now[0])

    def write(run: Run) -> None:
        written.append(run)
        now[0] += 4.0  # seconds that it takes

    monkeypatch.setattr("graft.reporting.write_report", write)
    reporter = Reporter(Run(tmp_path))
    for _ in range(150):
        now[0] += 1.0
        reporter.look()
    assert len(written) == 2  # after 20 seconds, and when those 4 were a twentieth of the time


def test_a_page_that_cannot_be_made_costs_no_run(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="could not be made"), sparing(Run(tmp_path), "The page"):
        raise ZeroDivisionError("of a chart")


def test_reports_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for word, wanted in {"0": False, "off": False, "1": True, "yes": True}.items():
        monkeypatch.setenv("GRAFT_REPORT", word)
        assert wants_report() is wanted
    monkeypatch.delenv("GRAFT_REPORT")
    assert wants_report()


def test_many_items_and_classes_make_no_large_page(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    classes, many = 100, 10_000
    truth = np.arange(many) % classes
    pixels = generator.integers(0, 255, (many, 8, 8, 3)).astype(np.uint8)
    labels = [f"class number {number}" for number in truth]
    data: dict[str, Any] = {"train": (list(pixels[:300]), labels[:300]), "test": (list(pixels), labels)}
    graft.train(
        data, out=tmp_path / "run", backbone=make_tiny(), strategy="probe", quiet=True, device="cpu"
    )
    run = Run(tmp_path / "run")
    prepared = prepare_again(run, backbone=make_tiny(), data=data)
    trunk = make_tiny().trunk
    bundle = graft.load_bundle(run.bundle, factory=lambda: trunk)
    write_report(run, look_back(prepared, bundle, run.read_logits()))
    assert (run.folder / PAGE).stat().st_size < 3_000_000


def test_several_labels_have_a_page(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, (60, 3)).astype(np.uint8)
    pixels = generator.integers(0, 50, (60, 8, 8, 3)).astype(np.uint8)
    pixels += 150 * truth[:, None, None]
    from graft.preparation import prepare
    from graft.runs import choose_run
    from graft.workflow import carry_out, drain

    recipe = graft.read_recipe(**SETTINGS)
    run = choose_run(tmp_path / "run", recipe)
    drain(carry_out(prepare(recipe, data=(list(pixels), truth)), run, report=True))
    text = page_of(run).text
    assert "Labels, the worst first" in text and "mean AP" in text


def test_a_probe_has_a_page(tmp_path: Path, photos: Path) -> None:
    graft.train(photos, out=tmp_path / "run", quiet=True, **SETTINGS | {"strategy": "probe"})
    report_again(tmp_path / "run")
    text = page_of(Run(tmp_path / "run")).text
    assert "No weight of the backbone changed" in text


@pytest.mark.parametrize("share, n", [(0.0, 5), (0.5, 10), (1.0, 100)])
def test_intervals_of_a_share_hold_it_and_stay_in_bounds(share: float, n: int) -> None:
    low, high = score_interval(share, n)
    assert 0 <= low <= share <= high <= 1 and high - low > 0


def test_cells_are_short() -> None:
    assert show_cell(None) == "" and show_cell(0.123456) == "0.123" and show_cell(12345) == "12,345"
    assert len(show_cell(HOSTILE[2])) <= 160


def test_details_go_through_json_unchanged(reported: Run) -> None:
    details = read_story(reported).details
    assert details is not None and Details.model_validate_json(details.model_dump_json()) == details
