"""Options of a phase: what is not set stays open, what is set is checked when it is made."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from graft.options import PhaseOptions, options_set
from graft.recipe import PhaseSettings, TrainSettings


def test_only_what_was_set_is_handed_on_and_the_later_wins() -> None:
    assert options_set() == options_set(PhaseOptions()) == {}
    own = PhaseSettings(ema=0.5, patience=None, epochs=3)
    found = options_set(TrainSettings(ema=0.9, clip=2.0, lr=1e-3), own)
    assert found == {"ema": 0.5, "clip": 2.0, "patience": None}


def test_null_is_a_value_only_where_it_means_something() -> None:
    given = PhaseOptions.model_validate(dict.fromkeys(PhaseOptions.model_fields))
    assert given.model_fields_set == {"clip", "drop_path", "patience"}
    assert given.clip is None
    assert given.batch_size == 32


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("batch_size", 0),
        ("accumulate", 0),
        ("optimizer", "lamb"),
        ("schedule", "onecycle"),
        ("warmup", 1.0),
        ("warmup", "2 weeks"),
        ("drop_epochs", 0),
        ("drop_factor", 1.0),
        ("drop_factor", 0.0),
        ("weight_decay", -0.1),
        ("l2sp", -0.1),
        ("clip", -1.0),
        ("label_smoothing", 1.0),
        ("focal", -1.0),
        ("class_weights", "even"),
        ("sampling", "even"),
        ("mixup", -0.1),
        ("cutmix", -0.1),
        ("ema", 1.0),
        ("drop_path", 1.0),
        ("augmentation", "strong"),
        ("batchnorm", "thawed"),
        ("batchnorm", {"stem": "thawed"}),
        ("patience", 0),
        ("select", "f1"),
        ("lamp", 1),
        ("ema", float("nan")),
        ("weight_decay", float("inf")),
    ],
)
def test_a_wrong_value_is_refused_by_name(option: str, wrong: Any) -> None:
    with pytest.raises(ValidationError) as error:
        PhaseOptions.model_validate({option: wrong})
    assert option in str(error.value)


def test_every_option_is_documented_where_it_is_declared() -> None:
    for name, info in PhaseOptions.model_fields.items():
        assert name in ("optimizer",) or info.description, name


def test_options_never_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        PhaseOptions().ema = 0.5  # type: ignore[misc]
