"""What holds for every test: one that needs root is skipped without it and says so; what shares a lab runs in a row."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A laptop without root still has a green subset; the summary counts what it left out, by this reason.

    Where tests run in several processes (`pytest -n 2 --dist loadgroup`), those of one folder, which share labs and
    namespaces by name, stay together.
    """
    for item in items:
        folder = item.path.parent.relative_to(HERE) if item.path.is_relative_to(HERE) else Path("labs")
        item.add_marker(pytest.mark.xdist_group("-".join(folder.parts) or "tests"))
        if os.geteuid() and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: network namespaces and eBPF"))
