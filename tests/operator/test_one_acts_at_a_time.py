"""Two operators never act at once: not when the one in charge is cut off from the API in the middle of a request, is
stopped for longer than its lease and goes on, is killed, nor when clocks are wrong."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from egresslab.api.connection import Api, ApiError, connect
from egresslab.api.resources import CONFIGMAPS, LEASES
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
    task = asyncio.create_task(lease.lead(api, name, lambda term: stage.act(name)))
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
    async def fail(term: lease.Term) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await lease.lead(api, "a", fail)
    assert not (await api.get(LEASES, lease.NAME, lease.NAMESPACE))["spec"].get("holderIdentity")


START_S = 30.0
LEASES_S = {"LEASE_S": 4, "RENEW_DEADLINE_S": 3, "RETRY_S": 1, "REQUEST_S": 9.0, "MARGIN_S": 1.0}
CONTENDER = f"""
import asyncio, signal, sys, time
from pathlib import Path

real, skew = time.time, [float(sys.argv[3])]
time.time = lambda: real() + skew[0]
signal.signal(signal.SIGUSR1, lambda *_: skew.append(skew.pop() + 3600))

from egresslab.api.connection import Unreachable, connect
from egresslab.api.resources import CONFIGMAPS
from egresslab.operator import lease

for name, value in {LEASES_S!r}.items():
    setattr(lease, name, value)

async def act(api, name, term):
    api = api.guarded(term.permits)
    while True:
        # No pause: whenever this process is stopped, it is about to write.
        change = {{"data": {{"writer": name, "at": str(real())}}}}
        await api.patch(CONFIGMAPS, "stage", change, "default")

async def main(kubeconfig, name):
    async with connect(Path(kubeconfig)) as api:
        print("ready", flush=True)
        await lease.lead(api, name, lambda term: act(api, name, term))

try:
    asyncio.run(main(sys.argv[1], sys.argv[2]))
except Unreachable:
    sys.exit(7)
"""


class Contest:
    """Contenders as processes, each of which writes its name into one object as fast as it can while it leads."""

    def __init__(self, api: Api, kubeconfig: Path) -> None:
        self._api = api
        self._kubeconfig = kubeconfig
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.writers: list[str] = []
        """In the order in which the server took their writes; one for each turn."""

    async def start(self, name: str, skew_s: float = 0.0) -> None:
        words = [sys.executable, "-c", CONTENDER, str(self._kubeconfig), name, str(skew_s)]
        process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
        self.processes[name] = process
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            await process.stdout.readline()

    async def watch(self, version: str) -> None:
        """Follow the object and note whose turn it is."""
        async for event in self._api.watch(CONFIGMAPS, version, "default", field_selector="metadata.name=stage"):
            writer = (event["object"].get("data") or {}).get("writer")
            if writer and self.writers[-1:] != [writer]:
                self.writers.append(writer)

    async def led_by(self, name: str) -> bool:
        return self.writers[-1:] == [name]

    def tell(self, name: str, what: signal.Signals) -> None:
        self.processes[name].send_signal(what)


@pytest.fixture
async def contest(server: RunningServer, api: Api) -> AsyncIterator[Contest]:
    stage = await api.create(CONFIGMAPS, {"metadata": {"name": "stage"}}, "default")
    found = Contest(api, server.kubeconfig)
    watching = asyncio.create_task(found.watch(stage["metadata"]["resourceVersion"]))
    try:
        yield found
    finally:
        for process in found.processes.values():
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await api.delete(CONFIGMAPS, "stage", "default")


async def test_one_that_was_stopped_for_longer_than_its_lease_writes_nothing_when_it_goes_on(contest: Contest) -> None:
    await contest.start("a")
    await until("a leader", lambda: contest.led_by("a"))
    await contest.start("b", skew_s=-3600)
    contest.tell("a", signal.SIGSTOP)
    await until("another leader", lambda: contest.led_by("b"))
    contest.tell("a", signal.SIGCONT)
    async with asyncio.timeout(lease.LEASE_S):
        assert await contest.processes["a"].wait() in (0, 7)
    assert contest.writers == ["a", "b"]


async def test_a_clock_that_is_set_while_the_leader_is_busy_ends_no_lease(contest: Contest) -> None:
    """The moment that a wall clock's jump could be mistaken for the end of the lease: no renewal comes just now."""
    await contest.start("a", skew_s=7200)
    await until("a leader", lambda: contest.led_by("a"))
    await contest.start("b")
    await asyncio.sleep(3 * lease.RETRY_S)  # until it has seen the lease
    contest.tell("a", signal.SIGSTOP)
    contest.tell("b", signal.SIGUSR1)
    await asyncio.sleep(lease.LEASE_S / 2)
    contest.tell("a", signal.SIGCONT)
    await asyncio.sleep(lease.RETRY_S)
    assert contest.writers == ["a"]
    contest.tell("a", signal.SIGKILL)
    await until("another leader", lambda: contest.led_by("b"))
    assert contest.writers == ["a", "b"]
