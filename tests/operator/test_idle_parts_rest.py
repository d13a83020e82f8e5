"""What has nothing to do rests, and is at work at once when something happens: the periods are an hour here, so
whatever becomes of an event was brought about by the event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address

import pytest

from egresslab.api.resources import CONFIGMAPS, EGRESSLAB_GATEWAYS
from egresslab.operator import ciliumbackend, gatewayreports, observer, registrar
from egresslab.operator.looking import keep_looking
from egresslab.operator.observer import Observer
from tests.operator.conftest import NAMES, PATIENCE_S, Agents, Cluster, gateway, until, voters_of

KEY = "egresslab.dev/v1alpha1/out"
LONG_S = 3600.0
TURNS = 50


@pytest.fixture
def events_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ciliumbackend, gatewayreports, observer, registrar):
        monkeypatch.setattr(module, "PERIOD_S", LONG_S)


@asynccontextmanager
async def running(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def reached(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0)


async def test_nobody_is_asked_while_there_is_nothing_to_observe(
    agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer, "PERIOD_S", 0.001)
    monkeypatch.setattr(observer, "HASTE_S", 0.0)
    known: dict[str, IPv4Address] = {}
    looks, busy_rounds = 0, 0

    def idle() -> dict[str, IPv4Address] | None:
        nonlocal looks
        looks += 1
        return known or None

    def busy() -> dict[str, IPv4Address]:
        nonlocal busy_rounds
        busy_rounds += 1
        return {}

    told = asyncio.Event()
    sleeper = Observer(idle, told.set, lambda: agents.port)
    other = Observer(busy, lambda: None)
    agents.hold(KEY, NAMES[1])
    async with running(sleeper.run()), running(other.run()):
        await reached(lambda: busy_rounds > TURNS)
        assert looks == 1, "it looked again though nothing woke it"
        known[NAMES[1]] = IPv4Address("127.0.0.12")
        sleeper.wake.set()
        async with asyncio.timeout(PATIENCE_S):
            await told.wait()
        assert set(sleeper.reports) == {NAMES[1]}
        known.clear()
        await reached(lambda: not sleeper.looked)
        assert sleeper.reports == {}, "an old answer is nobody's word"


async def test_what_rests_looks_at_once_when_woken_and_often_while_it_must() -> None:
    looks, rests, wake = 0, True, asyncio.Event()

    async def look() -> None:
        nonlocal looks
        looks += 1

    wake.set()
    async with running(keep_looking(look, wake, "look", retry_s=LONG_S, every_s=0.0, resting=lambda: rests)):
        await reached(lambda: looks == 1)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert looks == 1
        rests = False
        wake.set()
        await reached(lambda: looks > TURNS)


async def test_the_first_gateway_is_observed_at_once(cluster: Cluster, events_only: None) -> None:
    candidates = ("lab-worker3", "lab-worker2")
    for name in candidates:
        await cluster.node(name, egress="true")
    async with cluster.operator():
        await until("voters", lambda: voters_of(cluster))
        for holder in candidates:
            cluster.agents.hold(KEY, holder)
            await cluster.apply(gateway(source={"virtualIPs": ["192.168.60.200"]}), EGRESSLAB_GATEWAYS)
            await until("the holder in the status", lambda holder=holder: _active(cluster, holder))  # type: ignore[misc]
            await cluster.api.delete(EGRESSLAB_GATEWAYS, "out")


async def _active(cluster: Cluster, holder: str) -> bool:
    return bool((await cluster.status(EGRESSLAB_GATEWAYS, "out")).get("activeNode") == holder)


async def test_voters_are_told_again_at_once(cluster: Cluster, events_only: None) -> None:
    async with cluster.operator():
        first = await until("voters", lambda: voters_of(cluster))
        await cluster.api.delete(CONFIGMAPS, "egresslab-voters", "kube-system")
        assert await until("voters again", lambda: voters_of(cluster)) == first
