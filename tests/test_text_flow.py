"""The whole flow with texts: plan, training, resume, bundle, prediction, and what texts cannot have."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import graft
from graft import feeding, records
from graft.backbones import load_backbone
from graft.backbones.contract import Backbone
from graft.bundle import load_bundle
from graft.errors import BundleError, DataError, Interrupted, RecipeError
from graft.plan import Phase
from graft.preparation import prepare
from graft.recipe import DataSettings, read_recipe
from graft.reuse.store import Store
from graft.runs import choose_run
from graft.workflow import carry_out, drain
from small import launched
from small_text import write_model

GOOD = ("good", "great", "fine")
BAD = ("bad", "awful", "dull")
STRATEGIES = (
    *("probe", "probe:steps", "partial:1", "full", "two-phase", "gradual:1", "progressive", "middle"),
    *("first-only", "layer-decay", "auto", "stages:embeddings"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"hf/{write_model(tmp_path_factory.mktemp('bert'), 'bert')}"


@pytest.fixture(scope="module")
def backbone(model: str) -> Backbone:
    return load_backbone(model, pooling="mean")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 sentences whose label is in one of their words."""
    path = tmp_path_factory.mktemp("texts") / "reviews.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(60):
            good = number % 2 == 0
            word = (GOOD if good else BAD)[number // 2 % 3]
            more = " and the acting" * (number % 5)
            writer.writerow([f"the film was {word}{more}", "yes" if good else "no"])
    return path


def settings(**more: Any) -> dict[str, Any]:
    return {"device": "cpu", "epochs": 2, "train__batch_size": 8, "quiet": True, **more}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_trains(strategy: str, backbone: Backbone, table: Path, tmp_path: Path) -> None:
    bundle = graft.train(table, backbone=backbone, strategy=strategy, out=tmp_path / "run", **settings())
    again = load_bundle(tmp_path / "run")
    said = ["the film was great", "the film was awful and the acting"]
    before, after = bundle.predict(said, device="cpu"), again.predict(said, device="cpu")
    assert [row.to_dict() for row in before] == [row.to_dict() for row in after]
    assert (tmp_path / "run" / "bundle" / "tokenizer.json").is_file()


def test_it_learns(backbone: Backbone, table: Path, tmp_path: Path) -> None:
    options = settings(epochs=20, train__lr=1e-3, data__validation=0.0)
    bundle = graft.train(table, backbone=backbone, strategy="full", out=tmp_path / "run", **options)
    found = bundle.predict(["the film was great", "the acting was dull", "the plot is awful"], device="cpu")
    assert [row.label for row in found] == ["yes", "no", "no"]
    assert bundle.evaluate(table, device="cpu").accuracy == 1.0


def test_a_bundle_knows_the_columns_that_it_was_trained_on(
    backbone: Backbone, table: Path, tmp_path: Path
) -> None:
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    rows[0][0] += " and the acting" * 30
    named = tmp_path / "named.csv"
    named.write_text("id,said,verdict\n" + "".join(f"{n},{a},{b}\n" for n, (a, b) in enumerate(rows)))
    options = settings(data__text="said", data__label="verdict")
    graft.train(named, backbone=backbone, strategy="probe", out=tmp_path / "run", **options)
    bundle = load_bundle(tmp_path / "run")
    found = bundle.evaluate(named, device="cpu")
    assert found.n == len(rows)
    assert any("1 text of more than 64 tokens" in problem for problem in found.problems)
    with pytest.raises(DataError, match="no column 'verdict'"):
        bundle.evaluate(table, device="cpu")
    unlike = DataSettings(text="text", label="label")
    assert bundle.evaluate(table, device="cpu", settings=unlike).n == found.n


def test_a_bundle_evaluates_the_column_that_it_was_trained_on_though_it_was_guessed(
    backbone: Backbone, table: Path, tmp_path: Path
) -> None:
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    lines = {
        "train": ["review,label", *(f"{text},{label}" for text, label in rows)],
        "test": ["text,review,label", *(f"of no use,{text},{label}" for text, label in rows)],
    }
    for name, each in lines.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(each))
    run = tmp_path / "run"
    graft.train(tmp_path / "train.csv", backbone=backbone, strategy="probe", out=run, **settings())
    bundle = load_bundle(run)
    whole = bundle.evaluate(tmp_path / "train.csv", device="cpu")
    assert whole.accuracy > 0.9
    assert bundle.evaluate(tmp_path / "test.csv", device="cpu").confusion == whole.confusion


