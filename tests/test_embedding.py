"""Features as a table: right, in order, whole; and the nearest items to a query."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet
from tokenizers import Tokenizer

from graft.backbones import from_module, list_libraries, load_backbone, register_library
from graft.backbones.assembly import Request, resized
from graft.backbones.contract import Backbone, Encoding
from graft.bundle import load_bundle, make_bundle
from graft.cli import main
from graft.data.content import read_content
from graft.data.dataset import Pictures
from graft.data.items import Items
from graft.embedding import Embedding, embed, embed_queries, load_maker, read_embedding
from graft.errors import BackboneError, DataError, RecipeError
from graft.model import Head, Model
from graft.recipe import DataSettings
from graft.reuse.states import Lower
from graft.reuse.store import Store
from graft.task import Task
from small import COLOURS, TINY, TinyNet, make_pictures, make_pipe, make_tiny, write_pictures
from small_text import write_model

SAID = (
    "the film was great",
    "a very dull plot",
    "the acting was fine but the story is awful and the plot is bad",
    "great",
    "the ending is not good",
    "a film and a story and a plot and an ending and very bad acting",
)


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Graft = Callable[..., Result]


@pytest.fixture
def graft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Graft:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")  # no id is cut

    def call(*words: str | Path) -> Result:
        device = [] if "--device" in words else ["--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["graft", *map(str, words), *device])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        found = capsys.readouterr()
        return Result(int(end.value.code or 0), found.out, found.err)

    return call


def check_refused(result: Result, words: str, code: int = 2) -> None:
    assert (result.code, result.out) == (code, ""), result
    messages = [line for line in result.err.splitlines() if line.startswith("graft: ")]
    assert len(messages) == 1, result.err
    assert words in " ".join(result.err.split()), result.err
    assert "Traceback" not in result.err


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"hf/{write_model(tmp_path_factory.mktemp('bert'), 'bert')}"


@pytest.fixture(scope="module")
def reader(model: str) -> Backbone:
    return load_backbone(model)


def write_run(folder: Path, model: str, factor: float) -> Path:
    """The folder of a run that made the backbone's first values so many times as large."""
    backbone = load_backbone(model)
    with torch.no_grad():
        next(iter(backbone.trunk.parameters())).mul_(factor)
    head = Head(16, 2)
    made = make_bundle(Model(backbone.trunk, head.build(seed=0)), Task(("a", "b")), head, backbone)
    made.save(folder / "bundle")
    return folder


@pytest.fixture(scope="module")
def text_run(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("texts") / "run", model, 3)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(SAID) + "\n")
    return path


@pytest.fixture
def table(reader: Backbone, tmp_path: Path) -> Path:
    """A table of texts that is right."""
    embed(reader, SAID, device="cpu").save(tmp_path / "f.parquet")
    return tmp_path / "f.parquet"


def alone(backbone: Backbone, said: Sequence[Any]) -> np.ndarray:
    """Features of texts, each by itself and without any padding."""
    assert isinstance(backbone.preprocess, Encoding)
    tokenizer = Tokenizer.from_str(backbone.preprocess.tokenizer)
    tokenizer.no_padding()
    backbone.trunk.eval()
    rows = []
    with torch.no_grad():
        for text in said:
            found = tokenizer.encode(*text) if isinstance(text, tuple) else tokenizer.encode(text)
            rows.append(backbone.trunk(torch.tensor([[found.ids, found.type_ids]])))
    return torch.cat(rows).numpy()


def shown(backbone: Backbone, sources: Sequence[Any]) -> np.ndarray:
    """Features of pictures, plainly."""
    names = tuple(map(str, range(len(sources))))
    digests = tuple(read_content(source, max_pixels=10**6)[1] for source in sources)
    inputs = Pictures(Items(tuple(sources), names, None, digests), backbone.preprocess, keep=False)
    backbone.trunk.eval()
    with torch.no_grad():
        return backbone.trunk(torch.stack([inputs[number][0] for number in range(len(inputs))])).numpy()


# ---------------------------------------------------------------------------------------------
# Features.


