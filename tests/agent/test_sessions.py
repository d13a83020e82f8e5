"""A standby has the flows of the holder, all of them and no others, through every order of starts, stops and losses."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from egresslab.agent import sessionlink
from egresslab.agent.flowstream import FlowStream
from egresslab.agent.sessionlink import ReplicatedLease
from egresslab.agent.sessions import Sessions
from egresslab.datapath.datapath import Datapath
from egresslab.datapath.flowcopy import FlowCopier
from egresslab.datapath.values import Event, Flow, FlowEvent, FlowKey, FlowKind, IPAddress, Program, Protocol, Reason
from tests.agent.test_flowstream import Ring

pytestmark = pytest.mark.root

LEASE = 77
VIP: dict[int, IPAddress] = {4: ip_address("172.18.18.200"), 6: ip_address("fd00:18::200")}
ADDRESS = {"a": IPv4Address("127.0.0.81"), "b": IPv4Address("127.0.0.82")}
SLOT = {"a": 3, "b": 9}
"""Numbers of slots need not agree."""


@pytest.fixture(scope="module")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("bpf")
    subprocess.run(["mount", "-t", "bpf", "bpf", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


@pytest.fixture
def kernels(bpffs: Path) -> Iterator[dict[str, Datapath]]:
    opened = {node: Datapath.open(bpffs / node, nat_entries=8192) for node in ADDRESS}
    yield opened
    for node, datapath in opened.items():
        datapath.close()
        Datapath.remove(bpffs / node)


class Node:
    """One agent's part in it, with a ring buffer that the test fills."""

    def __init__(self, name: str, datapath: Datapath) -> None:
        self.name, self.nat, self.ring = name, datapath.nat, Ring()
        self.stream = FlowStream(self.ring, lambda _: None, lambda _: None)
        copier = FlowCopier(datapath.nat, ADDRESS[name])
        self.sessions = Sessions(name, ADDRESS[name], self.stream, copier, lambda: None)
        self._task: asyncio.Task[None] | None = None

    def role(self, *, held: bool, epoch: int = 1) -> None:
        others = {name: address for name, address in ADDRESS.items() if name != self.name}
        self.sessions.update([ReplicatedLease(LEASE, epoch, held, frozenset({SLOT[self.name]}), others)])

    async def start(self) -> None:
        self._task = asyncio.create_task(self.sessions.run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def tell(self, event: Event, flow: Flow) -> None:
        """As the kernel would."""
        self.ring.tell(
            FlowEvent(
                event=event,
                program=Program.FROM_OVERLAY,
                reason=Reason.NONE,
                time_ns=flow.opened_ns,
                protocol=flow.key.protocol,
                pod=flow.key.local,
                pod_port=flow.key.local_port,
                remote=flow.key.remote,
                remote_port=flow.key.remote_port,
                egress=flow.address,
                egress_port=flow.port,
                slot=flow.slot,
                node=flow.node,
                ifindex=1,
            )
        )
        self.stream.read()

    def flows(self) -> dict[FlowKey, tuple[FlowKind, int, IPAddress | None, int, IPv4Address | None]]:
        return {flow.key: (flow.kind, flow.slot, flow.address, flow.port, flow.node) for flow in self.nat.items()}


def flow(number: int, *, version: int = 4, age_s: float = 0, slot: int = SLOT["a"], node: str | None = None) -> Flow:
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(age_s * 1e9)
    pod = ip_address("10.244.1.7" if version == 4 else "fd00:10:244:1::7")
    remote = ip_address("203.0.113.10" if version == 4 else "2001:db8:113::10")
    key = FlowKey(pod, 20_000 + number, remote, 443, Protocol.TCP)
    tunnel = IPv4Address(node) if node else None
    return Flow(key, FlowKind.TRANSLATED, slot, VIP[version], 30_000 + number, tunnel, now, now, 2)


@asynccontextmanager
async def pair(kernels: dict[str, Datapath]) -> AsyncIterator[tuple[Node, Node]]:
    async with AsyncExitStack() as stack:
        nodes = [Node(name, kernels[name]) for name in ADDRESS]
        for node in nodes:
            stack.push_async_callback(node.stop)
        nodes[0].role(held=True)
        nodes[1].role(held=False)
        yield nodes[0], nodes[1]


async def until(what: str, condition: Callable[[], bool], timeout_s: float = 8) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110  # a kernel's map rings no bell
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"{what} did not come") from None


