"""The policy maps and the set of CIDRs that count as inside: what a packet's addresses are looked up in.

The kernel's content is the truth: nothing is cached here, and a replacement touches only the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from egresslab.datapath.addresses import from_wide_prefix, wide_prefix
from egresslab.datapath.layout import CIDR_KEY, POLICY_KEY_V4, POLICY_KEY_V6, POLICY_VALUE
from egresslab.datapath.table import Table
from egresslab.datapath.values import IPAddress, IPNetwork, PolicyEntry

EXCLUDED = 1
PRESENT = b"\x01\0\0\0"


@dataclass(frozen=True, slots=True)
class Difference:
    """How many elements a replacement wrote (new or changed) and removed."""

    written: int
    removed: int


def replace_all(table: Table, wanted: dict[bytes, bytes]) -> Difference:
    """Make a table hold exactly `wanted`: first what is new or changed, then what goes."""
    present = dict(table.items())
    changed = [(key, value) for key, value in wanted.items() if present.get(key) != value]
    stale = [key for key in present if key not in wanted]
    table.put_many(changed)
    return Difference(len(changed), table.delete_many(stale))


class PolicyMap:
    """`egress_policy_v4` and `_v6` together."""

    def __init__(self, v4: Table, v6: Table) -> None:
        self._tables = {4: v4, 6: v6}

    def items(self) -> Iterator[PolicyEntry]:
        """Every row, IPv4 first, in the kernel's order."""
        for key, value in self._tables[4].items():
            length, source, destination = POLICY_KEY_V4.unpack(key)
            yield _entry(IPv4Address(source), IPv4Network((destination, length - 32)), value)
        for key, value in self._tables[6].items():
            length, source, destination = POLICY_KEY_V6.unpack(key)
            yield _entry(IPv6Address(source), IPv6Network((destination, length - 128)), value)

    def get(self, source: IPAddress, destination: IPAddress) -> PolicyEntry | None:
        """The row that a packet meets, as the kernel finds it: longest prefix first. Its destination is not known from
        a lookup, so the entry carries the queried address as a host prefix."""
        prefix = IPv4Network(destination) if isinstance(destination, IPv4Address) else IPv6Network(destination)
        value = self._tables[source.version].get(_key(source, prefix))
        return None if value is None else _entry(source, prefix, value)

    def update(self, adds: Iterable[PolicyEntry], removes: Iterable[tuple[IPAddress, IPNetwork]] = ()) -> None:
        """Write `adds` in batches, then take out `removes` (absent ones are no error)."""
        wanted = _encode(adds)
        for version, table in self._tables.items():
            table.put_many(list(wanted[version].items()))
        for source, destination in removes:
            self._tables[source.version].delete(_key(source, destination))

    def replace(self, entries: Iterable[PolicyEntry]) -> Difference:
        """Make the maps hold exactly `entries`, touching only the difference: first what is new, then what goes."""
        wanted = _encode(entries)
        parts = [replace_all(table, wanted[version]) for version, table in self._tables.items()]
        return Difference(sum(part.written for part in parts), sum(part.removed for part in parts))


def _key(source: IPAddress, destination: IPNetwork) -> bytes:
    if source.version == 4:
        return POLICY_KEY_V4.pack(32 + destination.prefixlen, source.packed, destination.network_address.packed)
    return POLICY_KEY_V6.pack(128 + destination.prefixlen, source.packed, destination.network_address.packed)


def _encode(entries: Iterable[PolicyEntry]) -> dict[int, dict[bytes, bytes]]:
    encoded: dict[int, dict[bytes, bytes]] = {4: {}, 6: {}}
    for entry in entries:
        value = POLICY_VALUE.pack(entry.slot, EXCLUDED if entry.excluded else 0)
        encoded[entry.source.version][_key(entry.source, entry.destination)] = value
    return encoded


def _entry(source: IPAddress, destination: IPNetwork, value: bytes) -> PolicyEntry:
    slot, flags = POLICY_VALUE.unpack(value)
    return PolicyEntry(source, destination, slot, bool(flags & EXCLUDED))


class CidrSet:
    """`cluster_cidrs`: what counts as inside, both families."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def items(self) -> Iterator[IPNetwork]:
        for key, _ in self._table.items():
            yield from_wide_prefix(*CIDR_KEY.unpack(key))

    def replace(self, networks: Iterable[IPNetwork]) -> Difference:
        """Make the set exactly `networks`, first adding, then removing."""
        return replace_all(self._table, {CIDR_KEY.pack(*wide_prefix(network)): PRESENT for network in networks})
