"""Runs: one folder for each, from the recipe to the bundle.

    recipe.json  plan.json  evidence.json  data.json  metrics.jsonl  checkpoints/
    bundle/  logits.safetensors  result.json  report.html  report/

A run is locked by the process that works on it; the lock goes with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from graft.backbones.contract import Backbone
from graft.checkpoint import Checkpoints, reason_of
from graft.comparing import COMPARISON
from graft.data.items import Splits, label_of
from graft.diagnosis.findings import Finding
from graft.diagnosis.training_checks import Watch
from graft.errors import RunError, TrainingError, WorkersLost
from graft.evidence import Evidence
from graft.files import new_file, read_json, write_json, write_text
from graft.numerics import is_main
from graft.plan import VERSION, Phase, Plan, describe_network
from graft.recipe import Recipe, make_recipe
from graft.records import Found, Record

RUNS = Path("runs")
LATEST = "latest"
_LOGITS = "logits.safetensors"
_BEGINNINGS = {"lock", "data.json", "plan.json", "evidence.json"}  # written before a run counts as begun
# What a process that was killed while it wrote leaves behind.
_HALF_WRITTEN = re.compile(
    r"\.((comparison|data|plan|recipe|result)\.json|metrics\.jsonl|bundle|logits\.safetensors|report\.html)\..+"
)


@dataclass(frozen=True)
class Run:
    """The folder of a run and the paths in it."""

    folder: Path

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
        """The records of training so far, as plain values."""
        if not self.log.is_file():
            return []
        return list(_whole_records(self.log))

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
        with self.log.open("a", encoding="utf-8") as file:
            file.write(_line(tell(finding, phase).to_dict()))

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
    run = Run(Path(out) if out is not None else _fresh_name(recipe))
    if is_main():  # which may be ahead of the others and have begun it
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
    taken = sorted(name for name in names if not _HALF_WRITTEN.fullmatch(name))
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
    changes: dict[str, Any] = {}
    path = recipe.data.path
    if path:
        of_hub = path.startswith("hf/") and not Path(path).exists()
        whole = _from_hub(path) if of_hub else str(Path(path).absolute())
        changes["data"] = recipe.data.model_copy(update={"path": whole})
    if recipe.weights is not None:
        changes["weights"] = str(Path(recipe.weights).absolute())
    if recipe.backbone.startswith("hf/"):
        changes["backbone"] = _from_hub(recipe.backbone)
    return recipe.model_copy(update=changes)


def _from_hub(name: str) -> str:
    """hf/./folder with the folder's absolute path; an id as it is."""
    return f"hf/{Path(name.removeprefix('hf/')).absolute()}" if name.startswith("hf/.") else name


