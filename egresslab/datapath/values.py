"""What the datapath's maps hold, as immutable values with `ipaddress` types.

Nothing here talks to the kernel: how a value lies in memory is `layout.py`'s business, and the C header
`bpf/contract.h` is where it is decided. Numbers of enums are part of that contract and never change meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

SPILLS = 7
"""Further sources that a slot may have in each family."""
VOTERS = 7
"""How many voters a node can count."""
REASONS = 256
"""Counters that each program has, one for each possible `Reason`."""
DROP_SLOT = 0
"""The slot that is never given to a gateway: what points at it is dropped with `Reason.NO_GATEWAY`."""


class Program(IntEnum):
    """The programs of the object, as numbered in `enum program`."""

    FROM_POD = 0
    TO_POD = 1
    FROM_OVERLAY = 2
    TO_WIRE = 3
    FROM_WIRE = 4


class Reason(IntEnum):
    """What became of a packet. Below 128 it went on; from 128 it was dropped.

    Drops that Cilium also knows carry Cilium's number; ours start at 224.
    """

    NONE = 0
    IN_CLUSTER = 1
    NO_ENTRY = 2
    EXCLUDED = 3
    INBOUND = 4
    NOT_OURS = 5
    STEERED = 6
    TRANSLATED = 7
    RETURNED = 8
    DELIVERED = 9
    ALREADY_TRANSLATED = 10
    RESERVED = 11
    TOO_BIG = 12
    TIME_EXCEEDED = 13
    FAIL_OPEN = 14
    PROBED = 15
    ANNOUNCED = 16
    RESET = 17
    INVALID_SOURCE = 132
    INVALID_PACKET = 134
    UNKNOWN_PROTOCOL = 142
    EXTENSION_HEADER = 156
    NO_FREE_PORT = 167
    UNSUPPORTED_ICMP = 168
    NO_ROUTE = 169
    FRAGMENT_WITHOUT_FIRST = 175
    NO_GATEWAY = 194
    HOP_LIMIT = 196
    NO_EGRESS_IP = 204
    NOT_READY = 224
    NOT_GATEWAY = 225
    UNTRANSLATED = 226
    NO_FLOW = 227
    UNKNOWN_ENDPOINT = 228
    NO_OVERLAY = 229
    REWRITE_FAILED = 230
    NOT_FOR_OVERLAY = 231
    NOT_HOLDER = 232

    @property
    def dropped(self) -> bool:
        return self >= 128


class Protocol(IntEnum):
    """Transport protocols that are translated (IANA numbers)."""

    ICMP = 1
    TCP = 6
    UDP = 17
    ICMPV6 = 58


class FlowKind(IntEnum):
    """What a flow-table entry stands for, as numbered in `enum flow_kind`."""

    TRANSLATED = 1
    """A gateway's: pod to remote, leaving with the egress address."""
    REPLY = 2
    """The other half of the same: remote to egress address, back to the pod."""
    STEERED = 3
    """A source node's: the flow is pinned to a slot whose gateway is another node."""
    INBOUND = 4
    """Opened from outside towards the pod; its packets are left alone."""
    PASSED = 5
    """Opened by the pod while no policy selected it; only a note, never a verdict."""
    NODE = 6
    """The node's own connection from an address that is also an egress address."""


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """One row: packets of `source` to `destination` take `slot`, or pass when `excluded` (the slot then only names
    the egress address that the listing shows)."""

    source: IPAddress
    destination: IPNetwork
    slot: int
    excluded: bool = False


@dataclass(frozen=True, slots=True)
class GatewaySlot:
    """One gateway choice. Without `endpoint` its packets are dropped (`NO_GATEWAY`) or, with `open`, pass untranslated
    (failMode: Open). With `local`, this node is the gateway and translates. `ifindex` 0 lets the routing table choose
    the outgoing interface.

    With `lease`, the gateway is whoever holds that lease, and `endpoint` and `local` stay empty; sources and interface
    are this node's own, for when it is the holder. `reset`: TCP that is not known here is answered with a reset.
    `spill_v4`, `spill_v6`: further sources, taken in order when the ports of those before run out (at most SPILLS)."""

    endpoint: IPv4Address | None = None
    source_v4: IPv4Address | None = None
    source_v6: IPv6Address | None = None
    ifindex: int = 0
    local: bool = False
    open: bool = False
    lease: int = 0
    reset: bool = False
    spill_v4: tuple[IPv4Address, ...] = ()
    spill_v6: tuple[IPv6Address, ...] = ()

    @property
    def sources(self) -> tuple[IPAddress, ...]:
        """What packets may leave this node with, now or once it holds the lease."""
        if not (self.local or self.lease):
            return ()
        return (
            *([self.source_v4] if self.source_v4 is not None else []),
            *([self.source_v6] if self.source_v6 is not None else []),
            *self.spill_v4,
            *self.spill_v6,
        )


