"""Fifty watchers of ten thousand objects, while connections are cut, history runs out and the server is killed.

Whatever happens, every copy ends as the server's own, each object's changes were seen in order and none twice, an
elected leader stays the only one, and the server's memory does not grow with what it has been through.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import kubernetes
import psutil
import pytest
from kubernetes.client.exceptions import ApiException
from kubernetes.informer import SharedInformer
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
from urllib3.exceptions import HTTPError

from egresslab.api.connection import Api, ApiError, Unreachable
from egresslab.api.connection import connect as connect_api
from egresslab.api.reflector import ChangeType, ObjectChange, Reflector
from egresslab.api.resources import CONFIGMAPS
from egresslab.cluster.apiserver.store import Store
from egresslab.cluster.testing import RunningServer, free_port, running_server
from tests.cluster.apiserver.conftest import connect

OBJECTS, WATCHERS, HISTORY = 10_000, 50, 400
WHOLE = 3
"""So many watchers follow everything, the official informer beside them; each other one follows its share."""
PATIENCE_S = 90.0
AT_ONCE = 8


class Line:
    """The way to the server, which can be cut: a TCP proxy for watchers, so that writers are not cut with them."""

    def __init__(self, target: int) -> None:
        self.port, self._target, self.closed = free_port(), target, False
        self._writers: set[asyncio.StreamWriter] = set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.closed:
            writer.transport.abort()
            return
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far}
        self._writers |= ends
        try:
            await asyncio.gather(self._copy(reader, far), self._copy(far_reader, writer))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            for end in (writer,):
                end.transport.abort()

    def cut(self) -> None:
        """Every connection of now is reset."""
        for writer in list(self._writers):
            writer.transport.abort()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Serve while the context is open."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        try:
            yield
        finally:
            server.close()
            self.cut()


class Witness:
    """A watcher's copy, and what was wrong with what it was told."""

    def __init__(self, api: Api, changed: asyncio.Event, share: int | None) -> None:
        self._changed, self.share = changed, share
        selector = None if share is None else f"share={share}"
        self.reflector = Reflector(
            api, CONFIGMAPS, self._on_change, namespace="default", label_selector=selector, strip=_stripped
        )
        self.wrong: list[str] = []
        self._seen: dict[str, int] = {}

    def _on_change(self, change: ObjectChange) -> None:
        self._changed.set()
        metadata = change.object["metadata"]
        uid, version = metadata["uid"], int(metadata["resourceVersion"])
        if change.type is ChangeType.DELETED:
            if self._seen.pop(uid, None) is None:
                self.wrong.append(f"{metadata['name']} went twice")
        elif version <= self._seen.get(uid, 0):
            self.wrong.append(f"{metadata['name']} at {version} after {self._seen[uid]}")
        else:
            self._seen[uid] = version

    def copy(self) -> dict[str, str]:
        return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in self.reflector}


def _stripped(obj: dict[str, Any]) -> dict[str, Any]:
    kept = ("name", "namespace", "uid", "resourceVersion")
    return {"metadata": {name: obj["metadata"][name] for name in kept}}


def labels(number: int) -> dict[str, str]:
    """Whose share an object is."""
    return {"share": str(number % (WATCHERS - 1 - WHOLE))}


def fill(state: Path) -> None:
    """Ten thousand objects, as an earlier run of the server would have left them."""
    store = Store(state)
    bucket = store.bucket("configmaps")
    for number in range(OBJECTS):
        name = f"c-{number:05d}"
        metadata = {"name": name, "namespace": "default", "uid": name, "labels": labels(number)}
        store.put(bucket, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"n": "0"}})
    store.close()


async def churn(api: Api, first: int, count: int) -> None:
    """Changes, deletions and new objects, several at a time. What was not answered in time, on a machine that is busy
    with fifty watchers, is asked for again: it may have been done."""
    numbers = iter(range(first, first + count))

    async def write(number: int) -> None:
        match number % 4:
            case 0:
                await api.delete(CONFIGMAPS, f"c-{number:05d}", "default")
            case 1:
                metadata = {"name": f"new-{number:05d}", "labels": labels(number)}
                await api.create(CONFIGMAPS, {"metadata": metadata}, "default")
            case _:
                await api.patch(CONFIGMAPS, f"c-{number:05d}", {"data": {"n": "1"}}, "default")

    async def work() -> None:
        for number in numbers:
            try:
                await write(number)
            except Unreachable:
                try:
                    await write(number)
                except ApiError as error:
                    if error.reason not in ("AlreadyExists", "NotFound"):
                        raise

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def settled(api: Api, witnesses: list[Witness], informer: SharedInformer, changed: asyncio.Event) -> None:
    """Until every copy is the server's."""
    items, _ = await api.list(CONFIGMAPS, "default")
    truth: dict[str, str] = {}
    shares: dict[str, dict[str, str]] = {}
    for item in items:
        metadata = item["metadata"]
        for part in (truth, shares.setdefault(metadata["labels"]["share"], {})):
            part[metadata["name"]] = metadata["resourceVersion"]

    def due(witness: Witness) -> dict[str, str]:
        return truth if witness.share is None else shares[str(witness.share)]

    def behind() -> list[str]:
        late = [f"watcher {index}" for index, witness in enumerate(witnesses) if witness.copy() != due(witness)]
        theirs = {obj.metadata.name: obj.metadata.resource_version for obj in informer.cache.list()}
        return late + (["the informer"] if theirs != truth else [])

    late = behind()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while late:
                changed.clear()
                await changed.wait()
                # Not after each of thousands of changes.
                await asyncio.sleep(0.2)
                late = behind()
    except TimeoutError:
        raise AssertionError(f"copies differ: {late}") from None