def test_rates_and_options_are_those_of_texts(backbone: Backbone, table: Path) -> None:
    recipe = read_recipe(strategy="full:2e-5", device="cpu", data__path=str(table), head_init="random")
    prepared = prepare(
        read_recipe(strategy="two-phase", device="cpu", data__path=str(table)), backbone=backbone
    )
    phases = [phase for phase in prepared.plan.phases if isinstance(phase, Phase)]
    assert [set(phase.train.rates.stages.values()) for phase in phases] == [{2e-5}]
    assert phases[0].train.rates.head == pytest.approx(6e-5)  # solved before
    assert phases[0].train.augmentation == "none" and phases[0].train.weight_decay == 0.01
    (alone,) = (p for p in prepare(recipe, backbone=backbone).plan.phases if isinstance(p, Phase))
    assert set(alone.train.rates.stages.values()) == {2e-5}


def test_a_split_trains_as_the_whole_network_does(backbone: Backbone, table: Path, tmp_path: Path) -> None:
    """Hidden states of the frozen layers come from the store, and the weights end where they would."""
    states = []
    for store in (True, False):
        options = settings(reuse__store=store, final__calibrate=False, train__precision="fp32")
        bundle = graft.train(
            table, backbone=backbone, strategy="partial:1", out=tmp_path / str(store), **options
        )
        states.append(bundle.model.state_dict())
    one, other = states
    moved = [name for name in one if not torch.equal(one[name], load_whole(backbone).get(name, one[name]))]
    assert any("layer.2" in name for name in moved) and not any("layer.1" in name for name in moved)
    assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-5) for name in one)


def test_states_kept_on_the_way_are_those_that_would_be_computed(
    backbone: Backbone, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coming, places, ends = feeding.coming_by, [], []

    def watched(*given: Any, **how: Any) -> dict[int, frozenset[int]]:
        places.append(found := coming(*given, **how))
        return found

    for way in (watched, lambda *_, **__: {}):
        monkeypatch.setattr(feeding, "coming_by", way)
        monkeypatch.setenv("GRAFT_STORE", str(tmp_path / f"store {len(ends)}"))
        out = tmp_path / f"run {len(ends)}"
        bundle = graft.train(table, backbone=backbone, strategy="gradual:1", out=out, **settings(epochs=3))
        ends.append(bundle.model.state_dict())
    assert any(places)
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def load_whole(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {f"trunk.{name}": value for name, value in backbone.trunk.state_dict().items()}


def test_a_resumed_run_ends_bit_for_bit_like_one_that_was_not_stopped(
    backbone: Backbone, table: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(strategy="partial:2", data__path=str(table), device="cpu", epochs=3, contrast=2)
    whole = drain(carry_out(prepare(recipe, backbone=backbone), choose_run(tmp_path / "one", recipe)))
    for stop in (1, 4, 5, 9):
        folder = tmp_path / f"two{stop}"
        seen = 0
        steps = carry_out(prepare(recipe, backbone=backbone), choose_run(folder, recipe))
        with pytest.raises(Interrupted):
            for record in steps:
                seen += isinstance(record, records.Stepped)
                if seen == stop:
                    steps.throw(Interrupted("now"))
        again = graft.resume(folder, backbone=backbone, quiet=True)
        for name, value in whole.model.state_dict().items():
            assert torch.equal(again.model.state_dict()[name], value), name


def test_a_second_run_computes_no_features(
    backbone: Backbone, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_STORE", str(tmp_path / "store"))

    def run(name: str, **more: Any) -> Any:
        return graft.train(
            table, backbone=backbone, strategy="probe", out=tmp_path / name, **settings(**more)
        )

    rows: list[int] = []
    embeddings = backbone.trunk.get_submodule("network.embeddings")
    handle = embeddings.register_forward_hook(lambda _module, _args, output: rows.append(len(output)))
    try:
        first = run("one")
        of_first = sum(rows)
        second = run("two")
        # 30 texts differ, of which those of a length are computed together, in eights.
        assert sum(rows) - of_first <= of_first - 30
        plain = run("three", reuse__store=False)
    finally:
        handle.remove()
    for other in (second, plain):
        assert torch.equal(first.model.head.weight, other.model.head.weight)


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"train__augmentation": "light"}, "train.augmentation"),
        ({"train__mixup": 0.2}, "train.mixup"),
        ({"train__workers": 2}, "train.workers"),
        ({"final__tta": "flip"}, "final.tta"),
        ({"data__size": 64}, "data.size"),
        ({"data__image": "file"}, "data.image"),
        ({"train__batchnorm": "train"}, "batch-norm"),
    ],
    ids=str,
)
def test_what_only_pictures_have_is_refused(
    asked: dict[str, Any], word: str, backbone: Backbone, table: Path
) -> None:
    recipe = read_recipe(strategy="full", device="cpu", data__path=str(table), **asked)
    with pytest.raises(RecipeError, match=word):
        prepare(recipe, backbone=backbone)


