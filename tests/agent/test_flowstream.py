"""Flow events reach everybody who listens, in order; who is slow loses its own, and is told how many."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import aiohttp

from egresslab.agent.flowserver import serve_flows
from egresslab.agent.flowstream import FlowStream, PodName
from egresslab.datapath.values import Event, FlowEvent, Program, Reason

POD = ip_address("10.244.1.7")


def event(number: int, reason: Reason = Reason.NONE) -> FlowEvent:
    return FlowEvent(
        event=Event.DROPPED if reason.dropped else Event.OPENED,
        program=Program.FROM_POD,
        reason=reason,
        time_ns=number,
        protocol=6,
        pod=POD,
        pod_port=number,
        remote=ip_address("203.0.113.10"),
        remote_port=443,
        egress=None if reason.dropped else ip_address("172.18.18.12"),
        egress_port=number,
        slot=3,
        node=None,
        ifindex=2,
    )


class Ring:
    """A ring buffer whose descriptor is readable while events wait."""

    def __init__(self) -> None:
        self.fd, self._bell = os.pipe()
        self.waiting: list[FlowEvent] = []
        self.lost = self.lost_flows = 0

    def tell(self, *events: FlowEvent) -> None:
        if not self.waiting:
            os.write(self._bell, b"!")
        self.waiting.extend(events)

    def read(self, callback: Callable[[FlowEvent], None], at_most: int | None = None) -> int:
        part = self.waiting[:at_most]
        del self.waiting[:at_most]
        if not self.waiting:
            os.read(self.fd, 1)
        for each in part:
            callback(each)
        return len(part)


def stream_of(ring: Ring, kept: int = 100) -> FlowStream:
    return FlowStream(ring, {POD: PodName("team", "web")}.get, {3: "gw-a"}.get, kept)


async def test_every_listener_gets_every_event_in_order_also_in_turns() -> None:
    ring = Ring()
    stream = stream_of(ring)
    running = asyncio.create_task(stream.run())
    with stream.subscribe() as one, stream.subscribe() as other:
        ring.tell(*map(event, range(1000)))
        for listener in (one, other):
            heard: list[int] = []
            while len(heard) < 1000:
                heard += [seen.event.pod_port for seen in await asyncio.wait_for(listener.next(), 5)]
            assert heard == list(range(1000))
    assert [seen.event.pod_port for seen in stream.last(3)] == [997, 998, 999]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_slow_listener_loses_its_oldest_and_hears_how_many() -> None:
    ring = Ring()
    stream = stream_of(ring)
    with stream.subscribe(capacity=10) as slow, stream.subscribe(capacity=100) as quick:
        ring.tell(*map(event, range(15)))
        stream.read()
        taken = slow.take()
        assert [(seen.event.pod_port, seen.lost) for seen in taken] == [(5, 5), *((n, 0) for n in range(6, 15))]
        opened = sum(event(n).event is not Event.DROPPED for n in range(5))
        assert taken[0].lost_flows == opened
        assert not any(seen.lost for seen in quick.take())
        ring.lost, ring.lost_flows = 7, 2  # in the kernel, so everybody misses them
        ring.tell(event(20))
        stream.read()
        heard = [[(seen.lost, seen.lost_flows) for seen in listener.take()] for listener in (slow, quick)]
        assert heard == [[(7, 2)], [(7, 2)]]


async def test_events_as_json_lines_past_and_to_come(tmp_path: Path) -> None:
    ring = Ring()
    stream = stream_of(ring)
    socket = tmp_path / "flows.sock"
    ring.tell(event(1), event(2, Reason.NO_GATEWAY))
    stream.read()
    async with (
        serve_flows(socket, "n1", stream),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as http,
    ):
        async with http.get("http://agent/flows") as answer:
            opened, dropped = map(json.loads, (await answer.text()).splitlines())
        assert opened["pod"] == {"namespace": "team", "name": "web", "ip": "10.244.1.7", "port": 1}
        assert opened["egress"] == {"ip": "172.18.18.12", "port": 1}
        assert (opened["gateway"], opened["verdict"], opened["reason"]) == ("gw-a", "FORWARDED", None)
        assert (dropped["egress"], dropped["verdict"], dropped["reason"]) == (None, "DROPPED", "NO_GATEWAY")
        async with http.get("http://agent/flows?follow=true&last=1") as answer:
            assert json.loads(await answer.content.readline())["event"] == "DROPPED"
            assert await answer.content.readline() == b"\n"
            ring.tell(event(3))
            stream.read()
            assert json.loads(await answer.content.readline())["pod"]["port"] == 3
        async with http.get("http://agent/flows?last=some") as answer:
            assert answer.status == 400
