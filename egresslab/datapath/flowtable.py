"""The flow table: translations with both halves, and the pins and notes of source nodes.

The kernel writes it with every packet, so whatever is read here is a moment old. Expiry looks at both halves together,
as only one of them sees each direction.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass

from egresslab.datapath.addresses import (
    NO_ADDRESS,
    from_narrow,
    from_wide,
    known,
    narrow,
    port_bytes,
    port_number,
    wide,
)
from egresslab.datapath.layout import FLOW, FLOW_KEY_V4, FLOW_KEY_V6
from egresslab.datapath.libbpf import BPF_ANY, BPF_NOEXIST
from egresslab.datapath.table import Table
from egresslab.datapath.values import Flow, FlowKey, FlowKind, IPAddress, Protocol

SECOND = 1_000_000_000
FIN, SYN, RST = 0x01, 0x02, 0x04
TCP_FLAGS, CLOSE_REPORTED = 0x3F, 0x80
"""In a flow: what TCP said, and what the programs note above that (flowtable.h)."""
STEP = 512
"""Entries looked at in one step of expiry."""
TRANSLATIONS = frozenset({FlowKind.TRANSLATED, FlowKind.NODE})


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds that a flow may be silent (RFC 5382 REQ-5, RFC 4787 REQ-5, RFC 5508 REQ-1 give lower bounds)."""

    tcp_established: int = 7_440
    tcp_opening: int = 240
    tcp_closed: int = 30
    udp: int = 300
    icmp: int = 60


class FlowTable:
    """`nat_v4` and `nat_v6` together."""

    def __init__(self, v4: Table, v6: Table, lifetimes: Lifetimes | None = None) -> None:
        self._tables = {4: v4, 6: v6}
        self._lifetimes = lifetimes or Lifetimes()

    @property
    def tables(self) -> Mapping[int, Table]:
        """The two maps by IP version, for whoever works on bytes."""
        return self._tables

    def items(self) -> Iterator[Flow]:
        """Every entry: each translation appears twice, as TRANSLATED (or NODE) and as its reply half."""
        for version, table in self._tables.items():
            for key, value in table.items():
                yield _flow(_decode_key(version, key), value)

    def get(self, key: FlowKey) -> Flow | None:
        raw = self._tables[key.local.version].get(_encode_key(key))
        return None if raw is None else _flow(key, raw)

    def insert(self, flows: Iterable[Flow]) -> int:
        """Put in flows that another gateway translated (TRANSLATED entries; both halves are made from each); how many
        were taken. A tuple that is in use here by another flow is left alone. Times are this node's CLOCK_MONOTONIC."""
        taken = 0
        for flow in flows:
            if flow.kind is not FlowKind.TRANSLATED or flow.address is None:
                continue
            table = self._tables[flow.key.local.version]
            reply = FlowKey(
                flow.address, flow.port, flow.key.remote, flow.key.remote_port, flow.key.protocol, reply=True
            )
            half = _encode_flow(flow, FlowKind.REPLY, flow.key.local, flow.key.local_port, 0)
            if not table.put(_encode_key(reply), half, BPF_NOEXIST):
                holder = self.get(reply)
                if holder is None or (holder.address, holder.port) != (flow.key.local, flow.key.local_port):
                    continue
            whole = _encode_flow(flow, FlowKind.TRANSLATED, flow.address, flow.port, flow.tcp_flags)
            table.put(_encode_key(flow.key), whole, BPF_ANY)
            taken += 1
        return taken

    def delete(self, keys: Iterable[FlowKey]) -> int:
        """Remove entries; how many were there."""
        return sum(self._tables[key.local.version].delete(_encode_key(key)) for key in keys)

    def delete_pod(self, address: IPAddress) -> int:
        """Everything of one pod, both halves; how many entries went."""
        return self.delete(
            [flow.key for flow in self.items() if (flow.address if flow.key.reply else flow.key.local) == address]
        )

    def cut(self, slot: int) -> int:
        """Forget flows pinned to `slot`, so that their next packet is decided anew; how many entries went."""
        kinds = (FlowKind.STEERED, FlowKind.TRANSLATED, FlowKind.REPLY)
        return self.delete([flow.key for flow in self.items() if flow.slot == slot and flow.kind in kinds])

    def expire(self, now_ns: int | None = None) -> Iterator[list[Flow]]:
        """Remove flows that outlived their lifetime, and reply halves without a flow; what was removed (no halves).

        Each step takes a few milliseconds, for a caller that has other things to do in between. `now_ns` is
        CLOCK_MONOTONIC. Run every ten seconds or so; a flow that speaks while this runs is only decided again."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) if now_ns is None else now_ns
        shortest = min(astuple(self._lifetimes)) * SECOND
        for version, table in self._tables.items():
            for batch in table.batches(STEP):
                gone = []
                for key, value in batch:
                    # Most flows spoke lately, which is seen without taking the record apart.
                    if now - int.from_bytes(value[8:16], "little") <= shortest:
                        continue
                    flow = _flow(_decode_key(version, key), value)
                    if self._outlived(flow, now):
                        gone.append(flow)
                yield gone

    def _outlived(self, flow: Flow, now: int) -> bool:
        """Remove a flow with its other half if it has been silent for too long; whether it was."""
        other_key = other_half(flow)
        other = self.get(other_key) if other_key is not None else None
        if flow.key.reply:
            if other is None and now - flow.seen_ns > self._lifetimes.udp * SECOND:
                self.delete([flow.key])
            return False
        if now - max(flow.seen_ns, other.seen_ns if other else 0) <= self._lifetime(flow, other) * SECOND:
            return False
        self.delete([flow.key, *([other.key] if other else [])])
        return True

    def _lifetime(self, flow: Flow, reply: Flow | None) -> int:
        if flow.key.protocol is Protocol.UDP:
            return self._lifetimes.udp
        if flow.key.protocol is not Protocol.TCP:
            return self._lifetimes.icmp
        heard = reply.tcp_flags if reply else 0
        if (flow.tcp_flags | heard) & RST or flow.tcp_flags & (heard | (0 if reply else FIN)) & FIN:
            return self._lifetimes.tcp_closed
        if reply is not None and not heard:
            return self._lifetimes.tcp_opening
        return self._lifetimes.tcp_established


def other_half(flow: Flow) -> FlowKey | None:
    """The key of a translation's other half; None for what is no translation."""
    if flow.address is None or not (flow.key.reply or flow.kind in TRANSLATIONS):
        return None
    key = flow.key
    return FlowKey(flow.address, flow.port, key.remote, key.remote_port, key.protocol, reply=not key.reply)


