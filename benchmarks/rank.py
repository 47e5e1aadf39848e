"""`graft rank` beside what fine-tuning every candidate comes to.

    python benchmarks/rank.py --pictures DIR [--epochs N] [--threads 2]

Eight candidates, all made here: the bundled network; it cut off above each of its lower stages (the mean
over places is the feature); its weights random; random ones trained shortly on scikit-learn's digits,
enlarged; and the bundled ones trained shortly on these. DIR has train/ and test/. Each is rated on the
training part, then fine-tuned (two-phase, for as long as graft would without --epochs) and measured on
the test part, which decides nothing. Seconds leave imports out, on both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
BUNDLED = "graft/resnet18-half-64"
DIGIT_EPOCHS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import torch

    import_module("sklearn.covariance")  # it takes seconds, which are nobody's look
    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRAFT_STORE"] = str(Path(folder) / "store")
        os.environ["GRAFT_REPORT"] = "0"
        for name, backbone in candidates(Path(folder)):
            row = judged(name, backbone, options, Path(folder))
            rows.append(row)
            print(row, flush=True)
    found = summary(rows)
    (RESULTS / "rank.json").write_text(
        json.dumps({"rows": rows, **found}, indent=1) + "\n", encoding="utf-8"
    )
    (RESULTS / "rank.md").write_text(table(rows, found, options), encoding="utf-8")


def candidates(folder: Path) -> Iterator[tuple[str, Any]]:
    """Names and backbones, one after the other."""
    import graft

    whole = graft.load_backbone(BUNDLED)
    yield "bundled", whole
    for stage in whole.stage_names[:-1]:
        yield f"bundled, cut above {stage}", cut(whole, stage)
    random = graft.load_backbone(graft.read_recipe(backbone=f"{BUNDLED}:none"))
    yield "random weights", random
    yield "random, then digits", trained_on_digits(random, "scratch", folder / "one")
    yield "bundled, then digits", trained_on_digits(whole, "full", folder / "two")


def cut(whole: Any, stage: str) -> Any:
    import torch

    import graft

    lower = graft.truncate(whole.trunk, stage, stages=whole.stages)
    pooled = torch.nn.Sequential(lower, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return graft.from_module(pooled, preprocess=whole.preprocess, pretrained=True, name=stage, head=None)


def trained_on_digits(backbone: Any, strategy: str, folder: Path) -> Any:
    """The backbone after a few epochs on the digits."""
    import numpy as np
    from sklearn.datasets import load_digits

    import graft

    digits = load_digits()
    pictures = np.repeat((digits.images * 15.9).astype(np.uint8)[..., None], 3, axis=-1)
    bundle = graft.train(
        (pictures, [str(target) for target in digits.target]),
        recipe=graft.read_recipe(
            backbone=backbone.source.id, strategy=strategy, epochs=DIGIT_EPOCHS, data__validation=0.0
        ),  # else the start may be kept, and the candidate be no other
        backbone=backbone,
        out=folder,
        quiet=True,
    )
    source = replace(backbone.source, weights="digits")
    return replace(backbone, trunk=bundle.model.trunk, source=source)


def judged(name: str, backbone: Any, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What the candidate is rated, and what fine-tuning comes to."""
    import graft
    from graft.advice.ranking import rate
    from graft.numerics import resolve_numerics
    from graft.preparation import prepare
    from graft.workflow import carry_out, drain

    recipe = graft.read_recipe(
        backbone=backbone.source.id,
        strategy="two-phase",
        epochs=options.epochs,
        data__path=str(options.pictures / "train"),
    )
    splits = graft.read_splits(recipe, backbone)
    rated = rate(backbone, splits, resolve_numerics(recipe))
    began = time.perf_counter()
    run = graft.runs.choose_run(folder / name.replace(" ", "-").replace(",", ""), recipe)
    prepared = prepare(recipe, backbone=backbone)
    bundle = drain(carry_out(prepared, run))
    seconds = time.perf_counter() - began
    accuracy = 100 * bundle.evaluate(options.pictures / "test").accuracy
    kept = ("score", "accuracy", "neighbours", "logme", "h_score", "latency", "parameters")
    scores = {key: getattr(rated, key) for key in kept}
    return {
        "name": name,
        "fine_tuned": accuracy,
        "epochs": prepared.plan.phases[1].train.epochs,
        "seconds": seconds,
        "look": rated.seconds,
        "rated": scores,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Regret of the first two in points, weighted τ, and the share of the cost."""
    from graft.advice.ranking import weighted_tau

    ranked = sorted(rows, key=lambda row: -row["rated"]["score"])
    best = max(row["fine_tuned"] for row in rows)
    taus = {
        key: weighted_tau([row["rated"][key] for row in rows], [row["fine_tuned"] for row in rows])
        for key in ("score", "neighbours", "logme", "h_score")
    }
    return {
        "regret": best - max(row["fine_tuned"] for row in ranked[:2]),
        "cost": sum(row["look"] for row in rows) / sum(row["seconds"] for row in rows),
        **{f"tau_{key}": tau for key, tau in taus.items()},
    }


def table(rows: list[dict[str, Any]], found: dict[str, float], options: argparse.Namespace) -> str:
    lines = [
        "# Ranking backbones without training them",
        "",
        f"Written by `python benchmarks/rank.py`: {rows[0]['epochs']} epochs of two-phase each, "
        f"{options.threads} "
        "threads. Regret of the first two: "
        f"{found['regret']:.1f} points; weighted τ {found['tau_score']:.2f} (nearest neighbours "
        f"{found['tau_neighbours']:.2f}, LogME {found['tau_logme']:.2f}, H-score "
        f"{found['tau_h_score']:.2f}); "
        f"all looks took {100 * found['cost']:.1f} % of the time of fine-tuning all.",
        "",
        "| candidate | rated | probe, out of fold | fine-tuned, test | seconds: look, fine-tuning |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['name']} | {100 * row['rated']['score']:.0f} % | {100 * row['rated']['accuracy']:.1f} | "
        f"{row['fine_tuned']:.1f} | {row['look']:.0f}, {row['seconds']:.0f} |"
        for row in sorted(rows, key=lambda row: -row["rated"]["score"])
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
