"""What counts as a label, which numbers are classes, and which labels are suspiciously alike."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from graft.data.items import Row, Text
from graft.data.labels import (
    check_numbers,
    find_alike,
    is_missing,
    read_label,
    read_number,
    write_as_known,
    write_whole,
)
from graft.errors import DataError

RANDOM = np.random.default_rng(0)
AMOUNTS = RANDOM.lognormal(6, 1, 80)
NUMERIC: dict[str, list[Any]] = {
    "prices": [f"{value:.2f}" for value in AMOUNTS],
    "whole prices": RANDOM.integers(5, 5000, 300).tolist(),
    "dollars": [f"${value:,.2f}" for value in AMOUNTS],
    "euros": [f"{value:.2f} €".replace(".", ",") for value in AMOUNTS],
    "ages": np.clip(RANDOM.normal(40, 15, 500), 18, 90).astype(int).tolist(),
    "ages of many": np.clip(RANDOM.gamma(4, 9, 20_000), 0, 110).astype(int).tolist(),
    "percent": RANDOM.integers(0, 101, 100).tolist(),
    "percent of many": RANDOM.integers(0, 101, 2000).tolist(),
    "signed percent": [f"{value} %" for value in RANDOM.integers(0, 101, 100)],
    "counts": RANDOM.poisson(8, 300).tolist(),
    "rare counts": (RANDOM.geometric(0.2, 1000) - 1).tolist(),
    "years": RANDOM.integers(1950, 2024, 200).tolist(),
    "scientific": [f"{value:.1e}" for value in AMOUNTS / 1e6],
    "powers": ["1e-3", "2e-4", "1e-2", "3e-1", "5e-5", "1e-6"] * 4,
    "decimal commas": [f"{value:.1f}".replace(".", ",") for value in AMOUNTS],
    "points for thousands": [f"{value * 1e3:,.0f}".replace(",", ".") for value in AMOUNTS],
    "some missing": ["NA" if place % 3 == 0 else f"{value:.2f}" for place, value in enumerate(AMOUNTS)],
    "a few remarks": ["see note" if place % 20 == 0 else value for place, value in enumerate(AMOUNTS)],
    "below zero": RANDOM.integers(-50, 50, 100).tolist(),
    "in brackets": [f"({value:.2f})" if value < 400 else f"{value:.2f}" for value in AMOUNTS],
    "half stars": (RANDOM.integers(2, 11, 200) / 2).tolist(),
    "degrees": [f"{value:.1f} °C" for value in AMOUNTS],
    "32 bits": list(AMOUNTS.astype(np.float32)),
    "decimals": [Decimal(f"{value:.2f}") for value in AMOUNTS],
}
CLASSES: dict[str, list[Any]] = {
    "no and yes": [0, 1] * 20,
    "below and above": [-1, 1] * 20,
    "halves": ["-0.5", "0.5"] * 20,
    "stars": RANDOM.integers(1, 6, 100).tolist(),
    "digits": RANDOM.integers(0, 10, 200).tolist(),
    "three years": [2020, 2021, 2022] * 10,
    "floats of whole numbers": [0.0, 1.0] * 10,
    "100 numbers": [place % 100 for place in range(5000)],
    "100 numbers, few items": [place % 100 for place in range(200)],
    "100 numbers, drawn": RANDOM.integers(0, 100, 3000).tolist(),
    "101 numbers": [place % 101 for place in range(2020)],
    "1000 numbers": [place % 1000 for place in range(10_000)],
    "from 1": [1 + place % 102 for place in range(1020)],
    "with noughts": [f"{1 + place % 200:03d}" for place in range(2000)],
    "a long tail": [each for each in range(100) for _ in range(int(500 * 0.01 ** (each / 99)))],
    "with gaps": [each for each in range(1, 91) if each not in (12, 26, 29, 30, 45) for _ in range(9)],
    "versions": ["1.2.3", "1.2.4", "2.0.0", "2.1.0", "2.1.1", "3.0.0"] * 4,
    "names": ["crow", "owl", "2", "3"] * 5,
}


def rows_of(labels: list[Any], split: str = "") -> list[Row]:
    rows = [Row(Text("a"), f"item {n}", (read_label(label),), split) for n, label in enumerate(labels)]
    return write_whole(rows)


@pytest.mark.odd_input("Cells and labels")
def test_measurements_are_no_classes() -> None:
    """Labels that are numbers, many of them different (prices, ages, percent): exit 2 with five of the
    values, until `--set data.task=classes` says that each is a class. Whole numbers are classes where at
    most ten differ, or where they number classes from 0 or 1 on with several items each (said)."""
    for name, labels in NUMERIC.items():
        with pytest.raises(DataError, match=r"are numbers, \d+ different .*data\.task=classes"):
            check_numbers(rows_of(labels), None, f": {name}")
        assert check_numbers(rows_of(labels), "classes", "") == ()


@pytest.mark.parametrize("name", CLASSES)
def test_numbers_of_classes_are_classes(name: str) -> None:
    problems = check_numbers(rows_of(CLASSES[name]), None, "")
    assert [each.code for each in problems] == (["numbered"] if len(set(CLASSES[name])) > 10 else [])


def test_the_message_shows_five_values_and_only_training_counts() -> None:
    rows = rows_of(NUMERIC["prices"])
    with pytest.raises(DataError, match=r" of t\.csv are numbers") as caught:
        check_numbers(rows, None, " of t.csv")
    assert all(value in str(caught.value) for value in NUMERIC["prices"][:5])
    assert NUMERIC["prices"][5] not in str(caught.value)
    assert check_numbers(rows_of(NUMERIC["prices"], "test"), None, "") == ()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12), ("+5", 5), ("-0.5", -0.5), ("−2", -2), ("1e-3", 1e-3), (".5", 0.5), ("5.", 5),
        ("3,5", 3.5),
        ("1,234", 1234), ("1.234", 1.234), ("1.234.567", 1234567), ("1.234,50", 1234.5),
        ("1,234.50", 1234.5),
        ("1 234", 1234), ("1'234.5", 1234.5), ("12 %", 12), ("$5", 5), ("-$5", -5), ("$-5", -5), ("5 €", 5),
        ("EUR 7", 7), ("(5.00)", -5), ("007", 7),
        ("", None), ("nan", None), ("1.2.3", None), ("2021-03-04", None), ("12:30", None), ("--5", None),
        ("0x10", None), ("1_000", None), ("a1", None), (".", None), ("-", None),
    ],
)  # fmt: skip
def test_what_a_number_is(text: str, value: float | None) -> None:
    assert read_number(text) == value


@pytest.mark.odd_input("Cells and labels")
def test_whole_numbers_that_were_written_as_floats() -> None:
    """Labels 0.0 and 1.0, as tables keep whole numbers among which one is missing: they are 0 and 1, alike
    from CSV, JSON lines, Parquet and data frames. Where other numbers stand among them, all stay."""
    for whole in (
        ["0.0", "1.0"],
        [0.0, 1.0],
        np.array([0, 1], np.float16),
        ["0", "1.0"],
        [Decimal("0.00"), 1],
    ):
        assert [row.labels for row in rows_of(list(whole))] == [("0",), ("1",)]
    for kept in (["1.0", "1.5"], ["007", "08"], ["+5", "-1"], ["1.0", "a"]):
        assert [row.labels for row in rows_of(kept)] == [(each,) for each in kept]
    assert read_label(np.float32(0.1)) == "0.1"


def test_evaluated_labels_are_written_as_the_model_knows_them() -> None:
    rows = write_as_known(rows_of(["1", "a", "7", "2.0"]), ["1.0", "1.5", "a", "2"])
    assert [row.labels for row in rows] == [("1.0",), ("a",), ("7",), ("2",)]


@pytest.mark.parametrize(
    "value", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT")]
)
def test_what_is_missing(value: Any) -> None:
    assert is_missing(value)
    with pytest.raises(ValueError, match="label is empty"):
        read_label(value)


@pytest.mark.odd_input("Cells and labels")
def test_labels_that_are_all_but_alike() -> None:
    """Labels that differ in capitals or blanks alone (`Good`, `good`): different classes, with a warning of
    `graft train` and `graft check` that names them."""
    (problem,) = find_alike(["Good", "good", "New York", "newyork", "a\u200bb", "ab", "owl", "o_wl"])
    assert (problem.code, problem.count) == ("alike-labels", 3)
    assert problem.examples[0] == "'Good' and 'good'"
    assert find_alike(["good", "goods", "go-od", "gôod"]) == ()