def test_features_of_texts_are_those_of_the_trunk_in_their_order(reader: Backbone) -> None:
    many = [f"{one} {' and the plot' * (number % 7)}" for number in range(20) for one in SAID]
    found = embed(reader, many, device="cpu")
    assert found.features.dtype == np.float32
    assert found.texts == tuple(many) and len(found) == len(many)
    np.testing.assert_allclose(found.features, alone(reader, many), atol=1e-5, rtol=0)


def test_pairs_of_texts(reader: Backbone) -> None:
    pairs = [("the film was great", "a dull plot"), ("great", "the ending")]
    found = embed(reader, pairs, device="cpu")
    np.testing.assert_allclose(found.features, alone(reader, pairs), atol=1e-5, rtol=0)
    assert found.texts == ("the film was great\na dull plot", "great\nthe ending")


def test_features_of_pictures_are_those_of_the_trunk_in_their_order(
    backbone: Backbone, photos: Path
) -> None:
    files = sorted(photos.rglob("*.png"), key=lambda path: path.name)
    found = embed(backbone, files, device="cpu")
    assert found.ids == tuple(path.as_posix() for path in files) and found.texts is None
    np.testing.assert_allclose(found.features, shown(backbone, files), atol=1e-5, rtol=0)
    folder = embed(backbone, photos, device="cpu")
    assert folder.ids == tuple(sorted(found.ids))


def test_pictures_in_memory(backbone: Backbone) -> None:
    pictures = make_pictures("red", 5, seed=1)
    expected = shown(backbone, list(pictures))
    for data in (pictures, list(pictures), torch.from_numpy(pictures).permute(0, 3, 1, 2)):
        np.testing.assert_allclose(embed(backbone, data, device="cpu").features, expected, atol=1e-5)


def test_the_adapted_backbone_of_a_bundle(text_run: Path, finished_run: Path, photos: Path) -> None:
    bundle = load_bundle(text_run)
    own = replace(load_backbone(bundle.source.id), trunk=bundle.model.trunk)
    found = embed(bundle, SAID, device="cpu")
    np.testing.assert_allclose(found.features, alone(own, SAID), atol=1e-5, rtol=0)
    assert not np.allclose(found.features, alone(load_backbone(bundle.source.id), SAID), atol=1e-3)
    pictures = load_bundle(finished_run)
    own = replace(make_tiny(), trunk=pictures.model.trunk)
    files = sorted(photos.rglob("*.png"))
    np.testing.assert_allclose(
        embed(pictures, files, device="cpu").features, shown(own, files), atol=1e-5, rtol=0
    )


def test_a_bundle_with_a_network_of_ones_own(photos: Path) -> None:
    backbone = make_tiny()
    model = Model(backbone.trunk, torch.nn.Linear(16, 2))
    bundle = make_bundle(model, Task(("a", "b")), Head(16, 2), backbone)
    found = embed(bundle, photos, device="cpu")
    np.testing.assert_allclose(
        found.features, shown(backbone, [Path(name) for name in found.ids]), atol=1e-5, rtol=0
    )


def test_the_network_keeps_its_modes(backbone: Backbone) -> None:
    before = {name: value.clone() for name, value in backbone.trunk.state_dict().items()}
    backbone.trunk.train()
    backbone.trunk.get_submodule("stem").eval()
    modes = {name: module.training for name, module in backbone.trunk.named_modules()}
    embed(backbone, list(make_pictures("red", 3, 0)), device="cpu")
    assert {name: module.training for name, module in backbone.trunk.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in backbone.trunk.state_dict().items())