def test_several_labels_a_text(backbone: Backbone, tmp_path: Path) -> None:
    said = [f"the {a} film was {b}" for a in (*GOOD, *BAD) for b in (*GOOD, *BAD)]
    labels = [sorted({word for word in text.split() if word in ("good", "bad")}) for text in said]
    bundle = graft.train((said, labels), backbone=backbone, strategy="full", out=tmp_path, **settings())
    assert bundle.task.multi_label
    (row,) = bundle.predict("the good film was fine", device="cpu")
    assert row.labels is not None
    with pytest.raises(RecipeError, match="contrast"):
        graft.train((said, labels), backbone=backbone, out=tmp_path / "b", **settings(contrast=1))
    auto = graft.train((said, labels), backbone=backbone, out=tmp_path / "c", **settings())
    assert auto.plan["strategy"] == "auto"


def test_pairs_of_texts_are_told_apart(model: str, tmp_path: Path) -> None:
    pairs = [(f"the {a} film", f"the film was {b}") for a in (*GOOD, *BAD) for b in (*GOOD, *BAD)]
    labels = [a.split()[1] == b.split()[-1] for a, b in pairs]
    bundle = graft.train((pairs, labels), backbone=model, strategy="probe", out=tmp_path, **settings())
    (row,) = bundle.predict([pairs[0]], device="cpu")
    assert row.label in ("True", "False")


def test_a_model_of_pairs_takes_no_text_alone(backbone: Backbone, table: Path, tmp_path: Path) -> None:
    lines = [f"{line.partition(',')[0]},{line}" for line in table.read_text().splitlines()[1:]]
    (tmp_path / "pairs.csv").write_text("\n".join(["ask,tell,label", *lines]))
    options = settings(data__text=("ask", "tell"))
    bundle = graft.train(
        tmp_path / "pairs.csv", backbone=backbone, strategy="probe", out=tmp_path / "run", **options
    )
    assert len(bundle.predict(tmp_path / "pairs.csv", device="cpu")) == len(lines)
    for alone in ("a good film", table):
        with pytest.raises(DataError, match=r"is one text, .* on pairs, of the columns 'ask' and 'tell'"):
            bundle.predict(alone, device="cpu")
    with pytest.raises(DataError, match="no column 'ask'"):
        bundle.evaluate(table, device="cpu")


