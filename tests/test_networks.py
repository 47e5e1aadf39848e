"""Networks by what people call them, laid beside each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import graft
from graft.errors import BundleError, GraftError, RunError
from graft.networks import compare_networks
from graft.preparation import prepare
from graft.records import Validated
from graft.runs import choose_run
from graft.workflow import carry_out
from small import SETTINGS, make_tiny

TINY = "tiny/net"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, finished_run: Path) -> dict[str, Path]:
    """Runs of the top stage, of all, and of adapters; and one that has not ended."""
    folder, photos = tmp_path_factory.mktemp("networks"), finished_run.parent / "photos"
    made = {}
    for name, strategy in (("top", "partial:1"), ("all", "full"), ("lora", "lora"), ("alone", "lora")):
        more = {"adapters__bundle": "adapter"} if name == "alone" else {}
        settings = SETTINGS | {"strategy": strategy, "train__lr": 1e-2, "data__validation": 0.0} | more
        graft.train(photos, out=folder / name, quiet=True, **settings)
        made[name] = folder / name
    recipe = graft.read_recipe(data__path=str(photos), **SETTINGS | {"train__lr": 1e-2, "epochs": 3})
    steps = carry_out(prepare(recipe), choose_run(folder / "open", recipe))
    for record in steps:
        if isinstance(record, Validated) and record.epoch == 2:
            break
    with pytest.raises(graft.errors.Interrupted):
        steps.throw(graft.errors.Interrupted("stopped"))
    return made | {"open": folder / "open"}


def moved(one: str | Path, two: str | Path) -> dict[str, float]:
    return {each.stage: each.weights for each in compare_networks(str(one), str(two))[0]}


def test_a_run_beside_what_it_began_with(runs: dict[str, Path]) -> None:
    found = moved("pretrained", runs["top"])
    assert [name for name, weights in found.items() if weights > 0] == ["top"]
    assert moved(TINY, runs["top"]) == found
    assert moved("pretrained", runs["top"] / "bundle") == found


@pytest.mark.parametrize("name", ["all", "lora", "alone", "open"])
def test_whatever_was_trained_moved(runs: dict[str, Path], name: str) -> None:
    found = moved("pretrained", runs[name])
    assert list(found) == list(make_tiny().stage_names) and any(weights > 0 for weights in found.values())


def test_a_network_beside_itself_did_not_move(runs: dict[str, Path]) -> None:
    for name in ("all", "alone", "open"):
        assert not any(moved(runs[name], runs[name]).values())


def test_files_of_weights_with_and_without_a_network_around(runs: dict[str, Path], tmp_path: Path) -> None:
    values = make_tiny().trunk.state_dict()
    save_file({f"module.{name}": value for name, value in values.items()}, tmp_path / "a.safetensors")
    save_file({name: value + 0.1 for name, value in values.items()}, tmp_path / "b.safetensors")
    assert moved(tmp_path / "a.safetensors", runs["top"]) == moved(TINY, runs["top"])
    spare = {"other.weight": torch.ones(2), "stem.0.weight": torch.ones(1)}
    save_file(values | spare, tmp_path / "c.safetensors")
    found, notes = compare_networks(str(tmp_path / "c.safetensors"), str(tmp_path / "b.safetensors"))
    assert {each.stage for each in found} == {"stem", "middle", "top"}
    assert any("other.weight" in note for note in notes)


def test_what_a_run_began_with_is_that_also_from_scratch(finished_run: Path, tmp_path: Path) -> None:
    photos, settings = finished_run.parent / "photos", SETTINGS | {"strategy": "scratch", "epochs": 1}
    graft.train(photos, out=tmp_path / "run", quiet=True, **settings, train__lr=1e-6)
    found = moved("pretrained", tmp_path / "run")
    assert max(found.values()) < 0.01, "beside other random weights"
    bundle = (tmp_path / "run" / "bundle").rename(tmp_path / "alone")
    with pytest.raises(BundleError, match="is not known"):
        compare_networks("pretrained", str(bundle))


def test_what_cannot_be_compared_is_said(runs: dict[str, Path], tmp_path: Path) -> None:
    save_file({"elsewhere": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "empty").mkdir()
    begun = runs["top"].parent / "begun"
    begun.mkdir(exist_ok=True)
    for name in ("recipe.json", "data.json", "plan.json"):
        (begun / name).write_bytes((runs["top"] / name).read_bytes())
    cases: list[tuple[str, type[GraftError], str]] = [
        (str(tmp_path / "other.safetensors"), BundleError, "no values in common"),
        ("nowhere/at-all", BundleError, "no such folder or file"),
        (str(tmp_path / "empty"), BundleError, "neither a run nor a bundle"),
        (str(begun), RunError, "no checkpoint yet"),
    ]
    for name, error, words in cases:
        with pytest.raises(error, match=words):
            compare_networks(name, str(runs["top"]))
    with pytest.raises(BundleError, match="is not known"):
        compare_networks("pretrained", str(tmp_path / "other.safetensors"))
