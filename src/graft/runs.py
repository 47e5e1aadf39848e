"""Runs: one folder for each, from the recipe to the bundle.

    recipe.json  plan.json  evidence.json  data.json  metrics.jsonl  checkpoints/
    bundle/  logits.safetensors  result.json  report.html  report/

A run is locked by the process that works on it; the lock goes with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from graft.backbones.contract import Backbone
from graft.checkpoint import Checkpoints, reason_of
from graft.comparing import COMPARISON
from graft.data.items import Splits, label_of
from graft.diagnosis.findings import Finding
from graft.errors import RunError, TrainingError, WorkersLost
from graft.evidence import Evidence
from graft.files import (
    follow,
    half_written,
    is_there,
    kept_path,
    new_file,
    point_to,
    read_json,
    write_json,
    write_text,
)
from graft.numerics import is_main
from graft.plan import VERSION, Phase, Plan, describe_network
from graft.recipe import Recipe, change_paths, make_recipe
from graft.run_log import add_finding, read_log

RUNS = Path("runs")
LATEST = "latest"
_LOGITS = "logits.safetensors"
_BEGINNINGS = {"lock", "data.json", "plan.json", "evidence.json"}  # written before a run counts as begun
# What may be half-written where a process was killed.
_WRITTEN = {*_BEGINNINGS, "recipe.json", "metrics.jsonl", "bundle", _LOGITS, "result.json", "report.html"}
_WRITTEN |= {COMPARISON, "checkpoints", "report"}
_ODD = re.compile(r"[^\w.+,-]+")
_MOST_TRIED = 10_000


@dataclass(frozen=True)
class Run:
    """The folder of a run and the paths in it."""

    folder: Path
    by_time: bool = False
    """Whether it is named by time: then the folder is made when it is :func:`locked`, under a free name."""

    @property
    def begun(self) -> bool:
        return (self.folder / "recipe.json").is_file()

    @property
    def finished(self) -> bool:
        return (self.folder / "result.json").is_file()

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def log(self) -> Path:
        return self.folder / "metrics.jsonl"

    def read_log(self) -> list[dict[str, Any]]:
        """The records of training so far, as plain values; lines that are damaged are passed over."""
        return read_log(self.log).records

    @property
    def log_damage(self) -> str | None:
        """What is wrong with the log, in a sentence; None where every line of it can be read."""
        return read_log(self.log).damage

    def keep_logits(self, logits: Mapping[str, NDArray[np.float32]]) -> None:
        """What the trained model says of the items that were measured: [N, C] of val and test, by name."""
        with new_file(self.folder / _LOGITS) as fresh:
            save_file({name: np.ascontiguousarray(values) for name, values in logits.items()}, fresh)

    def read_logits(self) -> dict[str, NDArray[np.float32]]:
        """What :meth:`keep_logits` kept; raises RunError where it is missing or damaged."""
        try:
            return dict(load_file(self.folder / _LOGITS))
        except (OSError, SafetensorError) as error:
            raise RunError(f"Cannot read {self.folder / _LOGITS}: {reason_of(error)}.") from None

    @property
    def findings(self) -> list[dict[str, Any]]:
        """What the doctor found in the course of training, as plain values."""
        found = [values for values in self.read_log() if values["record"] == "found"]
        return [{key: value for key, value in values.items() if key != "record"} for values in found]

    def add_finding(self, finding: Finding, phase: int) -> None:
        """Keep what was found after training; a run that goes on once more would find it again."""
        add_finding(self.log, finding, phase)

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder / "checkpoints", self._facts()["run"])

    @property
    def trained_on(self) -> frozenset[str]:
        """Digests of the pictures that trained or validated; empty where the folder is no run."""
        if not (self.folder / "data.json").is_file():
            return frozenset()
        items = self._facts()["items"].items()
        return frozenset(digest for name, (_, digest) in items if not name.startswith("test/"))

    @property
    def recipe(self) -> Recipe:
        return make_recipe(read_json(self.folder / "recipe.json", RunError))

    @property
    def plan(self) -> Plan:
        path = self.folder / "plan.json"
        values = read_json(path, RunError)
        found = values.get("version") if isinstance(values, dict) else None
        if type(found) is int and found != VERSION:
            raise RunError(
                f"{path} is a plan of version {found}, and this graft expects version {VERSION}: go on "
                "with the graft that began the run, or begin a new one."
            )
        try:
            return Plan.model_validate(values)
        except ValueError as error:
            raise RunError(f"{path} cannot be read: {error}") from None

    def check_data(self, splits: Splits) -> None:
        """Refuse to go on with data that is not what the run began with.

        Raises:
            RunError: naming what was added, removed or changed.
        """
        before, now = self._facts(), data_facts(splits)
        if before["fingerprint"] == now["fingerprint"]:
            return
        if self.comparison is not None:
            raise RunError(
                f"{self.folder} is a run of the comparison {self.comparison}, which drew its items from "
                f"all data: the same graft compare command with --out {self.comparison} goes on with it."
            )
        old, new = before["items"], now["items"]
        changed = sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
        lines = [
            f"{len(names)} {what}: {', '.join(names[:5])}"
            for what, names in (
                ("removed", sorted(old.keys() - new.keys())),
                ("added", sorted(new.keys() - old.keys())),
                ("changed", changed),
            )
            if names
        ]
        raise RunError(
            f"The data changed since {self.folder} began, so it cannot go on: {'; '.join(lines)}. "
            "Restore the data, or begin a new run."
        )

    def check_network(self, backbone: Backbone) -> None:
        """Refuse to go on with another network than the run began with; raises RunError."""
        if describe_network(backbone) != self.plan.network:
            raise RunError(
                f"{backbone.source.id} is not the network that {self.folder} began with "
                f"({self.plan.backbone}: its weights, input or preprocessing differ), so it cannot go on."
            )

    @property
    def comparison(self) -> Path | None:
        """The folder of the comparison that this is a run of."""
        home = self.folder.absolute().parent.parent
        return home if (home / COMPARISON).is_file() else None

    def _facts(self) -> dict[str, Any]:
        facts = read_json(self.folder / "data.json", RunError, most=None)
        if not isinstance(facts, dict) or not facts.keys() >= {"run", "fingerprint", "items"}:
            raise RunError(f"{self.folder / 'data.json'} is damaged: keys are missing.")
        return facts


def data_facts(splits: Splits) -> dict[str, Any]:
    """The data as a run remembers it: every item with its split, label and content."""
    return {
        "fingerprint": splits.fingerprint,
        "labels": list(splits.task.labels),
        "items": {
            f"{split}/{name}": [
                label_of(items, index, splits.task),
                items.digests[index],
            ]
            for split, items in splits.parts()
            for index, name in enumerate(items.ids)
        },
    }


def choose_run(out: str | Path | None, recipe: Recipe) -> Run:
    """The run to begin in ``out``, or under a name by time below ``runs/``; nothing is written yet.

    Raises:
        RunError: the folder holds something already.
    """
    run = Run(_name_by_time(recipe), by_time=True) if out is None else Run(Path(out))
    if is_main() and not run.by_time:  # which may be ahead of the others and have begun it
        refuse_taken(run)
    return run


def refuse_taken(run: Run) -> None:
    """Raises RunError where the run's folder holds anything but the beginnings of a run."""
    folder = run.folder
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunError(f"{folder} is a file; name a new folder with --out.")
    names = {path.name for path in folder.iterdir()} - _BEGINNINGS
    taken = sorted(name for name in names if not half_written(name, _WRITTEN))
    if "result.json" in taken:
        raise RunError(f"{folder} holds a finished run; name a new folder with --out.")
    if "recipe.json" in taken:
        raise RunError(
            f"{folder} holds an unfinished run: go on with graft resume {folder}, or name a new "
            "folder with --out."
        )
    if taken:
        raise RunError(f"{folder} is not empty ({taken[0]}); name a new folder with --out.")


