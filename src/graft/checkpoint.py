"""Exact resume: everything that training may change, in a folder that is whole or absent.

A checkpoint holds the values that the plan lets change (never the frozen trunk), the optimiser's
state by canonical parameter name, the best weights so far, and the position in the plan. There is no
generator state in it, for all randomness is a function of the position. Only the newest is kept.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from graft.backbones.stored import load_tensors, read_layout
from graft.errors import RunError, TrainingError
from graft.files import new_folder, read_json, sha256_file, write_json

TENSORS = ("model", "optimizer", "best", "average", "start", "seen")


@dataclass(frozen=True)
class Position:
    """Where in the plan training stands, between two optimiser steps.

    ``step`` counts the steps done in this epoch, ``epoch`` the epochs done in this phase,
    ``epochs_before`` those of earlier phases; ``records`` the lines of the run's log. ``loss_sum`` and
    ``right`` are running sums over the epoch's steps: of their losses, and of items that were right, of
    ``counted`` in all. ``leaders`` describe the best validations of the phase. ``begun`` and ``ended``:
    whether the log holds the first and the last record of a phase of gradient steps. ``adapted``: stages
    whose batch-norm statistics were re-estimated.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    epochs_before: int = 0
    begun: bool = False
    validated: bool = False
    ended: bool = False
    loss_sum: float = 0.0
    right: float = 0.0
    counted: int = 0
    leaders: list[dict[str, float]] = field(default_factory=list)
    waited: int = 0
    saves: int = 0
    records: int = 0
    solved: dict[str, float | None] | None = None
    ends: list[dict[str, Any]] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    selected: dict[str, Any] | None = None
    calibrated: dict[str, Any] | None = None
    seconds: float = 0.0

    def next_phase(self) -> Position:
        return replace(
            Position(),
            phase=self.phase + 1,
            epochs_before=self.epochs_before + self.epoch,
            saves=self.saves,
            records=self.records,
            solved=self.solved,
            ends=self.ends,
            adapted=self.adapted,
            selected=self.selected,
            calibrated=self.calibrated,
            seconds=self.seconds,
        )


@dataclass(frozen=True)
class Checkpoint:
    """A position and the tensors that belong to it, on the CPU, by name."""

    position: Position
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    start: dict[str, Tensor] = field(default_factory=dict)
    seen: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, in ``folder``; ``run`` ties them to the run that wrote them."""

    folder: Path
    run: str

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint, then drop its predecessors.

        Raises:
            TrainingError: the disk is full or cannot be written; the checkpoint before is intact.
        """
        path = self.folder / f"{checkpoint.position.saves:08d}"
        try:
            # A damaged one, passed over by newest(), and what saves that were killed left behind.
            for old in (path, *self.folder.glob(".*")):
                shutil.rmtree(old, ignore_errors=True)
            with new_folder(path) as fresh:
                hashes = {}
                for name in TENSORS:
                    file = fresh / f"{name}.safetensors"
                    save_file(getattr(checkpoint, name), file)
                    hashes[file.name] = sha256_file(file)
                state = {"run": self.run, "position": asdict(checkpoint.position), "files": hashes}
                write_json(fresh / "state.json", state | {"digest": _digest(state)})
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"The checkpoint {path} could not be written: {reason_of(error)}. The one before it is "
                "intact: make room, then go on with graft resume."
            ) from None
        for old in self._folders()[:-1]:
            shutil.rmtree(old, ignore_errors=True)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None before the first.

        Raises:
            RunError: checkpoints are there, but every one of them is damaged or of another run.
        """
        problems = []
        for path in reversed(self._folders()):
            try:
                return self._load(path)
            except RunError as error:
                problems.append(str(error))
        if problems:
            raise RunError("No checkpoint of this run can be read:\n" + "\n".join(problems))
        return None

    def _load(self, path: Path) -> Checkpoint:
        state = read_json(path / "state.json", RunError)
        try:
            digest = state.pop("digest")
            position, run, files = Position(**state["position"]), state["run"], state["files"]
        except (AttributeError, KeyError, TypeError):
            raise RunError(f"{path}/state.json is damaged: keys are missing.") from None
        if digest != _digest(state):
            raise RunError(f"{path}/state.json is damaged: its content does not match its digest.")
        if run != self.run:
            raise RunError(f"{path} belongs to another run ({run}).")
        tensors = {
            name: self._read(path / f"{name}.safetensors", files)
            for name in TENSORS
            if name != "seen" or "seen.safetensors" in files  # which older runs did not keep
        }
        return Checkpoint(position, **tensors)

    def _read(self, file: Path, hashes: dict[str, Any]) -> dict[str, Tensor]:
        read_layout(file, RunError, within=self.folder)  # before it is hashed: a pipe has no end
        try:
            if sha256_file(file) != hashes.get(file.name):
                raise RunError(f"{file} is damaged: its content does not match its hash.")
        except OSError as error:
            raise RunError(f"Cannot read {file}: {reason_of(error)}.") from None
        return load_tensors(file, RunError, within=self.folder)

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if re.fullmatch(r"\d{8}", path.name))


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[Tensor, str]) -> dict[str, Tensor]:
    """The optimiser's state by ``key::parameter name``, copied to the CPU."""
    return {
        f"{key}::{names[parameter]}": torch.as_tensor(value).detach().cpu().contiguous().clone()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], parameters: Mapping[str, Tensor]
) -> None:
    """Give the optimiser the state of those parameters that it trains; others are left out."""
    mine = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, tensor in tensors.items():
        key, _, parameter_name = name.partition("::")
        parameter = parameters[parameter_name]
        if id(parameter) in mine:
            # The parameter's own memory layout, or vectorised kernels may round differently.
            like = torch.empty_like(parameter) if tensor.dim() else torch.empty((), device=parameter.device)
            state = like.copy_(tensor)
            optimizer.state[parameter][key] = state


def copy_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU, as they are saved."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _digest(state: dict[str, Any]) -> str:
    return sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def reason_of(error: Exception) -> str:
    """Why a file could not be read or written, in a few words."""
    if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "os error 28" in str(error):
        return "the disk is full"
    return getattr(error, "strerror", None) or str(error)
