"""The whole contract takes many minutes: it runs only where it is asked for, with ``-m contract``."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "contract" not in config.option.markexpr:
        items[:] = [item for item in items if item.get_closest_marker("contract") is None]
