"""The log of a run, metrics.jsonl: one JSON line for each record, flushed as it is written.

A power cut or a full disk may tear any line of it, or leave zeros. Such lines are passed over and counted:
a log describes training, and what can be gone on with does not depend on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import IO, Any

from graft import records as kinds
from graft.diagnosis.findings import Finding
from graft.diagnosis.training_checks import Watch
from graft.files import write_text
from graft.records import Found, Record

# What a record of each kind cannot do without.
_NEEDED = {
    kind.__name__.lower(): {each.name for each in fields(kind) if each.default is MISSING}
    for kind in vars(kinds).values()
    if isinstance(kind, type) and issubclass(kind, Record)
}
_WHOLE_NUMBERS = ("phase", "epoch", "step")


@dataclass(frozen=True)
class Lines:
    """The lines of a log in their order, None for each that is damaged."""

    path: Path
    lines: tuple[dict[str, Any] | None, ...]

    @property
    def records(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line is not None]

    @property
    def damage(self) -> str | None:
        """What is wrong, in a sentence; None where every line can be read."""
        count = self.lines.count(None)
        if not count:
            return None
        lines, are, were = ("1 line", "is", "was") if count == 1 else (f"{count} lines", "are", "were")
        return f"{lines} of {self.path} {are} damaged (a power cut can do this) and {were} skipped."


def read_log(path: Path) -> Lines:
    """The lines of a log; of one that is not there, none."""
    if not path.is_file():
        return Lines(path, ())
    with path.open("rb") as file:
        return Lines(path, tuple(_read_line(line) for line in file if line.strip()))


def _read_line(line: bytes) -> dict[str, Any] | None:
    """The values of a whole record; None for anything else."""
    if not line.endswith(b"\n"):
        return None
    try:
        values = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not isinstance(values.get("record"), str):
        return None
    whole = values.keys() >= _NEEDED.get(values["record"], {"phase"})
    numbers = all(type(values.get(name, 0)) is int and values.get(name, 0) >= 0 for name in _WHOLE_NUMBERS)
    return values if whole and numbers else None


class Log:
    """The run's records as JSON lines, and as TensorBoard events where that is installed.

    What the doctor finds in them stands below the record that showed it. ``noted``: what to report of
    the log itself, as it was found.
    """

    def __init__(
        self,
        folder: Path,
        records: int,
        steps_before: Sequence[int] = (0,),
        watch: Watch | None = None,
        *,
        reached: tuple[int, int] | None = None,
    ) -> None:
        """Go on after the first ``records`` records of training; later ones are of steps that run again.

        ``steps_before``: for each phase, the steps of the phases before it. ``reached``: the phase and the
        steps of it that are done, which tell records apart where lines are damaged.
        """
        self._watch = watch or Watch()
        self._steps_before = steps_before
        path = folder / "metrics.jsonl"
        found = read_log(path)
        kept = _first_records(found, records, reached)
        self.noted = () if found.damage is None else (_note(reached[0] if reached else 0, found.damage),)
        lines = [line for values in kept for line in (values, *self._seen(values))]
        lines += [note.to_dict() for note in self.noted]
        write_text(path, "".join(map(_line, lines)))
        self._file: IO[str] = path.open("a", encoding="utf-8", newline="\n")
        done = [self._place(values) for values in kept if "step" in values]
        self._board = _tensorboard(folder / "tensorboard", max(done) + 1 if done else None)

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


def add_finding(path: Path, finding: Finding, phase: int) -> None:
    """Append a finding that was made after training."""
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(_line(tell(finding, phase).to_dict()))


def tell(finding: Finding, phase: int) -> Found:
    """The record of a finding that was met in a phase."""
    return Found(phase, finding.id, finding.severity, finding.measured, finding.why, finding.cure)


def _note(phase: int, damage: str) -> Found:
    why = "Curves in the report lack these records; weights and checkpoints are not affected."
    return Found(phase, "run.log", "note", damage, why, "Nothing needs to be done.")


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values) + "\n"


def _first_records(found: Lines, count: int, reached: tuple[int, int] | None) -> list[dict[str, Any]]:
    """The first ``count`` records of training; findings are neither counted nor returned.

    Where lines are damaged their number is not sure: what lies beyond ``reached`` runs again in any case.
    """
    counted = [line for line in found.lines if line is None or line["record"] != "found"][:count]
    kept = [line for line in counted if line is not None]
    if found.damage is None or reached is None:
        return kept
    return [line for line in kept if (line["phase"], line.get("step", 0)) <= reached]


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