def open_run(path: str | Path) -> Run:
    """The run in this folder.

    Raises:
        RunError: it is not a run.
    """
    folder = Path(path)
    if not (folder / "recipe.json").is_file():
        raise RunError(f"{folder} is not a run: it holds no recipe.json. graft train begins one.")
    return Run(folder.resolve() if folder.is_symlink() else folder)


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Make the run's folder where it is missing, and hold it against other processes.

    Raises:
        RunError: another process works on it, or it cannot be made.
    """
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        lock = (run.folder / "lock").open("a")
    except OSError as error:
        raise RunError(f"The run folder {run.folder} cannot be made: {error.strerror}.") from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{run.folder} is in use by another run; wait for it, or name another folder with --out."
            ) from None
        _clear_half_written(run)
        yield


def _clear_half_written(run: Run) -> None:
    for path in run.folder.iterdir():
        if _HALF_WRITTEN.fullmatch(path.name):
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
    """Let ``runs/latest`` point to the run, where the file system has symbolic links.

    The link stands beside the run where that is in a folder named ``runs``, else in the ``runs`` of the
    working folder, if there is one. Anything but a link of that name is left alone.
    """
    home = run.folder.parent if run.folder.absolute().parent.name == RUNS.name else RUNS
    latest = home / LATEST
    if not home.is_dir() or (latest.exists() and not latest.is_symlink()):
        return
    target = os.path.relpath(run.folder.absolute(), home.absolute())
    link = home / f".{LATEST}.{os.getpid()}"
    with contextlib.suppress(OSError):
        link.unlink(missing_ok=True)
        link.symlink_to(target, target_is_directory=True)
        try:
            link.replace(latest)
        finally:
            link.unlink(missing_ok=True)


class Log:
    """The run's records as JSON lines, and as TensorBoard events where that is installed.

    What the doctor finds in them stands below the record that showed it.
    """

    def __init__(
        self, run: Run, records: int, steps_before: Sequence[int] = (0,), watch: Watch | None = None
    ) -> None:
        """Go on after the first ``records`` records of training; later ones are of steps that run again.

        ``steps_before``: for each phase, the steps of the phases before it (:func:`count_before`).
        """
        self._watch = watch or Watch()
        kept = _first_records(run.log, records)
        lines = [line for values in kept for line in (values, *self._seen(values))]
        write_text(run.log, "".join(map(_line, lines)))
        self._file: IO[str] = run.log.open("a", encoding="utf-8")
        self._steps_before = steps_before
        done = [self._place(values) for values in kept if "step" in values]
        self._board = _tensorboard(run.folder / "tensorboard", max(done) + 1 if done else None)

    def write(self, record: Record) -> tuple[Found, ...]:
        """Keep a record; what the doctor sees in it is kept as well, and returned."""
        if not record.logged:
            return ()
        values = {key: _plain(value) for key, value in record.to_dict().items()}
        seen = self._watch.see(values)
        told = tuple(tell(finding, record.phase) for finding in seen)
        self._file.write("".join(map(_line, (values, *(each.to_dict() for each in told)))))
        self._file.flush()
        if self._board is not None and "step" in values:
            _log_scalars(self._board, values, self._place(values))
        return told

    def _seen(self, values: dict[str, Any]) -> list[dict[str, Any]]:
        return [tell(finding, values["phase"]).to_dict() for finding in self._watch.see(values)]

    def _place(self, values: dict[str, Any]) -> int:
        """Steps done in the whole run, which is where TensorBoard draws a record."""
        return int(self._steps_before[values["phase"]]) + int(values["step"])

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def tell(finding: Finding, phase: int) -> Found:
    """The record of a finding that was met in a phase."""
    return Found(phase, finding.id, finding.severity, finding.measured, finding.why, finding.cure)


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values) + "\n"


def _first_records(path: Path, count: int) -> list[dict[str, Any]]:
    """The first records of training in a log, as plain values; findings are not counted, nor returned."""
    if not path.exists():
        return []
    return list(islice((each for each in _whole_records(path) if each["record"] != "found"), count))


def _whole_records(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):  # a power cut may tear the last one
                yield json.loads(line)


def count_before(plan: Plan) -> list[int]:
    """For each phase, the steps of those before it."""
    lengths = [phase.steps if isinstance(phase, Phase) else 0 for phase in plan.phases]
    return [sum(lengths[:index]) for index in range(len(lengths))]


def _tensorboard(folder: Path, purge: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=purge)


def _log_scalars(board: Any, values: dict[str, Any], step: int) -> None:
    prefix = f"phase {values['phase'] + 1}/{'validation' if 'best' in values else 'training'}"
    for key in ("loss", "accuracy", "rate"):
        if values.get(key) is not None:
            board.add_scalar(f"{prefix}/{key}", values[key], step)


def _fresh_name(recipe: Recipe) -> Path:
    data = Path(recipe.data.path).stem.replace(":", "-") or "data"
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = f"{stamp}-{data}-{recipe.strategy.replace(':', '')}"
    names = (RUNS / (base if not n else f"{base}-{n}") for n in range(1000))
    return next(path for path in names if not path.exists())
