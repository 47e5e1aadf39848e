"""The study behind ``--strategy auto``: what it is worth, and each of its decisions, on development cases.

    python benchmarks/study.py [--cifar DIR] [--photos DIR] [--seeds 3] [--cases a,b] [--variants a,b]
                               [--threads 1] [--out benchmarks/results]

Every variant is a recipe of graft's, and graft trains it. DIR of --cifar holds train/CLASS (100 pictures
a class; a test part is never opened), that of --photos class folders; cases without their folder are left
out, and study_cases.py says what all are. The variants of a case and seed see the same labels and are
measured on the same other pictures.

Results are written after every run, as study.json and study.md. Runs that are in study.json already are
not repeated, so the study can be stopped at any time; delete it after a change of graft. Several processes
may share it, each with cases of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from study_cases import Case, make_cases

from graft import read_recipe
from graft.bundle import provenance
from graft.data.dataset import Pictures
from graft.files import write_json, write_text
from graft.inference import forward_all
from graft.plan import Phase, Plan
from graft.preparation import Prepared, prepare
from graft.training import fit

Settings = dict[str, Any]
Run = dict[str, Any]
Key = tuple[str, str, int]

# Recipes, given what auto decided on the same data; None where that would be auto once more.
AUTO, ONE_VIEW = "auto", "auto (one view)"
SINGLE: Settings = {"final__tta": "none"}
VARIANTS: dict[str, Callable[[Settings], Settings | None]] = {
    AUTO: lambda _: {},
    ONE_VIEW: lambda _: SINGLE,  # measured on the weights of auto
    "auto (no adaptation)": lambda auto: (
        {"train__batchnorm": "frozen"} if auto["batchnorm"] == "adaptive" else None
    ),
    "auto (no mirror)": lambda auto: {"train__flip": False, "final__tta": "zoom"} if auto["flip"] else None,
    "auto (rate / 3)": lambda auto: {"train__lr": auto["rate"] / 3},
    "auto (rate x 3)": lambda auto: {"train__lr": auto["rate"] * 3},
    "two-phase (all labels)": lambda _: {"strategy": "two-phase", "data__validation": 0.0},
    "two-phase (a fifth held out)": lambda _: {"strategy": "two-phase", "data__validation": 0.2},
    "probe": lambda _: {"strategy": "probe"},
    "probe (adapted)": lambda _: {"strategy": "probe", "train__batchnorm": "adaptive"},
}

HEAD = """# What `--strategy auto` is worth, decision by decision

