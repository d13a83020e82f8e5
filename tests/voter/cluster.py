"""Four nodes on wires of their own, with programs, maps and voters as processes; a pod that never stops sending.

`source` has the pod and neither votes nor gateways; `a`, `b`, `c` do both, preferred in that order.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

from pyroute2 import AsyncIPRoute

from egresslab.datapath.testing import Rig, index_of
from egresslab.datapath.values import GatewaySlot, PolicyEntry
from egresslab.netlink import dump
from egresslab.voter.files import Candidate, Conflict, Group, Peer, Report, Voting, read_report, write
from egresslab.voter.frames import ETH_P_ARP, question

LEASE = 4711
VOTERS = ("a", "b", "c")
VIRTUAL, VIRTUAL_V6 = IPv4Address("172.18.18.201"), IPv6Address("fd00:18::201")
TARGET = IPv4Address("203.0.113.10")
PORT = 8090
DEADLINE_S = 10.0
PERIOD_S = 0.002


@dataclass
class Traffic:
    """Numbered datagrams from the pod: when each was sent, which reached outside and with which source address, and
    which answers came back."""

    sent: dict[int, float] = field(default_factory=dict)
    answered: dict[int, float] = field(default_factory=dict)
    arrived: set[int] = field(default_factory=set)
    first: int = 0
    """Before this one neighbours may still have been unknown."""
    sources: set[IPv4Address] = field(default_factory=set)

    @property
    def lost(self) -> list[int]:
        """What never reached outside."""
        return [number for number in self.sent if number >= self.first and number not in self.arrived]

    @property
    def unanswered(self) -> list[int]:
        return [number for number in self.sent if number >= self.first and number not in self.answered]

    @property
    def gap_ms(self) -> float:
        """The longest time between two datagrams in a row that were answered, by when they were sent."""
        times = sorted(self.sent[number] for number in self.answered if number >= self.first)
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0) * 1000


@dataclass
class Answers:
    """MACs that answered for the address, in order, and when."""

    macs: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    @property
    def gap_ms(self) -> float:
        return max((b - a for a, b in itertools.pairwise(self.times)), default=0.0) * 1000


class Cluster:
    """The rig and its voters."""

    def __init__(self, rig: Rig, directory: Path) -> None:
        self.rig = rig
        self.directory = directory
        self.group = Group(
            LEASE,
            "egresslab/main",
            tuple(Candidate(name) for name in VOTERS),
            addresses=(VIRTUAL, VIRTUAL_V6),
            announce=("eth1",),
        )
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.started: dict[str, float] = {}
        self.macs: dict[str, str] = {}
        for name, node in rig.nodes.items():
            candidate = name in VOTERS
            node.datapath.slots.set(
                1,
                GatewaySlot(
                    source_v4=VIRTUAL if candidate else None,
                    source_v6=VIRTUAL_V6 if candidate else None,
                    ifindex=node.links["eth1"] if candidate else 0,
                    lease=LEASE,
                ),
            )
            pod = rig.nodes["source"].pods[0]
            node.datapath.policy.update(
                PolicyEntry(address, ip_network("0.0.0.0/0" if address.version == 4 else "::/0"), 1)
                for address in pod.addresses
            )
            (directory / name).mkdir()

    # Voters

    def configure(self, group: Group | None = None, *names: str) -> None:
        """What each node's agent would write."""
        self.group = group or self.group
        nodes = tuple(Peer(name, node.v4, node.v6) for name, node in self.rig.nodes.items())
        for name in names or self.rig.nodes:
            write(self.directory / name / "voting.json", Voting(name, nodes, VOTERS, 1, (self.group,)))

    def unfit(self, *names: str) -> None:
        self.configure(replace(self.group, candidates=tuple(Candidate(name, name not in names) for name in VOTERS)))

    async def start(self, *names: str) -> None:
        for name in names or self.rig.nodes:
            node = self.rig.nodes[name]
            self.started[name] = time.time()
            with (self.directory / f"{name}.log").open("ab") as log:
                self.processes[name] = await asyncio.create_subprocess_exec(
                    "nsenter",
                    f"--net=/run/netns/{node.namespace}",
                    sys.executable,
                    "-m",
                    "egresslab.voter",
                    "--run-dir",
                    str(self.directory / name),
                    "--pin-dir",
                    str(node.pin_dir),
                    stderr=log,
                )

    async def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):
            process.send_signal(how)
        await asyncio.wait_for(process.wait(), DEADLINE_S)

    async def reset(self) -> None:
        """All is well, all voters run, and `a` holds the lease."""
        await self.forbid()
        for name in self.rig.nodes:
            for order in (0, 1):
                await self.port(name, order, "up")
            if name not in self.processes:
                self.configure(None, name)
                await self.start(name)
        self.unfit("b", "c")
        await self.settled("a")
        self.unfit()
        await self.until(lambda: all(self.sees("a", name) for name in VOTERS), "a sees everybody")
        await self.until(lambda: all(self.sees(name, "a") for name in VOTERS), "everybody sees a")

    async def stop_all(self) -> None:
        for name in list(self.processes):
            await self.stop(name)

    def report(self, name: str) -> Report | None:
        return read_report(self.directory / name / "voter.json")

    def held_by(self) -> list[str]:
        """Whose kernel counts a majority of grants, now."""
        now = time.monotonic_ns()
        found = ((name, self.rig.nodes[name].datapath.leases.lease(LEASE)) for name in VOTERS)
        return [name for name, lease in found if lease is not None and lease.held(now)]

    def followed(self) -> set[str]:
        """Whom nodes with a voter send the pod's packets to."""
        names = {node.v4: name for name, node in self.rig.nodes.items()}
        found = (node.datapath.leases.holder(LEASE) for name, node in self.rig.nodes.items() if name in self.processes)
        return {names[holder.endpoint] if holder and holder.endpoint else "" for holder in found}

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain: {what}; {self.held_by()}, {self.followed()}"
            await asyncio.sleep(0.002)

    async def settled(self, name: str) -> None:
        """Held by the node, and everybody knows."""
        await self.until(lambda: self.held_by() == [name] and self.followed() == {name}, f"{name} holds the lease")

    # Faults

    async def port(self, name: str, order: int, state: str) -> None:
        """The switch's port of a node's link: down, and the node has no carrier."""
        async with AsyncIPRoute(netns=self.rig.fabric) as fabric:
            await fabric.link("set", index=await index_of(fabric, f"{name}.{order}"), state=state)

    async def forbid(self, *rules: str) -> None:
        """What the switch does not forward (nftables' bridge family); nothing for none."""
        table = "table bridge cuts\ndelete table bridge cuts\n"
        if rules:
            lines = "\n".join(rules)
            table += f"table bridge cuts {{\nchain forward {{\ntype filter hook forward priority 0\n{lines}\n}}\n}}\n"
        await self.rig.run(self.rig.fabric, "nft", "-f", "-", input=table)

    async def cut(self, one: str, other: str) -> None:
        a, b = self.rig.nodes[one].v4, self.rig.nodes[other].v4
        await self.forbid(f"ip saddr {a} ip daddr {b} drop", f"ip saddr {b} ip daddr {a} drop")

    async def isolate(self, name: str) -> None:
        """Nothing over the cluster network; the node's links keep their carrier."""
        await self.forbid(f'iifname "{name}.0" drop', f'oifname "{name}.0" drop')

    @asynccontextmanager
    async def stranger(self) -> AsyncIterator[None]:
        """Somebody outside has the address too, and answers for it."""
        async with AsyncIPRoute(netns=self.rig.outside) as outside:
            index = await index_of(outside, "eth1")
            await outside.addr("add", index=index, address=str(VIRTUAL), prefixlen=32)
            try:
                yield
            finally:
                await outside.addr("delete", index=index, address=str(VIRTUAL), prefixlen=32)

    # What is seen

    def sees(self, voter: str, node: str) -> bool | None:
        report = self.report(voter)
        return next((item.seen for item in report.nodes if item.name == node), None) if report is not None else None

    def epoch(self, name: str) -> int:
        lease = self.rig.nodes[name].datapath.leases.lease(LEASE)
        return lease.epoch if lease is not None else 0

    def votes_for(self, voter: str, node: str) -> bool:
        """As its own report says, since it was started."""
        report = self.report(voter)
        return report is not None and report.time > self.started[voter] and report.leases[0].vote == node

    def conflicts(self, name: str) -> tuple[Conflict, ...]:
        report = self.report(name)
        return report.leases[0].conflicts if report is not None else ()

    def silent(self, name: str) -> bool:
        """Whether the node's programs would not answer for the IPv4 address."""
        node = self.rig.nodes[name]
        return node.datapath.leases.announced()[VIRTUAL, node.links["eth1"]].silent

    def mac(self, name: str) -> str:
        return self.macs[name]

    async def learn_macs(self) -> None:
        for name, node in self.rig.nodes.items():
            self.macs[name] = (await node.netlink.link("get", index=node.links["eth1"]))[0].get("address")

    async def neighbours(self) -> set[str]:
        """Where outside sends what is for the two addresses."""
        found = set()
        async with AsyncIPRoute(netns=self.rig.outside) as outside:
            for family, address in ((socket.AF_INET, VIRTUAL), (socket.AF_INET6, VIRTUAL_V6)):
                for entry in await dump(outside.neigh, family=family):
                    if entry.get("dst") == str(address):
                        found.add(entry.get("lladdr"))
        return found

    async def learnt_outside(self, name: str) -> None:
        """Both addresses lead to the node. Outside asks by itself only once; then it has to be told."""
        deadline = time.monotonic() + DEADLINE_S
        for kind, address in ((socket.AF_INET, VIRTUAL), (socket.AF_INET6, VIRTUAL_V6)):
            with self.rig.socket(self.rig.outside, kind, socket.SOCK_DGRAM) as made:
                made.sendto(b"", (str(address), 9))
        while (found := await self.neighbours()) != {self.mac(name)}:
            assert time.monotonic() < deadline, f"outside knows {found}, not {name}"
            await asyncio.sleep(0.01)

    async def status(self, name: str) -> str:
        arguments = ("-m", "egresslab.voter", "--status", "--run-dir", str(self.directory / name))
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
        output, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert process.returncode == 0
        return output.decode()

    # Traffic

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Answers]:
        """Outside asks for the address every two milliseconds."""
        found = Answers()
        made = self.rig.socket(self.rig.outside, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
        made.bind(("eth1", ETH_P_ARP))
        own = made.getsockname()[4]
        loop = asyncio.get_running_loop()

        def readable() -> None:
            with suppress(BlockingIOError):
                while True:
                    frame, address = made.recvfrom(64)
                    reply = frame[20:22] == b"\0\2" and frame[28:32] == VIRTUAL.packed and frame[:6] == own
                    if address[2] != socket.PACKET_OUTGOING and reply:
                        found.macs.append(frame[22:28].hex(":"))
                        found.times.append(time.monotonic())

        async def ask() -> None:
            while True:
                made.send(question(VIRTUAL, own))
                await asyncio.sleep(PERIOD_S)

        loop.add_reader(made, readable)
        asking = asyncio.create_task(ask())
        try:
            yield found
        finally:
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
            loop.remove_reader(made)
            made.close()

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[Traffic]:
        """A datagram every two milliseconds, each with its number, from one socket: one flow."""
        found = Traffic()
        pod = self.rig.nodes["source"].pods[0]
        made = self.rig.socket(pod.namespace, socket.AF_INET, socket.SOCK_DGRAM)
        made.connect((str(TARGET), PORT))
        loop = asyncio.get_running_loop()

        def readable() -> None:
            with suppress(OSError):
                while True:
                    found.answered.setdefault(struct.unpack("!Q", made.recv(64))[0], time.monotonic())

        async def send() -> None:
            number, due = 0, time.monotonic()
            while True:
                due = max(due + PERIOD_S, time.monotonic())
                found.sent[number] = time.monotonic()
                with suppress(OSError):
                    made.send(struct.pack("!Q", number))
                number += 1
                await asyncio.sleep(due - time.monotonic())

        server = self.rig.socket(self.rig.outside, socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((str(TARGET), PORT))

        def arrived() -> None:
            with suppress(OSError):
                while True:
                    raw, peer = server.recvfrom(64)
                    found.arrived.add(struct.unpack("!Q", raw)[0])
                    found.sources.add(IPv4Address(peer[0]))
                    server.sendto(raw, peer)

        loop.add_reader(server, arrived)
        loop.add_reader(made, readable)
        with made, server:
            sending = asyncio.create_task(send())
            try:
                await self.until(lambda: len(found.answered) > 20, "traffic flows")
                found.first = max(found.answered)
                yield found
            finally:
                sending.cancel()
                with suppress(asyncio.CancelledError):
                    await sending
                await asyncio.sleep(0.05)  # what is on the way arrives or does not
                loop.remove_reader(made)
                loop.remove_reader(server)


def alive(process: asyncio.subprocess.Process) -> bool:
    return process.returncode is None and Path(f"/proc/{process.pid}").exists()


def memory_mb(process: asyncio.subprocess.Process) -> float:
    """Resident set of a process."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
