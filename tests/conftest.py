"""What holds for every test: one that needs root is skipped without it and says so; what shares a lab runs in a row."""

from __future__ import annotations

import os
from typing import Any

import pytest

LONGEST = ("tests/e2e/", "tests/labs/", "tests/datapath/", "tests/environments/", "tests/cluster/", "tests/voter/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A laptop without root still has a green subset; the summary counts what it left out, by this reason. The folders
    that take longest come first, so that the last one keeps no process waiting."""
    items.sort(key=lambda item: _rank(item.nodeid))
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: network namespaces and eBPF"))


def _rank(nodeid: str) -> int:
    return next((number for number, folder in enumerate(LONGEST) if nodeid.startswith(folder)), len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Several processes (`pytest -n 2`) share the tests out by folder: those of one folder share labs and namespaces
    by name."""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False

    class ByFolder(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("::")[0].rpartition("/")[0]

    return ByFolder(config, log)
