"""What the cluster looks like, as far as decisions need it: pods, namespaces, nodes, and what others found out.

Only values. `ref` is the identity by which the engine replaces and deletes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import NamedTuple

from egresslab.policy.model import Address, EgressPolicy, GatewayGroup, GroupKey, Network, PolicyKey

POD_NAMESPACE_LABEL = "io.kubernetes.pod.namespace"
NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
"""Every API server gives each namespace this label, with its own name."""
INTERFACES_ANNOTATION = "egresslab.dev/interfaces"
HEALTH_ANNOTATION = "egresslab.dev/gateway-health"


class Kind(StrEnum):
    """Kinds of values the engine holds."""

    POD = "Pod"
    NAMESPACE = "Namespace"
    NODE = "Node"
    POLICY = "Policy"
    GROUP = "Group"
    HEALTH = "NodeHealth"
    CHOICE = "ActiveChoice"
    DOMAIN = "DomainAnswer"


class Ref(NamedTuple):
    """Identity of a value: a pod's is its UID, so that a pod made anew under an old name is another one."""

    kind: Kind
    name: str


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as far as its egress is concerned; `addresses` is empty until it has some and once it has finished.

    `endpoint_uid` is what Cilium hashes (the UID of its CiliumEndpoint); without one it is the pod's own.
    """

    namespace: str
    name: str
    uid: str
    labels: Mapping[str, str] = field(hash=False)
    node: str | None = None
    addresses: tuple[Address, ...] = ()
    host_network: bool = False
    terminating: bool = False
    created: str = ""
    endpoint_uid: str = ""

    @property
    def ref(self) -> Ref:
        """Identity."""
        return Ref(Kind.POD, self.uid)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace and its labels."""

    name: str
    labels: Mapping[str, str] = field(hash=False)

    @property
    def ref(self) -> Ref:
        """Identity."""
        return Ref(Kind.NAMESPACE, self.name)


@dataclass(frozen=True, slots=True)
class Interface:
    """A node's interface; addresses in the kernel's order, primary first."""

    name: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    altnames: tuple[str, ...] = ()
    default_route_v4: bool = False
    default_route_v6: bool = False
    carrier: bool = True
    """Whether it has a link."""
    mac: str | None = None

    _ips: tuple[Address, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # An interface's `.ip` builds an object at each call, and a gateway may carry many addresses.
        object.__setattr__(self, "_ips", tuple(address.ip for address in self.addresses))

    def first_v4(self) -> IPv4Address | None:
        """The primary IPv4 address."""
        return next((ip for ip in self._ips if isinstance(ip, IPv4Address)), None)

    def first_v6(self) -> IPv6Address | None:
        """The primary IPv6 address; a link-local one is no source for anything beyond the link."""
        return next((ip for ip in self._ips if isinstance(ip, IPv6Address) and not ip.is_link_local), None)

    def best(self, version: int) -> Address | None:
        """The address that Cilium takes for the primary one: those in the network of an earlier one come last (they are
        the kernel's secondary ones), public ones first, then the lowest."""
        ranked = []
        for index, own in enumerate(self.addresses):
            if own.version == version and not own.ip.is_link_local and not own.ip.is_loopback:
                secondary = version == 4 and any(own.network == earlier.network for earlier in self.addresses[:index])
                ranked.append((secondary, not own.ip.is_global, int(own.ip), own.ip))
        return min(ranked)[3] if ranked else None

    def carries(self, address: Address) -> bool:
        """Whether the address is on this interface."""
        return address in self._ips

    def neighbours(self, address: Address) -> bool:
        """Whether the address is in a network of this interface; one that consists of a single address is none."""
        return any(
            address in own.network
            for own in self.addresses
            if own.version == address.version and own.network.prefixlen < own.max_prefixlen
        )


@dataclass(frozen=True, slots=True)
class Node:
    """A node; `interfaces` is None when nothing is known of them (no annotation), which is not the same as none."""

    name: str
    labels: Mapping[str, str] = field(hash=False)
    internal_v4: IPv4Address | None = None
    internal_v6: IPv6Address | None = None
    ready: bool = True
    schedulable: bool = True
    interfaces: tuple[Interface, ...] | None = None
    pod_cidrs: tuple[Network, ...] = ()
    unfit: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Gateways (`DIALECT/NAME`) for which the node found itself unfit, each with the reason in words."""

    @property
    def ref(self) -> Ref:
        """Identity."""
        return Ref(Kind.NODE, self.name)


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """A verdict on a node as a gateway, found over the data network; a node without one counts as healthy."""

    node: str
    healthy: bool

    @property
    def ref(self) -> Ref:
        """Identity."""
        return Ref(Kind.HEALTH, self.node)


@dataclass(frozen=True, slots=True)
class ActiveChoice:
    """Which node holds a standby group's lease, as the voters decided; it counts whatever the objects say of it."""

    group: GroupKey
    node: str

    @property
    def ref(self) -> Ref:
        """Identity."""
        return Ref(Kind.CHOICE, f"{self.group.dialect}/{self.group.name}")


@dataclass(frozen=True, slots=True)
class DomainAnswer:
    """Addresses that a name has at present, for policies with domain destinations."""

    name: str
    addresses: tuple[Address, ...]

    @property
    def ref(self) -> Ref:
        """Identity."""
        return Ref(Kind.DOMAIN, self.name)


Value = Pod | Namespace | Node | NodeHealth | ActiveChoice | DomainAnswer | EgressPolicy | GatewayGroup
"""Everything that the engine can be told."""


def ref_of(value: Value) -> Ref:
    """Identity of any value; a gateway group written inside a policy has none and raises `ValueError`."""
    if isinstance(value, EgressPolicy):
        return ref_of_key(value.key)
    if isinstance(value, GatewayGroup):
        if value.key is None:
            raise ValueError("a group inside a policy has no identity of its own")
        return ref_of_key(value.key)
    return value.ref


def ref_of_key(key: PolicyKey | GroupKey) -> Ref:
    """Identity of the policy or gateway with that key."""
    return Ref(Kind.POLICY if isinstance(key, PolicyKey) else Kind.GROUP, f"{key.dialect}/{key.name}")
