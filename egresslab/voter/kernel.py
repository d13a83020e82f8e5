"""The maps of this node, kept in step with what is voted about.

Thin: `LeaseMaps` writes, this remembers what has to be written again when an agent of another version has put other
maps in place. Grants are the programs' alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path

from egresslab.datapath.leases import LeaseMaps
from egresslab.datapath.probe import Answer, Request
from egresslab.datapath.values import Holder, Lease
from egresslab.errors import DatapathError
from egresslab.voter.files import MILLISECOND, Voting
from egresslab.voter.messages import Choice

logger = logging.getLogger(__name__)

BEAT_NS = 100 * MILLISECOND
CURRENT_NS = 1_000 * MILLISECOND
FORGET_NS = 10_000 * MILLISECOND
"""How long a group has to be gone from `voting.json` before its lease and holder go from the maps."""


class Kernel:
    """What the process needs of the maps. `maps` is replaced when the pinned ones were."""

    def __init__(self, pin_dir: Path) -> None:
        """Raises DatapathError while the agent has not loaded the datapath."""
        self._pin_dir = pin_dir
        self.maps = LeaseMaps.open(pin_dir)
        self._beat_ns = self._current_ns = 0
        self._candidate: tuple[int, ...] = ()
        self._gone: dict[int, int] = {}
        self._complained = False

    def close(self) -> None:
        self.maps.close()

    def replaced(self, now: int) -> bool:
        """Whether other maps are pinned now; they are open then, and hold nothing of ours yet."""
        if now < self._current_ns:
            return False
        self._current_ns = now + CURRENT_NS
        if self.maps.current():
            return False
        try:
            fresh = LeaseMaps.open(self._pin_dir)
        except DatapathError as error:
            logger.warning("the maps are gone: %s", error)
            return False
        self.maps.close()
        self.maps = fresh
        return True

    def configure(self, voting: Voting) -> None:
        """Whose grants count here, and for which leases."""
        addresses = {peer.name: peer.address for peer in voting.nodes}
        self.maps.set_voters([addresses[voter] for voter in voting.voters])
        self._candidate = tuple(
            group.lease for group in voting.groups if any(c.node == voting.node for c in group.candidates)
        )
        for lease in self._candidate:
            self.maps.make_lease(lease)

    def beat(self, now: int) -> None:
        """Tell whoever probes this node that its voter lives."""
        if now >= self._beat_ns:
            self._beat_ns = now + BEAT_NS
            self.maps.beat(now)

    def leases(self) -> dict[int, Lease]:
        """The leases for which this node is a candidate, as they are counted now."""
        found = ((lease, self.maps.lease(lease)) for lease in self._candidate)
        return {lease: value for lease, value in found if value is not None}

    def set_holder(self, lease: int, holder: Choice, node: str, addresses: Mapping[str, IPv4Address]) -> None:
        """Lead the lease's slots there. A holder whose address is not known leads nowhere."""
        self.maps.set_holder(lease, Holder(addresses.get(holder.node), holder.epoch, holder.node == node))

    def probe(self, request: Request, own: IPv4Address) -> Answer | None:
        """One's own grants; None while the node's programs are not in place."""
        try:
            return self.maps.probe(request, sender=own, target=own)
        except DatapathError as error:
            if not self._complained:
                logger.warning("this node's program cannot be asked: %s", error)
                self._complained = True
            return None

    def asked(self, request: Request, sender: IPv4Address) -> Answer | None:
        """Probes never arrive at a process: the programs answer them."""
        return None

    def carry(self, now: int, leases: Mapping[int, Lease]) -> frozenset[int]:
        """The programs answer for addresses that are nowhere: nothing is to be put in place."""
        return frozenset()

    def forget(self, now: int, voting: Voting) -> None:
        """Take out leases that nobody votes about any more, and those for which this node is no candidate once they are
        over. To be called now and then."""
        groups = {group.lease for group in voting.groups}
        held = self.maps.leases()
        for lease in (self.maps.holders().keys() | held.keys()) - groups:
            if now - self._gone.setdefault(lease, now) > FORGET_NS:
                self.maps.delete_holder(lease)
                self.maps.delete_lease(lease)
        for lease in (self._gone.keys() & groups) | (self._gone.keys() - held.keys() - self.maps.holders().keys()):
            del self._gone[lease]
        for lease, value in held.items():
            if lease in groups and lease not in self._candidate and not value.held(now):
                self.maps.delete_lease(lease)