def begin(run: Run, recipe: Recipe, plan: Plan, splits: Splits, evidence: Evidence | None = None) -> None:
    """Write what the run is; the recipe comes last, so that a run with a recipe is whole.

    Raises:
        RunError: another process was quicker.
    """
    refuse_taken(run)
    problems = [str(problem) for problem in splits.problems]
    facts = {"run": uuid.uuid4().hex, **data_facts(splits), "problems": problems}
    write_json(run.folder / "data.json", facts)
    write_text(run.folder / "plan.json", plan.to_json() + "\n")
    if evidence is not None:
        write_text(run.folder / "evidence.json", evidence.model_dump_json(indent=2) + "\n")
    write_text(run.folder / "recipe.json", _from_anywhere(recipe).to_json() + "\n")
    point_latest(run)


def _from_anywhere(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths, so that the run can be resumed from another folder."""
    values = recipe.model_dump(mode="json", exclude_unset=True)
    change_paths(values, _whole)
    if recipe.backbone.startswith("hf/"):
        values["backbone"] = _from_hub(recipe.backbone)
    return make_recipe(values)


def _whole(path: str) -> str:
    of_hub = path.startswith("hf/") and not is_there(Path(path))
    return _from_hub(path) if of_hub else kept_path(Path(path).absolute())


def _from_hub(name: str) -> str:
    """hf/./folder with the folder's absolute path; an id as it is."""
    return f"hf/{kept_path(Path(name.removeprefix('hf/')).absolute())}" if name.startswith("hf/.") else name


def open_run(path: str | Path) -> Run:
    """The run in this folder.

    Raises:
        RunError: it is not a run.
    """
    folder = follow(Path(path))
    if not (folder / "recipe.json").is_file():
        raise RunError(f"{folder} is not a run: it holds no recipe.json. graft train begins one.")
    return Run(folder.resolve() if folder.is_symlink() else folder)


@contextlib.contextmanager
def locked(run: Run) -> Iterator[Run]:
    """Make the run's folder where it is missing, and hold it against other processes; gives the run held.

    Raises:
        RunError: another process works on it, or it cannot be made.
    """
    try:
        if run.by_time:
            run = Run(make_fresh(run.folder))
        run.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run.folder / "lock", timeout=0)
        lock.acquire()
        _clear_half_written(run)
    except Timeout:
        raise RunError(
            f"{run.folder} is in use by another run; wait for it, or name another folder with --out."
        ) from None
    except (OSError, NotImplementedError) as error:
        raise RunError(f"The run folder {run.folder} cannot be made: {reason_of(error)}.") from None
    try:
        yield run
    finally:
        lock.release()


