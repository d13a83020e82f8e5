"""What a voter stands on: where grants are counted, where the holder is written down, and what answers for addresses.

Our programs in the kernel (`kernel.py`), or this process alone (`userland.py`) where another datapath has the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Protocol

from egresslab.datapath.probe import Answer, Request
from egresslab.datapath.values import Holder, Lease
from egresslab.voter.addresses import Answering
from egresslab.voter.files import Voting
from egresslab.voter.messages import Choice


class Maps(Answering, Protocol):
    """`LeaseMaps`, as far as a voter reads it, or a stand-in."""

    def holders(self) -> dict[int, Holder]: ...


class Ground(Protocol):
    """One node's."""

    @property
    def maps(self) -> Maps: ...

    def close(self) -> None: ...

    def replaced(self, now: int) -> bool:
        """Whether `maps` are other ones now, which hold nothing yet."""

    def configure(self, voting: Voting) -> None:
        """Whose grants count here, and for which leases."""

    def beat(self, now: int) -> None:
        """Tell whoever probes this node that its voter lives."""

    def leases(self) -> dict[int, Lease]:
        """The leases for which this node is a candidate, as they are counted now."""

    def set_holder(self, lease: int, holder: Choice, node: str, addresses: Mapping[str, IPv4Address]) -> None:
        """Write down who holds."""

    def probe(self, request: Request, own: IPv4Address) -> Answer | None:
        """One's own grants; None while nobody counts them."""

    def asked(self, request: Request, sender: IPv4Address) -> Answer | None:
        """A probe that arrived at this process; None where it is not this process that answers."""

    def carry(self, now: int, leases: Mapping[int, Lease]) -> frozenset[int]:
        """Have the addresses in place that are to be answered for; leases with one that is not."""

    def forget(self, now: int, voting: Voting) -> None:
        """Take out what nobody votes about any more. To be called now and then."""
