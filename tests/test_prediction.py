"""Predictions: the same for one picture and for many, in their order, and safe to open elsewhere."""

from __future__ import annotations

import csv
import io
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from graft.bundle import Bundle, load_bundle
from graft.data import read_items, read_splits
from graft.data.dataset import Pictures
from graft.data.transforms import preprocess
from graft.errors import DataError, RecipeError
from graft.prediction import Prediction, Predictions, as_trained, plain_cell
from graft.recipe import DataSettings
from graft.task import Task
from graft.terminal import metrics_tables, prediction_table, result_table
from small import COLOURS, make_pictures, write_pictures


@pytest.fixture(scope="module")
def bundle(finished_run: Path) -> Bundle:
    return load_bundle(finished_run)


def some_pictures(count: int = 70) -> list[np.ndarray]:
    """More than one batch of them, of every class in turn."""
    each = {label: make_pictures(label, count, seed=5) for label in COLOURS}
    return [each[label][number] for number, label in zip(range(count), list(COLOURS) * count, strict=False)]


def table(predictions: Predictions) -> torch.Tensor:
    return torch.tensor([list((row.probabilities or {}).values()) for row in predictions])


def test_probabilities_sum_to_one_and_the_label_has_the_largest(bundle: Bundle) -> None:
    found = bundle.predict(some_pictures(), device="cpu")
    assert len(found) == 70
    for row in found:
        assert row.probabilities is not None
        assert list(row.probabilities) == ["blue", "green", "red"]
        assert sum(row.probabilities.values()) == pytest.approx(1.0, abs=1e-6)
        assert min(row.probabilities.values()) >= 0
        assert row.label is not None
        assert row.probability == row.probabilities[row.label] == max(row.probabilities.values())
    assert [row.label for row in found][:6] == list(COLOURS) * 2


def test_one_by_one_is_all_at_once_and_twice_is_once(bundle: Bundle) -> None:
    pictures = some_pictures()
    whole = bundle.predict(pictures, device="cpu")
    assert bundle.predict(pictures, device="cpu") == whole
    ones = torch.cat([table(bundle.predict([picture], device="cpu")) for picture in pictures])
    assert torch.allclose(ones, table(whole), atol=1e-5)
    backwards = bundle.predict(pictures[::-1], device="cpu")
    assert torch.allclose(table(backwards).flip(0), table(whole), atol=1e-5)


def test_predicting_leaves_the_model_as_it_is(bundle: Bundle) -> None:
    before = {name: value.clone() for name, value in bundle.model.state_dict().items()}
    bundle.model.train()
    first = bundle.predict(some_pictures(3), device="cpu")
    bundle.model.eval()
    assert bundle.predict(some_pictures(3), device="cpu") == first
    assert all(torch.equal(value, before[name]) for name, value in bundle.model.state_dict().items())


