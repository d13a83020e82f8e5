"""A cluster of voters on a clock that only this file turns: kernels that count grants, a network without manners.

The kernel is modelled by the words of docs/failover.md, section "Probes", not by the program's code. After everything
that could make a holder, the whole is looked at from above, in true time: at most one node may hold and answer.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from egresslab.datapath.probe import Answer, LeaseState, Request
from egresslab.datapath.values import Grant, Holder, Lease
from egresslab.voter.actions import Announce, Probe, SetHolder, Silence, Tell
from egresslab.voter.ballot import Ballot
from egresslab.voter.files import MILLISECOND, Group, Peer, Voting
from egresslab.voter.messages import Message, pack, unpack

SECOND = 1_000 * MILLISECOND
MINUTE = 60 * SECOND


@dataclass
class Kernel:
    """What stays when a voter's process dies, and goes when its node does."""

    address: IPv4Address
    voters: tuple[IPv4Address, ...] = ()
    heartbeat: int = -SECOND
    leases: dict[int, Lease] = field(default_factory=dict)
    holders: dict[int, Holder] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)

    def probe(self, now: int, request: Request, sender: IPv4Address) -> Answer:
        for grant in request.grants:
            lease = self.leases.get(grant.lease)
            if sender not in self.voters or lease is None or not grant.duration_ms:
                continue
            if not 0 < request.echo_ns <= now or now - request.echo_ns > MINUTE:
                continue
            until, before = request.echo_ns + grant.duration_ms * MILLISECOND, lease.grants.get(sender)
            if before is not None and grant.epoch < before.epoch:
                continue
            if before is not None and grant.epoch == before.epoch:
                until = max(until, before.until_ns)
            grants = {**lease.grants, sender: Grant(grant.epoch, until)}
            self.leases[grant.lease] = self._counted(replace(lease, grants=grants))
        states = []
        for grant in request.grants:
            lease = self.leases.get(grant.lease)
            left = -((now - lease.holds_until_ns) // MILLISECOND) if lease is not None else 0
            states.append(LeaseState(grant.lease, max(0, left), lease.epoch if lease is not None else 0))
        alive = now - self.heartbeat < SECOND
        return Answer(request.sequence, alive, request.clock_ns, request.echo_ns, now, tuple(states))

    def _counted(self, lease: Lease) -> Lease:
        quorum = len(self.voters) // 2 + 1
        for epoch in sorted({grant.epoch for grant in lease.grants.values()}, reverse=True):
            untils = sorted(
                (g.until_ns for voter, g in lease.grants.items() if g.epoch == epoch and voter in self.voters),
                reverse=True,
            )
            if len(untils) >= quorum:
                if epoch < lease.epoch:
                    return lease
                until = untils[quorum - 1]
                return replace(
                    lease,
                    epoch=epoch,
                    holds_until_ns=max(until, lease.holds_until_ns) if epoch == lease.epoch else until,
                )
        return lease

    def holds(self, now: int, lease: int) -> bool:
        found = self.leases.get(lease)
        return found is not None and found.held(now) and lease not in self.silent


@dataclass
class Machine:
    """A node: clock, kernel, and perhaps a running voter."""

    name: str
    kernel: Kernel
    offset: int
    drift: float
    voting: Voting
    ballot: Ballot | None = None
    up: bool = True
    paused_until: int = 0
    incarnation: int = 0
    down: tuple[int, ...] = ()
    inbox: list[Callable[[], None]] = field(default_factory=list)


@dataclass
class Network:
    """One way from node to node: cut or not, how slow, how lossy."""

    cuts: set[tuple[str, str]] = field(default_factory=set)
    delay_ms: tuple[float, float] = (0.1, 1.0)
    loss: float = 0.0
    doubled: float = 0.0
    stragglers: float = 0.0
    """Share of packets that are late by up to a second."""


class World:
    """`names` are the nodes, the first `voters` of them vote about `groups`."""

    def __init__(self, seed: int, names: Iterable[str], voters: int, groups: tuple[Group, ...]) -> None:
        self.random = random.Random(seed)
        self.now = 0
        self.network = Network()
        self.groups = groups
        self.moves: list[tuple[int, int, str, int]] = []
        """(time, lease, node, epoch): each taking of a lease."""
        self.violations: list[str] = []
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.machines: dict[str, Machine] = {}
        names = tuple(names)
        peers = tuple(Peer(name, IPv4Address(f"192.0.2.{number}")) for number, name in enumerate(names, start=1))
        self.addresses = {peer.name: peer.address for peer in peers}
        self.names = {peer.address: peer.name for peer in peers}
        for peer in peers:
            voting = Voting(peer.name, peers, names[:voters], 1, groups)
            offset = self.random.randrange(10 * SECOND, 1000 * SECOND)
            drift = self.random.uniform(-1e-4, 1e-4)
            self.machines[peer.name] = Machine(peer.name, Kernel(peer.address), offset, drift, voting)
        for name in names:
            self.start(name)

    # True time and what is seen from above

    def at(self, delay: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + int(delay), self._count, what))

    def run(self, seconds: float) -> None:
        end = self.now + int(seconds * SECOND)
        while self._events and self._events[0][0] <= end:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = end

    def until(self, condition: Callable[[], bool], seconds: float) -> float:
        """Run until it is so; how long that took, in milliseconds. Fails after `seconds`."""
        begin = self.now
        while not condition():
            assert self.now - begin < seconds * SECOND, f"not within {seconds} s"
            self.run(0.001)
        return (self.now - begin) / MILLISECOND

    def clock(self, machine: Machine) -> int:
        return machine.offset + self.now + int(self.now * machine.drift)

    def holders(self, lease: int) -> list[str]:
        """Who holds and would answer, now."""
        return [m.name for m in self.machines.values() if m.up and m.kernel.holds(self.clock(m), lease)]

    def translating(self, lease: int) -> list[str]:
        """Who would translate a packet that reached it, now."""
        found = []
        for machine in self.machines.values():
            lease_here, holder = machine.kernel.leases.get(lease), machine.kernel.holders.get(lease)
            mine = machine.up and holder is not None and holder.local
            if mine and lease_here is not None and lease_here.held(self.clock(machine)):
                found.append(machine.name)
        return found

    def followed(self, lease: int) -> dict[str, str | None]:
        """Whom each node that is up sends its packets to."""
        found: dict[str, str | None] = {}
        for machine in self.machines.values():
            if machine.up:
                holder = machine.kernel.holders.get(lease)
                found[machine.name] = self.names[holder.endpoint] if holder and holder.endpoint else None
        return found

    def settled(self, lease: int) -> bool:
        """One holder, and everybody follows it."""
        holders = self.holders(lease)
        return len(holders) == 1 and set(self.followed(lease).values()) == set(holders)

    def check(self) -> None:
        for group in self.groups:
            holders = self.holders(group.lease)
            if len(holders) > 1:
                self.violations.append(f"{self.now / MILLISECOND:.1f} ms: {', '.join(holders)} hold {group.lease}")

    # Faults

    def start(self, name: str) -> None:
        machine = self.machines[name]
        machine.incarnation += 1
        machine.inbox.clear()
        machine.paused_until = 0
        now = self.clock(machine)
        silence = max((group.pace.duration_ns for group in self.groups), default=0)
        machine.ballot = Ballot(name, now, silence + 5 * MILLISECOND)
        self.configure(name)

    def configure(self, name: str, voting: Voting | None = None) -> None:
        machine = self.machines[name]
        machine.voting = voting or machine.voting
        kernel, ballot = machine.kernel, machine.ballot
        if ballot is None:
            return
        kernel.voters = tuple(self.addresses[voter] for voter in machine.voting.voters)
        for group in machine.voting.groups:
            if any(candidate.node == name for candidate in group.candidates):
                kernel.leases.setdefault(group.lease, Lease(0, 0, {}))
        ballot.configure(self.clock(machine), machine.voting, kernel.holders, kernel.leases, kernel.silent)
        self._turn(machine)

    def kill(self, name: str) -> None:
        """The process only."""
        self.machines[name].ballot = None
        self.machines[name].incarnation += 1
        self.machines[name].inbox.clear()

    def crash(self, name: str) -> None:
        self.kill(name)
        self.machines[name].up = False

    def boot(self, name: str) -> None:
        """With another clock and an empty kernel."""
        machine = self.machines[name]
        machine.up = True
        machine.kernel = Kernel(machine.kernel.address)
        machine.offset = self.random.randrange(SECOND, 1000 * SECOND) - self.now
        machine.down = ()
        self.start(name)

    def pause(self, name: str, seconds: float) -> None:
        machine = self.machines[name]
        machine.paused_until = max(machine.paused_until, self.now + int(seconds * SECOND))

    def links(self, name: str, down: Iterable[int]) -> None:
        machine = self.machines[name]
        machine.down = tuple(down)
        self._turn(machine)

    def reconfigure(self, change: Callable[[Group], Group], only: str | None = None) -> None:
        """Every node's group, or one node's, becomes another."""
        for name, machine in self.machines.items():
            if only in (None, name):
                groups = tuple(change(group) for group in machine.voting.groups)
                self.configure(name, replace(machine.voting, groups=groups))

    def cut(self, one: str, other: str, both: bool = True) -> None:
        self.network.cuts |= {(one, other), (other, one)} if both else {(one, other)}

    def heal(self) -> None:
        self.network = Network()

    # Processes

    def _turn(self, machine: Machine) -> None:
        """The voter looks at everything that waits for it and does what is due."""
        if machine.ballot is None or not machine.up:
            return
        incarnation, ballot = machine.incarnation, machine.ballot
        if self.now < machine.paused_until:
            self.at(machine.paused_until - self.now + 1, lambda: self._again(machine, incarnation))
            return
        waiting, machine.inbox = machine.inbox, []
        for hear in waiting:
            hear()
        machine.kernel.heartbeat = self.clock(machine)
        ballot.links(machine.down)
        again = True
        while again:
            actions = ballot.poll(self.clock(machine), self.now / SECOND, machine.kernel.leases)
            again = self._act(machine, ballot, actions)
        lateness = self.random.uniform(0, 2) * MILLISECOND
        wake = max(0, ballot.wake(self.clock(machine)) - self.clock(machine))
        machine.incarnation += 1
        turn = machine.incarnation
        self.at(wake + lateness, lambda: self._again(machine, turn))

    def _again(self, machine: Machine, incarnation: int) -> None:
        if machine.incarnation == incarnation:
            self._turn(machine)

    def _act(self, machine: Machine, ballot: Ballot, actions: Iterable[object]) -> bool:
        """Whether the voter should look again at once."""
        again = False
        for action in actions:
            match action:
                case Probe(node, request) if node == machine.name:
                    now = self.clock(machine)
                    ballot.answered(now, node, machine.kernel.probe(now, request, machine.kernel.address))
                    self.check()
                    again = True
                case Probe(node, request):
                    self._send(machine.name, node, lambda node=node, r=request: self._probed(machine.name, node, r))
                case Tell(nodes, message):
                    self._tell(machine.name, nodes, message)
                case SetHolder(lease, node, epoch):
                    local = node == machine.name
                    machine.kernel.holders[lease] = Holder(self.addresses[node], epoch, local)
                case Silence(lease, True):
                    machine.kernel.silent.add(lease)
                case Silence(lease, False):
                    machine.kernel.silent.discard(lease)
                    self.check()
                case Announce(lease):
                    epoch = machine.kernel.leases[lease].epoch
                    self.moves.append((self.now, lease, machine.name, epoch))
        return again

    # The network

    def _send(self, source: str, target: str, arrive: Callable[[], None]) -> None:
        net = self.network
        if (source, target) in net.cuts or self.random.random() < net.loss:
            return
        for _ in range(2 if self.random.random() < net.doubled else 1):
            delay = self.random.uniform(*net.delay_ms)
            if self.random.random() < net.stragglers:
                delay += self.random.uniform(0, 1000)
            self.at(delay * MILLISECOND, arrive)

    def _tell(self, source: str, targets: Iterable[str], message: Message) -> None:
        raw = pack(message)
        for target in targets:
            if target != source:
                self._send(source, target, lambda target=target: self._told(target, unpack(raw)))

    def _told(self, target: str, message: Message) -> None:
        machine = self.machines[target]
        if machine.ballot is None or not machine.up:
            return
        ballot = machine.ballot

        def hear() -> None:
            self._act(machine, ballot, ballot.told(self.clock(machine), message))

        machine.inbox.append(hear)
        self._turn(machine)

    def _probed(self, source: str, target: str, request: Request) -> None:
        machine = self.machines[target]
        if not machine.up:
            return
        answer = machine.kernel.probe(self.clock(machine), request, self.addresses[source])
        self.check()
        self._send(target, source, lambda: self._answered(source, target, answer))

    def _answered(self, source: str, target: str, answer: Answer) -> None:
        machine = self.machines[source]
        if machine.ballot is None or not machine.up:
            return
        ballot = machine.ballot
        machine.inbox.append(lambda: ballot.answered(self.clock(machine), target, answer))
        self._turn(machine)
