"""A launcher is known by all that torchrun sets; whatever else says so is left over, and told."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft import engine
from graft.engine import meet, start_engine
from graft.errors import LaunchError
from graft.numerics import Numerics
from graft.system.launch import Launch, find_launch, single_process
from small import launched

LAUNCHED = launched(1, 2)
CPU = Numerics(device="cpu", precision="fp32", workers=0, threads=1, processes=1)


def test_what_torchrun_sets_is_a_launch() -> None:
    assert find_launch(LAUNCHED) == Launch(rank=1, world_size=2, local_rank=1)
    assert not find_launch(LAUNCHED).main
    assert find_launch(LAUNCHED | {"RANK": "0", "LOCAL_RANK": "0"}).main
    assert find_launch({}) == find_launch(LAUNCHED | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"})


ODD = st.sampled_from(["", " ", "-1", "2", "7", "x", "1.0", "٣", "1_0", "9" * 5000, "\x00"])


@pytest.mark.odd_input("Processes")
@given(name=st.sampled_from(sorted(LAUNCHED)), value=ODD, gone=st.booleans())
def test_leftovers_of_a_launcher_are_told_and_ignored(name: str, value: str, gone: bool) -> None:
    """`RANK`, `WORLD_SIZE` or `LOCAL_RANK` left over in the environment: graft runs as a single process and
    says so, unless all variables that torchrun sets are there and agree with each other."""
    kept = {key: text for key, text in LAUNCHED.items() if key != name}
    environment = kept if gone else kept | {name: value}
    found = find_launch(environment)
    if name == "MASTER_ADDR" and value.strip() and not gone:
        return  # any name may be a host's
    if name == "WORLD_SIZE" and value in ("2", "7") and not gone:
        return
    if name == "MASTER_PORT" and value in ("2", "7") and not gone:
        return
    assert (found.rank, found.world_size, found.local_rank) == (0, 1, 0)
    assert found.ignored is not None and "single process" in found.ignored and "torchrun" in found.ignored


@pytest.mark.parametrize(
    "environment", [{"RANK": ""}, {"RANK": "0"}, {"WORLD_SIZE": "1"}, {"MASTER_PORT": "x"}]
)
def test_what_says_a_single_process_anyway_is_no_news(environment: dict[str, str]) -> None:
    assert find_launch(environment) == Launch()


@pytest.mark.odd_input("Processes")
@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_processes_of_mpi_and_slurm_work_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of MPI or SLURM that count several processes: each process works alone, and says so."""
    assert find_launch({name: "1"}).ignored is None
    assert name in (find_launch({name: "4"}).ignored or "")
    for key, value in {name: "4", "OMPI_COMM_WORLD_RANK": "3", "LOCAL_RANK": "", "WORLD_SIZE": "x"}.items():
        monkeypatch.setenv(key, value)
    made = start_engine(CPU)
    assert (made.rank, made.processes) == (0, 1)
    assert os.environ[name] == "4"


def test_libraries_see_a_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with single_process():
        assert "ACCELERATE_USE_DEEPSPEED" not in os.environ
    assert os.environ["ACCELERATE_USE_DEEPSPEED"] == "true"


@pytest.mark.odd_input("Processes")
@pytest.mark.parametrize("rank", ["0", "1"])
def test_others_that_never_come_are_not_waited_for_without_end(
    rank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All variables of a launcher, but the other processes do not come: exit 2 after a minute at most."""
    for key, value in (LAUNCHED | {"RANK": rank}).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(engine, "MEET_WITHIN", timedelta(seconds=1))
    meet.cache_clear()
    began = time.monotonic()
    with pytest.raises(LaunchError, match=r"did not meet at 127\.0\.0\.1:29511 within 1 s") as error:
        meet()
    assert time.monotonic() - began < 20
    assert error.value.exit_code == 2