def test_features_are_kept_only_where_it_is_asked(
    reader: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_STORE", str(tmp_path / "own"))
    embed(reader, SAID, device="cpu")
    assert not list(tmp_path.rglob("*"))
    for said in (SAID[:3], SAID):
        found = embed(reader, said, device="cpu", store=Store(tmp_path / "store"))
        np.testing.assert_allclose(found.features, alone(reader, said), atol=1e-5, rtol=0)
    assert list((tmp_path / "store").rglob("*.safetensors")) and not (tmp_path / "own").exists()


def test_progress_is_told(reader: Backbone) -> None:
    told: list[tuple[int, int]] = []
    embed(reader, SAID, device="cpu", progress=lambda done, total: told.append((done, total)))
    assert told == [*((number, 6) for number in range(1, 7)), (6, 6)]


def test_texts_that_are_cut_are_told(reader: Backbone) -> None:
    (problem,) = embed(reader, ["the film " * 60, "great"], device="cpu").problems
    assert "1 text of more than 64 tokens cut" in str(problem)


def test_nothing_to_embed_is_said(reader: Backbone, backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no text to embed"):
        embed(reader, [], device="cpu")
    with pytest.raises(DataError, match=r"no text can be read:\n  item 0: it is empty"):
        embed(reader, [" "], device="cpu")
    with pytest.raises(DataError, match="No pictures in the folder"):
        embed(backbone, tmp_path, device="cpu")
    with pytest.raises(DataError, match=r"no picture can be read:\n  nowhere\.jpg: there is no"):
        embed(backbone, Path("nowhere.jpg"), device="cpu")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"label": "species"}, "Of no effect here: data.label; of data only"),
        ({"size": 16}, "data.size"),
        ({"channels": 1}, "data.channels"),
        ({"max_value": 1000.0}, "data.max_value"),
        ({"statistics": "data"}, "data.statistics"),
        ({"text": "text"}, "data.text"),
        ({"size": 8, "channels": 3, "max_megapixels": 1.0}, ""),  # what is so anyway
    ],
    ids=str,
)
def test_settings_of_no_effect_are_refused(
    backbone: Backbone, photos: Path, setting: dict[str, Any], words: str
) -> None:
    settings = DataSettings(**setting)
    if not words:
        assert len(embed(backbone, photos, device="cpu", settings=settings)) == 30
        return
    with pytest.raises(RecipeError, match=words):
        embed(backbone, photos, device="cpu", settings=settings)


# ---------------------------------------------------------------------------------------------
# The table.


def test_a_table_reads_back_equal(reader: Backbone, table: Path) -> None:
    found = embed(reader, SAID, device="cpu")
    again = read_embedding(str(table))
    assert (again.ids, again.texts, again.made_by) == (found.ids, found.texts, found.made_by)
    assert np.array_equal(again.features, found.features)
    assert again.features.flags.writeable  # else torch warns of it
    plain = parquet.read_table(table)
    assert plain.column_names == ["id", "text", "features"]
    assert plain.column("id").to_pylist() == [f"item {number}" for number in range(6)]
    assert plain.column("text").to_pylist() == list(SAID)
    assert plain.schema.field("features").type == pyarrow.list_(pyarrow.float32(), 16)
    assert np.array_equal(np.array(plain.column("features").to_pylist(), np.float32), found.features)


def test_pictures_have_no_column_of_texts(backbone: Backbone, photos: Path, tmp_path: Path) -> None:
    embed(backbone, photos, device="cpu").save(tmp_path / "f.parquet")
    assert parquet.read_table(tmp_path / "f.parquet").column_names == ["id", "features"]
    assert read_embedding(tmp_path / "f.parquet").texts is None


def test_a_table_is_whole_or_absent(reader: Backbone, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = table.read_bytes()

    def half(_: Any, path: Path) -> None:
        Path(path).write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet, "write_table", half)
    with pytest.raises(OSError, match="No space left"):
        embed(reader, ["great"], device="cpu").save(table)
    assert table.read_bytes() == before
    assert [path.name for path in table.parent.iterdir()] == ["f.parquet"]


def told(table: Path) -> dict[str, Any]:
    """What a table says of its maker."""
    values = json.loads(parquet.read_schema(table).metadata[b"graft"])
    assert isinstance(values, dict)
    return values


def tell(table: Path, change: dict[str, Any] | str) -> None:
    """Write a table again, that says something else of its maker."""
    values = change if isinstance(change, str) else json.dumps(told(table) | change)
    parquet.write_table(parquet.read_table(table).replace_schema_metadata({"graft": values}), table)


