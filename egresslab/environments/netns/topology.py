"""What a lab consists of, read from topology.yaml and checked once, so that nothing later meets an impossible lab.

Pure but for reading the file. Each problem is reported with the field's path, the value and what to write instead.
"""

from __future__ import annotations

import re
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_interface
from itertools import combinations, islice
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from egresslab.environments.netns.paths import FABRIC, OUTSIDE
from egresslab.errors import EnvironmentFailure

PORT_NAME_STEM = 13
"""Characters of a node's name that fit before `.N` in a bridge port's name (IFNAMSIZ is 16 with the final NUL)."""

NodeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
LinkName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z][a-zA-Z0-9_.-]{0,14}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Address = IPv4Address | IPv6Address
Addresses = dict[str, tuple[Address, ...]]


class Role(StrEnum):
    """What a node is for."""

    CONTROL_PLANE = "control-plane"
    WORKER = "worker"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Network(_Model):
    """One layer-2 network: a bridge in the fabric, and the name of the interface every member has on it."""

    interface: LinkName
    ipv4: IPv4Network
    ipv6: IPv6Network
    metric: int = Field(default=100, ge=1)
    mtu: int = Field(default=1500, ge=1280, le=65535)

    def interface_of(self, address: Address) -> IPv4Interface | IPv6Interface:
        """The address with this network's prefix length."""
        network = self.ipv4 if address.version == 4 else self.ipv6
        return ip_interface(f"{address}/{network.prefixlen}")

    def holds(self, address: Address) -> bool:
        """Whether the address belongs to this network."""
        return address in self.ipv4 if isinstance(address, IPv4Address) else address in self.ipv6


class Ranges(_Model):
    """Pod addresses of the whole cluster; every node gets a subnet."""

    ipv4: IPv4Network
    ipv6: IPv6Network
    node_prefix_ipv4: int = Field(default=24, ge=8, le=30)
    node_prefix_ipv6: int = Field(default=64, ge=16, le=126)

    def subnets(self, index: int) -> tuple[IPv4Network, IPv6Network]:
        """The pod CIDRs of the node at `index`; IPv6 subnets are numbered in hexadecimal digits that read as decimal
        up to 9."""
        return (
            next(islice(self.ipv4.subnets(new_prefix=self.node_prefix_ipv4), index, None)),
            next(islice(self.ipv6.subnets(new_prefix=self.node_prefix_ipv6), index, None)),
        )


class Services(_Model):
    """Addresses of services, and the one the cluster's DNS answers on."""

    ipv4: IPv4Network
    dns: IPv4Address


class Taint(_Model):
    """A Kubernetes taint."""

    key: str
    value: str = ""
    effect: str


class Node(_Model):
    """One node. It may be on some of the networks only; others are reached through the router. Without `pod_network` it
    runs pods of the host's network alone, as a machine does that the cluster's network does not reach."""

    name: NodeName
    role: Role = Role.WORKER
    addresses: Addresses
    pod_network: bool = True
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    taints: tuple[Taint, ...] = ()


class Internet(_Model):
    """Addresses that are far away: on no network that nodes are on."""

    ipv4: IPv4Network
    ipv6: IPv6Network


class Server(_Model):
    """One server outside, on a network or (network absent) on the internet."""

    name: str
    network: str | None = None
    addresses: tuple[Address, ...] = Field(min_length=1)
    names: tuple[str, ...] = ()


class Outside(_Model):
    """The world outside the cluster."""

    router: Addresses
    internet: Internet
    servers: tuple[Server, ...] = ()
    http_port: Port = 80
    https_port: Port = 443
    echo_port: Port = 7777


