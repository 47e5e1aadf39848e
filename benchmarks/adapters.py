"""Low-rank adapters beside the probe and training everything: accuracy, parameters, seconds, memory.

    python benchmarks/adapters.py [--sentences DIR] [--pictures DIR] [--seeds 0 1 2] [--threads 2]

Sentences: a folder with train.csv and test.csv (text, label), 64 a label drawn by the seed; MiniLM-L6; all
of them train for 15 epochs, for a fifth of so few would decide little about which weights to keep.
Pictures: a folder with train/ and test/, all of them, the bundled network at 64 x 64 pixels. Every run is a
process of its own with an empty store; strategies take turns. Memory is the highest resident size of the
process above what it had with backbone and libraries loaded. Nothing is chosen on the test part.

    python benchmarks/adapters.py --cost

measures steps of a large network of random weights (ViT-B/16 at 224 x 224): what adapters save there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from text import draw, model_folder

HERE = Path(__file__).parent
RESULTS = HERE / "results"
STRATEGIES = ("probe", "lora", "lora:2", "full")
COST_OF, COST_BATCH = "torchvision/vit_b_16:none", 16
LABELS = 64  # of each class of sentences
OF_SENTENCES = {"data__validation": 0.0, "epochs": 15}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--sentences", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(*options.worker)))
        return
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    for seed in options.seeds:
        for case, folder in {"sentences": options.sentences, "pictures": options.pictures}.items():
            if folder is not None:
                compare(case, folder, seed, options.strategies)
    if options.cost:
        for strategy in options.strategies:
            keep({"case": "cost", "strategy": strategy, "seed": 0} | run("cost", strategy, "-", "-", 0))


def compare(case: str, folder: Path, seed: int, strategies: list[str]) -> None:
    """Each strategy once on the case's data."""
    with tempfile.TemporaryDirectory() as scratch:
        if case == "sentences":
            train = str(draw(folder / "train.csv", Path(scratch) / "train.csv", LABELS, seed))
            test = str(folder / "test.csv")
        else:
            train, test = str(folder / "train"), str(folder / "test")
        for strategy in strategies:
            keep(
                {"case": case, "strategy": strategy, "seed": seed} | run(case, strategy, train, test, seed)
            )


def run(case: str, strategy: str, train: str, test: str, seed: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", case, strategy, train, test, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case}, {strategy}: {done.stderr[-2000:]}")
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{case} {strategy}, seed {seed}: {row}", flush=True)
    return row


def work(case: str, strategy: str, train: str, test: str, seed: str) -> dict[str, Any]:
    """One run in this process."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with tempfile.TemporaryDirectory() as store:
        os.environ["GRAFT_STORE"] = store
        os.environ["GRAFT_REPORT"] = "0"  # peers write no page
        if case == "cost":
            return cost(strategy)
        name = f"hf/{model_folder()}" if case == "sentences" else "graft/resnet18-half-64"
        return trained(name, strategy, train, test, int(seed))


def trained(name: str, strategy: str, train: str, test: str, seed: int) -> dict[str, Any]:
    import time

    import graft
    from graft.preparation import prepare
    from graft.workflow import carry_out, drain

    own = OF_SENTENCES if train.endswith(".csv") and strategy != "probe" else {}
    recipe = graft.read_recipe(backbone=name, strategy=strategy, data__path=train, seed=seed, **own)
    backbone = graft.load_backbone(recipe)
    before = resident()
    with tempfile.TemporaryDirectory() as folder:
        run = graft.runs.choose_run(Path(folder) / "run", recipe)
        began = time.perf_counter()
        prepared = prepare(recipe, backbone=backbone)
        planned = time.perf_counter() - began
        bundle = drain(carry_out(prepared, run))
        peak = resident(most=True)
        accuracy = bundle.evaluate(test).accuracy
    return {
        "accuracy": 100 * accuracy,
        "parameters": trained_parameters(prepared.plan),
        "whole": prepared.plan.parameters,
        "seconds": planned + bundle.metrics["seconds"],
        "memory": (peak - before) / 2**20,
    }


def cost(strategy: str) -> dict[str, Any]:
    """Seconds and memory of a step on pictures of noise; the head starts random, for weights are random."""
    import numpy as np

    import graft
    from graft.costs import measure_costs
    from graft.preparation import prepare

    recipe = graft.read_recipe(
        backbone=COST_OF, strategy=strategy, data__validation=0, train__batch_size=COST_BATCH
    )
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 255, (64, 224, 224, 3), dtype=np.uint8)
    prepared = prepare(recipe, data=(pictures, [str(number % 4) for number in range(64)]))
    costs = measure_costs(prepared.backbone, prepared.splits, prepared.plan)
    number = max(n for n, phase in enumerate(prepared.plan.phases, start=1) if phase.kind == "phase")
    phase: Any = prepared.plan.phases[number - 1]
    return {
        "parameters": trained_parameters(prepared.plan),
        "whole": prepared.plan.parameters,
        "seconds": costs[number].seconds / phase.train.epochs,
        "memory": costs[number].bytes / 2**20,
    }


def trained_parameters(plan: Any) -> int:
    """How many change in any phase, the solved head among them."""
    head = plan.parameters - sum(stage.parameters for stage in plan.stages)
    phases = [phase for phase in plan.phases if phase.kind == "phase"]
    return max([sum(group.count for group in phase.groups) for phase in phases], default=head)


def resident(*, most: bool = False) -> int:
    """Bytes of this process in memory: now, or at the most so far."""
    import resource

    if most:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def keep(row: dict[str, Any]) -> None:
    """Put the row in the place of an earlier one of its case, strategy and seed; write the table anew."""
    file = RESULTS / "adapters.json"
    stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    stored[f"{row['case']}, {row['strategy']}, {row['seed']}"] = row
    file.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "adapters.md").write_text(table(list(stored.values())), encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Low-rank adapters beside the probe and training everything",
        "",
        "Written by `python benchmarks/adapters.py`. Means over seeds (how many in brackets): accuracy",
        "in percent ± its deviation; memory is the peak above that with the backbone loaded.",
    ]
    titles = {
        "sentences": f"Sentences of movie reviews, {LABELS} of each label, MiniLM-L6",
        "pictures": "CIFAR-10, 100 of each class, graft/resnet18-half-64",
        "cost": f"{COST_OF}, batches of {COST_BATCH}: an epoch of 64 pictures, as `graft plan` measures it",
    }
    for case, title in titles.items():
        found = [row for row in rows if row["case"] == case]
        if not found:
            continue
        lines += ["", f"## {title}", "", "| strategy | accuracy | trained parameters | seconds | memory |"]
        lines.append("|---|---|---|---|---|")
        for strategy in dict.fromkeys(row["strategy"] for row in found):
            lines.append(_line(strategy, [row for row in found if row["strategy"] == strategy]))
    return "\n".join(lines) + "\n"


def _line(strategy: str, rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    share = 100 * first["parameters"] / first["whole"]
    seconds, memory = (statistics.mean(row[key] for row in rows) for key in ("seconds", "memory"))
    accuracy = "–"
    if "accuracy" in first:
        scores = [row["accuracy"] for row in rows]
        spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        accuracy = f"{statistics.mean(scores):.1f}{spread} ({len(scores)})"
    told = f"{first['parameters']:,} ({share:.2f} %)"
    return f"| {strategy} | {accuracy} | {told} | {seconds:.0f} | {memory:.0f} MiB |"


if __name__ == "__main__":
    main()
