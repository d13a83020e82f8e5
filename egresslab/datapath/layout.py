"""How values lie in the kernel's memory, and the proof that both sides agree.

The C header decides. Each `Layout` here names the fields of one struct in order; `check` compares names, offsets and
sizes with the object's BTF (Documentation/bpf/btf.rst), and the numbers of the enums with theirs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from egresslab.datapath.values import SPILLS, VOTERS, Event, FlowKind, Program, Reason
from egresslab.errors import DatapathError

KIND_INT, KIND_POINTER, KIND_ARRAY, KIND_STRUCT, KIND_UNION, KIND_ENUM = 1, 2, 3, 4, 5, 6
KIND_FUNC_PROTO, KIND_VAR, KIND_DATASEC, KIND_DECL_TAG, KIND_ENUM64 = 13, 14, 15, 17, 19
ALIASES = frozenset({8, 9, 10, 11, 18})
"""typedef, volatile, const, restrict, type tag."""


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Types:
    """The structs and enums of one BTF blob, by name."""

    structs: dict[str, tuple[Field, ...]]
    sizes: dict[str, int]
    enums: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class _Type:
    name: str
    kind: int
    size: int
    members: tuple[tuple[str, int, int], ...]
    element: tuple[int, int] = (0, 0)


def parse_btf(raw: bytes) -> Types:
    """Read the structs and enums of a BTF blob; empty for an empty one."""
    if not raw:
        return Types({}, {}, {})
    _, _, _, header, type_offset, type_length, string_offset, string_length = struct.unpack_from("=HBBIIIII", raw)
    strings = raw[header + string_offset : header + string_offset + string_length]
    data = raw[header + type_offset : header + type_offset + type_length]
    types = [_Type("void", 0, 0, ())]
    position = 0

    def text(offset: int) -> str:
        return strings[offset : strings.index(0, offset)].decode()

    while position < len(data):
        name, info, size = struct.unpack_from("=III", data, position)
        position += 12
        count, kind = info & 0xFFFF, info >> 24 & 0x1F
        members: tuple[tuple[str, int, int], ...] = ()
        element = (0, 0)
        if kind in (KIND_STRUCT, KIND_UNION):
            rows = (struct.unpack_from("=III", data, position + 12 * i) for i in range(count))
            members = tuple((text(member), of, bits & 0xFFFFFF) for member, of, bits in rows)
            position += 12 * count
        elif kind == KIND_ENUM:
            pairs = (struct.unpack_from("=Ii", data, position + 8 * i) for i in range(count))
            members = tuple((text(member), 0, value) for member, value in pairs)
            position += 8 * count
        elif kind == KIND_ARRAY:
            of, _, length = struct.unpack_from("=III", data, position)
            element = (of, length)
            position += 12
        else:
            position += {KIND_INT: 4, KIND_VAR: 4, KIND_DECL_TAG: 4}.get(kind, 0)
            position += {KIND_FUNC_PROTO: 8, KIND_DATASEC: 12, KIND_ENUM64: 12}.get(kind, 0) * count
        types.append(_Type(text(name), kind, size, members, element))
    return _named(types)


def _named(types: list[_Type]) -> Types:
    def size_of(index: int) -> int:
        found = types[index]
        if found.kind in ALIASES:
            return size_of(found.size)
        if found.kind == KIND_ARRAY:
            return size_of(found.element[0]) * found.element[1]
        return 8 if found.kind == KIND_POINTER else found.size

    named = [item for item in types if item.name]
    return Types(
        structs={
            item.name: tuple(Field(name, bits // 8, size_of(of)) for name, of, bits in item.members)
            for item in named
            if item.kind == KIND_STRUCT
        },
        sizes={item.name: item.size for item in named if item.kind == KIND_STRUCT},
        enums={item.name: {name: value for name, _, value in item.members} for item in named if item.kind == KIND_ENUM},
    )


class Layout:
    """One C struct: `Layout("count", packets="Q", bytes="Q")`.

    Format letters as in `struct`; addresses and ports are byte strings."""

    def __init__(self, c_name: str, **fields: str) -> None:
        self.c_name = c_name
        self.names = tuple(fields)
        self._struct = struct.Struct("=" + "".join(fields.values()))
        self._sizes = {name: struct.calcsize("=" + letters) for name, letters in fields.items()}
        self.size = self._struct.size

    def pack(self, *values: Any) -> bytes:
        return self._struct.pack(*values)

    def unpack(self, raw: bytes) -> tuple[Any, ...]:
        return self._struct.unpack_from(raw)

    def check(self, types: Types) -> None:
        """Raise DatapathError when the object declares this struct otherwise."""
        offset, expected = 0, []
        for name in self.names:
            expected.append(Field(name, offset, self._sizes[name]))
            offset += self._sizes[name]
        declared = types.structs.get(self.c_name)
        if declared != tuple(expected) or types.sizes[self.c_name] != self.size:
            raise DatapathError(
                "the eBPF object lays it out differently",
                object=f"struct {self.c_name}",
                value=declared,
                fix="rebuild the object: make -C egresslab/datapath/bpf clean all",
            )


POLICY_KEY_V4 = Layout("policy_key_v4", prefixlen="I", source="4s", destination="4s")
POLICY_KEY_V6 = Layout("policy_key_v6", prefixlen="I", source="16s", destination="16s")
POLICY_VALUE = Layout("policy_value", slot="I", flags="I")
GATEWAY_SLOT = Layout(
    "gateway_slot",
    endpoint="4s",
    source_v4="4s",
    source_v6="16s",
    ifindex="I",
    flags="I",
    lease="I",
    spill_v4=f"{4 * SPILLS}s",
    spill_v6=f"{16 * SPILLS}s",
)
HOLDER = Layout("holder", epoch="Q", endpoint="4s", flags="I")
VOTERS_VALUE = Layout("voters", heartbeat="Q", address=f"{4 * VOTERS}s", quorum="I")
GRANT = Layout("grant", epoch="Q", until="Q", voter="4s", pad="I")
LEASE = Layout("lease", lock="I", pad="I", epoch="Q", holds_until="Q", grants=f"{GRANT.size * VOTERS}s")
ANNOUNCED_KEY = Layout("announced_key", address="16s", ifindex="I")
ANNOUNCED = Layout("announced", lease="I", flags="I")
ENDPOINT = Layout("endpoint", ifindex="I", node="4s", mac="6s", flags="H")
CIDR_KEY = Layout("cidr_key", prefixlen="I", network="16s")
FLOW_KEY_V4 = Layout(
    "flow_key_v4", local="4s", remote="4s", local_port="2s", remote_port="2s", protocol="B", direction="B", pad="H"
)
FLOW_KEY_V6 = Layout(
    "flow_key_v6", local="16s", remote="16s", local_port="2s", remote_port="2s", protocol="B", direction="B", pad="H"
)
FLOW = Layout(
    "flow",
    opened="Q",
    seen="Q",
    address="16s",
    tick="I",
    slot="I",
    node="4s",
    port="2s",
    kind="B",
    tcp_flags="B",
)
WIRE = Layout("wire", mtu="I", gateway_v6="16s", mac="6s", pad="H")
CONFIG = Layout(
    "config",
    address_v4="4s",
    overlay_ifindex="I",
    address_v6="16s",
    overlay_mtu="I",
    vni="I",
    flags="I",
    drop_events="I",
    idle_pin="I",
    port_min="H",
    port_max="H",
    overlay_port="2s",
    tunnel_port="H",
    tunnel_ports="H",
    pad="H",
    underlay_ifindex="I",
)
COUNT = Layout("count", packets="Q", bytes="Q")
FLOW_RECORD = Layout(
    "flow_record",
    time="Q",
    pod="16s",
    remote="16s",
    egress="16s",
    pod_port="2s",
    remote_port="2s",
    egress_port="2s",
    event="B",
    program="B",
    reason="B",
    protocol="B",
    pad="H",
    slot="I",
    node="4s",
    ifindex="I",
)
RECORD_BUDGET = Layout("record_budget", window="Q", lost_drops="Q", lost_flows="Q", used="I", pad="I")

LAYOUTS = (
    POLICY_KEY_V4,
    POLICY_KEY_V6,
    POLICY_VALUE,
    GATEWAY_SLOT,
    HOLDER,
    VOTERS_VALUE,
    GRANT,
    LEASE,
    ANNOUNCED_KEY,
    ANNOUNCED,
    ENDPOINT,
    CIDR_KEY,
    FLOW_KEY_V4,
    FLOW_KEY_V6,
    FLOW,
    WIRE,
    CONFIG,
    COUNT,
    FLOW_RECORD,
    RECORD_BUDGET,
)
ENUMS: tuple[tuple[str, type[IntEnum], str], ...] = (
    ("program", Program, ""),
    ("reason", Reason, ""),
    ("event", Event, ""),
    ("flow_kind", FlowKind, "FLOW_"),
)
BOUNDS = frozenset({"PROGRAMS", "REASONS", "FIRST_DROP"})
"""Enumerators that delimit a range rather than name anything."""


def check_contract(types: Types) -> None:
    """Raise DatapathError where Python's view and the object's differ."""
    for layout in LAYOUTS:
        layout.check(types)
    for c_name, ours, prefix in ENUMS:
        declared = {name: value for name, value in types.enums.get(c_name, {}).items() if name not in BOUNDS}
        if declared != {f"{prefix}{member.name}": int(member) for member in ours}:
            raise DatapathError(
                "the eBPF object numbers it differently",
                object=f"enum {c_name}",
                value=declared,
                fix="rebuild the object",
            )
