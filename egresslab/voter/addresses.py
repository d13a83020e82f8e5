"""The virtual addresses of this node's groups: on which links, silent or not, when announced, claimed by whom.

The programs answer for an address while its lease is held; here is decided only when they must not although it is
(released, or somebody else has it), and when to tell and to ask the neighbours. Two may claim an address by mistake of
an administrator; two voters' nodes never do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from egresslab.datapath.values import Announced
from egresslab.voter.files import MILLISECOND, Conflict, Group, IPAddress
from egresslab.voter.frames import Claim

BURST_MS = (0, 20, 100, 500, 1_000)
"""When a new holder announces, counted from taking the lease; then every ten seconds."""
REMINDER_NS = 10_000 * MILLISECOND
QUESTION_NS = 1_000 * MILLISECOND
DISPUTED_NS = 3_500 * MILLISECOND
"""How long a stranger's claim keeps an address silent before take-over: three questions that nobody answers."""
REMEMBERED_NS = 60_000 * MILLISECOND
"""How long a conflict is reported after the last claim."""


class Wire(Protocol):
    """Where neighbours are told and asked; `Neighbours`, or a stand-in."""

    def announce(self, address: IPAddress, names: Collection[str]) -> None: ...

    def ask(self, address: IPAddress, names: Collection[str]) -> None: ...


class Answering(Protocol):
    """The map that tells the programs what to answer for; `LeaseMaps`, or a stand-in."""

    def announced(self) -> dict[tuple[IPAddress, int], Announced]: ...

    def announce(self, address: IPAddress, ifindex: int, value: Announced) -> None: ...

    def withdraw(self, address: IPAddress, ifindex: int) -> None: ...


@dataclass(slots=True)
class Addresses:
    """`silent`: leases for which this node answers nothing. `held`: those whose addresses it announces."""

    maps: Answering
    wire: Wire
    silent: set[int] = field(default_factory=set)
    absent: frozenset[int] = frozenset()
    """Leases with an address that this node could not answer for yet: it is not on its interface."""
    groups: tuple[Group, ...] = ()
    conflicts: dict[tuple[IPAddress, str], tuple[Conflict, int]] = field(default_factory=dict)
    """By address and interface: the last claim, and when by this node's clock."""
    _written: dict[tuple[IPAddress, int], Announced] = field(default_factory=dict)
    _indexes: Mapping[str, int] = field(default_factory=dict)
    _burst: dict[int, tuple[int, int]] = field(default_factory=dict)
    """For each lease held: when its announcements began, and how many are out."""
    _next_question: int = 0
    _kept_silent: set[IPAddress] = field(default_factory=set)

    def adopt(self) -> frozenset[int]:
        """Take over what the map holds; the leases that are silent there."""
        self._written = self.maps.announced()
        self.silent = {value.lease for value in self._written.values() if value.silent}
        return frozenset(self.silent)

    def configure(self, groups: Iterable[Group], indexes: Mapping[str, int], now: int) -> None:
        """Follow the groups for which this node is a candidate, and the announcing interfaces that are there."""
        before = {(group.lease, group.addresses) for group in self.groups}
        self.groups, self._indexes = tuple(groups), indexes
        for group in self.groups:
            if (group.lease, group.addresses) not in before and group.lease in self._burst:
                self._burst[group.lease] = now, 0
        self._write()

    def silence(self, lease: int, silent: bool) -> None:
        """Answer for the lease's addresses no more, or again, from the next packet on."""
        self.silent = self.silent | {lease} if silent else self.silent - {lease}
        self._write()

    def hold(self, leases: Collection[int], now: int) -> None:
        """Which leases this node holds now; new ones are announced."""
        for lease in self._burst.keys() - set(leases):
            del self._burst[lease]
        for lease in leases:
            self._burst.setdefault(lease, (now, 0))

    def taken(self, lease: int, now: int) -> None:
        """Announce from the beginning. What a stranger claims just now stays silent, and is said."""
        self._burst[lease] = now, 0

    def announce_anew(self, now: int) -> None:
        """A link came, or has another MAC: what this node holds is told again at once, not at the next reminder."""
        for lease in self._burst:
            self._burst[lease] = now, 0

    def claimed(self, now: int, unix: float, claim: Claim, interface: str, ours: Collection[str]) -> bool:
        """Somebody claims an address. `ours`: the MACs of all candidates. Whether it is a conflict that is new."""
        if claim.mac in ours or not any(
            claim.address in group.addresses and interface in group.announce for group in self.groups
        ):
            return False
        key = claim.address, interface
        news = key not in self.conflicts or self.conflicts[key][0].mac != claim.mac
        self.conflicts[key] = Conflict(claim.address, claim.mac, interface, unix), now
        if not any(claim.address in group.addresses for group in self.groups if group.lease in self._burst):
            self._kept_silent.add(claim.address)
        self._write()
        return news

    def conflicts_of(self, lease: int) -> tuple[Conflict, ...]:
        """What is to be reported of a lease."""
        addresses = {address for group in self.groups if group.lease == lease for address in group.addresses}
        return tuple(conflict for (address, _), (conflict, _) in self.conflicts.items() if address in addresses)

    def run(self, now: int) -> None:
        """Announce and ask what is due, forget what is over."""
        for key in [key for key, (_, at) in self.conflicts.items() if now - at > REMEMBERED_NS]:
            del self.conflicts[key]
        for address in [address for address in self._kept_silent if not self._disputed(now, address)]:
            self._kept_silent.discard(address)
            for group in self.groups:
                if address in group.addresses and group.lease in self._burst:
                    self._burst[group.lease] = now, 0
            self._write()
        for group in self.groups:
            if group.lease in self._burst:
                self._announce(group, now)
        if now >= self._next_question:
            self._next_question = now + QUESTION_NS
            for group in self.groups:
                for address in group.addresses:
                    if group.lease not in self._burst or address in self._kept_silent:
                        self.wire.ask(address, group.announce)

    def wake_ns(self) -> int:
        """When `run` has something to do again."""
        return min([self._next_question, *(self._due(lease) for lease in self._burst)])

    def _announce(self, group: Group, now: int) -> None:
        if now < self._due(group.lease):
            return
        began, count = self._burst[group.lease]
        self._burst[group.lease] = (began, count + 1) if count < len(BURST_MS) else (now, count)
        if group.lease in self.silent:
            return
        for address in group.addresses:
            if address not in self._kept_silent:
                self.wire.announce(address, group.announce)

    def _due(self, lease: int) -> int:
        began, count = self._burst[lease]
        return began + (BURST_MS[count] * MILLISECOND if count < len(BURST_MS) else REMINDER_NS)

    def _disputed(self, now: int, address: IPAddress) -> bool:
        return any(now - at < DISPUTED_NS for (other, _), (_, at) in self.conflicts.items() if other == address)

    def _write(self) -> None:
        """Bring the map to what is wanted, writing differences only."""
        wanted = {
            (address, self._indexes[name]): Announced(
                group.lease, group.lease in self.silent or address in self._kept_silent
            )
            for group in self.groups
            for address in group.addresses
            for name in group.announce
            if name in self._indexes
        }
        for key in self._written.keys() - wanted.keys():
            self.maps.withdraw(*key)
        for key, value in wanted.items():
            if self._written.get(key) != value:
                self.maps.announce(*key, value)
        self._written = wanted