class Topology(_Model):
    """A whole lab."""

    networks: dict[LinkName, Network] = Field(min_length=1)
    pods: Ranges
    services: Services
    nodes: tuple[Node, ...] = Field(min_length=1)
    outside: Outside

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [node.name for node in self.nodes]
        _unique("nodes: names", names)
        _unique(f"nodes: the first {PORT_NAME_STEM} characters of names", [name[:PORT_NAME_STEM] for name in names])
        _unique("networks: interfaces", [network.interface for network in self.networks.values()])
        for name in names:
            if name in (OUTSIDE, FABRIC) or re.fullmatch(r"(pod-)?[0-9a-f]{8}", name):
                raise ValueError(f"nodes: {name!r} is a name the lab uses itself")
        if [node.role for node in self.nodes].count(Role.CONTROL_PLANE) != 1:
            raise ValueError("nodes: exactly one node has role control-plane")
        owners = [(f"nodes.{node.name}.addresses", node.addresses) for node in self.nodes]
        owners.append(("outside.router", self.outside.router))
        used: dict[Address, str] = {}
        for owner, addresses in owners:
            if unknown := sorted(set(addresses) - set(self.networks)):
                raise ValueError(f"{owner}: there is no network {unknown[0]!r}")
            if not addresses or (owner == "outside.router" and set(addresses) != set(self.networks)):
                raise ValueError(f"{owner}: needs addresses on every network ({', '.join(self.networks)})")
            for network, given in addresses.items():
                if sorted(address.version for address in given) != [4, 6]:
                    raise ValueError(f"{owner}.{network}: needs one IPv4 and one IPv6 address")
                self._claim(used, f"{owner}.{network}", given, self.networks[network])
        for server in self.outside.servers:
            where = f"outside.servers.{server.name}"
            if server.network is None:
                self._claim(used, where, server.addresses, self.outside.internet)
            elif server.network in self.networks:
                self._claim(used, where, server.addresses, self.networks[server.network])
            else:
                raise ValueError(f"{where}: there is no network {server.network!r}")
        for node in self.nodes:
            if self.primary not in node.addresses and (node.role is Role.CONTROL_PLANE or node.pod_network):
                raise ValueError(
                    f"nodes.{node.name}.addresses: needs addresses on {self.primary}, the network of pods and the API"
                )
        if self.services.dns not in self.services.ipv4:
            raise ValueError(f"services.dns: {self.services.dns} is outside {self.services.ipv4}")
        self._apart()
        return self

    @staticmethod
    def _claim(
        used: dict[Address, str], owner: str, addresses: tuple[Address, ...], network: Network | Internet
    ) -> None:
        for address in addresses:
            home = network.ipv4 if address.version == 4 else network.ipv6
            if address not in home:
                raise ValueError(f"{owner}: {address} is outside {home}")
            if isinstance(home, IPv4Network) and address in (home.network_address, home.broadcast_address):
                raise ValueError(f"{owner}: {address} is the network's or the broadcast address of {home}")
            if address in used:
                raise ValueError(f"{owner}: {address} belongs to {used[address]} already")
            used[address] = owner

    def _apart(self) -> None:
        """Every two ranges are disjoint, and there is a pod subnet for every node."""
        internet = self.outside.internet
        ranges: list[tuple[str, IPv4Network | IPv6Network]] = []
        for name, network in self.networks.items():
            ranges += [(f"networks.{name}.ipv4", network.ipv4), (f"networks.{name}.ipv6", network.ipv6)]
        ranges += [("pods.ipv4", self.pods.ipv4), ("pods.ipv6", self.pods.ipv6), ("services.ipv4", self.services.ipv4)]
        ranges += [("outside.internet.ipv4", internet.ipv4), ("outside.internet.ipv6", internet.ipv6)]
        for (owner, one), (other_owner, other) in combinations(ranges, 2):
            if one.version == other.version and int(one[0]) <= int(other[-1]) and int(other[0]) <= int(one[-1]):
                raise ValueError(f"{owner}: {one} overlaps {other_owner} ({other})")
        for field, total, prefix in (
            ("pods.ipv4", self.pods.ipv4, self.pods.node_prefix_ipv4),
            ("pods.ipv6", self.pods.ipv6, self.pods.node_prefix_ipv6),
        ):
            if prefix < total.prefixlen or 2 ** (prefix - total.prefixlen) < len(self.nodes):
                raise ValueError(f"{field}: {total} has no /{prefix} for each of {len(self.nodes)} nodes")

    @property
    def control_plane(self) -> Node:
        """The node that the API server's address belongs to."""
        return next(node for node in self.nodes if node.role is Role.CONTROL_PLANE)

    @property
    def primary(self) -> str:
        """The network that nodes are known by: the first one in the file."""
        return next(iter(self.networks))

    def node(self, name: str) -> Node:
        """The node of that name; raises `EnvironmentFailure` that lists the names there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise EnvironmentFailure(
            "the lab has no such node",
            object="node",
            value=name,
            fix=f"name one of: {', '.join(node.name for node in self.nodes)}",
        )

    def internal_addresses(self, node: Node) -> tuple[Address, ...]:
        """IPv4 then IPv6 on the network that the node is known by: what Kubernetes calls InternalIP."""
        return tuple(sorted(node.addresses[self.network_of(node)], key=lambda address: address.version))

    def network_of(self, node: Node) -> str:
        """The network that a node is known by: the first one in the file that it is on."""
        return next(name for name in self.networks if name in node.addresses)

    def pod_subnets(self, node: Node) -> tuple[IPv4Network | IPv6Network, ...]:
        """Pod CIDRs of a node; none for one that is not on the pods' network."""
        return self.pods.subnets(self.nodes.index(node)) if node.pod_network else ()


def _unique(what: str, values: list[str]) -> None:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"{what} must differ (repeated: {', '.join(repeated)})")


def load_topology(path: Path) -> Topology:
    """The topology in a YAML file; raises `EnvironmentFailure` naming the first field that is wrong."""
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise EnvironmentFailure(f"cannot be read: {error.strerror}", object=str(path)) from error
    except yaml.YAMLError as error:
        raise EnvironmentFailure(f"is not YAML: {error}", object=str(path)) from error
    return parse_topology(content, str(path))


def parse_topology(content: object, source: str) -> Topology:
    """The topology in decoded YAML or JSON; `source` names it in errors."""
    try:
        return Topology.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part not in ("IPv4Address", "IPv6Address"))
        message = first["msg"].removeprefix("Value error, ")
        if not field and ": " in message:
            field, message = message.split(": ", 1)
        raise EnvironmentFailure(
            message,
            object=source,
            field=field or None,
            value=None if first["type"] == "value_error" else first["input"],
            fix="compare with the topology file that comes with egresslab (environments/netns/topology.yaml)",
        ) from error