def test_files_folders_and_arrays_are_the_same_pictures(bundle: Bundle, tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", {"blue": 2, "red": 3})
    by_folder = bundle.predict(photos, device="cpu")
    assert [row.id for row in by_folder] == sorted(path.as_posix() for path in photos.rglob("*.png"))
    files = [Path(row.id) for row in by_folder]
    arrays = [np.asarray(Image.open(path)) for path in files]
    for other in (bundle.predict(files, device="cpu"), bundle.predict(arrays, device="cpu")):
        assert torch.allclose(table(other), table(by_folder), atol=1e-6)
    assert [row.id for row in bundle.predict(files[::-1], device="cpu")] == [
        path.as_posix() for path in files[::-1]
    ]


def test_unreadable_files_are_reported_and_the_others_done(bundle: Bundle, tmp_path: Path) -> None:
    photos = write_pictures(tmp_path, {"red": 3}) / "red"
    (photos / "001.png").write_bytes(b"")
    (photos / "text.jpg").write_text("no picture")
    found = bundle.predict([photos, tmp_path / "nowhere.jpg"], device="cpu")
    assert [Path(row.id).name for row in found if row.label] == ["000.png", "002.png"]
    assert {Path(row.id).name: row.error for row in found.failed} == {
        "001.png": "the file is empty",
        "text.jpg": "it is damaged, or no JPEG, PNG, WebP, BMP, TIFF, GIF or .npy",
        "nowhere.jpg": "there is no such file, or the link points nowhere",
    }
    assert all(row.label is row.probabilities is row.probability is None for row in found.failed)
    only = bundle.predict(photos / "text.jpg", device="cpu")
    assert len(only) == len(only.failed) == 1


def test_nothing_to_predict_is_an_error(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(DataError, match="No pictures in the folder"):
        bundle.predict(tmp_path, device="cpu")
    with pytest.raises(DataError, match="No picture was named"):
        bundle.predict([], device="cpu")


def test_training_validation_and_prediction_see_the_same_tensors(bundle: Bundle, tmp_path: Path) -> None:
    """One odd picture each: sideways, grey of 16 bits, with a palette, transparent, of four inks."""
    rgb = Image.fromarray(make_pictures("red", 1, 0)[0]).resize((11, 9))
    exif = Image.Exif()
    exif[0x0112] = 6
    odd = {
        "sideways.jpg": lambda path: rgb.save(path, exif=exif),
        "grey16.png": lambda path: Image.fromarray(
            np.arange(99, dtype=np.uint16).reshape(9, 11) * 600
        ).save(path),
        "palette.png": lambda path: rgb.quantize(7).save(path),
        "alpha.png": lambda path: rgb.convert("RGBA").rotate(30).save(path),
        "inks.jpg": lambda path: rgb.convert("CMYK").save(path),
        "plain.bmp": rgb.save,
    }
    for label in ("a", "b"):
        for name, save in odd.items():
            path = tmp_path / "photos" / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path)
    how = bundle.preprocess
    splits = read_splits(tmp_path / "photos", DataSettings(validation=0.0))
    trained = Pictures(splits.train, how)
    items = read_items(tmp_path / "photos").items
    predicted = Pictures(items, how)
    assert len(trained) == len(predicted) == 2 * len(odd)
    for number in range(len(trained)):
        assert Path(str(splits.train.sources[number])) == Path(str(items.sources[number]))
        tensor = trained[number][0]
        assert torch.equal(tensor, predicted[number][0])
        # What a network sees in training without augmentation is that, too.
        assert torch.equal(tensor, Pictures(splits.train, how, preset="none")[number, 3][0])
        picture, whole = trained._decode(number)
        assert torch.equal(tensor, preprocess(picture, how, whole=whole))
    sideways = next(i for i, name in enumerate(items.ids) if name.endswith("a/sideways.jpg"))
    assert trained._decode(sideways).pixels.shape == (3, 11, 9)


def make_predictions(*rows: Prediction, labels: tuple[str, ...] = ("a", "b")) -> Predictions:
    return Predictions(rows, labels)


def test_csv_has_a_header_and_one_column_a_label() -> None:
    found = make_predictions(
        Prediction("x.jpg", "b", {"a": 0.25, "b": 0.75}), Prediction("y,z.jpg", error='it is "odd"')
    )
    rows = list(csv.reader(io.StringIO(found.to_csv())))
    assert rows == [
        ["id", "label", "probability", "error", "a", "b"],
        ["x.jpg", "b", "0.75", "", "0.25", "0.75"],
        ["y,z.jpg", "", "", 'it is "odd"', "", ""],
    ]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_csv_holds_no_formulas(start: str) -> None:
    evil = f"{start}HYPERLINK(1)"
    found = make_predictions(
        Prediction(evil, evil, {evil: 1.0, "b": 0.0}), Prediction("x", error=evil), labels=(evil, "b")
    )
    cells = [cell for row in csv.reader(io.StringIO(found.to_csv())) for cell in row]
    assert not [cell for cell in cells if cell.startswith(start)]
    assert cells.count(f"'{evil}".replace("\r", " ")) == 4


@pytest.mark.odd_input("Predictions")
def test_numbers_are_no_formulas() -> None:
    """Labels that are numbers (`-1`, `+5`, `-0.5`) in a CSV file of predictions: as they were read; what a
    spreadsheet would run (`=cmd`, `@x`, `-1+2`) has an apostrophe before it."""
    for number in (
        "-1",
        "+5",
        "-0.5",
        "-.5",
        "-1e-3",
        "+3,5",
        "-12 %",
        "-1|2",
        "-1|-2|3",
        "-1,234.5",
        "-1.234,50",
    ):
        assert plain_cell(number) == number
    for formula in ("=cmd", "@x", "-1+2", "+A1", "-cmd|' /C calc'!A0", "-", "+", "-1=2", "-1|=1", "\n=1"):
        assert plain_cell(formula).startswith("'")


@pytest.mark.parametrize("part", ["-1,", "1,234.5 ", "-1 %|", "1.", ",1"])
def test_any_cell_is_looked_at_in_an_instant(part: str) -> None:
    evil = f"-{part.removeprefix('-') * 60}x"
    began = time.process_time()
    assert plain_cell(evil) == f"'{evil}"
    assert time.process_time() - began < 0.5


def test_json_lines_hold_everything() -> None:
    found = make_predictions(
        Prediction("é\n.jpg", "b", {"a": 0.25, "b": 0.75}), Prediction("y.jpg", error="empty")
    )
    lines = found.to_jsonl().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "é\n.jpg", "label": "b", "probability": 0.75, "probabilities": {"a": 0.25, "b": 0.75}},
        {"id": "y.jpg", "error": "empty"},
    ]


