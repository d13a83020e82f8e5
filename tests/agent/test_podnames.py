"""A debugger asks the agent beside it for a pod's addresses."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from pathlib import Path

import pytest

from egresslab.agent.flowstream import PodName
from egresslab.agent.podnames import IPAddress, addresses_of, serve_names
from egresslab.errors import ClusterError


async def test_a_name_gives_the_latest_address_of_each_family(tmp_path: Path) -> None:
    path = tmp_path / "names.sock"
    demo, other = PodName("demo", "client"), PodName("other", "client")
    names: dict[IPAddress, PodName] = {
        ip_address("fd00::1"): demo,
        ip_address("10.244.1.6"): demo,
        ip_address("10.244.1.9"): other,
        ip_address("10.244.1.7"): demo,
    }
    async with serve_names(path, names):
        found = await asyncio.to_thread(addresses_of, "demo/client", path)
        assert found == (ip_address("10.244.1.7"), ip_address("fd00::1"))
        for nobody in ("demo/clien", "demo", "demo/client/x", ""):
            with pytest.raises(ClusterError, match="no such pod"):
                await asyncio.to_thread(addresses_of, nobody, path)
    with pytest.raises(ClusterError, match="cannot be asked"):
        addresses_of("demo/client", path)
