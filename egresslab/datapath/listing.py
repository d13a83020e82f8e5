"""The policy map as `cilium-dbg bpf egress list` prints it, column for column, so that tutorials read the same.

Rows come from the kernel, never from memory. The egress address is shown on the gateway itself only, as 0.0.0.0 or ::
elsewhere; special gateways are spelled out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from egresslab.datapath.gateways import SlotMap, followed
from egresslab.datapath.inspection import pinned_maps
from egresslab.datapath.policy import PolicyMap
from egresslab.datapath.values import GatewaySlot, Holder, PolicyEntry

COLUMNS = ("Source IP", "Destination CIDR", "Egress IP", "Gateway IP")
PADDING = 3
NOT_FOUND = "Not Found"
EXCLUDED_CIDR = "Excluded CIDR"
NO_ENTRIES = "No entries found."


class EgressRow(TypedDict):
    """One row with Cilium's JSON field names."""

    SourceIP: str
    DestCIDR: str
    EgressIP: str
    GatewayIP: str


def egress_rows(pin_dir: Path) -> list[EgressRow]:
    """The pinned map's rows: IPv4, then IPv6, each by source and destination. Raises DatapathError without maps."""
    with pinned_maps(pin_dir) as maps:
        return list_rows(maps.policy, maps.slots, maps.leases.holders())


def list_rows(policy: PolicyMap, slots: SlotMap, holders: Mapping[int, Holder] | None = None) -> list[EgressRow]:
    """Rows of open maps; `holders` says where slots lead that follow a lease."""
    gateways = {number: followed(slot, holders or {}) for number, slot in slots.items()}
    entries = sorted(policy.items(), key=_order)
    return [_row(entry, gateways.get(entry.slot, GatewaySlot())) for entry in entries]


def render_egress(rows: list[EgressRow]) -> str:
    """The table as text, or Cilium's words for an empty one (which belong on stderr). Ends with a newline if rows are
    given, as every line of the table does."""
    if not rows:
        return NO_ENTRIES
    lines = [COLUMNS, *((row["SourceIP"], row["DestCIDR"], row["EgressIP"], row["GatewayIP"]) for row in rows)]
    widths = [max(len(line[column]) for line in lines) + PADDING for column in range(len(COLUMNS) - 1)]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=True)) + line[-1] + "\n"
        for line in lines
    )


def _order(entry: PolicyEntry) -> tuple[int, int, int, int]:
    destination = entry.destination
    return (
        entry.source.version,
        int(entry.source),
        int(destination.network_address),
        destination.prefixlen,
    )


def _row(entry: PolicyEntry, gateway: GatewaySlot) -> EgressRow:
    source = gateway.source_v4 if entry.source.version == 4 else gateway.source_v6
    if source is None or not gateway.local:
        egress = "0.0.0.0" if entry.source.version == 4 else "::"
    else:
        egress = str(source)
    if entry.excluded:
        via = EXCLUDED_CIDR
    else:
        via = NOT_FOUND if gateway.endpoint is None else str(gateway.endpoint)
    return EgressRow(SourceIP=str(entry.source), DestCIDR=str(entry.destination), EgressIP=egress, GatewayIP=via)