def _encode_key(key: FlowKey) -> bytes:
    ports = port_bytes(key.local_port), port_bytes(key.remote_port)
    if key.local.version == 4:
        return FLOW_KEY_V4.pack(key.local.packed, key.remote.packed, *ports, key.protocol, key.reply, 0)
    return FLOW_KEY_V6.pack(key.local.packed, key.remote.packed, *ports, key.protocol, key.reply, 0)


def _decode_key(version: int, raw: bytes) -> FlowKey:
    layout = FLOW_KEY_V4 if version == 4 else FLOW_KEY_V6
    local, remote, local_port, remote_port, protocol, direction, _ = layout.unpack(raw)
    if version == 4:
        local, remote = wide(from_narrow(local)), wide(from_narrow(remote))
    return FlowKey(
        known(local),
        port_number(local_port),
        known(remote),
        port_number(remote_port),
        Protocol(protocol),
        bool(direction),
    )


def _encode_flow(flow: Flow, kind: FlowKind, address: IPAddress, port: int, tcp_flags: int) -> bytes:
    return FLOW.pack(
        flow.opened_ns,
        flow.seen_ns,
        wide(address),
        0,
        flow.slot,
        narrow(flow.node),
        port_bytes(port),
        kind,
        tcp_flags,
    )


def _flow(key: FlowKey, raw: bytes) -> Flow:
    opened, seen, address, _, slot, node, port, kind, tcp_flags = FLOW.unpack(raw)
    return Flow(
        key=key,
        kind=FlowKind(kind),
        slot=slot,
        address=None if address == NO_ADDRESS else from_wide(address),
        port=port_number(port),
        node=from_narrow(node),
        opened_ns=opened,
        seen_ns=seen,
        tcp_flags=tcp_flags & TCP_FLAGS,
    )
