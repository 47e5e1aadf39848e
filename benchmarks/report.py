"""How long a run's page takes to make, and how large it is: 10,000 test items of 100 classes.

    python benchmarks/report.py [--items 10000] [--classes 100] [--threads 2]

Pictures are noise with a colour that tells the class, the network is the bundled one at 64 x 64 pixels with
a solved head (the strategy makes no difference to the page). Timed is what comes after the result stands in
the run: looking at items and layers, drawing, writing. Libraries are imported within it, as in a run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options.items, options.classes)))
        return
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "GRAFT_REPORT": "0"}
    done = subprocess.run(
        [sys.executable, __file__, "--worker", *sys.argv[1:]], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    row = json.loads(done.stdout.strip().splitlines()[-1]) | {"threads": options.threads}
    (RESULTS / "report.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "report.md").write_text(table(row), encoding="utf-8")
    print(table(row))


def work(items: int, classes: int) -> dict[str, float | int | str]:
    import numpy as np

    import graft
    from graft.bundle import provenance
    from graft.conclusion import look_back
    from graft.preparation import prepare
    from graft.reporting import write_report
    from graft.runs import choose_run
    from graft.workflow import carry_out, drain

    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (classes, 1, 1, 3))

    def pictures(count: int) -> tuple[list[np.ndarray], list[str]]:
        numbers = np.arange(count) % classes
        noise = generator.integers(-90, 90, (count, 64, 64, 3))
        pixels = (colours[numbers] + noise).clip(0, 255).astype(np.uint8)
        return list(pixels), [f"class {number}" for number in numbers]

    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRAFT_STORE"] = str(Path(folder) / "store")
        recipe = graft.read_recipe(strategy="probe")
        prepared = prepare(recipe, data={"train": pictures(10 * classes), "test": pictures(items)})
        run = choose_run(Path(folder) / "run", recipe)
        bundle = drain(carry_out(prepared, run))
        began = time.perf_counter()
        page = write_report(run, look_back(prepared, bundle, run.read_logits()))
        return {
            "items": items,
            "classes": classes,
            "seconds": time.perf_counter() - began,
            "bytes": page.stat().st_size,
            "hardware": provenance()["hardware"],
        }


def table(row: dict[str, float | int | str]) -> str:
    return (
        "# The page of a run\n\nWritten by `python benchmarks/report.py`.\n\n"
        "| test items | classes | seconds after training | size | machine |\n|---|---|---|---|---|\n"
        f"| {row['items']:,} | {row['classes']} | {row['seconds']:.1f} "
        f"| {float(row['bytes']) / 1e6:.2f} MB | {row['hardware']}, {row['threads']} threads |\n"
    )


if __name__ == "__main__":
    main()
