"""Training adapters, saving them alone or merged, and several of them on one backbone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import graft
from graft.backbones import state_digest
from graft.errors import BundleError, RecipeError
from small import COLOURS, SETTINGS, make_pictures, make_tiny, write_pictures
from small_text import write_model

LORA = SETTINGS | {"strategy": "lora", "adapters__rank": 2}
Train = Callable[..., graft.Bundle]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), dict.fromkeys(COLOURS, 12))


@pytest.fixture(scope="module")
def adapter(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose bundle is an adapter."""
    return train(pictures, tmp_path_factory.mktemp("run") / "a", adapters__bundle="adapter")


def train(data: Path, out: Path, **settings: Any) -> Path:
    graft.train(data, out=out, quiet=True, **(LORA | settings))
    return out


def probabilities(bundle: graft.Bundle) -> np.ndarray:
    items = [make_pictures(label, 2, seed=9)[n] for label in COLOURS for n in range(2)]
    return np.array([[*row.probabilities.values()] for row in bundle.predict(items, device="cpu")])


def told(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "bundle" / "graft.json").read_text(encoding="utf-8"))
    return values


def test_a_bundle_is_merged_unless_asked_otherwise(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run")
    names = load_file(run / "bundle" / "weights.safetensors").keys()
    assert not [name for name in names if "lora" in name or "base_layer" in name]
    assert told(run)["format"] == 2  # which older versions read too
    base = make_tiny().trunk.state_dict()
    trunk = graft.load_bundle(run).model.trunk.state_dict()
    changed = {name for name in base if not torch.equal(base[name], trunk[name])}
    assert changed == {"stem.0.weight", "middle.0.weight", "top.0.weight"}


def test_an_adapter_is_small_and_computes_the_same_as_merged(
    adapter: Path, pictures: Path, tmp_path: Path
) -> None:
    names = load_file(adapter / "bundle" / "weights.safetensors").keys()
    assert all(".lora_" in name or name.startswith("head.") for name in names)
    loaded = graft.load_bundle(adapter)
    merged = train(pictures, tmp_path / "merged")
    np.testing.assert_allclose(probabilities(loaded), probabilities(graft.load_bundle(merged)), atol=1e-5)
    loaded.merged().save(tmp_path / "whole")
    whole = graft.load_bundle(tmp_path / "whole")
    np.testing.assert_allclose(probabilities(whole), probabilities(loaded), atol=1e-5)
    with pytest.raises(BundleError, match="nothing to merge"):
        whole.merged()


def test_saving_again_and_loading_gives_the_same_logits(adapter: Path, tmp_path: Path) -> None:
    loaded = graft.load_bundle(adapter)
    loaded.save(tmp_path / "again")
    again = graft.load_bundle(tmp_path / "again")
    inputs = loaded.preprocess.noise(2)
    with torch.no_grad():
        assert torch.equal(again.model(inputs), loaded.model(inputs))


def test_values_that_moved_beside_the_adapters_are_saved_too(pictures: Path, tmp_path: Path) -> None:
    run = train(
        pictures,
        tmp_path / "run",
        adapters__bundle="adapter",
        adapters__bias="targets",
        train__batchnorm="train",
        data__validation=0.0,
    )
    names = load_file(run / "bundle" / "weights.safetensors").keys()
    assert {"trunk.top.0.base_layer.bias", "trunk.top.1.running_mean"} <= set(names)
    found = graft.open_adapters({"own": run})
    expected = probabilities(graft.load_bundle(run))
    np.testing.assert_allclose(probabilities(found.bundle("own")), expected, atol=1e-6)


def test_another_backbone_is_refused(adapter: Path) -> None:
    other = make_tiny()
    with torch.no_grad():
        other.trunk.stem[0].weight.add_(1e-3)
    with pytest.raises(BundleError, match="was made on tiny/net:own with values of digest"):
        graft.load_bundle(adapter, base=other)
    assert graft.load_bundle(adapter, base=make_tiny()).labels == tuple(sorted(COLOURS))


def test_a_whole_bundle_takes_no_backbone(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run")
    with pytest.raises(BundleError, match="holds its whole network"):
        graft.load_bundle(run, base=make_tiny())
    with pytest.raises(BundleError, match="no adapter by itself"):
        graft.open_adapters({"a": run})


def test_a_bundle_without_a_part_of_the_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    loaded = graft.load_bundle(adapter)
    part = [name for name in loaded.stored if not name.startswith("trunk.top")]
    __import__("dataclasses").replace(loaded, stored=tuple(part)).save(tmp_path / "part")
    with pytest.raises(BundleError, match=r"missing \['trunk.top.0.lora_A"):
        graft.load_bundle(tmp_path / "part")


def test_an_interrupted_run_ends_as_one_that_was_not(pictures: Path, tmp_path: Path) -> None:
    from graft.preparation import prepare
    from graft.records import Stepped
    from graft.workflow import carry_out, drain

    whole = train(pictures, tmp_path / "whole", adapters__bundle="adapter")
    recipe = graft.read_recipe(data__path=str(pictures), adapters__bundle="adapter", **LORA)
    run = graft.runs.choose_run(tmp_path / "part", recipe)
    steps = carry_out(prepare(recipe), run)
    with pytest.raises(graft.Interrupted):
        for record in steps:
            if isinstance(record, Stepped) and record.step == 5:
                steps.throw(graft.Interrupted("stop"))
    graft.resume(tmp_path / "part", quiet=True)
    both = [load_file(each / "bundle" / "weights.safetensors") for each in (whole, tmp_path / "part")]
    assert both[0].keys() == both[1].keys()
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])
    del drain


