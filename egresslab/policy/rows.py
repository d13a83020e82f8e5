"""Entries as one node's kernel would list them, for people and for comparison with a cluster's own listing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from egresslab.policy.entries import EXCLUDED, Entry, Slot, localise


class ListedRow(NamedTuple):
    """One row: addresses as text, 0.0.0.1 for an exclusion, 0.0.0.0 for no gateway, 0.0.0.0 or :: for no egress IP."""

    source: str
    destination: str
    egress_ip: str
    gateway_ip: str
    egress_interface: str | None
    gateway_node: str | None
    policy: str

    def as_dict(self) -> dict[str, str | None]:
        """As JSON has it."""
        return self._asdict()


def listing(entries: Iterable[Entry], slots: Mapping[int, Slot], node: str | None) -> list[ListedRow]:
    """Rows as node `node` holds them, IPv4 first, then by source and destination.

    `node` None shows for each row what its own gateway holds: every egress IP there is.
    """
    ordered = sorted(
        entries,
        key=lambda e: (
            e.source.version,
            int(e.source),
            int(e.destination.network_address),
            e.destination.prefixlen,
        ),
    )
    return [_row(entry, slots[entry.slot], node) for entry in ordered]


def _row(entry: Entry, slot: Slot, node: str | None) -> ListedRow:
    local = localise(slot, slot.gateway or "" if node is None else node)
    # Where failMode Open lets traffic pass for want of a gateway, the kernel treats it as excluded.
    passes = entry.excluded or local.passes
    return ListedRow(
        source=str(entry.source),
        destination=entry.written,
        egress_ip=str(local.source_v4 if entry.source.version == 4 else local.source_v6),
        gateway_ip=str(EXCLUDED if passes else local.endpoint),
        egress_interface=local.interface,
        gateway_node=None if passes else slot.gateway,
        policy=entry.policy.name,
    )
