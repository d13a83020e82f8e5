"""A voter's ground where our programs are not loaded: grants counted in this process, addresses on interfaces.

The rules are those of the programs (docs/failover.md, "Probes"). What the programs have from the kernel's clock is had
here from addresses that end by themselves: one is prolonged only while the lease outlasts the longest that it could
stay without us. So no address outlives its lease, whatever becomes of this process. That takes leases of seconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

from egresslab.datapath.probe import Answer, LeaseState, Request
from egresslab.datapath.values import Announced, Grant, Holder, Lease
from egresslab.errors import DatapathError
from egresslab.voter.carrier import LONGEST_STAY_NS, Carrier
from egresslab.voter.files import MILLISECOND, IPAddress, Report, Voting
from egresslab.voter.messages import Choice

logger = logging.getLogger(__name__)

LEAST_DURATION_MS = 3_000
"""Of a grant: the longest stay of an address, and room for a few lost probes."""
AGAIN_NS = 300 * MILLISECOND
ENDING_NS = 150 * MILLISECOND
"""So long before the end of its lease an address is taken off by this process."""
SLACK_NS = 100 * MILLISECOND
"""Between looking at the clock and acting on it."""
ECHO_AGE_NS = LONGEST_GRANT_NS = 60_000 * MILLISECOND
Place = tuple[IPAddress, int]
"""An address and the index of an interface."""


class CarriedAddresses:
    """What is to be answered for, where the kernel answers for what is on its interfaces."""

    def __init__(self, carrier: Carrier, known: Mapping[int, Holder]) -> None:
        self._carrier = carrier
        self._holders = dict(known)
        self._wanted: dict[Place, Announced] = {}
        self._put_ns: dict[Place, int] = {}
        self._others: set[Place] = set()
        """Found there, put there by other hands: left to them."""

    def holders(self) -> dict[int, Holder]:
        return dict(self._holders)

    def set_holder(self, lease: int, holder: Holder) -> None:
        self._holders[lease] = holder

    def delete_holder(self, lease: int) -> None:
        self._holders.pop(lease, None)

    def announced(self) -> dict[Place, Announced]:
        return dict(self._wanted)

    def announce(self, address: IPAddress, ifindex: int, value: Announced) -> None:
        """From the next `carry` on; one that falls silent is off the interface when this returns."""
        self._wanted[address, ifindex] = value
        if value.silent:
            self._take((address, ifindex))

    def withdraw(self, address: IPAddress, ifindex: int) -> None:
        """It is off the interface when this returns."""
        self._wanted.pop((address, ifindex), None)
        self._others.discard((address, ifindex))
        self._take((address, ifindex))

    def carry(self, now: int, leases: Mapping[int, Lease]) -> frozenset[int]:
        """Put, prolong, take off; leases of which an address is not in place."""
        absent = set()
        for place, value in self._wanted.items():
            lease = leases.get(value.lease)
            left = lease.holds_until_ns - now if lease is not None and not value.silent else 0
            try:
                if left > LONGEST_STAY_NS + SLACK_NS:
                    self._put(place, now, now + left - LONGEST_STAY_NS)
                elif left < ENDING_NS:
                    self._take(place)
            except DatapathError as error:
                logger.error("%s", error)
            stays = now - self._put_ns.get(place, -LONGEST_STAY_NS) < LONGEST_STAY_NS // 2
            if left <= 0 or not (stays or place in self._others):
                absent.add(value.lease)
        return frozenset(absent)

    def _put(self, place: Place, now: int, latest: int) -> None:
        before = self._put_ns.get(place)
        if before is not None and now - before < AGAIN_NS:
            return
        if not self._carrier.put(*place, again=before is not None):
            if place not in self._others:
                # It may be the rest of a process before this one, which is over in a moment.
                logger.warning("%s is on interface %d already, by other hands", *place)
                self._others.add(place)
            return
        self._others.discard(place)
        self._put_ns[place] = now
        if before is None:
            logger.info("put %s on interface %d", *place)
        if time.monotonic_ns() > latest:
            # Stopped between looking at the clock and acting on it: what was right then need not be any more.
            self._take(place)

    def _take(self, place: Place) -> None:
        if place in self._put_ns:
            self._carrier.take(*place)
            del self._put_ns[place]
            logger.info("took %s off interface %d", *place)


class Userland:
    """`Ground` of a node that another datapath has."""

    def __init__(self, report: Report | None) -> None:
        """`report`: what the process before this one said last."""
        known = {
            lease.lease: Holder(None, lease.epoch, report is not None and lease.holder == report.node)
            for lease in (report.leases if report is not None else ())
            if lease.holder is not None
        }
        self._carrier = Carrier()
        self.maps = CarriedAddresses(self._carrier, known)
        self._leases: dict[int, Lease] = {}
        self._voters: Sequence[IPv4Address] = ()

    def close(self) -> None:
        """Addresses stay until they end, so that a process that follows soon finds nothing missing for long."""
        self._carrier.close()

    def replaced(self, now: int) -> bool:
        return False

    def configure(self, voting: Voting) -> None:
        addresses = {peer.name: peer.address for peer in voting.nodes}
        self._voters = [addresses[voter] for voter in voting.voters]
        candidate = {group.lease for group in voting.groups if any(c.node == voting.node for c in group.candidates)}
        for lease in candidate:
            self._leases.setdefault(lease, Lease(0, 0, {}))

    def beat(self, now: int) -> None:
        """Whoever is answered hears that this process lives."""

    def leases(self) -> dict[int, Lease]:
        return dict(self._leases)

    def set_holder(self, lease: int, holder: Choice, node: str, addresses: Mapping[str, IPv4Address]) -> None:
        self.maps.set_holder(lease, Holder(addresses.get(holder.node), holder.epoch, holder.node == node))

    def probe(self, request: Request, own: IPv4Address) -> Answer:
        return self.asked(request, own)

    def asked(self, request: Request, sender: IPv4Address) -> Answer:
        """Count the grants of a voter, and answer whoever asks."""
        now = time.monotonic_ns()
        echo = request.echo_ns if 0 < request.echo_ns <= now and now - request.echo_ns < ECHO_AGE_NS else 0
        states = []
        for grant in request.grants:
            duration = grant.duration_ms * MILLISECOND
            if echo and sender in self._voters and duration <= LONGEST_GRANT_NS and 0 < grant.epoch < 1 << 63:
                self._granted(grant.lease, sender, Grant(grant.epoch, echo + duration))
            lease = self._leases.get(grant.lease)
            left = -((now - lease.holds_until_ns) // MILLISECOND) if lease is not None else 0
            states.append(LeaseState(grant.lease, max(0, left), lease.epoch if lease is not None else 0))
        return Answer(request.sequence, True, request.clock_ns, request.echo_ns, now, tuple(states))

    def carry(self, now: int, leases: Mapping[int, Lease]) -> frozenset[int]:
        return self.maps.carry(now, leases)

    def forget(self, now: int, voting: Voting) -> None:
        """Leases that nobody votes about, and over ones for which this node is no candidate."""
        groups = {group.lease: group for group in voting.groups}
        for lease, value in list(self._leases.items()):
            group = groups.get(lease)
            candidate = group is not None and any(c.node == voting.node for c in group.candidates)
            if not candidate and not value.held(now):
                del self._leases[lease]
        for lease in self.maps.holders().keys() - groups.keys():
            self.maps.delete_holder(lease)

    def _granted(self, number: int, voter: IPv4Address, grant: Grant) -> None:
        lease = self._leases.get(number)
        if lease is None:
            return
        before = lease.grants.get(voter)
        if before is not None and (grant.epoch, grant.until_ns) <= (before.epoch, before.until_ns):
            return
        grants = {who: given for who, given in lease.grants.items() if who in self._voters} | {voter: grant}
        self._leases[number] = self._counted(replace(lease, grants=grants))

    def _counted(self, lease: Lease) -> Lease:
        """The latest moment of the latest epoch that a majority granted; within an epoch it never goes back."""
        quorum = len(self._voters) // 2 + 1
        for epoch in sorted(
            {grant.epoch for grant in lease.grants.values() if grant.epoch >= lease.epoch}, reverse=True
        ):
            untils = sorted((g.until_ns for g in lease.grants.values() if g.epoch == epoch), reverse=True)
            if len(untils) >= quorum:
                until = untils[quorum - 1]
                kept = max(until, lease.holds_until_ns) if epoch == lease.epoch else until
                return replace(lease, epoch=epoch, holds_until_ns=kept)
        return lease