def _clear_half_written(run: Run) -> None:
    """What cannot be removed is in nobody's way, and a link is none of ours."""
    for path in list(run.folder.iterdir()):
        if half_written(path.name, _WRITTEN) and not path.is_symlink():
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def writing(run: Run) -> Iterator[None]:
    """Say what is wrong where a file of the run cannot be written, and how a run goes on.

    Raises:
        TrainingError: the disk is full or fails; what was saved before is intact.
        WorkersLost: as it was raised inside.
    """
    try:
        yield
    except WorkersLost as lost:
        raise WorkersLost(
            f"{lost} The run is saved: graft resume {run.folder} --workers 0 goes on without any."
        ) from None
    except OSError as error:
        raise TrainingError(
            f"A file in {run.folder} could not be written: {reason_of(error)}. What was saved before is "
            f"intact: make room, then go on with graft resume {run.folder}."
        ) from None


def point_latest(run: Run) -> None:
    """Let ``runs/latest`` point to the run: a symbolic link, or a text file on systems that refuse links.

    It stands beside the run where that is in a folder named ``runs``, else in the ``runs`` of the working
    folder, if there is one. Anything else of that name is left alone.
    """
    home = run.folder.parent if run.folder.absolute().parent.name == RUNS.name else RUNS
    if home.is_dir():
        with contextlib.suppress(OSError):
            point_to(home / LATEST, run.folder)


def count_before(plan: Plan) -> list[int]:
    """For each phase, the steps of those before it."""
    lengths = [phase.steps if isinstance(phase, Phase) else 0 for phase in plan.phases]
    return [sum(lengths[:index]) for index in range(len(lengths))]


def _name_by_time(recipe: Recipe) -> Path:
    return name_by_time(recipe.data.path, recipe.strategy.replace(":", ""))


def name_by_time(data: str, what: str) -> Path:
    """A folder's name in runs/ that says when, on what and how, of characters that every system takes."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    stem = _ODD.sub("-", Path(data).stem)[:60].strip("-. ") or "data"
    return RUNS / f"{stamp}-{stem}-{_ODD.sub('-', what)[:60]}"


def make_fresh(base: Path) -> Path:
    """Make a folder that was not there before: ``base``, or that name with a number behind it.

    Raises OSError where none can be made. Several processes that begin at once get one each.
    """
    base.parent.mkdir(parents=True, exist_ok=True)
    for number in range(_MOST_TRIED):
        folder = base if not number else base.with_name(f"{base.name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise FileExistsError(errno.EEXIST, "the folder exists", str(base))