@dataclass(frozen=True, slots=True)
class Holder:
    """Where the slots of a lease lead: the tunnel endpoint of its holder, whether that is this node, and the epoch in
    which it was granted. Without `endpoint` there is none at present."""

    endpoint: IPv4Address | None
    epoch: int
    local: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """One voter's grant of a lease to this node. `until_ns`: CLOCK_MONOTONIC of this node."""

    epoch: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as this node counts it: held until `holds_until_ns` (CLOCK_MONOTONIC of this node; 0: never yet), by
    grants of `epoch`. `grants`: the latest of each voter, also of voters that no longer count."""

    epoch: int
    holds_until_ns: int
    grants: Mapping[IPv4Address, Grant]

    def held(self, now_ns: int) -> bool:
        """Whether the programs hold it to be held."""
        return self.holds_until_ns > now_ns


@dataclass(frozen=True, slots=True)
class Voters:
    """Whose grants count, and how many make a lease. `heartbeat_ns`: when this node's voter last said that it lives."""

    addresses: tuple[IPv4Address, ...]
    quorum: int
    heartbeat_ns: int


@dataclass(frozen=True, slots=True)
class Announced:
    """An address that the programs answer for on an interface while `lease` is held, unless it is `silent`."""

    lease: int
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod address. Local: `ifindex` of the host side of its link and the pod's own `mac`. Remote: `node`, the
    tunnel endpoint of its node. A local endpoint that is not `ready` may send nothing outside the cluster."""

    ifindex: int = 0
    mac: str = "00:00:00:00:00:00"
    node: IPv4Address | None = None
    ready: bool = False


TUNNEL_PORTS = (49_152, 49_408)
"""Source ports of the tunnel, the upper bound not included. The kernel would take one for each inner flow out of tens
of thousands, and where it tracks connections, each node would keep two more for every flow of every pod. So many still
spread flows over queues and paths."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """The interface that the tunnel runs over. `veth`: it is one end of a pair, which hands on the very packets that it
    is given and never computes a checksum."""

    ifindex: int
    veth: bool = False


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What the programs must know of their node. `overlay_mtu` in bytes of inner IP packet (0: unlimited).

    `overlay_port` is the tunnel's UDP port. `ports` is where a source port is searched when the flow's own is taken
    (inclusive). `pin_flows`: established flows keep their slot when policy entries change. `drop_events_per_second`
    limits flow events about drops, per CPU. `idle_pin_seconds`: a UDP or ICMP flow that was silent for so long is
    decided anew. `underlay`: most packets are wrapped and unwrapped by the programs, there; None: all take the overlay
    device, where a capture shows them.
    """

    address_v4: IPv4Address | None = None
    address_v6: IPv6Address | None = None
    overlay_ifindex: int = 0
    overlay_mtu: int = 0
    vni: int = 0xE6
    overlay_port: int = 8472
    ports: tuple[int, int] = (1024, 65535)
    pin_flows: bool = True
    drop_events_per_second: int = 100
    idle_pin_seconds: int = 60
    underlay: Underlay | None = None


@dataclass(frozen=True, slots=True)
class FlowKey:
    """A flow as its pod sees it (kinds TRANSLATED, STEERED, INBOUND, PASSED), or as the wire sees its replies (REPLY:
    `local` is the egress address). For ICMP echo `local_port` is the identifier and `remote_port` 0."""

    local: IPAddress
    local_port: int
    remote: IPAddress
    remote_port: int
    protocol: Protocol
    reply: bool = False


@dataclass(frozen=True, slots=True)
class Flow:
    """One entry of the flow table. `address`, `port`: what the local pair is translated to (TRANSLATED: egress address;
    REPLY: the pod). `node`: tunnel endpoint of the pod's node, None when the pod is here. `opened_ns`, `seen_ns`:
    CLOCK_MONOTONIC of this node. `tcp_flags`: SYN, FIN, RST, ACK bits seen in this direction (RFC 9293's positions)."""

    key: FlowKey
    kind: FlowKind
    slot: int
    address: IPAddress | None
    port: int
    node: IPv4Address | None
    opened_ns: int
    seen_ns: int
    tcp_flags: int = 0


class Event(IntEnum):
    """What a flow event tells, as numbered in `enum event`."""

    OPENED = 1
    CLOSED = 2
    DROPPED = 3


@dataclass(frozen=True, slots=True)
class FlowEvent:
    """One record of the ring buffer. Addresses as the pod sees them; `egress`, `egress_port` once translated."""

    event: Event
    program: Program
    reason: Reason
    time_ns: int
    protocol: int
    pod: IPAddress
    pod_port: int
    remote: IPAddress
    remote_port: int
    egress: IPAddress | None
    egress_port: int
    slot: int
    node: IPv4Address | None
    ifindex: int


@dataclass(frozen=True, slots=True)
class Count:
    """Packets and bytes (length of the frame as the program saw it; a GSO packet counts once)."""

    packets: int
    bytes: int


class Verdict(Enum):
    """What a program told the kernel to do (`tc-bpf(8)`, direct-action)."""

    PASS = 0
    DROP = 2
    REDIRECT = 7
