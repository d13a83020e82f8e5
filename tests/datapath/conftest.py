"""Namespaces for the whole module, forgotten policies for every test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from egresslab.datapath.testing import Rig

from .leasing import following


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_rig() -> AsyncIterator[Rig]:
    async with Rig("source", "gateway", "spare") as rig:
        yield rig


@pytest.fixture
def rig(shared_rig: Rig) -> Rig:
    shared_rig.reset()
    return shared_rig


@pytest.fixture
def leased(rig: Rig) -> Iterator[Rig]:
    with following(rig):
        yield rig