`python benchmarks/study.py`: accuracy in % on pictures that did not train, mean ± standard deviation over
the seeds, which also draw the labels that train (the number in a case's name is that of labels a class).
*auto is ahead by* is paired by seed. Seconds are of everything from the arrays to the trained network,
auto's look at the data included (threads: {threads}; the machine is shared). A variant that would be auto
once more is left out. The cases served to make auto's rules, so its lead may be smaller on other data.
"""

NOTES = """## What was tried and did not help

Above all from an exploratory harness with a training loop of its own (300 to 600 steps, batch-norm
statistics of the training pictures, last weights averaged), not from graft: 1 or 2 seeds a case,
differences in points, no tests of significance. Nothing is established by them; they say where not to
look first.

- The stem frozen (as Kumar et al., 2022, do): -0.3 CIFAR with 10 labels, -0.5 with 80, -0.3 digits, -2.9
  textures, -0.7 glyphs, 0 photographs (1 seed each, as auto otherwise); 11 to 37 % less time.
- Telling what is near by the standard error of the top's lead over the middle: a third of draws of CIFAR
  with 10 labels would not be near by it, and one of textures' two would still be.
- Strong crops (from 35 % of the area): about -3 on near cases (CIFAR, 10 and 80 labels; 2 seeds each); good
  on some far ones (digits +3, spectrograms +8; 2 seeds), next to nothing on glyphs.
- Batch-norm in train mode: no better over all. At a body rate of 3e-4 -1 on CIFAR and +1.5 to +2.5 on far
  cases (2 seeds); at 1e-3 +3 on CIFAR, where that rate is too high (2 seeds), and -1 to -3 on far ones (1).
- A head that sees all depths, fine-tuned: no gain (CIFAR -2.2, textures -0.3; 1 seed).
- Weights interpolated with the start at 0.7 (as WiSE-FT does): about 0 on near cases, with much scatter;
  worse on glyphs (-4) and spectrograms (-2).
- Label smoothing 0.1: within noise (CIFAR, 50 labels; 2 seeds).
- Weights averaged over the last 40 % of the steps: ±0.3 on most cases.
- `torch.compile`: slower on the CPU (96 ms a step, 75 to 85 without), and 43 s to compile.
- Averaging with a probe on all depths: +0.8 to +3 on near cases with few labels (2 seeds), 0 to -0.8
  elsewhere (1 or 2 seeds).
- Rates of the body: near cases were best at 1e-4 to 3e-4; glyphs, spectrograms and digits at 1e-3 or above,
  where textures and CIFAR in grey lost 2 to 4 against 3e-4 (mostly 2 seeds).

No evidence was gathered for MixUp and CutMix (an error in the harness spoilt those runs), L2-SP, or
stochastic depth.

## What was tried by graft itself

auto in all but what is named, on the labels that the study draws.

- Near the pretraining: 15 epochs at 2e-4 with light augmentation, as auto had it, against 15 at 3e-4 with
  standard on CIFAR with 80 labels: 68.5, 65.5 and 70.5 against 72.0, 70.5 and 71.5 (2e-4 with standard:
  71.0, 69.0 and 68.0). With 10 labels 60 steps of the one against 200 of the other: 52.1, 52.7 and 54.9
  against 53.3, 53.1 and 53.7; photographs 60 against 150: 60.8, 64.9, 59.5, 67.6, 60.8 and 56.8 against
  59.5, 63.5, 62.2, 68.9, 60.8 and 52.7. What seems near and is not gains most: textures 41.6 and 47.0
  against 48.3 and 49.3, digits 90.4 against 92.6. So 3e-4 and standard are taken, 200 steps or 15 epochs.
  More steps alone (2e-4, light, 120 to 400 of them) gave 2 points on digits and nothing on textures and
  CIFAR.
- Near the pretraining with few pictures: 50 epochs at 3e-4 against 36 at 3e-4, and 36 at 4.2e-4 on the
  same draws. Photographs 59.5, 66.2, 63.5 and 67.6 against 60.8, 63.5, 62.2 and 67.6, and 59.5, 62.2,
  62.2 and 70.3 (at 5.6e-4: 59.5, 59.5, 60.8 and 70.3); CIFAR with 10 labels 54.4, 52.9, 49.3 and 53.8
  against 53.0, 52.1, 48.2 and 53.2, and 53.0, 50.4, 51.6 and 54.4. As if they were near: digits 93.1,
  94.4 and 93.6 against 93.9, 95.2 and 90.7, and 94.9, 94.9 and 94.5; textures 47.4 and 47.4 against 46.9
  and 46.8, and 46.4 and 48.1. So 36 epochs are taken, 28 % fewer, and where they have fewer steps than
  wanted, a higher rate. With 80 labels and 15 epochs 4e-4 gave 72.0, 66.0 and 73.5 on CIFAR, 3e-4 70.0,
  70.5 and 73.0: it stays there.
- Hue turned in the plane of YIQ's I and Q, which leaves brightness as it is, in place of HSV's: textures
  46.9, 47.1 and 44.1 against 49.9, 49.5 and 48.8; glyphs 56.5, 56.5 and 61.1 against 63.3, 59.4 and 65.6;
  digits 95.2, 96.8 and 93.5 against 95.8, 96.8 and 94.7; CIFAR with 80 labels 70.5 and 70.5 against 71.5
  and 69.0. It is quicker, and was not kept.
"""


def study(case: str, variant: str, seed: int, drawn: Case, settings: Settings) -> list[Run]:
    """Train one variant and measure it; auto is measured with a single view as well."""
    data = drawn.draw(seed)
    started = time.perf_counter()
    prepared = prepare(read_recipe(seed=seed, device="cpu", **settings), data=data)
    model = fit(prepared.backbone, prepared.splits, prepared.plan).model
    seconds = time.perf_counter() - started
    runs = {variant: (settings, accuracy(model, prepared))}
    if variant == AUTO:
        runs[ONE_VIEW] = (SINGLE, accuracy(model, prepared, tta="none"))
    return [
        {
            "case": case,
            "variant": name,
            "seed": seed,
            "settings": asked,
            "accuracy": percent,
            "seconds": round(seconds, 1),
            "threads": torch.get_num_threads(),
            "train": len(data["train"][0]),
            "measured": len(data["test"][0]),
            "data": prepared.splits.fingerprint,
            "decided": decided(prepared.plan),
        }
        for name, (asked, percent) in runs.items()
    ]


def accuracy(model: torch.nn.Module, prepared: Prepared, *, tta: str | None = None) -> float:
    """Percent of the measuring part that is right, with the plan's views unless others are given."""
    items = prepared.splits.test
    assert items is not None and items.targets is not None
    pictures = Pictures(items, prepared.backbone.preprocess)
    views = prepared.plan.tta if tta is None else tta
    found = forward_all(model, pictures, torch.device("cpu"), tta=views).argmax(1).numpy()
    return 100 * float((found == items.targets).mean())


def decided(plan: Plan) -> Settings:
    """What the plan says of its last phase of steps, and why."""
    phases = [step.train for step in plan.phases if isinstance(step, Phase)]
    found: Settings = {"views": plan.tta, "why": list(plan.notes)}
    if phases:
        last = phases[-1]
        found |= {"rate": max(last.rates.stages.values()), "epochs": last.epochs, "flip": last.flip}
        found |= {"batchnorm": last.batchnorm, "augmentation": last.augmentation}
    return found


# ---- results ------------------------------------------------------------------------------------------


def read_runs(folder: Path) -> dict[Key, Run]:
    file = folder / "study.json"
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.exists() else []
    return {(run["case"], run["variant"], run["seed"]): run for run in runs}


def add_runs(folder: Path, new: list[Run]) -> None:
    """Into the files as they are now, for other processes may have written to them."""
    runs = read_runs(folder) | {(run["case"], run["variant"], run["seed"]): run for run in new}
    write_json(folder / "study.json", {"made_with": provenance(), "runs": list(runs.values())})
    write_text(folder / "study.md", describe(runs))


def describe(runs: dict[Key, Run]) -> str:
    """All runs as Markdown."""
    rows: dict[tuple[str, str], dict[int, Run]] = defaultdict(dict)
    for (case, variant, seed), run in runs.items():
        rows[case, variant][seed] = run
    cases = dict.fromkeys(case for case, _ in rows)
    threads = sorted({run["threads"] for run in runs.values()})
    lines = [
        HEAD.format(threads=" or ".join(map(str, threads))),
        "| case | variant | seeds | accuracy | auto is ahead by | seconds |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for case in cases:
        for variant in VARIANTS:
            found = rows.get((case, variant), {})
            if found:
                cells = (case, variant, str(len(found)), *_figures(found, rows.get((case, AUTO), {})))
                lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## What auto decided", "", "| case | seeds | what |", "|---|---|---|"]
    for case in cases:
        seeds = defaultdict(list)
        for seed, run in sorted(rows.get((case, AUTO), {}).items()):
            seeds[_words(run["decided"])].append(str(seed))
        lines += [f"| {case} | {', '.join(numbers)} | {words} |" for words, numbers in seeds.items()]
    return "\n".join([*lines, "", NOTES])


def _figures(found: dict[int, Run], auto: dict[int, Run]) -> tuple[str, str, str]:
    own = next(iter(found.values()))["variant"] == AUTO
    ahead = (
        [] if own else [auto[seed]["accuracy"] - found[seed]["accuracy"] for seed in found.keys() & auto]
    )
    return (
        _spread(run["accuracy"] for run in found.values()),
        _spread(ahead, "+"),
        f"{statistics.mean(run['seconds'] for run in found.values()):.0f}",
    )


def _spread(values: Iterable[float], sign: str = "") -> str:
    numbers = list(values)
    if not numbers:
        return ""
    mean = f"{statistics.mean(numbers):{sign}.1f}"
    return f"{mean} ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else mean


def _words(found: Settings) -> str:
    return (
        f"rate {found['rate']:g}, {found['epochs']} epochs, augmentation {found['augmentation']}, "
        f"{'mirrored' if found['flip'] else 'not mirrored'}, batch-norm {found['batchnorm']}, "
        f"views {found['views']}"
    )


# ---- what is asked ------------------------------------------------------------------------------------


def main() -> None:
    asked, cases, variants = read_words()
    torch.set_num_threads(asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    for seed in range(asked.seeds):
        for case, drawn in cases.items():
            for variant in variants:
                auto = read_runs(asked.out).get((case, AUTO, seed))
                settings = VARIANTS[variant](auto["decided"] if auto else {})
                if settings is None or (case, variant, seed) in read_runs(asked.out):
                    continue
                runs = study(case, variant, seed, drawn, settings)
                add_runs(asked.out, runs)
                print(
                    case, seed, variant, f"{runs[0]['accuracy']:.1f} %, {runs[0]['seconds']} s", flush=True
                )


def read_words() -> tuple[argparse.Namespace, dict[str, Case], list[str]]:
    """The command line, the cases and the variants it asks for; auto first where others rest on it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar", type=Path, help="folder with train/CLASS")
    parser.add_argument("--photos", type=Path, help="folder of class folders")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", help="names with commas between; all by default")
    parser.add_argument("--variants", help="names with commas between; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    cases = make_cases(asked.cifar, asked.photos)
    chosen = asked.cases.split(",") if asked.cases else [*cases]
    wanted = set(asked.variants.split(",") if asked.variants else VARIANTS)
    unknown = [*(set(chosen) - cases.keys()), *(wanted - VARIANTS.keys())]
    if unknown:
        parser.error(f"{unknown[0]!r} is not known here; known are {', '.join([*cases, *VARIANTS])}.")
    if any(name.startswith(AUTO) for name in wanted):
        wanted.add(AUTO)
    return asked, {name: cases[name] for name in chosen}, [name for name in VARIANTS if name in wanted]


if __name__ == "__main__":
    main()
