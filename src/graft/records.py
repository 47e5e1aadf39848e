"""What training tells while it goes: one frozen record for each thing that happened.

Whoever wants to watch or steer training iterates over these; there are no callbacks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

LOOKED_AT = 512  # validation items whose features tell how many directions they spread in


@dataclass(frozen=True)
class Record:
    """The base of all records: ``phase`` is the index of the plan's phase it belongs to."""

    phase: int

    logged: ClassVar[bool] = True

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the record's kind under ``record``."""
        return {"record": type(self).__name__.lower(), **asdict(self)}


@dataclass(frozen=True)
class Started(Record):
    """A phase begins; ``total`` counts its steps (1 for a solved head)."""

    name: str
    total: int
    done: int = 0


@dataclass(frozen=True)
class Resumed(Started):
    """A phase goes on after ``done`` of its steps; the log holds its beginning already."""

    logged: ClassVar[bool] = False


@dataclass(frozen=True)
class Extracted(Record):
    """``done`` of ``total`` pictures went through the frozen trunk."""

    done: int
    total: int

    logged: ClassVar[bool] = False


@dataclass(frozen=True)
class Solved(Record):
    """The head is solved: the L2 strength kept, and its out-of-fold loss (nats) and accuracy.

    ``accuracy``, here and below, is the macro mean average precision of a multi-label task.

    Both are None where every class has a single picture, so that none could be held out.
    """

    strength: float
    loss: float | None
    accuracy: float | None
    strengths_tried: int


@dataclass(frozen=True)
class Stepped(Record):
    """One optimiser step: ``step`` counts from 1 within the phase; ``loss`` is the batch's, in nats.

    ``rate`` is the head's learning rate in this step. ``idle``: stages that train and were given no
    gradient by this batch.
    """

    epoch: int
    step: int
    loss: float
    rate: float
    idle: tuple[str, ...] = ()


@dataclass(frozen=True)
class Validated(Record):
    """The model met the validation data after ``epoch`` epochs (0: at the start of the phase).

    ``train_loss`` is the mean over the epoch's steps, None at epoch 0; ``loss`` and ``accuracy`` are
    None without validation data. ``train_accuracy`` is of the epoch's training items as the steps met
    them, by the task's own score (:attr:`graft.task.Task.score_name`): augmented, with dropout, by weights
    that move meanwhile. Mixed items count by the label of the larger share. None at epoch 0, and in a
    contrastive phase, which has no head. ``best``: these weights are the ones kept so far. ``rank``: how
    many directions the features of validation items spread in (:func:`graft.metrics.effective_rank`).
    """

    epoch: int
    step: int
    loss: float | None
    accuracy: float | None
    best: bool
    train_loss: float | None
    rank: float | None = None
    train_accuracy: float | None = None


@dataclass(frozen=True)
class Found(Record):
    """The doctor met a known mistake in the course of training (see :mod:`graft.diagnosis`); told once."""

    id: str
    severity: str
    measured: str
    why: str
    cure: str


@dataclass(frozen=True)
class Selected(Record):
    """The choice after training: the winner's name, and of each candidate its validation scores."""

    winner: str
    candidates: dict[str, Any]


@dataclass(frozen=True)
class Calibrated(Record):
    """The temperature of the probabilities, and the calibration error (ECE) before and after."""

    temperature: float
    error_before: float
    error_after: float


@dataclass(frozen=True)
class Finished(Record):
    """A phase ended; ``kept_epoch`` tells whose weights go on, None where nothing could decide."""

    kept_epoch: int | None
    epochs: int
