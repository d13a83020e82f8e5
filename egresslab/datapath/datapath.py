"""The datapath of one node: programs and maps, pinned, so that they outlive the process that loaded them.

`Datapath.open` loads the object or adopts what is pinned. Nothing here decides which pod uses which gateway, and
closing or killing the process never changes what the kernel does with packets.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv6Address
from pathlib import Path
from typing import Self

from egresslab.datapath import layout
from egresslab.datapath.addresses import narrow, port_bytes, wide
from egresslab.datapath.flowtable import FlowTable, Lifetimes
from egresslab.datapath.gateways import EndpointMap, SlotMap
from egresslab.datapath.leases import LeaseMaps
from egresslab.datapath.libbpf import (
    Libbpf,
    Map,
    Object,
    get_pinned,
    map_info,
    pin,
    pinned_btf,
    raise_memlock,
)
from egresslab.datapath.observation import Counters, FlowEvents
from egresslab.datapath.policy import CidrSet, PolicyMap
from egresslab.datapath.table import Table, table_of
from egresslab.datapath.table import open_table as open_table
from egresslab.datapath.values import TUNNEL_PORTS, NodeConfig, Program, Underlay
from egresslab.errors import DatapathError

OBJECT = Path(__file__).parent / "bpf" / "egresslab.o"
PIN_FLOWS, LEAVE_CHECKSUMS = 1, 2

STRUCTS: dict[str, tuple[str | None, str | None]] = {
    "egress_policy_v4": ("policy_key_v4", "policy_value"),
    "egress_policy_v6": ("policy_key_v6", "policy_value"),
    "gateway_slots": (None, "gateway_slot"),
    "endpoints": (None, "endpoint"),
    "cluster_cidrs": ("cidr_key", None),
    "egress_addresses": (None, None),
    "nat_v4": ("flow_key_v4", "flow"),
    "nat_v6": ("flow_key_v6", "flow"),
    "fragments": ("fragment_key", "fragment"),
    "wires": (None, "wire"),
    "holders": (None, "holder"),
    "voters": (None, "voters"),
    "leases": (None, "lease"),
    "announced": ("announced_key", "announced"),
    "config": (None, "config"),
    "flows": (None, None),
    "record_budgets": (None, "record_budget"),
    "counters": (None, "count"),
}
"""Maps that are pinned, with the structs of their keys and values."""


@dataclass(frozen=True, slots=True)
class _Pins:
    directory: Path

    @property
    def programs(self) -> Path:
        return self.directory / "programs"

    @property
    def config_of_object(self) -> Path:
        """A one-element array that carries the digest of the object that the pinned programs came from."""
        return self.directory / "object"


class Datapath:
    """Maps and programs of one node.

    Attributes: `policy` (PolicyMap), `slots` (SlotMap), `endpoints` (EndpointMap), `cluster_cidrs` (CidrSet),
    `nat` (FlowTable), `counters` (Counters), `flows` (FlowEvents), `leases` (LeaseMaps); `replaced`: names of what
    `open` had to put in place of an older layout (empty when everything was adopted or new), `adopted`: whether pinned
    programs were kept.
    """

    def __init__(
        self,
        libbpf: Libbpf,
        pin_dir: Path,
        maps: dict[str, int],
        programs: dict[Program, int],
        adopted: bool,
        replaced: tuple[str, ...],
    ) -> None:
        self._maps = maps
        self._programs = programs
        self.libbpf = libbpf
        self.adopted = adopted
        self.replaced = replaced
        tables = {name: table_of(libbpf, name, fd) for name, fd in maps.items() if name != "flows"}
        self._config = tables["config"]
        self.wires = tables["wires"]
        self.policy = PolicyMap(tables["egress_policy_v4"], tables["egress_policy_v6"])
        self.slots = SlotMap(tables["gateway_slots"], tables["egress_addresses"])
        self.endpoints = EndpointMap(tables["endpoints"])
        self.cluster_cidrs = CidrSet(tables["cluster_cidrs"])
        self.nat = FlowTable(tables["nat_v4"], tables["nat_v6"], Lifetimes())
        self.counters = Counters(tables["counters"])
        self.flows = FlowEvents(libbpf, maps["flows"], tables["record_budgets"])
        self.leases = LeaseMaps(libbpf, pin_dir, tables)

    @classmethod
    def open(
        cls,
        pin_dir: Path,
        *,
        policy_entries: int = 131_072,
        slot_entries: int = 4_096,
        endpoint_entries: int = 65_536,
        nat_entries: int = 262_144,
        flow_buffer_bytes: int = 1 << 20,
    ) -> Self:
        """Load, or adopt what is pinned below `pin_dir` (a directory on a bpffs).

        A pinned map whose layout or size differs from the object's is replaced by an empty one; programs that are
        already attached go on with the old one until `attach_*` replaces them, so fill the maps first.
        Raises DatapathError with what the kernel said (the verifier's log for a program).
        """
        sizes = {
            "egress_policy_v4": policy_entries,
            "egress_policy_v6": policy_entries,
            "gateway_slots": slot_entries,
            "endpoints": endpoint_entries,
            "nat_v4": nat_entries,
            "nat_v6": nat_entries,
            "flows": flow_buffer_bytes,
        }
        raise_memlock()
        libbpf, pins = Libbpf(), _Pins(pin_dir)
        try:
            pins.programs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fix = f"mount -t bpf bpf {pin_dir.parent}"
            raise DatapathError("cannot make the directory for pins", object=str(pin_dir), fix=fix) from error
        if not OBJECT.exists():
            raise DatapathError("the eBPF object is not built", object=str(OBJECT), fix="make setup")
        digest = sha256(OBJECT.read_bytes()).digest()
        with Object(libbpf, OBJECT) as opened:
            types = layout.parse_btf(opened.btf())
            layout.check_contract(types)
            handles = {name: handle for name, handle in opened.maps() if name in STRUCTS}
            found: dict[str, int] = {}
            replaced: list[str] = []
            for name, handle in handles.items():
                if name in sizes:
                    handle.set_max_entries(sizes[name])
                fd = get_pinned(libbpf, pin_dir / name)
                if fd is None:
                    continue
                if _same_layout(libbpf, types, name, handle, fd):
                    handle.reuse(fd)
                    found[name] = fd
                else:
                    os.close(fd)
                    replaced.append(name)
            programs = _adopt_programs(libbpf, pins, digest) if len(found) == len(handles) else None
            if programs is not None:
                return cls(libbpf, pin_dir, found, programs, adopted=True, replaced=())
            opened.load()
            for name, handle in handles.items():
                if name not in found:
                    found[name] = os.dup(handle.fd)
                    pin(libbpf, found[name], pin_dir / name)
            programs = {program: os.dup(opened.program_fd(program.name.lower())) for program in Program}
        for program, fd in programs.items():
            pin(libbpf, fd, pins.programs / program.name.lower())
        _remember_object(libbpf, pins, digest)
        return cls(libbpf, pin_dir, found, programs, adopted=False, replaced=tuple(sorted(replaced)))

    def program_fd(self, program: Program) -> int:
        """Descriptor for attaching; owned by this object."""
        return self._programs[program]

    def configure(self, config: NodeConfig) -> None:
        """Tell the programs about their node; takes effect with the next packet."""
        underlay = config.underlay or Underlay(0)
        raw = layout.CONFIG.pack(
            narrow(config.address_v4),
            config.overlay_ifindex,
            wide(config.address_v6),
            config.overlay_mtu,
            config.vni,
            (PIN_FLOWS if config.pin_flows else 0) | (LEAVE_CHECKSUMS if underlay.veth else 0),
            config.drop_events_per_second,
            config.idle_pin_seconds,
            *config.ports,
            port_bytes(config.overlay_port),
            TUNNEL_PORTS[0],
            TUNNEL_PORTS[1] - TUNNEL_PORTS[0],
            0,
            underlay.ifindex,
        )
        if config.ports[0] > config.ports[1]:
            raise DatapathError("the port range is empty", object="NodeConfig", field="ports", value=config.ports)
        self._config.put(bytes(4), raw)

    def set_wire(self, ifindex: int, mtu: int, mac: str, gateway_v6: IPv6Address | None = None) -> None:
        """Note an outward interface's MTU, which bounds what is sent there, the MAC with which announced addresses are
        answered for, and the gateway of its own IPv6 default route, which IPv6 routing does not tell once another
        interface has a better one."""
        raw = layout.WIRE.pack(mtu, wide(gateway_v6), bytes.fromhex(mac.replace(":", "")), 0)
        self.wires.put(ifindex.to_bytes(4, "little"), raw)

    def forget_wire(self, ifindex: int) -> None:
        self.wires.delete(ifindex.to_bytes(4, "little"))

    def close(self) -> None:
        """Close file descriptors; pins, links and traffic stay."""
        self.flows.close()
        self.leases.close()
        for fd in (*self._maps.values(), *self._programs.values()):
            os.close(fd)
        self._maps, self._programs = {}, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def remove(pin_dir: Path) -> None:
        """Unpin everything. Detach first: attached programs keep their maps alive until then."""
        if pin_dir.exists():
            shutil.rmtree(pin_dir)


def _same_layout(libbpf: Libbpf, types: layout.Types, name: str, handle: Map, fd: int) -> bool:
    pinned, expected = map_info(libbpf, fd), handle.expected()
    if (pinned.type, pinned.key_size, pinned.value_size, pinned.max_entries, pinned.flags) != (
        expected.type,
        expected.key_size,
        expected.value_size,
        expected.max_entries,
        expected.flags,
    ):
        return False
    older = layout.parse_btf(pinned_btf(libbpf, pinned.btf_id))
    return not older.structs or all(
        older.structs.get(struct) == types.structs.get(struct) for struct in STRUCTS[name] if struct
    )


def _adopt_programs(libbpf: Libbpf, pins: _Pins, digest: bytes) -> dict[Program, int] | None:
    """The pinned programs, when all are there and came from this very object."""
    fd = get_pinned(libbpf, pins.config_of_object)
    if fd is None:
        return None
    try:
        if Table(libbpf, "object", fd, 4, len(digest)).get(bytes(4)) != digest:
            return None
    finally:
        os.close(fd)
    found = {program: get_pinned(libbpf, pins.programs / program.name.lower()) for program in Program}
    present = {program: fd for program, fd in found.items() if fd is not None}
    if len(present) == len(Program):
        return present
    for fd in present.values():
        os.close(fd)
    return None


def _remember_object(libbpf: Libbpf, pins: _Pins, digest: bytes) -> None:
    fd = get_pinned(libbpf, pins.config_of_object)
    if fd is None:
        fd = libbpf.create_array("egresslab_object", len(digest))
        pin(libbpf, fd, pins.config_of_object)
    try:
        Table(libbpf, "object", fd, 4, len(digest)).put(bytes(4), digest)
    finally:
        os.close(fd)