def test_evaluation_counts_what_prediction_decides(bundle: Bundle, tmp_path: Path) -> None:
    photos = write_pictures(tmp_path, dict.fromkeys(COLOURS, 4), seed=9)
    (photos / "red" / "000.png").write_bytes(b"")
    metrics = bundle.evaluate(photos, device="cpu")
    right = [
        row.label == Path(row.id).parent.name for row in bundle.predict(photos, device="cpu") if row.label
    ]
    assert metrics.n == len(right) == 11
    assert metrics.accuracy == pytest.approx(sum(right) / len(right))
    assert "1 unreadable picture" in metrics.problems[0]
    (photos / "purple").mkdir()
    (photos / "red" / "001.png").rename(photos / "purple" / "1.png")
    with pytest.raises(DataError, match="'purple'"):
        bundle.evaluate(photos, device="cpu")


# --- several labels a picture -----------------------------------------------------------------


@pytest.fixture(scope="module")
def many(bundle: Bundle) -> Bundle:
    """The same network, whose logits now decide label by label."""
    task = Task(bundle.labels, "multi-label", (0.5, 0.3, 0.9))
    return replace(bundle, task=task)


def test_labels_are_those_above_their_thresholds(many: Bundle) -> None:
    pictures = some_pictures(20)
    found = many.predict(pictures, device="cpu")
    assert found.kind == "multi-label"
    for row in found:
        limits = dict(zip(many.labels, many.task.thresholds, strict=True))
        assert row.labels == tuple(name for name in many.labels if row.probabilities[name] >= limits[name])
        assert row.label is row.probability is row.error is None
        assert row.to_dict() == {"id": row.id, "labels": [*row.labels], "probabilities": row.probabilities}
    assert {len(row.labels) for row in found} > {1} or len({row.labels for row in found}) > 1


@pytest.mark.parametrize(
    ("asked", "named", "read"),
    [
        ({}, {"label": "kind", "text": "said"}, {"label": "kind", "text": "said"}),
        ({"label": "other"}, {"label": "kind", "text": "said"}, {"label": "other", "text": "said"}),
        ({"label": ("a", "b")}, {"separator": "|"}, {"label": ("a", "b")}),
        ({"separator": ";"}, {"label": ["a", "b"]}, {"separator": ";"}),
        ({"separator": ";"}, {"label": "tags"}, {"separator": ";", "label": "tags"}),
        ({"label": "kinds"}, {"label": "tags", "separator": "|"}, {"label": "kinds", "separator": "|"}),
        ({"bad_share": 0.5}, {"image": "file"}, {"bad_share": 0.5, "image": "file"}),
    ],
)
def test_columns_are_those_of_the_training_unless_they_are_named(asked: Any, named: Any, read: Any) -> None:
    found = as_trained(DataSettings(**asked), named)
    assert found == DataSettings(**read) and found.model_fields_set == set(read)


def test_evaluation_of_label_sets_counts_what_prediction_decides(many: Bundle) -> None:
    pictures = some_pictures(12)
    decided = [row.labels for row in many.predict(pictures, device="cpu")]
    metrics = many.evaluate((pictures, [list(labels) for labels in decided]), device="cpu")
    assert (metrics.n, metrics.accuracy) == (12, 1.0)
    assert sum(entry.n for entry in metrics.per_class.values()) == sum(map(len, decided))
    with pytest.raises(DataError, match="tells exactly one"):
        replace(many, task=Task(many.labels)).evaluate((pictures, [["red"]] * 12), device="cpu")


