"""A recipe refuses what it does not know, in words, and survives being written down."""

from pathlib import Path

import pytest

from graft.errors import RecipeError
from graft.recipe import Recipe, make_recipe, read_recipe, recipe_keys


def test_file_settings_and_options_apply_in_this_order(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('strategy = "full"\nseed = 1\n[train]\nlr = 0.5\nbatch_size = 8\n')
    recipe = read_recipe(file, ["train.lr=1e-4", "seed=2"], seed=3, epochs=None)
    assert (recipe.strategy, recipe.seed, recipe.epochs) == ("full", 3, None)
    assert (recipe.train.lr, recipe.train.batch_size) == (1e-4, 8)


def test_none_is_a_preset_and_null_is_nothing() -> None:
    recipe = read_recipe(settings=["train.augmentation=none", "train.clip=null"])
    assert recipe.train.augmentation == "none"
    assert recipe.train.clip is None


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.lrr=3", ["no recipe key 'train.lrr'", "'train.lr'"]),
        ("backbon=x", ["no recipe key 'backbon'", "'backbone'"]),
        ("zzz=1", ["no recipe key 'zzz'", "train.batch_size"]),
        ("train.lr=0", ["train.lr = 0", "greater than 0"]),
        ("train.select=acc", ["train.select", "'accuracy'"]),
        ("train.batch_size=many", ["train.batch_size = 'many'", "integer"]),
        ("seed.x=1", ["seed = {'x': 1}", "integer"]),
        ("justakey", ["justakey", "key=value"]),
    ],
)
def test_wrong_settings_are_named_with_the_nearest_right_one(setting: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        read_recipe(settings=[setting])
    for word in words:
        assert word in str(error.value)


def test_a_value_is_not_a_table() -> None:
    with pytest.raises(RecipeError, match="single value"):
        read_recipe(settings=["seed=1", "seed.x=1"])


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"seed = ", "not valid TOML"), (b"\xff\xfe", "not UTF-8"), (None, "Cannot read")],
)
def test_broken_recipe_files_are_one_error(tmp_path: Path, content: bytes | None, word: str) -> None:
    file = tmp_path / "recipe.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RecipeError, match=word):
        read_recipe(file)


def test_json_keeps_what_was_asked_and_leaves_the_rest_open() -> None:
    recipe = read_recipe(settings=["train.lr=1e-4"], backbone="timm/resnet18")
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.train.model_fields_set == {"lr"}


def test_every_key_that_is_listed_can_be_set() -> None:
    defaults = make_recipe({})
    for key in recipe_keys():
        table, _, name = key.rpartition(".")
        value = getattr(getattr(defaults, table) if table else defaults, name)
        if value is not None:
            read_recipe(settings=[f"{key}={value}"] if key != "data.path" else ["data.path=x"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.learning_rate=1e-4", "Did you mean 'train.lr'"),
        ("train.bs=8", "Did you mean 'train.batch_size'"),
        ("phase.2.learning_rate=1e-4", "Did you mean 'phase.2.lr'"),
        ("phase.2.precision=bf16", "set train.precision"),
        ("phase.2.batchsize=8", "Did you mean 'phase.2.batch_size'"),
    ],
)
def test_what_other_tools_call_a_setting_leads_to_ours(setting: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        read_recipe(settings=[setting])


def test_what_settings_exclude_is_said_in_our_words() -> None:
    with pytest.raises(RecipeError) as told:
        read_recipe(backbone="x/y", data__label=["a", "a"])
    assert "data.label names a column twice." in str(told.value)
    assert "value error" not in str(told.value)


def test_parts_are_looked_for_beside_the_recipe_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "recipes", tmp_path / "here"
    for folder in (
        beside / "photos" / "own",
        beside / "own",
        beside / "far",
        beside / "near",
        here / "near",
    ):
        folder.mkdir(parents=True)
    file = beside / "r.toml"
    file.write_text('[data]\npath = "photos"\ntrain = "."\nval = ["own", "far"]\ntest = "near"\n')
    monkeypatch.chdir(here)
    found = read_recipe(file).data
    assert (found.train, found.val, found.test) == (".", ("own", str(beside / "far")), "near")
