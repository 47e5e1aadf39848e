"""One `graft train` on one folder: prints test accuracy and seconds as JSON (see against_peers.py).

    python benchmarks/graft_worker.py FOLDER STRATEGY SEED [THREADS]

Seconds: the data's scan, the look at it that auto takes, the plan and the training; not the evaluation.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

import graft
from graft.preparation import prepare
from graft.runs import choose_run
from graft.workflow import carry_out, drain


def main(folder: str, strategy: str, seed: str, threads: str = "2") -> None:
    torch.set_num_threads(int(threads))
    with tempfile.TemporaryDirectory() as out:
        os.environ["GRAFT_STORE"] = f"{out}/store"  # empty, so that no run gains from another
        os.environ["GRAFT_REPORT"] = "0"  # peers write no page
        recipe = graft.read_recipe(data__path=folder, strategy=strategy, seed=int(seed), device="cpu")
        graft.load_backbone(recipe)  # what it imports is left out, as it is for the peers
        started = time.perf_counter()
        prepared = prepare(recipe)
        before = time.perf_counter() - started
        bundle = drain(carry_out(prepared, choose_run(Path(out) / "run", recipe)))
    seconds = before + bundle.metrics["seconds"]
    print(
        json.dumps({"accuracy": bundle.metrics["test"]["accuracy"], "seconds": seconds, "before": before})
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