def columns(table: Path, **change: Any) -> None:
    """Write a table again with other columns; None takes one away."""
    old = parquet.read_table(table)
    values = {name: old.column(name) for name in old.column_names} | change
    kept = {name: value for name, value in values.items() if value is not None}
    parquet.write_table(pyarrow.table(kept).replace_schema_metadata(old.schema.metadata), table)


def of_floats(rows: list[Any], kind: Any = None) -> Any:
    return pyarrow.array(rows, kind or pyarrow.list_(pyarrow.float32(), 2))


NO_TABLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "There is no file"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "There is no file"),
    "a pipe": (lambda path: (path.unlink(), make_pipe(path)), "There is no file"),
    "empty": (lambda path: path.write_bytes(b""), "no table that graft embed wrote"),
    "no Parquet": (lambda path: path.write_text("id,text\n1,great\n"), "no table that graft embed wrote"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-50]), "no table that graft embed wrote"),
    "of others": (
        lambda path: parquet.write_table(pyarrow.table({"text": ["a"]}), path),
        "it does not say what made it",
    ),
    "no JSON": (lambda path: tell(path, "{"), "is damaged"),
    "no object": (lambda path: tell(path, "[]"), "does not say rightly what made it"),
    "no digest": (lambda path: tell(path, {"sha256": None}), "does not say rightly what made it"),
    "a version": (lambda path: tell(path, {"version": 2}), "version 2; this graft reads up to 1. Update"),
    "no version": (lambda path: tell(path, {"version": None}), "does not say rightly"),
    "no features": (lambda path: columns(path, features=None), "its columns are not"),
    "no ids": (lambda path: columns(path, id=None), "its columns are not"),
    "more columns": (lambda path: columns(path, label=pyarrow.array(["a"] * 6)), "its columns are not"),
    "ids of numbers": (lambda path: columns(path, id=pyarrow.array(range(6))), "its columns are not"),
    "texts missing": (
        lambda path: columns(path, text=pyarrow.array([None] * 6, pyarrow.string())),
        "its columns are not",
    ),
    "features missing": (
        lambda path: columns(path, features=of_floats([[1, 2]] * 5 + [None])),
        "its columns are not",
    ),
    "a feature missing": (
        lambda path: columns(path, features=of_floats([[1, 2]] * 5 + [[1, None]])),
        "its columns are not",
    ),
    "other features": (
        lambda path: columns(path, features=of_floats([[1, 2]] * 6, pyarrow.list_(pyarrow.float64(), 2))),
        "its columns are not",
    ),
    "no number": (
        lambda path: columns(path, features=of_floats([[1, float("nan")]] * 6)),
        "not finite",
    ),
    "no rows": (
        lambda path: parquet.write_table(parquet.read_table(path).slice(0, 0), path),
        "its columns are not",
    ),
}


@pytest.mark.parametrize("case", NO_TABLES)
def test_what_is_no_such_table_is_said(table: Path, case: str) -> None:
    change, words = NO_TABLES[case]
    change(table)
    with pytest.raises(DataError) as error:
        read_embedding(table)
    assert str(table) in str(error.value) and words in str(error.value)


def test_a_table_in_pieces_is_one(table: Path) -> None:
    before = read_embedding(table)
    parquet.write_table(parquet.read_table(table), table, row_group_size=2)
    assert np.array_equal(read_embedding(table).features, before.features)


# ---------------------------------------------------------------------------------------------
# The nearest.


def test_neighbours_are_the_nearest(table: Path) -> None:
    found = read_embedding(table)
    rows = found.features / np.linalg.norm(found.features, axis=1, keepdims=True)
    for number, query in enumerate(found.features):
        nearest = found.neighbours(7 * query, 4)
        cosines = rows @ rows[number]
        assert [row["id"] for row in nearest] == [found.ids[i] for i in np.argsort(-cosines)[:4]]
        assert nearest[0]["id"] == found.ids[number] and nearest[0]["text"] == SAID[number]
        assert [row["cosine"] for row in nearest] == pytest.approx(sorted(cosines)[::-1][:4], abs=1e-6)
        assert nearest[0]["cosine"] == pytest.approx(1, abs=1e-6) and nearest[0]["cosine"] <= 1
    assert len(found.neighbours(found.features[0], 100)) == 6


