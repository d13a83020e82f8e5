"""Two operators never act at once, also when the one in charge is cut off from the API in the middle of a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from egresslab.api.connection import Api, ApiError, connect
from egresslab.api.resources import LEASES
from egresslab.cluster.testing import RunningServer
from egresslab.operator import lease
from tests.operator.conftest import until


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short lease, and requests that may hang for much longer than it lasts."""
    for name, value in {"LEASE_S": 4, "RENEW_DEADLINE_S": 3, "RETRY_S": 1, "REQUEST_S": 9, "MARGIN_S": 1}.items():
        monkeypatch.setattr(lease, name, value)


@pytest.fixture
async def api(server: RunningServer) -> AsyncIterator[Api]:
    async with connect(server.kubeconfig) as found:
        with suppress(ApiError):
            await found.delete(LEASES, lease.NAME, lease.NAMESPACE)
        yield found


class Stage:
    """Who acts now, and whether there were ever two."""

    def __init__(self) -> None:
        self.acting: list[str] = []
        self.crowded = False
        self.order: list[str] = []

    async def act(self, name: str) -> None:
        self.acting.append(name)
        self.order.append(name)
        self.crowded |= len(self.acting) > 1
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.acting.remove(name)

    async def led_by(self, name: str) -> bool:
        return self.acting == [name]


@asynccontextmanager
async def running(api: Api, stage: Stage, name: str) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(lease.lead(api, name, lambda: stage.act(name)))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Wire:
    """A way to the API server that can be cut so that nothing is refused and nothing arrives."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname, parts.port
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        self._open.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            writer.write(data)
            await writer.drain()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @asynccontextmanager
    async def api(self, server: RunningServer, folder: Path) -> AsyncIterator[Api]:
        listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(server.kubeconfig.read_text().replace(server.url, f"https://127.0.0.1:{port}"))
        try:
            async with connect(kubeconfig) as api:
                yield api
        finally:
            listening.close()
            for task in [*self._tasks]:
                task.cancel()


async def test_one_that_is_cut_off_stops_before_another_begins(server: RunningServer, api: Api, tmp_path: Path) -> None:
    stage, wire = Stage(), Wire(server.url)
    async with wire.api(server, tmp_path) as far, running(far, stage, "a"):
        await until("a leader", lambda: stage.led_by("a"))
        async with running(api, stage, "b"):
            wire.cut()
            await until("another leader", lambda: stage.led_by("b"))
    assert stage.order == ["a", "b"] and not stage.crowded


async def test_one_that_ends_in_order_hands_over_at_once(api: Api) -> None:
    stage = Stage()
    async with running(api, stage, "b"):
        await until("a leader", lambda: stage.led_by("b"))
        async with running(api, stage, "c"):
            pass
    async with asyncio.timeout(lease.LEASE_S - 1), running(api, stage, "c"):
        await until("another leader", lambda: stage.led_by("c"))
    assert not stage.crowded


async def test_a_failure_ends_the_lead_and_frees_the_lease(api: Api) -> None:
    async def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await lease.lead(api, "a", fail)
    assert not (await api.get(LEASES, lease.NAME, lease.NAMESPACE))["spec"].get("holderIdentity")
