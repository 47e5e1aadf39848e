"""Reading in threads: in order, a few ahead, and never left hanging."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from graft.data.threads import MOST, read_in_threads, thread_count


def test_results_come_in_order_whichever_is_done_first() -> None:
    def read(number: int) -> tuple[int, str]:
        time.sleep(0.002 * (number % 3 == 0))
        return number, threading.current_thread().name

    found = list(read_in_threads(read, range(40)))
    assert [number for number, _ in found] == list(range(40))
    assert 1 <= len({name for _, name in found}) <= thread_count() <= MOST
    assert list(read_in_threads(read, [])) == []


def test_few_results_wait_to_be_taken() -> None:
    begun: list[int] = []
    found = read_in_threads(begun.append, range(1000))
    for taken in range(1, 30):
        next(found)
        time.sleep(0.001)
        assert len(begun) < taken + 2 * thread_count()
    found.close()


def test_an_exception_ends_it_at_its_items_turn_and_the_rest_is_not_begun() -> None:
    begun: list[int] = []

    def read(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise ValueError("torn")
        return number

    taken: list[int] = []
    with pytest.raises(ValueError, match="torn"):
        taken.extend(read_in_threads(read, range(1000)))
    assert taken == [0, 1, 2]
    assert len(begun) <= 3 + 2 * thread_count()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # of forking beside threads: that is what is tested
def test_a_forked_process_has_threads_of_its_own() -> None:
    """Its parent's are not there: waiting for them would never end."""
    assert list(read_in_threads(abs, range(-20, 0))) == list(range(20, 0, -1))
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            code = 42 if list(read_in_threads(abs, range(-20, 0))) == list(range(20, 0, -1)) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