def test_equal_items_come_in_their_order_and_nothing_has_no_direction(table: Path) -> None:
    found = read_embedding(table)
    features = np.array([[1, 0], [0, 0], [1, 0], [2, 0], [-1, 0]], np.float32)
    few = Embedding(tuple("abcde"), features, None, found.made_by)
    nearest = few.neighbours(np.array([3, 0], np.float32))
    assert [(row["id"], row["cosine"]) for row in nearest] == [
        *(("a", 1.0), ("c", 1.0), ("d", 1.0), ("b", 0.0), ("e", -1.0)),
    ]
    assert {row["cosine"] for row in few.neighbours(np.zeros(2, np.float32))} == {0.0}
    alike = Embedding(tuple(map(str, range(50))), np.tile(features[:2], (25, 1)), None, found.made_by)
    nearest = alike.neighbours(features[0], 50)
    assert [int(row["id"]) for row in nearest] == [*range(0, 50, 2), *range(1, 50, 2)]
    with pytest.raises(DataError, match="as many features as the items have"):
        few.neighbours(np.zeros(3, np.float32))


def test_queries_are_embedded_as_the_items_were(reader: Backbone, backbone: Backbone, photos: Path) -> None:
    asked = [SAID[3], SAID[3], SAID[0]]
    np.testing.assert_allclose(embed_queries(reader, asked, device="cpu"), alone(reader, asked), atol=1e-5)
    with pytest.raises(DataError, match="is the name of a file; a text was expected"):
        embed_queries(reader, [str(photos / "red" / "000.png")], device="cpu")
    files = [str(photos / "red" / name) for name in ("001.png", "001.png", "000.png")]
    files.append(f"{photos}/./red/000.png")
    found = embed_queries(backbone, files, device="cpu")
    np.testing.assert_allclose(found, shown(backbone, files), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": "0" * 64}, "has another weights than"),
        ({"input": {"tokenizer": "0", "max_length": 64, "vocabulary": 24}}, "another preparation of items"),
        ({"backbone": "hf/./nowhere:main"}, "cannot be loaded: There is no folder nowhere"),
        ({"backbone": "nowhere/net"}, "cannot be loaded: There is no library"),
        ({"backbone": "tiny/net:own"}, "tiny/net:own made the table and cannot be loaded"),
        ({"backbone": None}, "only a Python session had"),
        ({"bundle": "/nowhere"}, "/nowhere made the table and cannot be loaded: There is no bundle"),
        ({"input": {"mean": "x"}}, "does not say rightly how items are prepared"),
        ({"input": {"tokenizer": "0", "max_length": "x"}}, "does not say rightly how items are prepared"),
    ],
    ids=str,
)
def test_a_maker_that_is_not_what_it_was(table: Path, change: dict[str, Any], words: str) -> None:
    tell(table, change)
    with pytest.raises(DataError, match=words):
        load_maker(read_embedding(table))


def test_random_weights_are_known_by_their_values(model: str) -> None:
    """An id names none of them, so that another time there are others."""
    found = embed(f"{model}:none", SAID, device="cpu")
    with pytest.raises(DataError, match="another weights"):
        load_maker(found)


def test_weights_that_moved_are_no_longer_those_of_the_id(model: str) -> None:
    moved = load_backbone(model)
    with torch.no_grad():
        next(iter(moved.trunk.parameters())).mul_(2)
    with pytest.raises(DataError, match="another weights"):
        load_maker(embed(moved, SAID, device="cpu"))


def test_what_was_never_saved_cannot_be_loaded(text_run: Path, backbone: Backbone, photos: Path) -> None:
    for source, data in ((replace(load_bundle(text_run), path=None), SAID), (backbone, photos)):
        with pytest.raises(DataError, match="only a Python session had"):
            load_maker(embed(source, data, device="cpu"))


def test_options_of_the_backbone_come_back(model: str) -> None:
    for options in ({"pooling": "cls", "max_length": 6}, {"pooling": "last"}):
        made = load_backbone(model, **options)
        found = embed(made, SAID, device="cpu")
        again = embed_queries(load_maker(found), SAID, device="cpu")
        np.testing.assert_allclose(again, found.features, atol=1e-5)