def test_csv_of_label_sets() -> None:
    rows = (
        Prediction("x.jpg", None, {"a": 0.75, "b": 0.625}, labels=("a", "b")),
        Prediction("y.jpg", None, {"a": 0.25, "b": 0.125}, labels=()),
        Prediction("z.jpg", error="empty"),
    )
    found = Predictions(rows, ("a", "b"), kind="multi-label", separator=";")
    assert list(csv.reader(io.StringIO(found.to_csv()))) == [
        ["id", "labels", "error", "a", "b"],
        ["x.jpg", "a;b", "", "0.75", "0.625"],
        ["y.jpg", "", "", "0.25", "0.125"],
        ["z.jpg", "", "empty", "", ""],
    ]
    assert [row.id for row in found.failed] == ["z.jpg"]
    assert [json.loads(line).get("labels") for line in found.to_jsonl().splitlines()] == [
        ["a", "b"],
        [],
        None,
    ]


def text_of(*tables: object) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    for each in tables:
        console.print(each)
    return console.export_text()


def test_tables_of_label_sets(many: Bundle) -> None:
    rows = (
        Prediction("x.jpg", None, {"a": 0.75, "b": 0.9, "c": 0.1}, labels=("a", "b")),
        Prediction("y.jpg", None, {"a": 0.25, "b": 0.125, "c": 0.0}, labels=()),
    )
    shown = text_of(prediction_table(Predictions(rows, ("a", "b", "c"), kind="multi-label")))
    assert "b, a" in shown
    assert "90.0 %, 75.0 %" in shown
    assert "none" in shown
    metrics = many.evaluate((some_pictures(3), [["blue"], [], ["red"]]), device="cpu").to_dict()
    shown = text_of(*metrics_tables(metrics))
    for word in (
        "Mean AP",
        "Macro F1",
        "Micro F1",
        "All labels right",
        "Calibration error",
        "Average prec",
    ):
        assert word in shown
    shown = text_of(result_table([("x", {"test": metrics})]))
    assert "Mean AP" in shown and f"{100 * metrics['mean_average_precision']:.1f} %" in shown


def test_bundles_of_label_sets_and_of_bands_are_read_as_they_were_trained(
    many: Bundle, tmp_path: Path
) -> None:
    full = replace(many, preprocess=replace(many.preprocess, max_value=1000.0))
    again = load_bundle(full.save(tmp_path / "bundle"))
    assert (again.task, again.preprocess) == (full.task, full.preprocess)
    bright = [picture.astype(np.float32) * (1000 / 255) for picture in some_pictures(5)]
    plain = many.predict(some_pictures(5), device="cpu")
    assert torch.allclose(table(again.predict(bright, device="cpu")), table(plain), atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "reads"),
    [
        ({"max_value": 1000.0}, ""),
        ({"channels": 3}, ""),
        ({"size": 16}, ""),
        ({"statistics": "data"}, ""),
        ({"validation": 0.1}, ""),
        ({"path": "photos"}, ""),
        ({"image": "file"}, "evaluate"),
        ({"label": "species"}, "evaluate"),
        ({"split": "part"}, "evaluate"),
        ({"bad_share": 1.0}, "evaluate"),
        ({"max_megapixels": 1.0}, "predict evaluate"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_to_a_bundle_are_refused(
    bundle: Bundle, tmp_path: Path, setting: dict[str, Any], reads: str
) -> None:
    """The bundle says how pictures are read and prepared; a setting must not seem to."""
    table = tmp_path / "table.csv"
    table.write_text("path,file,label,species,split,part\n" + "a.png,a.png,red,red,test,test\n" * 2)
    Image.fromarray(some_pictures(1)[0]).save(tmp_path / "a.png")
    settings = DataSettings(**setting)
    words = f"Of no effect here: data.{next(iter(setting))}; of data only .*max_megapixels"
    for verb, data in ((bundle.predict, tmp_path), (bundle.evaluate, table)):
        if verb.__name__ in reads:
            assert verb(data, device="cpu", settings=settings) is not None
        else:
            with pytest.raises(RecipeError, match=words):
                verb(data, device="cpu", settings=settings)
