"""Flow records on their way from one gateway's kernel to another's: read in batches, packed, and entered again.

A record says nothing that only one node understands: times are ages, the slot is a lease, nodes are addresses. It works
on bytes throughout, because a busy gateway has a hundred thousand flows and its agent one event loop.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator, Mapping, Set
from ipaddress import IPv4Address

from egresslab.datapath.addresses import MAPPED, NO_IPV4, narrow, port_bytes, wide
from egresslab.datapath.flowtable import CLOSE_REPORTED, FIN, RST, SYN, FlowTable
from egresslab.datapath.layout import FLOW, FLOW_KEY_V4, FLOW_KEY_V6
from egresslab.datapath.libbpf import BPF_ANY, BPF_NOEXIST
from egresslab.datapath.table import Table
from egresslab.datapath.values import FlowEvent, FlowKind, Protocol

RECORD = struct.Struct("!16s16s2s2sBBH16s2sBB4sIQQ")
"""Pod, remote, their ports, protocol, IP version, 0, egress address and port, TCP flags of both directions, the pod's
node, lease, age and silence in ns. All integers in network byte order."""
KEY_SIZE = 38
"""How much of a record names its flow."""
KIND_OFFSET = 46
AT_ONCE = 256
"""Entries looked at in one step; a step takes a few milliseconds."""
STALE_NS = 5_000_000_000
"""A flow that spoke here so lately is left alone by a sweep: its record may be on its way."""


class FlowCopier:
    """Exports and imports flows of leased slots. `here` is this node's tunnel endpoint."""

    def __init__(self, nat: FlowTable, here: IPv4Address) -> None:
        self._tables = nat.tables
        self._here = here.packed

    def export(self, slots: Mapping[int, int], now_ns: int, since_ns: int = 0) -> Iterator[bytes]:
        """Records of every open translation whose slot is in `slots` (slot to lease) and that spoke since `since_ns`,
        a chunk for each step; chunks may be empty."""
        leases = {slot: lease for slot, lease in slots.items() if lease}
        for version, table in self._tables.items():
            for batch in table.batches(AT_ONCE):
                records = [
                    record
                    for key, value in batch
                    if value[KIND_OFFSET] == FlowKind.TRANSLATED
                    and (record := self._record(version, table, key, value, leases, now_ns, since_ns)) is not None
                ]
                yield b"".join(records)

    def record_of(self, event: FlowEvent, lease: int, now_ns: int) -> bytes | None:
        """The record of a translation that an event tells of; None for an event about something else."""
        if event.egress is None:
            return None
        flags = SYN if event.protocol == Protocol.TCP else 0
        age = max(0, now_ns - event.time_ns)
        return RECORD.pack(
            wide(event.pod),
            wide(event.remote),
            port_bytes(event.pod_port),
            port_bytes(event.remote_port),
            event.protocol,
            event.pod.version,
            0,
            wide(event.egress),
            port_bytes(event.egress_port),
            flags,
            0,
            narrow(event.node) if event.node is not None else self._here,
            lease,
            age,
            age,
        )

    def enter(self, records: bytes, slots: Mapping[int, int], now_ns: int, *, only_new: bool = False) -> int:
        """Put records (a whole number) into the tables, under `slots` (lease to slot); how many were taken.

        Another flow that has a record's tuple gives way, unless `only_new`: then whatever is there stays."""
        taken = 0
        for fields in RECORD.iter_unpack(records):
            slot = slots.get(fields[12])
            if slot is not None:
                taken += self._enter(fields, slot, now_ns, only_new)
        return taken

    def remove(self, records: bytes, leases: Container[int]) -> int:
        """Take out the flows of `leases` that records name, both halves, where they have the records' translation; how
        many."""
        gone = 0
        for fields in RECORD.iter_unpack(records):
            if fields[12] not in leases:
                continue
            table, key, reply = self._keys(fields)
            value = table.get(key)
            if value is not None and value[16:32] == fields[7] and value[44:46] == fields[8]:
                gone += table.delete(key)
                table.delete(reply)
        return gone

    def sweep(self, slots: Set[int], keep: Set[bytes], now_ns: int) -> Iterator[int]:
        """Take out translations under `slots` whose names (`names`) are not in `keep` and that are silent here; how
        many, for each step."""
        for version, table in self._tables.items():
            for batch in table.batches(AT_ONCE):
                gone = 0
                for key, value in batch:
                    if value[KIND_OFFSET] != FlowKind.TRANSLATED:
                        continue
                    _, seen, address, _, slot, _, port, _, _ = FLOW.unpack(value)
                    if slot in slots and now_ns - seen > STALE_NS and _name(version, key) not in keep:
                        gone += table.delete(key)
                        table.delete(_reply_key(version, key, address, port))
                yield gone

    def _record(
        self,
        version: int,
        table: Table,
        key: bytes,
        value: bytes,
        leases: Mapping[int, int],
        now_ns: int,
        since_ns: int,
    ) -> bytes | None:
        opened, seen, address, _, slot, node, port, _, flags = FLOW.unpack(value)
        lease = leases.get(slot)
        if lease is None or flags & (CLOSE_REPORTED | RST):
            return None
        heard = 0
        reply = table.get(_reply_key(version, key, address, port))
        if reply is not None:
            _, answered, _, _, _, _, _, _, heard = FLOW.unpack(reply)
            seen = max(seen, answered)
        if seen < since_ns or heard & RST or flags & heard & FIN:
            return None
        age, silence = max(0, now_ns - opened), max(0, now_ns - seen)
        if node == NO_IPV4:
            node = self._here
        return _name(version, key) + _REST.pack(0, address, port, flags, heard, node, lease, age, silence)

    def _enter(self, fields: tuple[object, ...], slot: int, now_ns: int, only_new: bool) -> bool:
        pod, _, pod_port, _, _, _, _, egress, port, flags, heard, node, _, age, silence = fields
        table, key, reply = self._keys(fields)
        opened, seen = max(0, now_ns - int(age)), max(0, now_ns - int(silence))  # type: ignore[call-overload]
        if node == self._here:
            node = NO_IPV4
        half = FLOW.pack(opened, seen, pod, 0, slot, node, pod_port, FlowKind.REPLY, heard)
        if not table.put(reply, half, BPF_NOEXIST):
            present = table.get(reply)
            if only_new:
                return False
            if present is not None and (present[16:32], present[44:46]) != (pod, pod_port):
                table.delete(_forward_key(table.key_size, reply, present))
            table.put(reply, half, BPF_ANY)
        whole = FLOW.pack(opened, seen, egress, 0, slot, node, port, FlowKind.TRANSLATED, flags)
        return table.put(key, whole, BPF_NOEXIST if only_new else BPF_ANY)

    def _keys(self, fields: tuple[object, ...]) -> tuple[Table, bytes, bytes]:
        """The table of a record, and the keys of both halves there."""
        pod, remote, pod_port, remote_port, protocol, version, _, egress, port, *_ = fields
        assert isinstance(pod, bytes) and isinstance(remote, bytes) and isinstance(egress, bytes)
        if version == 4:
            pod, remote, egress, layout = pod[12:], remote[12:], egress[12:], FLOW_KEY_V4
        else:
            layout = FLOW_KEY_V6
        return (
            self._tables[4 if version == 4 else 6],
            layout.pack(pod, remote, pod_port, remote_port, protocol, 0, 0),
            layout.pack(egress, remote, port, remote_port, protocol, 1, 0),
        )


_REST = struct.Struct("!H16s2sBB4sIQQ")


def names(records: bytes) -> Iterator[bytes]:
    """What names the flow of each record."""
    for start in range(0, len(records), RECORD.size):
        yield records[start : start + KEY_SIZE]


def _name(version: int, key: bytes) -> bytes:
    """The beginning of a record, from a kernel's key."""
    if version == 4:
        return MAPPED + key[:4] + MAPPED + key[4:8] + key[8:13] + b"\x04"
    return key[:37] + b"\x06"


def _reply_key(version: int, key: bytes, address: bytes, port: bytes) -> bytes:
    """The key of a translation's other half: egress address and port in place of the pod's."""
    if version == 4:
        return address[12:] + key[4:8] + port + key[10:13] + b"\x01\0\0"
    return address + key[16:32] + port + key[34:37] + b"\x01\0\0"


def _forward_key(size: int, reply: bytes, value: bytes) -> bytes:
    """The key of the translation that a reply half belongs to."""
    address, port = value[16:32], value[44:46]
    if size == FLOW_KEY_V4.size:
        return address[12:] + reply[4:8] + port + reply[10:13] + b"\0\0\0"
    return address + reply[16:32] + port + reply[34:37] + b"\0\0\0"