def test_the_pooling_can_be_named(model: str) -> None:
    pooled = embed(load_backbone(model, pooling="cls"), SAID, device="cpu")
    named = embed(model, SAID, device="cpu", pooling="cls")
    assert named.made_by.pooling == "cls"
    np.testing.assert_array_equal(named.features, pooled.features)
    assert not np.allclose(named.features, embed(model, SAID, device="cpu", pooling="mean").features)
    with pytest.raises(RecipeError, match="pooling"):
        embed(load_backbone(model), SAID, device="cpu", pooling="cls")


def test_pictures_are_prepared_again_as_they_were(photos: Path) -> None:
    asked: list[Request] = []

    def load(request: Request) -> Backbone:
        asked.append(request)
        torch.manual_seed(0)
        intake = resized(TINY, request.size)
        backbone = from_module(TinyNet(), preprocess=intake, channels=request.channels)
        options = backbone.source.options | request.options
        return replace(backbone, source=replace(backbone.source, library="sized", options=options))

    if "sized" not in list_libraries():
        register_library("sized", load)
    settings = DataSettings(size=32, channels=1, max_value=1000.0)
    found = embed("sized/net", photos, device="cpu", settings=settings)
    maker = load_maker(found)
    assert [(each.size, each.channels) for each in asked] == [(32, 1), (32, 1)]
    assert maker.preprocess == replace(TINY, size=(32, 32), mean=(0.5,), std=(0.25,), max_value=1000.0)
    np.testing.assert_allclose(embed_queries(maker, found.ids, device="cpu"), found.features, atol=1e-5)
    given = replace(maker, preprocess=replace(maker.preprocess, mean=(0.4,)))
    assert load_maker(embed(given, photos, device="cpu")).preprocess == given.preprocess


def test_a_folder_named_from_here_is_found_from_elsewhere(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model.removeprefix("hf/"), tmp_path / "bert")
    monkeypatch.chdir(tmp_path)
    found = embed("hf/./bert", SAID, device="cpu")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert load_maker(found).takes_text


# ---------------------------------------------------------------------------------------------
# The command.


def test_texts_from_the_command_line(graft: Graft, model: str, texts: Path) -> None:
    made = graft("embed", texts, "--backbone", model, "--out", "f.parquet", "--json")
    assert made.code == 0
    assert made.json == {"file": "f.parquet", "items": 6, "features": 16, "failed": []}
    assert parquet.read_table("f.parquet").column("id").to_pylist() == [f"line {n}" for n in range(1, 7)]
    found = graft("search", "f.parquet", SAID[2], "great", SAID[2], "--top", "2", "--json").json["queries"]
    assert [each["query"] for each in found] == [SAID[2], "great", SAID[2]]
    assert [each["nearest"][0]["id"] for each in found] == ["line 3", "line 4", "line 3"]
    assert [len(each["nearest"]) for each in found] == [2, 2, 2]
    assert found[0]["nearest"][0]["cosine"] == pytest.approx(1, abs=1e-6)
    assert found[0]["nearest"][0]["text"] == SAID[2]
    named = graft("search", "f.parquet", str(texts))
    assert named.code and "is the name of a file; a text was expected" in named.err

    told = graft("embed", texts, "--backbone", model, "--out", "g.parquet")
    assert told.out == "6 items, 16 features each: g.parquet\n"
    assert Path("g.parquet").read_bytes() == Path("f.parquet").read_bytes()
    shown = graft("search", "f.parquet", "great")
    assert "line 4" in shown.out and "1.000" in shown.out and SAID[2][:50] in shown.out


