"""The doctor on the smallest data."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.errors import GraftError
from graft.examination import examine
from graft.preparation import prepare
from graft.recipe import read_recipe
from small import COLOURS, SETTINGS, write_pictures


@pytest.mark.odd_input("Building blocks and advice")
@pytest.mark.parametrize("counts", [(1, 1, 0), (1, 1, 1), (2, 1, 0), (2, 2, 2), (1, 5, 0)])
def test_as_few_items_as_there_can_be(tmp_path: Path, counts: tuple[int, ...]) -> None:
    """`graft check` on one or two items a class: what can be looked at is, and small classes are named."""
    few = {name: count for name, count in zip(COLOURS, counts, strict=True) if count}
    photos = write_pictures(tmp_path / "photos", few)
    recipe = read_recipe(data__path=str(photos), **SETTINGS)
    found = examine(prepare(recipe))
    assert all(each.measured and each.cure for each in found)
    assert any(each.id.startswith("data.") for each in found)


def test_a_single_class_is_refused_in_words(tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", {"red": 2})
    with pytest.raises(GraftError, match="one class"):
        examine(prepare(read_recipe(data__path=str(photos), **SETTINGS)))
