"""What holds for every test: one that needs root is skipped without it, and says so."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A laptop without root still has a green subset; the summary counts what it left out, by this reason."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: network namespaces and eBPF"))
