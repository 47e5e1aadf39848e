"""The log of a run may be torn anywhere: what can be read counts, and what cannot is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft import records
from graft.run_log import Log, read_log

STEPS = [records.Stepped(phase=0, epoch=1, step=step, loss=0.5, rate=1e-3) for step in range(1, 9)]
TORN = st.sampled_from(
    [
        b"\0" * 40,
        b"\xff\xfe{}",
        b'{"record": "step',
        b"[1, 2]",
        b"17",
        b"{}",
        b'{"record": "stepped", "phase": 0}',
        b'{"record": "stepped", "phase": "x", "epoch": 1, "step": 1, "loss": 0, "rate": 0}',
        b"[" * 100_000,
    ]
)


@pytest.mark.odd_input("Files and streams")
@given(place=st.integers(0, 7), torn=TORN, swallowed=st.integers(0, 3), reached=st.integers(0, 8))
def test_a_torn_line_is_passed_over_told_and_not_made_good_twice(
    tmp_path_factory: pytest.TempPathFactory, place: int, torn: bytes, swallowed: int, reached: int
) -> None:
    """Lines of `metrics.jsonl` that are zeros, cut off or not UTF-8: `graft resume` and `graft report` go
    on with all others, and say how many there were."""
    folder = tmp_path_factory.mktemp("torn")
    log = Log(folder, 0)
    for step in STEPS:
        log.write(step)
    log.close()
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[place : place + 1 + swallowed] = [torn] if place + swallowed < 7 else [torn, b""]
    path.write_bytes(b"\n".join(lines))

    found = read_log(path)
    left = [step.step for step in STEPS if not place < step.step <= place + 1 + swallowed]
    assert [record["step"] for record in found.records] == left
    assert found.damage is not None and found.damage.startswith(f"1 line of {path} is damaged")

    again = Log(folder, reached, reached=(0, reached))
    (note,) = again.noted
    assert (note.id, note.measured) == ("run.log", found.damage)
    for step in STEPS[reached:]:
        again.write(step)
    again.close()
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines() if '"step"' in line]
    assert steps == sorted(set(steps)) and set(range(reached + 1, 9)) <= set(steps) <= set(range(1, 9))
    assert read_log(path).damage is None


@pytest.mark.parametrize("end", [b'{"record": "step', b"\0\0\0"])
def test_the_last_line_may_be_torn_as_well(tmp_path: Path, end: bytes) -> None:
    log = Log(tmp_path, 0)
    log.write(STEPS[0])
    log.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(end)
    found = read_log(tmp_path / "metrics.jsonl")
    assert len(found.records) == 1 and found.damage is not None
