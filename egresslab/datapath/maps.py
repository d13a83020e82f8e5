"""Typed views of the pinned maps. The kernel's content is the truth: nothing is cached here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from egresslab.datapath.values import (
    Count,
    Endpoint,
    Flow,
    FlowEvent,
    FlowKey,
    GatewaySlot,
    IPAddress,
    IPNetwork,
    PolicyEntry,
    Program,
    Reason,
)


@dataclass(frozen=True, slots=True)
class Difference:
    """How many elements a replacement added (or changed) and removed."""

    written: int
    removed: int


class PolicyMap:
    """`egress_policy_v4` and `_v6` together."""

    def items(self) -> Iterator[PolicyEntry]:
        raise NotImplementedError

    def update(self, adds: Iterable[PolicyEntry], removes: Iterable[tuple[IPAddress, IPNetwork]] = ()) -> None:
        """Write `adds` in batches, then take out `removes` (absent ones are no error)."""
        raise NotImplementedError

    def replace(self, entries: Iterable[PolicyEntry]) -> Difference:
        """Make the maps hold exactly `entries`, touching only the difference: first what is new, then what goes."""
        raise NotImplementedError


class SlotMap:
    """`gateway_slots`. A write replaces the whole value at once: no packet sees half of a change."""

    def set(self, slot: int, value: GatewaySlot) -> None:
        raise NotImplementedError

    def get(self, slot: int) -> GatewaySlot | None:
        raise NotImplementedError

    def delete(self, slot: int) -> None:
        raise NotImplementedError

    def items(self) -> Iterator[tuple[int, GatewaySlot]]:
        raise NotImplementedError

    def replace(self, slots: Mapping[int, GatewaySlot]) -> Difference:
        raise NotImplementedError


class EndpointMap:
    """`endpoints`: pod address to Endpoint."""

    def set(self, address: IPAddress, value: Endpoint) -> None:
        raise NotImplementedError

    def get(self, address: IPAddress) -> Endpoint | None:
        raise NotImplementedError

    def delete(self, address: IPAddress) -> None:
        raise NotImplementedError

    def items(self) -> Iterator[tuple[IPAddress, Endpoint]]:
        raise NotImplementedError

    def replace(self, endpoints: Mapping[IPAddress, Endpoint]) -> Difference:
        raise NotImplementedError


class CidrSet:
    """`cluster_cidrs`: what counts as inside, both families."""

    def items(self) -> Iterator[IPNetwork]:
        raise NotImplementedError

    def replace(self, networks: Iterable[IPNetwork]) -> Difference:
        raise NotImplementedError


class FlowTable:
    """`nat_v4` and `nat_v6` together: translations with both halves, and the pins of source nodes."""

    def items(self) -> Iterator[Flow]:
        raise NotImplementedError

    def insert(self, flows: Iterable[Flow]) -> int:
        """Put in flows that another gateway translated (both halves each); how many were taken (a tuple that is in use
        here is left alone)."""
        raise NotImplementedError

    def delete(self, keys: Iterable[FlowKey]) -> int:
        raise NotImplementedError

    def delete_pod(self, address: IPAddress) -> int:
        """Everything of one pod, both halves; how many entries went."""
        raise NotImplementedError

    def cut(self, slot: int) -> int:
        """Forget flows pinned to `slot`, so that their next packet is decided anew."""
        raise NotImplementedError

    def expire(self, now_ns: int | None = None) -> tuple[Flow, ...]:
        """Remove flows that outlived their protocol's and state's lifetime; what was removed (TRANSLATED ones and
        pins, not the reply halves). Run every ten seconds or so."""
        raise NotImplementedError


class Counters:
    """`counters`, summed over CPUs."""

    def read(self) -> dict[tuple[Program, Reason], Count]:
        """Only those that are not zero."""
        raise NotImplementedError


class FlowEvents:
    """The ring buffer. `fd` becomes readable when there are records: `loop.add_reader(events.fd, ...)`."""

    fd: int

    def read(self, callback: Callable[[FlowEvent], None]) -> int:
        """Hand every waiting record to `callback` without blocking; how many."""
        raise NotImplementedError

    @property
    def lost(self) -> int:
        """Records that did not fit or exceeded the rate since the map was made."""
        raise NotImplementedError
