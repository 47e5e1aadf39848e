"""Files that once broke something, and five seconds of new ones; ``make fuzz`` goes on for longer."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="a case is bounded by limits of Linux"),
    pytest.mark.filterwarnings("default"),  # a damaged file may well deserve a library's warning
]
if sys.platform == "linux":
    from targets import Target, make_targets

    from fuzz import CASES, Fault, fault_of, make_case, make_small, search


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return make_targets(tmp_path_factory.mktemp("sound"))


def test_sound_files_are_accepted(targets: dict[str, Target], tmp_path: Path) -> None:
    for target in targets.values():
        for number, content in enumerate(target.sound):
            folder = tmp_path / target.name / str(number)
            folder.mkdir(parents=True)
            assert fault_of(target, content) is None, target.name


def test_what_once_failed_is_refused_or_accepted(targets: dict[str, Target]) -> None:
    by_file = {name.replace(" ", "_"): target for name, target in targets.items()}
    for case in sorted(CASES.glob("*.bin")):
        fault = fault_of(by_file[case.name.rpartition("-")[0]], case.read_bytes())
        assert fault is None, f"{case.name}: {fault and fault.words}"


@pytest.mark.odd_input("Files and streams")
def test_damaged_files_are_refused_in_words(targets: dict[str, Target]) -> None:
    """Pictures, tables, weights, bundles, recipes and logs with damaged bytes, lines or values: graft
    reads what it can and refuses the rest with a message, without a traceback or a hang, in 1.5 GB at most.
    """
    found = search(targets, seed=0, seconds=5)
    assert found.cases.total() > 0
    assert [fault.words for fault in found.faults.values()] == []


def break_at_x(content: bytes, _folder: Path) -> None:
    if b"x" in content:
        raise KeyError("x")


def end_at_x(content: bytes, _folder: Path) -> None:
    if b"x" in content:
        os._exit(7)


def fill_memory_at_x(content: bytes, _folder: Path) -> None:
    if b"x" in content:
        bytearray(3 * 10**9)


@pytest.mark.parametrize("run", [break_at_x, end_at_x, fill_memory_at_x])
def test_a_fault_is_found_and_made_small(run: object) -> None:
    def add_x(content: bytes, *_: object) -> bytes:
        return content + b"x" + content

    target = Target("broken", run, [b"abc" * 10], (add_x,))  # type: ignore[arg-type]
    (fault,) = search({"broken": target}, seed=0, seconds=1).faults.values()
    assert fault.content == b"x"
    assert fault.target == "broken" and fault.name.startswith("broken-")


def test_a_case_is_a_function_of_seed_and_number(targets: dict[str, Target]) -> None:
    target = targets["picture"]
    assert make_case(target, 1, 7) == make_case(target, 1, 7)
    assert len({make_case(target, seed, number) for seed in (1, 2) for number in range(8)}) > 8


def test_what_is_no_fault_any_more_stays_as_it_was() -> None:
    target = Target("fine", lambda _content, _folder: None, [b""], ())
    fault = Fault("fine", "fine: KeyError", b"abc", "")
    assert make_small(target, fault) == fault
