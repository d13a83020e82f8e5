"""Tests on a real cluster run when they are asked for; they say so otherwise."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip them unless `-m kind` was given."""
    if "kind" in (config.option.markexpr or ""):
        return
    for item in items:
        if item.get_closest_marker("kind"):
            item.add_marker(pytest.mark.skip(reason="needs Docker and minutes: `make test-kind` runs it"))
