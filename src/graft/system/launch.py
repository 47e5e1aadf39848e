"""Which of several processes this one is: what torchrun put into the environment, or the only one.

The same variables are left over in shells, containers and batch jobs, without a launcher. They count only
all together and where they agree with each other; otherwise graft runs as a single process and says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
MEETING = ("MASTER_ADDR", "MASTER_PORT")
# Of MPI and SLURM: how many processes they started. graft is not started by them.
_OF_OTHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
_READ_BY_LIBRARIES = (*NUMBERS, *_OF_OTHERS, "LOCAL_WORLD_SIZE")
_PREFIXES = ("ACCELERATE_", "PMI_", "MPI_", "OMPI_", "MV2_")
_CURE = "Start several processes with torchrun --nproc-per-node N -m graft train …"


@dataclass(frozen=True)
class Launch:
    """This process among ``world_size``; ``ignored``: a sentence on what does not count."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    ignored: str | None = None

    @property
    def main(self) -> bool:
        """Whether this is the only process, or the first of several."""
        return self.rank == 0


def find_launch(environment: Mapping[str, str] | None = None) -> Launch:
    """What the environment says of this process (default: the process's own). Never raises."""
    found = os.environ if environment is None else environment
    wrong = _why_not(found)
    if wrong is None:
        rank, world_size, local_rank = (int(found[name]) for name in NUMBERS)
        return Launch(rank, world_size, local_rank) if world_size > 1 else Launch()
    given = [f"{name}={found[name]}" for name in NUMBERS if name in found]
    if given and not _says_single(found):
        told = f"Ignoring {', '.join(given)} from the environment: {wrong}"
        return Launch(ignored=f"{told}; graft runs as a single process. {_CURE}.")
    for name in _OF_OTHERS:
        if _number(found.get(name)) > 1:
            told = f"Ignoring {name}={found[name]} from the environment: this process works alone"
            return Launch(ignored=f"{told}. {_CURE}.")
    return Launch()


@contextmanager
def single_process() -> Iterator[None]:
    """Inside, the environment says nothing of several processes, nor how a library is to run."""
    names = [name for name in os.environ if name in _READ_BY_LIBRARIES or name.startswith(_PREFIXES)]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _why_not(found: Mapping[str, str]) -> str | None:
    """What keeps the variables from being those of a launcher; None where nothing does."""
    missing = [name for name in (*NUMBERS, *MEETING) if not found.get(name, "").strip()]
    if missing:
        which = "which is missing" if len(missing) == 1 else "which are missing"
        return f"torchrun also sets {_listed(missing)}, {which}"
    rank, world_size, local_rank = (_number(found[name]) for name in NUMBERS)
    if min(rank, world_size, local_rank) < 0:
        return "these are not all whole numbers"
    if not max(rank, local_rank) < world_size:
        return "a rank must be below WORLD_SIZE"
    if not 0 < _number(found["MASTER_PORT"]) < 65536:
        return f"MASTER_PORT={found['MASTER_PORT']} is no port"
    return None


def _says_single(found: Mapping[str, str]) -> bool:
    """Whether what is set describes a single process anyway."""
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    return all(found.get(name, value).strip() in ("", value) for name, value in alone.items())


def _number(text: str | None) -> int:
    """A whole number as it is written in ASCII digits; -1 for anything else."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
