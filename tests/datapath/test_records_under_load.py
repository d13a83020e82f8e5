"""Records under load: drops are limited and leave room, openings and closings get it, and every loss is counted."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from egresslab.datapath.frames import SYN, build
from egresslab.datapath.layout import FLOW_RECORD
from egresslab.datapath.testing import Node, Rig
from egresslab.datapath.trial import test_run
from egresslab.datapath.values import Event, FlowEvent, IPAddress, Program, Protocol, Reason

from .worker import Bench, held

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]

TARGET = ip_address("203.0.113.77")
STRANGER = ip_address("10.244.200.1")
ROOM = (1 << 20) // (FLOW_RECORD.size + 8)
"""Records, each with its header, that the buffer of a rig's node holds."""
FIN_ACK = 0x11
CPU = 0


@pytest.fixture(scope="module")
def pinned_bench(shared_rig: Rig) -> Iterator[Bench]:
    """On one processor, as each has a budget of its own."""
    with Bench(shared_rig.nodes["gateway"]) as made:
        made.pool.submit(os.sched_setaffinity, 0, {CPU}).result(timeout=30)
        yield made


@pytest.fixture
def bench(rig: Rig, pinned_bench: Bench) -> Iterator[Bench]:
    rig.select(rig.nodes["source"].pods[0], "0.0.0.0/0", gateway="gateway")
    pinned_bench.node.datapath.flows.read(lambda _: None)
    yield pinned_bench
    pinned_bench.node.datapath.flows.read(lambda _: None)


@dataclass(frozen=True)
class Lost:
    drops: int
    flows: int


def lost(node: Node) -> Lost:
    flows = node.datapath.flows
    return Lost(flows.lost - flows.lost_flows, flows.lost_flows)


def told(node: Node) -> list[FlowEvent]:
    events: list[FlowEvent] = []
    node.datapath.flows.read(events.append)
    return events


def drop(count: int) -> None:
    """In the worker: packets of a pod that nobody knows; a dropped frame stays as it was and runs again."""
    frame = build(STRANGER, TARGET, Protocol.UDP, 1, 9)
    test_run(held(), Program.FROM_POD, frame, repeat=count)


def connect(pod: IPAddress, ifindex: int, first: int, count: int, flags: int) -> None:
    """In the worker: that many connections of one pod, each from its own port."""
    for port in range(first, first + count):
        test_run(
            held(), Program.FROM_OVERLAY, build(pod, TARGET, Protocol.TCP, port, 80, tcp_flags=flags), ifindex=ifindex
        )


def hang_up(egress: IPAddress, ifindex: int, first: int, count: int) -> None:
    for port in range(first, first + count):
        test_run(
            held(), Program.FROM_WIRE, build(TARGET, egress, Protocol.TCP, 80, port, tcp_flags=FIN_ACK), ifindex=ifindex
        )


async def test_drops_are_limited_by_rate_and_the_rest_is_counted(rig: Rig, bench: Bench) -> None:
    node = bench.node
    node.datapath.configure(node.config(drop_events_per_second=10))
    before, counted = lost(node), node.datapath.counters.get(Program.FROM_POD, Reason.INVALID_SOURCE).packets
    began = time.monotonic()
    bench.pool.submit(drop, 20_000).result()
    windows = int(time.monotonic() - began) + 2
    events = told(node)
    assert {event.event for event in events} == {Event.DROPPED}
    assert 10 <= len(events) <= 10 * windows
    gone = lost(node)
    assert (gone.drops - before.drops, gone.flows - before.flows) == (20_000 - len(events), 0)
    assert node.datapath.counters.get(Program.FROM_POD, Reason.INVALID_SOURCE).packets == counted + 20_000
    await asyncio.sleep(1.0 - time.monotonic() % 1.0)
    bench.pool.submit(drop, 1).result()
    assert len(told(node)) == 1, "the next second has its own budget"


async def test_a_storm_of_drops_leaves_half_of_the_buffer_to_openings(rig: Rig, bench: Bench) -> None:
    """Nobody reads. Drops without a limit take half; connections then open and close, and all of that is told."""
    node, pod = bench.node, rig.nodes["source"].pods[0]
    node.datapath.configure(node.config(drop_events_per_second=1_000_000))
    before = lost(node)
    bench.pool.submit(drop, 3 * ROOM).result()
    bench.pool.submit(connect, pod.v4, node.overlay, 20_000, 500, SYN).result()
    bench.pool.submit(connect, pod.v4, node.overlay, 20_000, 500, FIN_ACK).result()
    bench.pool.submit(hang_up, node.public_v4, node.links["eth1"], 20_000, 500).result()
    gone, kinds = lost(node), Counter(event.event for event in told(node))
    assert (kinds[Event.OPENED], kinds[Event.CLOSED]) == (500, 500)
    assert ROOM // 2 - 1 <= kinds[Event.DROPPED] <= ROOM // 2 + 1
    assert gone == Lost(before.drops + 3 * ROOM - kinds[Event.DROPPED], before.flows)


async def test_openings_that_find_no_room_are_counted_and_the_flows_are_all_there(rig: Rig, bench: Bench) -> None:
    node, pod = bench.node, rig.nodes["source"].pods[0]
    before, opened = lost(node), ROOM + 300
    bench.pool.submit(connect, pod.v4, node.overlay, 20_000, opened, SYN).result()
    bench.pool.submit(drop, 10).result()
    gone, events = lost(node), told(node)
    assert gone.flows - before.flows == opened - len(events) >= 300
    assert gone.drops - before.drops == 10
    assert {event.event for event in events} == {Event.OPENED}
    translated = sum(flow.key.local == pod.v4 for flow in node.datapath.nat.items())
    assert translated == opened, "who reads the table again misses nothing"
    bench.pool.submit(connect, pod.v4, node.overlay, 50_000, 1, SYN).result()
    assert [event.pod_port for event in told(node)] == [50_000], "once there is room, records go on"
