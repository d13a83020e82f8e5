"""One rig for all tests on the wire; voters are started for each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from egresslab.datapath.testing import Rig

from .cluster import Cluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rigged(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Rig("a", "b", "c", "source") as rig:
        made = Cluster(rig, Path(tmp_path_factory.mktemp("voters")))
        await made.learn_macs()
        made.configure(made.group)
        try:
            yield made
        finally:
            await made.stop_all()


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(rigged: Cluster) -> Cluster:
    """Voters run, and `a` holds the lease."""
    await rigged.reset()
    return rigged