@pytest.fixture(scope="module")
def two(adapter: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters of different kinds on one backbone."""
    other = tmp_path_factory.mktemp("other") / "b"
    train(
        pictures, other, seed=4, adapters__rank=3, adapters__targets=r"top\.0", adapters__rslora=True,
        adapters__bundle="adapter", adapters__bias="targets", train__lr=1e-2,
    )  # fmt: skip
    return {"a": adapter, "b": other}


def test_adapters_are_swapped_by_prediction(two: dict[str, Path]) -> None:
    found = graft.open_adapters(two)
    alone = {name: probabilities(graft.load_bundle(path)) for name, path in two.items()}
    assert not np.allclose(alone["a"], alone["b"], rtol=0.5)
    for name in ("a", "b", "b", "a"):
        np.testing.assert_allclose(probabilities(found.bundle(name)), alone[name], atol=1e-6)
    one = make_pictures("red", 1, seed=9)[0]
    first = found.predict([one], adapter="b", device="cpu")
    np.testing.assert_allclose([*next(iter(first)).probabilities.values()], alone["b"][4], atol=1e-6)


def test_adapters_are_added_and_removed(two: dict[str, Path]) -> None:
    found = graft.open_adapters({"a": two["a"]})
    alone = probabilities(found.bundle("a"))
    found.add("b", two["b"])
    assert found.names == ("a", "b")
    found.remove("b")
    np.testing.assert_allclose(probabilities(found.bundle("a")), alone, atol=0)
    for wrong in ("a", "", "x.y"):
        with pytest.raises(BundleError, match="cannot name an adapter"):
            found.add(wrong, two["b"])
    with pytest.raises(BundleError, match="the only adapter"):
        found.remove("a")
    with pytest.raises(BundleError, match=r"There is no adapter 'b'"):
        found.bundle("b")


def test_a_combination_adds_what_its_parts_do(two: dict[str, Path]) -> None:
    found = graft.open_adapters(two)
    found.combine("both", {"a": 0.25, "b": 0.75})
    bundle = found.bundle("both")
    inputs = bundle.preprocess.noise(2)
    with torch.no_grad():
        logits = bundle.model(inputs)
    base = make_tiny().trunk.state_dict()
    parts = {name: graft.load_bundle(path).merged().model for name, path in two.items()}
    expected = graft.load_bundle(two["a"]).merged().model
    trunks = {name: model.trunk.state_dict() for name, model in parts.items()}
    mixed = {
        key: value + 0.25 * (trunks["a"][key] - value) + 0.75 * (trunks["b"][key] - value)
        if value.is_floating_point()
        else value
        for key, value in base.items()
    }
    expected.trunk.load_state_dict(mixed)
    heads = [parts[name].head.state_dict() for name in ("a", "b")]
    expected.head.load_state_dict({key: 0.25 * heads[0][key] + 0.75 * heads[1][key] for key in heads[0]})
    with torch.no_grad():
        torch.testing.assert_close(logits, expected(inputs), rtol=1e-5, atol=1e-5)
    alone = probabilities(graft.load_bundle(two["a"]))
    np.testing.assert_allclose(probabilities(found.bundle("a")), alone, atol=1e-6)
    with pytest.raises(BundleError, match="two adapters or more"):
        found.combine("one", {"a": 1.0})


def test_adapters_of_other_labels_are_swapped_but_not_combined(
    adapter: Path, pictures: Path, tmp_path: Path
) -> None:
    from shutil import copytree

    for label in ("red", "blue"):
        copytree(pictures / label, tmp_path / "few" / label)
    other = train(tmp_path / "few", tmp_path / "run", adapters__bundle="adapter")
    found = graft.open_adapters({"three": adapter, "two": other})
    assert probabilities(found.bundle("two")).shape[1] == 2
    assert probabilities(found.bundle("three")).shape[1] == 3
    with pytest.raises(BundleError, match="different labels"):
        found.combine("both", {"three": 0.5, "two": 0.5})


def test_no_adapters_at_all_are_refused() -> None:
    with pytest.raises(BundleError, match="one adapter or more"):
        graft.open_adapters({})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strategy": "full", "adapters__rank": 4}, r"adapters.rank: of the strategy lora"),
        ({"adapters__quantize": "4bit"}, "needs a CUDA device"),
        ({"backbone": "tiny/net:none", "adapters__bundle": "adapter"}, "random weights could not be had"),
        ({"strategy": "lora:9"}, "a whole number from 1 to 3"),
        ({"adapters__targets": "attention"}, "matches no layer"),
        ({"adapters__rank": 0}, "adapters.rank = 0"),
    ],
)
def test_what_cannot_be_is_refused_before_any_data_is_read(settings: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        graft.train("/nowhere", quiet=True, **(LORA | settings))


def test_the_plan_says_what_trains_and_is_what_the_run_did(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run", strategy="lora:1")
    plan = graft.Plan.from_json((run / "plan.json").read_text(encoding="utf-8"))
    assert plan.adapters is not None
    assert [target.name for target in plan.adapters.targets] == ["top.0"]
    (phase,) = [each for each in plan.phases if each.kind == "phase"]
    trained = [name for group in phase.groups for name in group.parameters if name.startswith("trunk.")]
    assert trained == [f"trunk.{name}" for name in plan.adapters.parameters]
    assert phase.train.rates.stages == {"top": 1e-3}  # ten times the body's
    assert phase.reuse is not None and phase.reuse.above == "top"  # what lies below runs once
    assert json.loads(plan.to_json())["adapters"]["targets"][0]["parameters"] == 2 * (12 * 9 + 16)


def test_frozen_values_stay_to_the_bit(pictures: Path, tmp_path: Path) -> None:
    run = train(pictures, tmp_path / "run", adapters__bundle="adapter")
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    base = len(make_tiny().trunk.state_dict())
    assert result["frozen_unchanged"] == base
    trunk = graft.load_bundle(run).model.trunk
    from graft.adapters.injection import take_out

    take_out(trunk)
    assert state_digest(trunk) == state_digest(make_tiny().trunk)


def test_recomputed_activations_train_the_same_adapters(tmp_path: Path) -> None:
    said = [f"the film was {word}" for word in ("good", "great", "fine", "bad", "awful", "dull")]
    rows = [f"{text},{'yes' if number % 6 < 3 else 'no'}" for number, text in enumerate(said * 4)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    name = f"hf/{write_model(tmp_path / 'model', 'bert', hidden_dropout_prob=0.0)}"
    both = []
    for recomputes in (False, True):
        run = tmp_path / f"run-{recomputes}"
        graft.train(
            tmp_path / "reviews.csv", backbone=name, strategy="lora", out=run, quiet=True, epochs=2,
            device="cpu", train__gradient_checkpointing=recomputes, adapters__bundle="adapter",
            reuse__store=False, train__precision="fp32", data__validation=0.0,
        )  # fmt: skip
        both.append(load_file(run / "bundle" / "weights.safetensors"))
    learnt = [key for key in both[0] if ".lora_B" in key]
    assert learnt and any(both[0][key].abs().sum() > 0 for key in learnt)
    for key, value in both[0].items():
        torch.testing.assert_close(both[1][key], value, rtol=1e-4, atol=1e-6)


def test_an_adapter_in_memory_is_saved_merged_and_not_by_itself(
    two: dict[str, Path], tmp_path: Path
) -> None:
    found = graft.open_adapters(two)
    found.combine("both", {"a": 0.5, "b": 0.5})
    for name in ("a", "both"):
        bundle = found.bundle(name)
        expected = probabilities(bundle)
        with pytest.raises(BundleError, match=r"what can be saved is \.merged\(\)"):
            bundle.save(tmp_path / f"{name}-itself")
        assert not (tmp_path / f"{name}-itself").exists()
        bundle.merged().save(tmp_path / name)
        whole = graft.load_bundle(tmp_path / name)
        np.testing.assert_allclose(probabilities(whole), expected, atol=1e-5)


def test_an_adapter_that_does_not_compute_what_it_did_is_not_kept(
    two: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = graft.open_adapters({"a": two["a"]})
    alone = probabilities(found.bundle("a"))

    def refuse(*_: Any) -> None:
        raise BundleError("it computes something else")

    monkeypatch.setattr("graft.swapping.prove", refuse)
    with pytest.raises(BundleError, match="something else"):
        found.add("b", two["b"])
    assert found.names == ("a",)
    np.testing.assert_allclose(probabilities(found.bundle("a")), alone, atol=0)
    with pytest.raises(BundleError, match="something else"):
        graft.open_adapters({"b": two["b"]})
