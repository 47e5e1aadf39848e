"""The table in docs/odd-inputs.md: one line for each rule about odd input, from the tests that state it.

A test that states such a rule carries ``@pytest.mark.odd_input("AREA")``, and its docstring begins with
``The input: what graft does.`` Run this file to write the table anew; test_odd_inputs.py fails where the
table is behind the tests.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "odd-inputs.md"
AREAS = (
    "Parts of the data",
    "Cells and labels",
    "Pictures",
    "Texts",
    "Predictions",
    "Weights and models",
    "Bundles of strangers",
    "Feature cache",
    "Training",
    "Building blocks and advice",
    "Processes",
    "Files and streams",
    "Names in terminals and pages",
    "Systems",
)
HEAD = """# Odd inputs

This page lists what graft does with input that is unusual, damaged or hostile. Each line is a rule that a
test states; `python tests/odd_inputs.py` writes the page from these tests.
"""


class Rule(NamedTuple):
    area: str
    given: str
    done: str


def find_rules(folder: Path = TESTS) -> list[Rule]:
    """The rules of all tests below ``folder``, in the order of AREAS, then of files and lines.

    Raises ValueError, with the test's name, where an area is unknown or a docstring states no rule.
    """
    found = [rule for path in sorted(folder.rglob("test_*.py")) for rule in _rules_of(path)]
    return sorted(found, key=lambda rule: AREAS.index(rule.area))


def render(rules: list[Rule]) -> str:
    """The page, as Markdown."""
    blocks = [HEAD]
    for area in AREAS:
        rows = [f"| {rule.given} | {rule.done} |" for rule in rules if rule.area == area]
        if rows:
            blocks.append(
                "\n".join([f"## {area}\n", "| input | what graft does |", "|---|---|", *rows]) + "\n"
            )
    return "\n".join(blocks)


def _rules_of(path: Path) -> Iterator[Rule]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            for area in filter(None, map(_area_of, node.decorator_list)):
                yield _read_rule(area, node, path)


def _area_of(decorator: ast.expr) -> str | None:
    if not isinstance(decorator, ast.Call) or not ast.unparse(decorator.func).endswith("mark.odd_input"):
        return None
    return str(ast.literal_eval(decorator.args[0]))


def _read_rule(area: str, node: ast.FunctionDef, path: Path) -> Rule:
    first = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    given, colon, done = first.partition(": ")
    if area not in AREAS or not colon:
        raise ValueError(
            f"{path.name}::{node.name}: expected an area of {AREAS} and a docstring 'input: rule'"
        )
    return Rule(area, given.replace("|", "\\|"), (done[0].upper() + done[1:]).replace("|", "\\|"))


if __name__ == "__main__":
    PAGE.write_text(render(find_rules()), encoding="utf-8")
