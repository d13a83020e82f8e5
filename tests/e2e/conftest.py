"""One embedded cluster for all end-to-end tests, with a name of its own; each test gets a namespace in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.lab import Lab
from tests.fresh_lab import fresh_lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs root."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="session")
def environment() -> Iterator[NetnsEnvironment]:
    """One lab for everything here."""
    with fresh_lab("e2e") as environment:
        yield environment


@pytest.fixture
def lab(environment: NetnsEnvironment) -> Iterator[Lab]:
    """A hold on the cluster, in a fresh namespace; what the test makes is removed."""
    with Lab.open("netns", environment.lab, chapter="e2e", timeout_s=20) as lab:
        lab.namespace()
        yield lab
        lab.cleanup()