async def test_a_standby_gets_all_and_only_what_the_holder_has(kernels: dict[str, Datapath]) -> None:
    async with pair(kernels) as (a, b):
        mine = [flow(n, version=4 + 2 * (n % 2), node="127.0.0.82" if n % 3 else None) for n in range(1500)]
        a.nat.insert([*mine, flow(5000, slot=44)])
        left_over = flow(4000, slot=SLOT["b"], age_s=60)
        b.nat.insert([left_over])
        await a.start()
        await b.start()
        await until("everything", lambda: a.sessions.synced(LEASE, "b"))
        there = b.flows()
        assert len(there) == 2 * len(mine)
        for each in mine:
            # What lives on the standby is local there; what was local to the holder is reached through its node.
            tunnel = None if each.node == ADDRESS["b"] else ADDRESS["a"]
            assert there[each.key] == (FlowKind.TRANSLATED, SLOT["b"], each.address, each.port, tunnel)
        assert left_over.key not in there


async def test_openings_and_closings_follow_at_once(kernels: dict[str, Datapath]) -> None:
    async with pair(kernels) as (a, b):
        await a.start()
        await b.start()
        await until("the link", lambda: a.sessions.synced(LEASE, "b"))
        new = flow(1, version=6)
        a.nat.insert([new])
        a.tell(Event.OPENED, new)
        await until("the record", lambda: len(b.flows()) == 2, 1)
        a.tell(Event.CLOSED, new)
        await until("its end", lambda: not b.flows(), 1)


async def test_a_standby_that_was_away_or_missed_events_is_told_everything_again(kernels: dict[str, Datapath]) -> None:
    async with pair(kernels) as (a, b):
        await a.start()
        await b.start()
        await until("the link", lambda: a.sessions.synced(LEASE, "b"))
        await b.stop()
        await until("the loss to be noticed", lambda: not a.sessions.synced(LEASE, "b"))
        a.nat.insert([flow(1)])
        await b.start()
        await until("the missed record", lambda: flow(1).key in b.flows())
        a.nat.insert([flow(2)])
        a.ring.lost_flows += 1
        a.tell(Event.OPENED, flow(3))
        await until("what the kernel had no room to tell", lambda: flow(2).key in b.flows())


async def test_after_a_change_of_roles_the_new_holder_is_believed_and_keeps_what_it_has(
    kernels: dict[str, Datapath],
) -> None:
    async with pair(kernels) as (a, b):
        a.nat.insert([flow(1, age_s=30), flow(2, age_s=30)])
        await a.start()
        await b.start()
        await until("the records", lambda: a.sessions.synced(LEASE, "b"))
        b.role(held=True, epoch=2)
        b.nat.delete([key for key in b.flows() if 20_002 in (key.local_port,) or key.local_port == 30_002])
        # The last words of the old holder: new ones are taken, what is there is not touched.
        b.nat.insert([flow(3, slot=SLOT["b"])])
        a.tell(Event.OPENED, flow(4))
        a.tell(Event.CLOSED, flow(3))
        await until("the last words", lambda: flow(4).key in b.flows())
        assert flow(3).key in b.flows()
        a.role(held=False, epoch=2)
        await until("the new holder's records", lambda: b.sessions.synced(LEASE, "a"))
        assert {key for key in a.flows() if not key.reply} == {key for key in b.flows() if not key.reply}


async def test_what_the_active_keeps_alive_does_not_expire_on_the_standby(
    kernels: dict[str, Datapath], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessionlink, "REFRESH_S", 0.2)
    async with pair(kernels) as (a, b):
        idle, busy = flow(1, age_s=600), flow(2, age_s=600)
        a.nat.insert([idle, busy])
        await a.start()
        await b.start()
        await until("the records", lambda: a.sessions.synced(LEASE, "b"))
        a.nat.insert([flow(2)])  # it spoke
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        seen = {each.key: each.seen_ns for each in b.nat.items()}
        await until("the new age", lambda: (b.nat.get(busy.key) or busy).seen_ns > seen[busy.key] + 5 * 10**8)
        assert now - (b.nat.get(idle.key) or idle).seen_ns > 590 * 10**9
        assert idle.key in {each.key for gone in b.nat.expire(now) for each in gone}
        assert busy.key in b.flows()


async def test_nonsense_and_strangers_harm_nobody(kernels: dict[str, Datapath]) -> None:
    async with pair(kernels) as (a, b):
        a.nat.insert([flow(1)])
        await a.start()
        await b.start()
        await until("the link", lambda: a.sessions.synced(LEASE, "b"))
        for said in (b"GET / HTTP/1.1\r\n\r\n", bytes(40), b"\0\0\0\4\1" + bytes(8) + b"what"):
            reader, writer = await asyncio.open_connection(str(ADDRESS["b"]), 9881)
            writer.write(said)
            assert await asyncio.wait_for(reader.read(), 2) == b""
            writer.close()
        assert flow(1).key in b.flows()
        assert a.sessions.synced(LEASE, "b")