def candidate(server: RunningServer, name: str, log: list[str], over: threading.Event) -> threading.Thread:
    """A candidate of the official client, which says when it leads and when no longer."""

    class Lock(LeaseLock):  # type: ignore[misc]
        def get(self, name: str, namespace: str) -> Any:
            if over.is_set():
                raise SystemExit  # ends the candidate's thread; it has no other way out
            try:
                return super().get(name, namespace)
            except HTTPError:  # nobody there: the client's own loop knows refusals alone, and would end
                away = ApiException(status=503)
                away.body = '{"code": 503}'
                return False, away

        def update(self, name: str, namespace: str, updated_record: Any) -> Any:
            try:
                return super().update(name, namespace, updated_record)
            except HTTPError:
                return False

    lock = Lock("lock", "default", name)
    led, lost = (lambda: log.append(f"{name} leads")), (lambda: log.append(f"{name} no longer"))

    def run() -> None:
        with pytest.raises(SystemExit):
            leaderelection.LeaderElection(electionconfig.Config(lock, 60, 50, 1, led, lost)).run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_nothing_is_lost_and_nothing_seen_twice(tmp_path: Path) -> None:
    fill(tmp_path / "state.sqlite")
    log: list[str] = []
    over = threading.Event()
    with running_server(tmp_path, history=HISTORY) as server:
        line = Line(int(server.url.rpartition(":")[2]))
        through = tmp_path / "through.kubeconfig"
        through.write_text(server.kubeconfig.read_text().replace(server.url, f"https://127.0.0.1:{line.port}"))
        kubernetes.config.load_kube_config(str(server.kubeconfig))
        candidates = [candidate(server, name, log, over) for name in ("one", "two")]
        async with line.open(), connect_api(server.kubeconfig) as api, connect_api(through) as watched:
            changed, loop = asyncio.Event(), asyncio.get_running_loop()
            shares = [None] * WHOLE + list(range(WATCHERS - 1 - WHOLE))
            witnesses = [Witness(watched, changed, share) for share in shares]
            tasks = [asyncio.create_task(witness.reflector.run()) for witness in witnesses]
            client = await asyncio.to_thread(connect, through)
            core = kubernetes.client.CoreV1Api(client)
            informer = SharedInformer(core.list_namespaced_config_map, namespace="default")
            for kind in ("ADDED", "MODIFIED", "DELETED"):
                informer.add_event_handler(kind, lambda _: loop.call_soon_threadsafe(changed.set))
            informer.start()
            await settled(api, witnesses, informer, changed)

            for part in range(3):  # cut in mid-stream
                writing = asyncio.create_task(churn(api, part * 100, 100))
                await asyncio.sleep(0)
                line.cut()
                await writing
            await settled(api, witnesses, informer, changed)

            line.closed = True  # away for longer than history goes back
            line.cut()
            await churn(api, 1000, HISTORY + 100)
            line.closed = False
            await settled(api, witnesses, informer, changed)

            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await churn(api, 2000, 100)
            await settled(api, witnesses, informer, changed)
            before = psutil.Process(server.pid).memory_info().rss
            await churn(api, 3000, 2 * HISTORY)
            await settled(api, witnesses, informer, changed)
            after = psutil.Process(server.pid).memory_info().rss

            assert all(thread.is_alive() for thread in candidates)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            line.closed = True
            line.cut()
            stopping = asyncio.create_task(asyncio.to_thread(informer.stop))
            over.set()
            await asyncio.to_thread(candidates[0].join, 10)
            await asyncio.wait([stopping], timeout=20)
    assert [witness.wrong for witness in witnesses if witness.wrong] == []
    assert len([line for line in log if line.endswith("leads")]) == 1, log
    assert not [line for line in log if line.endswith("no longer")], log
    assert after < before * 1.25, (before, after)
