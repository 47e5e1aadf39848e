"""One side of text.py that is graft's: SIDE TRAIN TEST SEED MODEL; prints a row as JSON.

Every run has an empty store of its own.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def train(strategy: str, table: str, test: str, seed: int, model: str) -> dict[str, Any]:
    import torch

    import graft
    from graft.backbones import load_backbone
    from graft.preparation import prepare
    from graft.workflow import carry_out, drain

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    backbone = load_backbone(f"hf/{model}")
    recipe = graft.read_recipe(strategy=strategy, backbone=f"hf/{model}", data__path=table, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        run = graft.runs.choose_run(Path(folder) / "run", recipe)
        began = time.perf_counter()
        prepared = prepare(recipe, backbone=backbone)
        planned = time.perf_counter() - began
        bundle = drain(carry_out(prepared, run))
        accuracy = bundle.evaluate(test).accuracy
    return {"accuracy": 100 * accuracy, "seconds": planned + bundle.metrics["seconds"]}


def features(test: str, model: str, *, padded: bool) -> dict[str, Any]:
    """Of a second pass, the first being slow."""
    import torch

    from graft.backbones import load_backbone
    from graft.backbones.contract import PADDING
    from graft.data import read_items
    from graft.data.texts import Texts
    from graft.recipe import DataSettings

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    backbone = load_backbone(f"hf/{model}")
    items, _, _ = read_items(Path(test), DataSettings(text="text"), modality="text")
    items = items.select(range(256 if padded else len(items)))
    texts, most = Texts(items, backbone.preprocess), backbone.preprocess.max_length
    trunk = backbone.trunk.eval()

    def once() -> float:
        began = time.perf_counter()
        order = texts.order(range(len(items)))
        batches = [order[start : start + 32] for start in range(0, len(order), 32)]
        with torch.inference_mode():
            for inputs, _, _ in texts.batches(batches):
                if padded:
                    inputs = torch.nn.functional.pad(inputs, (0, most - inputs.shape[-1]), value=PADDING)
                trunk(inputs)
        return (time.perf_counter() - began) / len(items)

    once()
    return {"seconds": once()}


if __name__ == "__main__":
    side, table, test, seed, model = sys.argv[1:]
    with tempfile.TemporaryDirectory() as store:
        os.environ["GRAFT_STORE"] = store
        os.environ["GRAFT_REPORT"] = "0"  # peers write no page
        if side == "graft features" or side == "graft padded":
            row = features(test, model, padded=side == "graft padded")
        else:
            row = train(side.removeprefix("graft "), table, test, int(seed), model)
    print(json.dumps(row))