def test_a_text_that_names_a_file_is_asked_about(
    backbone: Backbone, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = graft.train(table, backbone=backbone, strategy="probe", out=tmp_path / "run", **settings())
    monkeypatch.chdir(tmp_path)
    Path("new.txt").write_text("the film was good\nthe film was bad\n")
    with pytest.raises(DataError, match=r"'new\.txt' is a text, and also the name of a file"):
        bundle.predict("new.txt", device="cpu")
    assert len(bundle.predict(Path("new.txt"), device="cpu")) == 2
    assert len(bundle.predict(["new.txt"], device="cpu")) == 1


def test_a_damaged_tokenizer_is_noticed(backbone: Backbone, table: Path, tmp_path: Path) -> None:
    graft.train(table, backbone=backbone, strategy="probe", out=tmp_path / "run", **settings())
    file = tmp_path / "run" / "bundle" / "tokenizer.json"
    file.write_text(file.read_text().replace("film", "flim"))
    with pytest.raises(BundleError, match=r"tokenizer\.json is damaged"):
        load_bundle(tmp_path / "run")
    file.unlink()
    with pytest.raises(BundleError, match=r"Cannot read .*tokenizer\.json"):
        load_bundle(tmp_path / "run")


def test_a_bundle_needs_the_folder_no_more(table: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "distilbert")
    graft.train(table, backbone=f"hf/{folder}", strategy="probe", out=tmp_path / "run", **settings())
    folder.rename(tmp_path / "elsewhere")
    assert len(load_bundle(tmp_path / "run").predict("the film was fine", device="cpu")) == 1


def test_the_plan_says_how_much_of_the_texts_is_cut(model: str, table: Path) -> None:
    recipe = read_recipe(backbone=model, strategy="probe", device="cpu", data__path=str(table))
    whole = prepare(recipe)
    assert not any(problem.code == "cut" for problem in whole.splits.problems)
    short = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_length": 6})})
    (problem,) = (each for each in prepare(short).splits.problems if each.code == "cut")
    assert problem.count == 48 and "more than 6 tokens" in problem.message  # all but the shortest


def test_numbers_of_another_network_do_not_stand_in(
    backbone: Backbone, table: Path, tmp_path: Path
) -> None:
    """A text's row is its own, whatever other texts were there when it was computed."""
    recipe = read_recipe(strategy="probe", device="cpu", data__path=str(table))
    rows = table.read_text().splitlines()[1:]
    few = tmp_path / "few.csv"
    few.write_text("\n".join(["text,label", *rows[:7]]) + "\n")
    heads = {}
    for order in ((few, table), (table, few)):
        store = tmp_path / order[0].stem
        for path in order:
            asked = recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": str(path)})})
            prepared = prepare(asked, backbone=backbone)
            trained = graft.fit(prepared.backbone, prepared.splits, prepared.plan, store=Store(store))
            heads.setdefault(path, []).append(trained.model.head.weight)
    for one, other in heads.values():
        assert torch.equal(one, other)


def test_the_command_line_takes_texts(model: str, table: Path, tmp_path: Path, capsys: Any) -> None:
    from graft.cli import app

    def call(*words: object) -> str:
        app([str(word) for word in words], standalone_mode=False)
        return str(capsys.readouterr().out)

    run = tmp_path / "run"
    common = ("--backbone", model, "--device", "cpu", "--json")
    plan = json.loads(call("plan", table, *common, "--strategy", "partial:1", "--epochs", 1))
    assert plan["network"]["encoding"]["max_length"] == 64 and set(plan["costs"]) == {"1", "2", "3", "4"}
    call("train", table, *common, "--strategy", "probe", "--out", run)
    found = json.loads(call("predict", run, "--text", "the film was fine", "--json", "--device", "cpu"))
    assert found["predictions"][0]["id"] == found["predictions"][0]["text"] == "the film was fine"
    assert json.loads(call("evaluate", run, table, "--json", "--device", "cpu"))["n"] == 60
    asked = ("--strategy", "probe", "--set", "contrast=1", "--out", tmp_path / "drawn")
    shown = call("train", table, "--backbone", model, "--device", "cpu", *asked)
    assert "Measured on" not in shown and "Unmeasured" in shown  # every label trained: no empty table
    told = json.loads(call("inspect", model, "--json"))
    assert told["stages"][0]["name"] == "embeddings"


def test_nothing_to_predict_is_said(backbone: Backbone, table: Path, tmp_path: Path) -> None:
    bundle = graft.train(table, backbone=backbone, strategy="probe", out=tmp_path / "run", **settings())
    with pytest.raises(DataError, match="No text was named"):
        bundle.predict([], device="cpu")


def test_few_labels_are_drawn_together_and_nothing_is_called_out_of_fold(
    backbone: Backbone, table: Path, tmp_path: Path
) -> None:
    bundle = graft.train(
        table, backbone=backbone, out=tmp_path / "run", quiet=True, device="cpu", contrast=2
    )
    kinds = [(phase["kind"], phase.get("train", {}).get("objective")) for phase in bundle.plan["phases"]]
    assert kinds[:2] == [("phase", "contrast"), ("solve", None)]
    # Every fold's labels moved the body before: what is held out of the head's folds was seen.
    assert bundle.metrics["probe"]["accuracy"] is None and bundle.metrics["probe"]["loss"] is None


def test_contrast_needs_whole_batches(
    backbone: Backbone, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(strategy="probe", device="cpu", data__path=str(table), contrast=1)
    with_mixing = recipe.model_copy(update={"train": recipe.train.model_copy(update={"accumulate": 2})})
    plan = prepare(with_mixing, backbone=backbone).plan
    assert isinstance(plan.phases[0], Phase) and plan.phases[0].train.accumulate == 1
    for name, value in launched(0, 2).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match="contrast compares all of a batch"):
        graft.make_plan(recipe, backbone, graft.read_splits(recipe, backbone))


def test_recomputed_activations_are_not_split(backbone: Backbone, table: Path, tmp_path: Path) -> None:
    heads = []
    for recompute in (False, True):
        options = settings(train__gradient_checkpointing=recompute, reuse__store=not recompute)
        bundle = graft.train(
            table, backbone=backbone, strategy="partial:1", out=tmp_path / str(recompute), **options
        )
        heads.append(bundle.model.head.weight)
    assert torch.allclose(*heads, atol=1e-5)
    recipe = read_recipe(
        strategy="partial:1", device="cpu", data__path=str(table), train__gradient_checkpointing=True
    )
    plan = prepare(recipe, backbone=backbone).plan
    assert all(phase.reuse is None for phase in plan.phases if isinstance(phase, Phase))


def test_how_a_given_backbone_was_loaded_stands(backbone: Backbone, table: Path) -> None:
    for asked in ({"pooling": "last"}, {"data__max_length": 8}):
        recipe = read_recipe(strategy="probe", device="cpu", data__path=str(table), **asked)  # type: ignore[arg-type]
        with pytest.raises(RecipeError, match="the backbone was loaded"):
            prepare(recipe, backbone=backbone)
