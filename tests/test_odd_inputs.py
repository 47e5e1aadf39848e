"""The page of odd inputs is what the tests say."""

from __future__ import annotations

from pathlib import Path

import pytest

from odd_inputs import PAGE, Rule, find_rules, render


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(find_rules()), "run python tests/odd_inputs.py"


def test_a_rule_is_read_from_a_docstring(tmp_path: Path) -> None:
    words = '"""An empty text: it is\n    a row.\n\n    More."""'
    (tmp_path / "test_a.py").write_text(f'@pytest.mark.odd_input("Texts")\ndef test_x():\n    {words}\n')
    assert find_rules(tmp_path) == [Rule("Texts", "An empty text", "It is a row.")]


@pytest.mark.parametrize("area, words", [("Nowhere", "A: b."), ("Texts", "No rule.")])
def test_what_states_no_rule_is_named(tmp_path: Path, area: str, words: str) -> None:
    test = f'@pytest.mark.odd_input("{area}")\ndef test_x():\n    """{words}"""\n'
    (tmp_path / "test_a.py").write_text(test)
    with pytest.raises(ValueError, match=r"test_a\.py::test_x"):
        find_rules(tmp_path)
