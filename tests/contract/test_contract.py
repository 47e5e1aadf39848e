"""The contract over a spread of backbones in every test run, over all of them on request."""

from __future__ import annotations

from pathlib import Path

import pytest
from checks import check_backbone, check_text
from models import EXCEPTIONS, FAMILIES, SPREAD, list_models

from small_text import KINDS


@pytest.mark.parametrize("name", SPREAD)
def test_spread_keeps_the_contract(name: str) -> None:
    check_backbone(name, list_models()[name])


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_of_text_model_keeps_the_contract(kind: str, tmp_path: Path) -> None:
    check_text(kind, tmp_path)


@pytest.mark.contract
@pytest.mark.parametrize("name", sorted(set(list_models()) - set(SPREAD)))
def test_every_backbone_keeps_the_contract(name: str) -> None:
    check_backbone(name, list_models()[name])


def test_every_timm_family_is_listed() -> None:
    import timm

    assert set(FAMILIES) == set(timm.list_modules())
    for module, (name, _) in FAMILIES.items():
        assert name in timm.list_models(module=module)


def test_exceptions_are_really_too_large() -> None:
    from graft.backbones.catalog import find_models

    sizes = {info.id: info.parameters for info in find_models()}
    for name in EXCEPTIONS:
        parameters = sizes[name]
        assert parameters is not None and parameters > 200e6
