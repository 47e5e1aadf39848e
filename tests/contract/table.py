"""Check every backbone and write ``docs/contract.md``: ``python tests/contract/table.py``.

Checks run one after the other in a child process that is renewed every few models, so that memory
stays bounded and a model that takes the process down costs only itself. With ``--keep FILE`` results
are stored as they come, and those that passed are not computed again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models import COLOUR_ONLY, EXCEPTIONS, NO_ADAPTERS, list_models

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # as pytest has it

from small_text import KINDS  # noqa: E402 (found there)

MODELS_A_PROCESS = 12
HEADING = """# The contract over every backbone

Written by `python tests/contract/table.py`. All classification models of torchvision and one model of
every family of timm, with random weights. What is checked, for each: the classifier is found and
replaced; the features are [B, D]; stages are in order of execution and hold every parameter exactly
once; disturbing a stage (up to five, spread over the network) changes the features and leaves every
activation below bit-identical; cut off in the middle it gives the same state; split as high as it can
be, both parts give the features of the whole to 1e-5; a frozen trunk is
byte-identical after training steps, buffers included; a partly frozen one below what trains;
optimiser groups hold what trains exactly once; low-rank adapters change nothing at first, alone move
when they train, and are merged and taken away without a trace; 1 and 5 input channels work; weights
saved and loaded into a rebuilt network give equal features.

*Cut* is the number of stages that can be cut off from what lies below (one tensor carries the state).
*Split* is the most stages that can run apart from those above, whose outcome is then kept; *below* the
share of multiplications that lie in these stages, so that a phase that trains only what lies above need
not repeat them.
"""


def check(name: str, size: int | None) -> dict[str, Any]:
    """One row, in a process of its own."""
    import torch
    from checks import check_backbone

    torch.set_num_threads(1)
    begun = time.monotonic()
    try:
        row: dict[str, Any] = {"ok": True, **asdict(check_backbone(name, size))}
    except Exception as error:
        row = {"ok": False, "why": f"{type(error).__name__}: {error}".replace("\n", " ")[:300]}
    return {"name": name, "seconds": round(time.monotonic() - begun, 1), **row}


def check_kind(kind: str) -> dict[str, Any]:
    """The row of a type of text model."""
    from checks import check_text

    with tempfile.TemporaryDirectory() as folder:
        return {"name": kind, **asdict(check_text(kind, Path(folder)))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--keep", type=Path, help="JSON lines with results, read and appended to")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "contract.md")
    options = parser.parse_args()
    rows = read_rows(options.keep)
    pool = make_pool()
    for name, size in list_models().items():
        if name in rows:
            continue
        try:
            rows[name] = pool.submit(check, name, size).result()
        except BrokenProcessPool:
            rows[name] = {"name": name, "ok": False, "why": "the process was killed"}
            pool = make_pool()
        print(json.dumps(rows[name]), flush=True)
        if options.keep is not None:
            with options.keep.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[name]) + "\n")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    texts = [pool.submit(check_kind, kind).result() for kind in KINDS]
    options.output.write_text(render(rows) + render_texts(texts), encoding="utf-8")
    pool.shutdown()
    sys.exit(0 if all(row["ok"] for row in rows.values()) else 1)


def make_pool() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=MODELS_A_PROCESS)


def read_rows(file: Path | None) -> dict[str, dict[str, Any]]:
    """Results of an earlier run that passed."""
    if file is None or not file.is_file():
        return {}
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {row["name"]: row for row in rows if row["ok"]}


def render(rows: dict[str, dict[str, Any]]) -> str:
    known = {name: rows[name] for name in list_models()}
    passed = sum(row["ok"] for row in known.values())
    lines = [
        HEADING,
        f"{passed} of {len(known)} pass; {len(EXCEPTIONS)} are not checked.",
        "",
        "| backbone | pixels | stages | cut | split | below | trunk parameters | |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, size in sorted(list_models().items()):
        row = known[name]
        figures = (
            f"{row['stages']} | {row['cuttable']} | {row['split']} | {row['saved']:.0%} | "
            f"{row['parameters']:,} | pass"
            if row["ok"]
            else f"| | | | | fails: {row['why']}"
        )
        remark = f" (3 channels only: {COLOUR_ONLY[name]})" if name in COLOUR_ONLY else ""
        remark += f" (no adapters: {NO_ADAPTERS[name]})" if name in NO_ADAPTERS else ""
        lines.append(f"| {name} | {size or 'own'} | {figures}{remark} |")
    lines += [f"| {n} | | | | | | | not checked: {why} |" for n, why in sorted(EXCEPTIONS.items())]
    return "\n".join(lines) + "\n"


def render_texts(rows: list[dict[str, Any]]) -> str:
    lines = [
        "",
        "## Texts",
        "",
        "Types of transformers, each from a small random configuration of 12 layers, by the same checks",
        "but for heads and channels. The layers of ALBERT share their weights, and are one stage.",
        "",
        "| type | stages | cut | split | below | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        figures = f"{row['stages']} | {row['cuttable']} | {row['split']} | {row['saved']:.0%}"
        lines.append(f"| {row['name']} | {figures} | pass |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