def test_pictures_from_the_command_line(graft: Graft, photos: Path) -> None:
    red, blue = photos / "red" / "003.png", photos / "blue" / "000.png"
    made = graft("embed", photos / "red", blue, "--backbone", "tiny/net", "--out", "f.parquet", "--json")
    assert (made.code, made.json["items"]) == (0, 11)
    found = graft("search", "f.parquet", red, blue, "--json").json["queries"]
    assert [each["nearest"][0]["id"] for each in found] == [red.as_posix(), blue.as_posix()]
    assert set(found[0]["nearest"][0]) == {"id", "cosine"}
    assert blue.name in graft("search", "f.parquet", blue).out
    check_refused(graft("search", "f.parquet", "nowhere.png"), "nowhere.png cannot be read: there is")
    check_refused(graft("search", "f.parquet", red, "nowhere.png"), "The table is of pictures")
    check_refused(graft("search", "f.parquet", photos), "is a folder; the path of one picture")


def test_runs_from_the_command_line(graft: Graft, text_run: Path, texts: Path, finished_run: Path) -> None:
    assert graft("embed", texts, "--run", text_run, "--out", "f.parquet").code == 0
    assert told(Path("f.parquet"))["bundle"] == str(text_run / "bundle")
    (found,) = graft("search", "f.parquet", SAID[1], "--json").json["queries"]
    assert found["nearest"][0]["text"] == SAID[1]
    assert found["nearest"][0]["cosine"] == pytest.approx(1, abs=1e-6)
    bundle = load_bundle(text_run)
    np.testing.assert_allclose(
        read_embedding("f.parquet").features, embed(bundle, SAID, device="cpu").features, atol=1e-5
    )
    photos = write_pictures(Path("test"), dict.fromkeys(COLOURS, 2), seed=3)
    assert graft("embed", photos, "--run", finished_run, "--out", "g.parquet").code == 0
    query = photos / "red" / "001.png"
    (found,) = graft("search", "g.parquet", query, "--json").json["queries"]
    assert found["nearest"][0]["id"] == query.as_posix()


def test_a_bundle_that_moved_or_was_trained_again(
    graft: Graft, model: str, text_run: Path, texts: Path, tmp_path: Path
) -> None:
    shutil.copytree(text_run, "run")
    assert graft("embed", texts, "--run", "run", "--out", "f.parquet").code == 0
    assert told(Path("f.parquet"))["bundle"] == str(tmp_path / "run" / "bundle")
    Path("run").rename("elsewhere")
    check_refused(graft("search", "f.parquet", "great"), "run/bundle made the table and cannot be loaded")
    write_run(Path("run"), model, 4)
    check_refused(graft("search", "f.parquet", "great"), "another weights than when it made the table")


def test_what_cannot_be_read_is_told_and_the_others_written(graft: Graft, photos: Path, model: str) -> None:
    (photos / "red" / "001.png").write_bytes(b"")
    words = ("embed", photos / "red", "nowhere.jpg", "--backbone", "tiny/net", "--out", "f.parquet")
    result = graft(*words)
    assert result.code == 1 and result.out.startswith("9 items")
    assert "2 of 11 could not be read and were left out:" in result.err
    assert "001.png: the file is empty" in result.err
    ids = parquet.read_table("f.parquet").column("id").to_pylist()
    assert ids == [(photos / "red" / f"{number:03d}.png").as_posix() for number in (0, *range(2, 10))]
    failed = graft(*words, "--json").json["failed"]
    assert [Path(row["id"]).name for row in failed] == ["001.png", "nowhere.jpg"]
    assert failed[0]["error"] == "the file is empty"
    assert read_embedding("f.parquet").features.shape == (9, 16)

    Path("texts.csv").write_text('text\ngreat\n" "\nbad\n')
    result = graft("embed", "texts.csv", "--backbone", model, "--out", "g.parquet")
    assert result.code == 1 and "line 3: it is empty" in result.err
    assert parquet.read_table("g.parquet").column("text").to_pylist() == ["great", "bad"]


