"""Standard streams that are closed, full or not read any more end no work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What a verb does that works and then answers, in a process of its own whose streams can be taken away.
VERB = """
import sys
sys.modules["rich"] = None  # or importing it would take longer than all the rest
from graft import cli
def app(**_):
    for _ in range(9000):
        print("answer \\u2603 \\udcff")
    print("progress \\u2603", file=sys.stderr)
    open(sys.argv[1], "w").write("done")
cli.app = app
cli.main()
"""


def answer(where: str, tmp_path: Path, **environment: str) -> tuple[int, str, str]:
    """Exit code, output and error output of the verb under bash, behind whose words ``where`` stands."""
    script = tmp_path / "verb.py"
    script.write_text(VERB)
    words = f"set -o pipefail; {sys.executable} {script} {tmp_path / 'done'} {where}"
    done = subprocess.run(
        ["bash", "-c", words], capture_output=True, check=False, env=os.environ | environment, timeout=60
    )
    assert (tmp_path / "done").read_text() == "done"
    return done.returncode, done.stdout.decode(), done.stderr.decode()


CASES = {
    "": (0, "", {}),
    ">&-": (0, "", {}),
    "2>&-": (0, "", {}),
    "<&- >&- 2>&-": (0, "", {}),
    "2>/dev/full": (0, "", {}),
    ">/dev/full": (1, "graft: Standard output could not be written: No space left on device.", {}),
    ">/dev/full 2>/dev/full": (1, "", {}),
    "| head -1": (1, "", {}),
    "2>&1 >&- | cat": (0, "", {"PYTHONIOENCODING": "cp1252"}),
}


@pytest.mark.odd_input("Files and streams")
@pytest.mark.skipif(sys.platform == "win32", reason="bash and /dev/full are needed")
@pytest.mark.parametrize("where", CASES)
def test_output_that_cannot_be_written_ends_no_work(where: str, tmp_path: Path) -> None:
    """Standard output or error closed, full, or a pipe that is not read to its end: graft does
    all of its work, and exits with 1 if its answer could not be written (a stream that was closed from the
    start asks for none)."""
    code, words, environment = CASES[where]
    found, out, err = answer(where, tmp_path, **environment)
    assert found == code, err
    assert "Traceback" not in out + err and "Exception ignored" not in out + err
    assert words in err


@pytest.mark.odd_input("Files and streams")
def test_characters_that_a_stream_cannot_take_are_escaped(tmp_path: Path) -> None:
    """A console whose encoding lacks a character (cp1252): graft writes the character escaped."""
    code, out, _ = answer("", tmp_path, PYTHONIOENCODING="cp1252")
    assert code == 0
    assert out.startswith("answer \\u2603 \\udcff\n")
    assert answer("", tmp_path, LC_ALL="C")[1].startswith("answer ☃ \\udcff\n")
