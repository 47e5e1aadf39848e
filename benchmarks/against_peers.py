"""`graft train` as it comes beside what people use today: same backbone, same folder, in turn, in one run.

    python benchmarks/against_peers.py --peers PYTHON [--cifar DIR] [--photos DIR] [--seeds 5] [--only NAME]

PYTHON is that of an environment with fastai, transformers, accelerate, scikit-learn and timm (peers.py
says what each does). Cases: scikit-learn's digits, 10 labels a class; with --cifar (a folder with
train/CLASS and test/CLASS, 100 pictures a class) all its labels, and the first ten of each class; with
--photos (a folder of class folders) half of each class, drawn by the seed, against the other half. Every
seed runs everything in turn, each in a process of its own with --threads threads. Seconds go from the
first look at the data to the last step of training; imports and the test part are left out (graft's look
at the data before it plans is in). Nothing is chosen on a test part. Differences are paired by seed, with
95 % intervals (Student's t); but for the photographs the training folder is the same for every seed, so
they tell nothing of other draws of labels.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from graft.bundle import provenance
from graft.demo import make_demo

HERE = Path(__file__).parent
WEIGHTS = HERE.parent / "src/graft/backbones/weights/resnet18-half-64"
PEERS = (
    "scikit-learn probe",
    "courses' loop, frozen",
    "courses' loop, two phases",
    "fastai fine_tune(5)",
    "fastai fine_tune(10)",
    "Hugging Face Trainer",
)
AUTO, PROBE = "graft train (auto)", "graft train --strategy probe"
FIXED = ("scikit-learn probe", PROBE)  # the same with every seed, so measured once
ONCE = ("courses' loop, frozen", "fastai fine_tune(5)", "Hugging Face Trainer")  # to save time: no interval
T_95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
Results = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Case:
    """A folder with train/CLASS and test/CLASS; where the labels are drawn, one for each seed."""

    folder: Callable[[int], Path]
    drawn: bool = False


def make_cases(folder: Path, cifar: Path | None, photos: Path | None) -> dict[str, Case]:
    digits = make_demo(folder / "digits").pictures
    cases = {"digits, 10 a class": Case(lambda _: digits)}
    if cifar is not None:
        few = take(cifar / "train", folder / "cifar10", lambda files: files[:10])
        (few / "test").symlink_to((cifar / "test").resolve())
        cases["cifar, 10 a class"] = Case(lambda _: few)
        cases["cifar, 100 a class"] = Case(lambda _: cifar)
    if photos is not None:
        cases["photographs, half"] = Case(lambda seed: halve(photos, folder / f"photos-{seed}", seed), True)
    return cases


def take(
    source: Path, out: Path, choose: Callable[[list[Path]], list[Path]], *, part: str = "train"
) -> Path:
    """Some of each class's files, out of those by sorted name, as ``out``/``part``/CLASS."""
    for label in sorted(path for path in source.iterdir() if path.is_dir()):
        (out / part / label.name).mkdir(parents=True)
        for file in choose(sorted(label.iterdir())):
            shutil.copy(file, out / part / label.name)
    return out


