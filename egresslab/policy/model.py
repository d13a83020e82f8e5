"""What a policy and a gateway mean, whichever dialect they were written in. Nothing downstream knows dialects.

Only values, hashable and immutable; two equal descriptions of a gateway are one gateway to the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from egresslab.api.selectors import LabelSelector

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Dialect(StrEnum):
    """API group and version in which an object was written."""

    CILIUM = "cilium.io/v2"
    DECKHOUSE = "network.deckhouse.io/v1alpha1"
    EGRESSLAB = "egresslab.dev/v1alpha1"


class PolicyKey(NamedTuple):
    """Identity of a policy; policies are cluster-scoped in every dialect."""

    dialect: Dialect
    name: str

    def __str__(self) -> str:
        kind = "CiliumEgressGatewayPolicy" if self.dialect is Dialect.CILIUM else "EgressGatewayPolicy"
        return f"{kind}/{self.name}"


class GroupKey(NamedTuple):
    """Identity of a gateway group that is an object of its own."""

    dialect: Dialect
    name: str

    def __str__(self) -> str:
        return f"EgressGateway/{self.name}"

    @property
    def text(self) -> str:
        """`DIALECT/NAME`, as files and annotations name it."""
        return f"{self.dialect}/{self.name}"


class Cidr(NamedTuple):
    """A destination: the network that the kernel matches, and the text as the user wrote it (host bits and all)."""

    network: Network
    written: str


class FailMode(StrEnum):
    """What becomes of selected traffic while there is no gateway."""

    CLOSED = "Closed"
    OPEN = "Open"


class Choice(StrEnum):
    """How a group finds the gateway of a pod among its candidates."""

    FIRST_BY_NAME = "first-by-name"
    """One gateway for all: the eligible node lowest in byte order of names."""
    LOWEST_HASH = "lowest-hash"
    """One gateway for all: the eligible node with the lowest SHA-256 of "GROUP#NODE" (Deckhouse's election)."""
    HASH_MODULO = "hash-modulo"
    """FNV-1a of the endpoint's UID modulo the members that resolve, in order of gateway IPv4 (Cilium's lists)."""
    RENDEZVOUS = "rendezvous"
    """Highest random weight for each of a fixed number of buckets of pods: a lost node moves only its own."""


class SourceKind(StrEnum):
    """Where the source address of leaving packets comes from."""

    DEFAULT_ROUTE = "default-route"
    INTERFACE = "interface"
    ADDRESS = "address"
    """An address that a node must carry already."""
    VIRTUAL = "virtual"
    """An address that the active gateway is given: it need not be on any interface yet."""


@dataclass(frozen=True, slots=True)
class Source:
    """How a gateway finds its source addresses; further addresses of a family are for when ports run out."""

    kind: SourceKind = SourceKind.DEFAULT_ROUTE
    interface: str | None = None
    addresses: tuple[Address, ...] = ()
    assign: bool = False
    """The gateway is to be given the addresses: on `interface`, or on the one whose network has them."""
    sorted_addresses: bool = False
    """Of several addresses of an interface not the first counts but the best, in Cilium's order."""


@dataclass(frozen=True, slots=True)
class Member:
    """Candidate nodes that source alike: one item of a gateway list, or the whole group."""

    nodes: LabelSelector
    source: Source


class Families(NamedTuple):
    """Address families that a policy's destinations need (exclusions do not count)."""

    ipv4: bool
    ipv6: bool


class FailbackPolicy(StrEnum):
    """When a repaired, preferred node takes over again."""

    NEVER = "Never"
    DELAYED = "Delayed"
    IMMEDIATE = "Immediate"


@dataclass(frozen=True, slots=True)
class Failback:
    """`delay_s` counts for Delayed: seconds that the preferred node must have been eligible without a break."""

    policy: FailbackPolicy = FailbackPolicy.NEVER
    delay_s: float = 0.0


class ProbeProtocol(StrEnum):
    """How an upstream target is asked."""

    ICMP = "ICMP"
    HTTP = "HTTP"


@dataclass(frozen=True, slots=True)
class UpstreamProbe:
    """A target beyond the gateway; `target` is an address for ICMP, a URL for HTTP."""

    protocol: ProbeProtocol
    target: str
    interval_s: float = 1.0
    timeout_s: float = 1.0
    failures: int = 3


@dataclass(frozen=True, slots=True)
class HealthProbe:
    """How gateways are probed over the data network: every `interval_s`, lost after `failures` losses in a row."""

    interval_s: float = 0.05
    failures: int = 3
    recoveries: int = 3
    upstream: tuple[UpstreamProbe, ...] = ()


@dataclass(frozen=True, slots=True)
class Eligibility:
    """What a candidate must be, besides selected and having an IPv4 address."""

    ready: bool = False
    schedulable: bool = False
    healthy: bool = False
    sourced: bool = False
    """Known to lack its interface or addresses, a node is passed over."""


@dataclass(frozen=True, slots=True)
class GatewayGroup:
    """Candidates, how to choose among them, and how to source.

    `key` is None for one written inside a policy. `families` set means that the source is resolved by Cilium's rule for
    those families; None means that each family stands on its own.
    """

    key: GroupKey | None
    members: tuple[Member, ...]
    choice: Choice
    eligibility: Eligibility = Eligibility()
    families: Families | None = None
    announce_interfaces: tuple[str, ...] = ()
    """Where a virtual address is announced; empty means on every interface that leads out."""
    failback: Failback = Failback()
    health: HealthProbe = HealthProbe()
    replicate_sessions: bool = True

    @property
    def standby(self) -> bool:
        """One gateway is active for all pods, so that an operator may say which."""
        return self.key is not None and self.choice in (Choice.FIRST_BY_NAME, Choice.LOWEST_HASH)

    @property
    def virtual_addresses(self) -> tuple[Address, ...]:
        """Addresses that the active gateway must be given and announce."""
        return tuple(
            address
            for member in self.members
            if member.source.kind is SourceKind.VIRTUAL
            for address in member.source.addresses
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """One entry of a policy's selectors: all three parts must match; a part that is None does not restrict.

    `pods` is matched on the pod's labels plus `io.kubernetes.pod.namespace`, `nodes` on the labels of the pod's node.
    """

    pods: LabelSelector
    namespaces: LabelSelector | None = None
    nodes: LabelSelector | None = None


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """Which pods, which destinations, through which group. Higher `priority` wins where policies overlap."""

    key: PolicyKey
    selections: tuple[Selection, ...]
    destinations: tuple[Cidr, ...]
    group: GroupKey | GatewayGroup
    exclusions: tuple[Cidr, ...] = ()
    domains: tuple[str, ...] = ()
    """Destination names; `*.example.com` covers every name below. Their addresses arrive as `DomainAnswer`."""
    fail_mode: FailMode = FailMode.CLOSED
    priority: int = 0

    @property
    def precedence(self) -> tuple[int, str, str]:
        """Sort key: the policy that comes first wins a (source, destination) that several claim."""
        return -self.priority, self.key.name, self.key.dialect
