"""How fast graft is beside what people use: one row of a table for each name.

    python benchmarks/speed.py ROW… --cifar DIR [--photos DIR] [--peers PYTHON] [--threads 2]

Rows: probe, forward, split, vit, step, strategies, race, head, head-10k, large-head, decode, memory,
start-up. DIR is a folder with train/CLASS and test/CLASS; PYTHON that of an environment with fastai,
transformers, accelerate, timm and lightning (rows step and race). What is compared runs in turn, several
times, in one run; figures are medians. Every row is kept in results/speed.json and shown in
results/speed.md, with the machine it ran on.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
HEADING = """# How fast graft is

Written by `python benchmarks/speed.py`; what each row does is in `speed_*.py`. A ratio is that of seconds
unless it says otherwise, of runs in turn within one process or one after the other. *Holds*: whether the
target is met on the machine that is named below. Random weights where the speed does not depend on them.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--peers", help="Python with fastai, transformers, accelerate, timm, lightning")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before torch is imported, here and in children
    import speed_data
    import speed_head
    import speed_networks
    import speed_runs

    known = speed_networks.ROWS | speed_head.ROWS | speed_data.ROWS | speed_runs.ROWS
    for name in options.rows:
        for row in known[name](options):
            keep(row | machine(options.threads))
            print(json.dumps(row, indent=1), flush=True)


def machine(threads: int) -> dict[str, Any]:
    """Processor and threads, and the operations a second of large products in fp32, measured now."""
    from speed_networks import matmul_peak

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    return {"machine": f"{model}, {threads} threads", "peak": matmul_peak()}


def keep(row: dict[str, Any]) -> None:
    """Put the row in the place of an earlier one of this name, and write the table anew."""
    file = RESULTS / "speed.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    rows[row["name"]] = row
    file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    lines = [
        HEADING,
        "| what | against | target | measured | holds | figures |",
        "|---|---|---|---|---|---|",
    ]
    for each in rows.values():
        holds = "yes" if each["holds"] else "no"
        lines.append(
            f"| {each['what']} | {each['against']} | {each['target']} | {each['measured']} | {holds} "
            f"| {each['figures']} |"
        )
    peaks: dict[str, list[float]] = {}
    for each in rows.values():
        peaks.setdefault(each["machine"], []).append(each["peak"] / 1e9)
    for name, found in peaks.items():
        lines += [
            "",
            f"Machine: {name}, {min(found):.0f} to {max(found):.0f} GFLOP/s in fp32 beside the rows.",
        ]
    (RESULTS / "speed.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
