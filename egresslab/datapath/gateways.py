"""Slots and endpoints: which gateway a slot means at present, and where a pod address lives.

Both maps replace a value as a whole, so no packet ever sees half of a change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv6Address

from egresslab.datapath.addresses import from_narrow, from_wide, known, narrow, wide
from egresslab.datapath.layout import ENDPOINT, GATEWAY_SLOT
from egresslab.datapath.policy import PRESENT, Difference, replace_all
from egresslab.datapath.table import Table
from egresslab.datapath.values import DROP_SLOT, SPILLS, Endpoint, GatewaySlot, Holder, IPAddress
from egresslab.errors import DatapathError

LOCAL = 1
OPEN = 2
RESET = 4
READY = 1


class SlotMap:
    """`gateway_slots`, and with it the set of addresses that local slots translate to."""

    def __init__(self, table: Table, egress_addresses: Table) -> None:
        self._table = table
        self._addresses = egress_addresses

    def set(self, slot: int, value: GatewaySlot) -> None:
        """Point `slot` at a gateway; one map write, however many policies and pods use the slot."""
        if slot == DROP_SLOT:
            raise DatapathError("this slot means drop and cannot be a gateway", object="gateway slot", value=slot)
        raw = _encode_slot(value)
        for address in value.sources:
            self._addresses.put(wide(address), PRESENT)
        before = self._table.get(_number(slot))
        self._table.put(_number(slot), raw)
        if before is not None and not set(_decode_slot(before).sources) <= set(value.sources):
            self._forget_addresses()

    def get(self, slot: int) -> GatewaySlot | None:
        raw = self._table.get(_number(slot))
        return None if raw is None else _decode_slot(raw)

    def delete(self, slot: int) -> None:
        """Packets that still point at the slot are dropped from now on."""
        self._table.delete(_number(slot))
        self._forget_addresses()

    def items(self) -> Iterator[tuple[int, GatewaySlot]]:
        for key, value in self._table.items():
            yield int.from_bytes(key, "little"), _decode_slot(value)

    def replace(self, slots: Mapping[int, GatewaySlot]) -> Difference:
        """Make the map hold exactly `slots`."""
        wanted = {_number(slot): _encode_slot(value) for slot, value in slots.items()}
        for value in slots.values():
            for address in value.sources:
                self._addresses.put(wide(address), PRESENT)
        result = replace_all(self._table, wanted)
        self._forget_addresses()
        return result

    def _forget_addresses(self) -> None:
        """Take out addresses that no local slot translates to any more."""
        used = {wide(address) for _, value in self.items() for address in value.sources}
        self._addresses.delete_many([key for key, _ in self._addresses.items() if key not in used])


def _number(slot: int) -> bytes:
    return slot.to_bytes(4, "little")


def _encode_slot(value: GatewaySlot) -> bytes:
    if value.lease and (value.endpoint is not None or value.local):
        raise DatapathError(
            "its lease says where the gateway is", object="gateway slot", field="endpoint", value=value.endpoint
        )
    if max(len(value.spill_v4), len(value.spill_v6)) > SPILLS:
        raise DatapathError(
            "too many further sources",
            object="gateway slot",
            field="spill",
            value=max(len(value.spill_v4), len(value.spill_v6)),
            fix=f"give a gateway at most {SPILLS + 1} addresses of one family",
        )
    return GATEWAY_SLOT.pack(
        narrow(value.endpoint),
        narrow(value.source_v4),
        wide(value.source_v6),
        value.ifindex,
        (LOCAL if value.local else 0) | (OPEN if value.open else 0) | (RESET if value.reset else 0),
        value.lease,
        b"".join(address.packed for address in value.spill_v4),
        b"".join(address.packed for address in value.spill_v6),
    )


def _decode_slot(raw: bytes) -> GatewaySlot:
    endpoint, source_v4, source_v6, ifindex, flags, lease, spill_v4, spill_v6 = GATEWAY_SLOT.unpack(raw)
    return GatewaySlot(
        from_narrow(endpoint),
        from_narrow(source_v4),
        _from_wide_v6(source_v6),
        ifindex,
        bool(flags & LOCAL),
        bool(flags & OPEN),
        lease,
        bool(flags & RESET),
        tuple(found for found in map(from_narrow, _pieces(spill_v4, 4)) if found is not None),
        tuple(found for found in map(_from_wide_v6, _pieces(spill_v6, 16)) if found is not None),
    )


def _pieces(raw: bytes, size: int) -> list[bytes]:
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def _from_wide_v6(raw: bytes) -> IPv6Address | None:
    address = from_wide(raw)
    if address is not None and address.version == 4:
        raise DatapathError("an IPv4 address where IPv6 belongs", object="gateway slot", value=address)
    return address


def followed(slot: GatewaySlot, holders: Mapping[int, Holder]) -> GatewaySlot:
    """What a slot means at this moment: one that follows a lease is where its holder is."""
    holder = holders.get(slot.lease) if slot.lease else None
    return slot if holder is None else replace(slot, endpoint=holder.endpoint, local=holder.local)


class EndpointMap:
    """`endpoints`: pod address to Endpoint."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def set(self, address: IPAddress, value: Endpoint) -> None:
        self._table.put(wide(address), _encode_endpoint(value))

    def get(self, address: IPAddress) -> Endpoint | None:
        raw = self._table.get(wide(address))
        return None if raw is None else _decode_endpoint(raw)

    def delete(self, address: IPAddress) -> None:
        """From now on the address may send nothing outside the cluster from this node's pods."""
        self._table.delete(wide(address))

    def items(self) -> Iterator[tuple[IPAddress, Endpoint]]:
        for key, value in self._table.items():
            yield known(key), _decode_endpoint(value)

    def replace(self, endpoints: Mapping[IPAddress, Endpoint]) -> Difference:
        """Make the map hold exactly `endpoints`."""
        wanted = {wide(address): _encode_endpoint(value) for address, value in endpoints.items()}
        return replace_all(self._table, wanted)


def _encode_endpoint(value: Endpoint) -> bytes:
    mac = bytes.fromhex(value.mac.replace(":", ""))
    return ENDPOINT.pack(value.ifindex, narrow(value.node), mac, READY if value.ready else 0)


def _decode_endpoint(raw: bytes) -> Endpoint:
    ifindex, node, mac, flags = ENDPOINT.unpack(raw)
    return Endpoint(ifindex, mac.hex(":"), from_narrow(node), bool(flags & READY))