def test_a_second_run_comes_from_the_store(
    graft: Graft, model: str, texts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRAFT_STORE", str(tmp_path / "store"))
    calls = []
    compute = Lower.compute
    monkeypatch.setattr(Lower, "compute", lambda self, inputs: (calls.append(1), compute(self, inputs))[1])
    found = []
    for name in ("f.parquet", "g.parquet"):
        calls.clear()
        assert graft("embed", texts, "--backbone", model, "--out", name).code == 0
        found.append(len(calls))
    assert found[0] > 1 and found[1] == 0
    assert Path("f.parquet").read_bytes() == Path("g.parquet").read_bytes()
    before = sorted((tmp_path / "store").rglob("*"))
    assert graft("search", "f.parquet", "something that nobody said").code == 0
    assert sorted((tmp_path / "store").rglob("*")) == before  # queries are not kept


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Name one thing to make the features"),
        (["--backbone", "MODEL", "--run", "run"], "Name one thing to make the features"),
        (["--backbone", "MODEL", "--out", "no/f.parquet"], "--out no/f.parquet: there is no folder no"),
        (["--backbone", "MODEL", "--out", "."], "--out .: it is a folder"),
        (["--backbone", "MODEL", "--out", "./texts.txt"], "is one of the items"),
        (["--backbone", "MODEL", "--out", "f.csv"], "expected one of .parquet"),
        (["--backbone", "MODEL", "--set", "seed=1"], "Of no effect here: seed"),
        (["--backbone", "MODEL", "--set", "data.label=x"], "Of no effect here: data.label"),
        (["--backbone", "MODEL", "--set", "data.size=64"], "data.size"),
        (["--backbone", "MODEL", "--set", "data.max_length=65"], "texts of up to 64 tokens"),
        (["--backbone", "MODEL", "--device", "gpu"], "not auto, cpu"),
        (["--backbone", "tiny/nett"], "nothing to embed; no picture can be read"),
        (["--backbone", "timn/net"], "or 'timm'?"),
        (["--run", "nowhere"], "There is no bundle in nowhere"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_message_and_leaves_nothing(
    graft: Graft, model: str, texts: Path, words: list[str], message: str
) -> None:
    given = [model if word == "MODEL" else word for word in words]
    out = [] if "--out" in given else ["--out", "f.parquet"]
    before, said = sorted(path.name for path in Path().iterdir()), texts.read_text()
    check_refused(graft("embed", "texts.txt", *given, *out, "--json"), message)
    assert sorted(path.name for path in Path().iterdir()) == before
    assert texts.read_text() == said


def test_no_place_to_write_is_said_before_anything_is_computed(
    graft: Graft, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("graft.embedding.load_backbone", never)
    check_refused(graft("embed", texts, "--backbone", "tiny/net", "--out", "no/f.parquet"), "no folder")


def test_queries_that_are_none(graft: Graft, table: Path) -> None:
    check_refused(graft("search", table, "great", " "), "A query is empty")
    check_refused(graft("search", table, "caf\udce9"), "is not UTF-8 text")
    check_refused(graft("search", "nowhere.parquet", "great"), "There is no file nowhere.parquet")
    assert graft("search", table).code == 2
    assert graft("search", table, "great", "--top", "0").code == 2
    assert graft("embed", "--out", "x").code == 2


def test_words_of_anybody_move_no_cursor(
    graft: Graft, reader: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["the [bold]film\n\x1b[2Jwas", "great " * 100]
    embed(reader, said, device="cpu").save(tmp_path / "f.parquet")
    monkeypatch.setenv("COLUMNS", "120")
    shown = graft("search", "f.parquet", said[0], said[1])
    assert "\x1b" not in shown.out and "[bold]film \\x1b[2Jwas" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 120 and "item 0" in shown.out


def test_a_setting_that_the_network_takes(graft: Graft, model: str, texts: Path) -> None:
    result = graft("embed", texts, "-b", model, "--out", "f.parquet", "--set", "data.max_length=4")
    assert result.code == 0
    assert "cut at the end" in " ".join(result.err.split())
    np.testing.assert_allclose(
        read_embedding("f.parquet").features,
        embed(load_backbone(model, max_length=4), SAID, device="cpu").features,
        atol=1e-5,
    )
    (found,) = graft("search", "f.parquet", SAID[4], "--json").json["queries"]
    assert found["nearest"][0]["cosine"] == pytest.approx(1, abs=1e-6)


def test_an_unknown_backbone_is_an_error_of_backbones() -> None:
    with pytest.raises(BackboneError, match="no backbone id"):
        embed("resnet", SAID, device="cpu")