def halve(source: Path, out: Path, seed: int) -> Path:
    """Half of each class's files trains, the rest measures."""

    def drawn(files: list[Path]) -> list[Path]:
        return Random(f"{seed} {files[0].parent.name}").sample(files, len(files) // 2)

    def others(files: list[Path]) -> list[Path]:
        return sorted(set(files).difference(drawn(files)))

    take(source, out, drawn)
    return take(source, out, others, part="test")


def run_peer(python: str, peer: str, case: Path, seed: int, threads: int) -> dict[str, float]:
    words = [python, str(HERE / "peers.py"), peer, str(case / "train"), str(case / "test"), str(WEIGHTS)]
    return _last_line([*words, "--seed", str(seed), "--threads", str(threads)])


def run_graft(strategy: str, case: Path, seed: int, threads: int) -> dict[str, float]:
    words = [sys.executable, str(HERE / "graft_worker.py"), str(case), strategy, str(seed), str(threads)]
    return _last_line(words)


def _last_line(words: list[str]) -> dict[str, float]:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{words}\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(
    case: Case, python: str, seeds: range, threads: int, said: Any, before: Results | None = None
) -> Results:
    """Everything on one case, in turn, seed by seed; added to what was measured ``before``."""
    results: Results = {name: list(found) for name, found in (before or {}).items()}
    once = ONCE if case.drawn else (*FIXED, *ONCE)
    for seed in seeds:
        folder = case.folder(seed)
        for name in (*PEERS, AUTO, PROBE):
            if seed and name in once:
                continue
            ours = {AUTO: "auto", PROBE: "probe"}.get(name)
            found = (
                run_graft(ours, folder, seed, threads)
                if ours
                else run_peer(python, name, folder, seed, threads)
            )
            results.setdefault(name, []).append(found)
            said(seed, name, found)
    return results


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half the 95 % interval."""
    if len(values) < 2:
        return values[0], math.nan
    return statistics.mean(values), T_95[len(values) - 1] * statistics.stdev(values) / math.sqrt(
        len(values)
    )


def table(case: str, results: Results) -> str:
    """One case as Markdown; differences are of graft train (auto) against each."""
    auto = [100 * found["accuracy"] for found in results[AUTO]]
    lines = [
        f"## {case}",
        "",
        "| | accuracy %, mean ± sd | auto leads by (95 %) | auto's error over its | seconds, median |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, found in results.items():
        shares = [100 * each["accuracy"] for each in found]
        mean, spread = statistics.mean(shares), statistics.stdev(shares) if len(shares) > 1 else 0.0
        theirs = shares * len(auto) if name in FIXED and len(shares) == 1 else shares
        pairs = list(zip(auto, theirs, strict=False))  # of the seeds that both ran with
        lead, half = interval([one - two for one, two in pairs])
        seconds = statistics.median(each["seconds"] for each in found)
        validating = statistics.median(each.get("validating", 0.0) for each in found)
        clock = f"{seconds:.0f}" + (f" (its validation {validating:.0f})" if validating else "")
        against = "" if name == AUTO else f"{lead:+.1f}" + ("" if math.isnan(half) else f" ± {half:.1f}")
        errors = [statistics.mean(100 - each for each in column) for column in zip(*pairs, strict=True)]
        error = "" if name == AUTO else f"{errors[0] / errors[1]:.2f}"
        share = f"{mean:.1f} (one run)" if len(found) < 2 else f"{mean:.1f} ± {spread:.1f}"
        lines.append(f"| {name} | {share} | {against} | {error} | {clock} |")
    return "\n".join(lines) + "\n"


HEAD = """# `graft train` beside what people use

The same backbone, pictures and machine for everybody; everything out of the box; one thread each, on two
cores that other work shared, so compare seconds within a table only. Differences are paired by seed, with
95 % intervals. What gives the same with every seed was run once, and so were the weaker peers. fastai looks
at the test part after every epoch, as its loop does; that time stands in brackets. Of the photographs every
seed draws another half of each class to train on; the rest, 74, measure: one picture is 1.4 points.

"""


def write_tables(folder: Path, cases: dict[str, Results]) -> None:
    tables = [table(name, results) for name, results in cases.items()]
    (folder / "against_peers.md").write_text(HEAD + "\n".join(tables))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", required=True, help="python of the peers' environment")
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="first seed; from 1 on, added to results")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="cases with these words in their names")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    asked = parser.parse_args()
    stored = asked.out / "against_peers.json"
    whole: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {"cases": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, case in make_cases(Path(folder), asked.cifar, asked.photos).items():
            if asked.only not in name:
                continue
            seeds = range(asked.first, asked.seeds)
            before = whole["cases"].get(name) if asked.first else None
            whole["cases"][name] = measure(
                case, asked.peers, seeds, asked.threads, lambda *words: print(*words, flush=True), before
            )
            whole["versions"] = provenance()
            stored.write_text(json.dumps(whole, indent=1) + "\n")
            print(table(name, whole["cases"][name]), flush=True)
    write_tables(asked.out, whole["cases"])


if __name__ == "__main__":
    main()
