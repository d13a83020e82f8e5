"""A candidate asks what lies beyond it, says so when nothing answers, and is whole again after enough answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

import pytest
from aiohttp import web

from egresslab.agent import upstream
from egresslab.agent.ping import ping
from egresslab.agent.upstream import Question, UpstreamHealth, ask, questions
from egresslab.api.resources import NODES
from egresslab.policy.inventory import HEALTH_ANNOTATION
from egresslab.policy.model import Dialect, GroupKey, ProbeProtocol, UpstreamProbe
from tests.unit.policy import build

OUT = GroupKey(Dialect.EGRESSLAB, "out").text
TARGETS = [
    {"protocol": "ICMP", "target": "192.0.2.1", "intervalMilliseconds": 10, "failures": 2},
    {"protocol": "HTTP", "target": "http://192.0.2.2/", "intervalMilliseconds": 10, "failures": 2},
]
ICMP, HTTP = "192.0.2.1", "http://192.0.2.2/"


@pytest.mark.root
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("interface", [None, "lo"])
async def test_ping_is_answered(address: str, interface: str | None) -> None:
    answers = await asyncio.gather(*(ping(ip_address(address), 2, interface) for _ in range(5)))
    assert answers == [None] * 5


@pytest.mark.root
async def test_ping_says_why_nothing_came() -> None:
    assert await ping(ip_address("127.0.0.1"), 1, "absent0") == "No such device"
    why = await ping(ip_address("192.0.2.1"), 0.05, "lo")
    assert why is not None and "50 ms" in why


@pytest.mark.parametrize(("status", "said"), [(200, None), (404, None), (503, "answered with status 503")])
async def test_http_is_any_answer_that_is_no_failure(status: int, said: str | None) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status)

    application = web.Application()
    application.router.add_get("/", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        assert await ask(Question(OUT, UpstreamProbe(ProbeProtocol.HTTP, url), 1, None)) == said
    finally:
        await runner.cleanup()
    refused = await ask(Question(OUT, UpstreamProbe(ProbeProtocol.HTTP, url), 1, None))
    assert refused is not None and "127.0.0.1" in refused


def test_only_candidates_ask_and_through_the_interface_that_packets_leave_by() -> None:
    told = build.engine(
        build.node("gw-a", 2),
        build.node("bystander", 3, gateway=False),
        build.gateway(source={"interface": "eth1"}, health={"upstream": TARGETS}),
    )
    assert {(str(q), q.interface) for q in questions(told, "gw-a")} == {
        (f"ICMP {ICMP}", "eth1"),
        (f"HTTP {HTTP}", "eth1"),
    }
    assert not [*questions(told, "bystander")]
    build.tell(told, build.gateway(source={"virtualIPs": ["192.168.60.200"]}, health={"upstream": TARGETS[:1]}))
    assert [q.interface for q in questions(told, "gw-a")] == ["eth0"]


class World:
    """A view with one candidate, an API that keeps what is patched, and targets that answer or not."""

    def __init__(self, said: dict[str, str] | None = None) -> None:
        self.node = build.node("gw-a", 2)
        if said is not None:
            self.node["metadata"]["annotations"][HEALTH_ANNOTATION] = json.dumps(said)
        gateway = build.gateway(health={"recoveries": 2, "upstream": TARGETS})
        self.engine = build.engine(self.node, gateway)
        self.objects = {NODES: {"gw-a": self.node}}
        self.dead: set[str] = set()
        self.patches: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def patch(self, resource: object, name: str, body: Any) -> None:
        text = body["metadata"]["annotations"][HEALTH_ANNOTATION]
        self.node["metadata"]["annotations"][HEALTH_ANNOTATION] = text
        self.patches.put_nowait(json.loads(text or "{}"))

    async def ask(self, question: Question) -> str | None:
        return "no answer" if question.probe.target in self.dead else None

    @asynccontextmanager
    async def asked(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
        monkeypatch.setattr(upstream, "ask", self.ask)
        running = asyncio.create_task(UpstreamHealth(self, self, "gw-a").run())  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(5):
                yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_a_gateway_is_unfit_when_every_target_is_lost_and_whole_when_one_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.dead = {ICMP}
    async with world.asked(monkeypatch):
        world.dead.add(HTTP)
        said = await world.patches.get()
        assert said.keys() == {OUT}
        assert f"ICMP {ICMP}: no answer" in said[OUT] and f"HTTP {HTTP}: no answer" in said[OUT]
        world.dead.remove(HTTP)
        assert await world.patches.get() == {}
    assert world.patches.empty()


async def test_an_agent_that_starts_anew_does_not_declare_whole_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World({OUT: "nothing answers"})
    world.dead = {ICMP, HTTP}
    async with world.asked(monkeypatch):
        # The first thing said afterwards is that it is whole, once it is.
        asyncio.get_running_loop().call_later(0.1, world.dead.clear)
        said = [await world.patches.get()]
        while said[-1]:
            assert said[-1].keys() == {OUT}
            said.append(await world.patches.get())
