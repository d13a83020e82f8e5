"""The lab's network as a plan: which namespaces, links, addresses and routes there are.

Pure: a topology goes in, a plan comes out, and `builder` carries it out in a process of its own. A plan may be narrowed
to one node, which is how a crashed node gets its network back.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Address
from typing import Any

from egresslab.environments.netns.paths import FABRIC, OUTSIDE, LabPaths
from egresslab.environments.netns.topology import PORT_NAME_STEM, Addresses, Node, Topology

INTERNET_LINK = "lo"
"""Far away servers are addresses of `outside` itself; not every kernel has dummy links to put them on."""

QUIET = {
    # Addresses are usable at once: nobody else could have them (RFC 4862 section 5.4 is for networks of strangers).
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/router_solicitations": "0",
}
ROUTING = QUIET | {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/forwarding": "1",
    # Egress traffic leaves and returns by different interfaces; reverse path filtering (RFC 3704) would drop it.
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
}
SWITCHING = {
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
}


@dataclass(frozen=True, slots=True)
class Link:
    """A link to make: a bridge, or a veth whose other end becomes port `port` of a bridge in the fabric."""

    name: str
    kind: str
    mtu: int = 1500
    mac: str | None = None
    bridge: str | None = None
    port: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A route; `destination` is a prefix or "default"."""

    destination: str
    via: str
    link: str
    metric: int | None = None


@dataclass(frozen=True, slots=True)
class NamespacePlan:
    """One namespace; `addresses` are (link, address with prefix length)."""

    name: str
    sysctls: dict[str, str]
    links: tuple[Link, ...] = ()
    addresses: tuple[tuple[str, str], ...] = ()
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True)
class Tap:
    """A port of a bridge whose other end is a virtual machine's network card."""

    port: str
    bridge: str
    mtu: int


@dataclass(frozen=True, slots=True)
class FabricPlan:
    """What to make: `create` in this order, the fabric's own namespace `fabric` being there already or first in it;
    then `taps` in the fabric."""

    fabric: str
    create: tuple[NamespacePlan, ...]
    taps: tuple[Tap, ...] = ()

    def only(self, namespace: str) -> FabricPlan:
        """The part of the plan that makes one namespace, beside an existing fabric."""
        return replace(self, create=tuple(plan for plan in self.create if plan.name == namespace), taps=())

    def as_json(self) -> dict[str, Any]:
        """What `builder` reads."""
        return asdict(self)


def port_name(member: str, network_index: int) -> str:
    """Name of a member's bridge port: the member's name, cut, and the number of the network."""
    return f"{member[:PORT_NAME_STEM]}.{network_index}"


def hardware_address(address: IPv4Address, network_index: int) -> str:
    """A locally administered MAC that one can recognise in a capture: 02, the network's number, the IPv4 address."""
    return ":".join(f"{octet:02x}" for octet in (2, network_index, *address.packed))


def plan_fabric(topology: Topology, paths: LabPaths, machines: Collection[str] = ()) -> FabricPlan:
    """The whole network of a lab; of nodes that are virtual machines, only the fabric's side."""
    fabric = NamespacePlan(
        paths.namespace(FABRIC),
        SWITCHING,
        tuple(Link(name, "bridge", network.mtu) for name, network in topology.networks.items()),
    )
    nodes = (plan_node(topology, paths, node) for node in topology.nodes if node.name not in machines)
    taps = tuple(
        Tap(str(link.port), str(link.bridge), link.mtu)
        for node in topology.nodes
        if node.name in machines
        for link in _cables(topology, node.name, node.addresses)
    )
    return FabricPlan(fabric.name, (fabric, _outside(topology, paths), *nodes), taps)


def _cables(topology: Topology, member: str, addresses: Addresses) -> tuple[Link, ...]:
    links = []
    for index, (name, network) in enumerate(topology.networks.items()):
        if name not in addresses:
            continue
        mac = next(hardware_address(a, index) for a in addresses[name] if isinstance(a, IPv4Address))
        links.append(Link(network.interface, "veth", network.mtu, mac, name, port_name(member, index)))
    return tuple(links)


def _own(topology: Topology, addresses: Addresses) -> list[tuple[str, str]]:
    return [
        (network.interface, str(network.interface_of(address)))
        for name, network in topology.networks.items()
        for address in addresses.get(name, ())
    ]


def plan_node(topology: Topology, paths: LabPaths, node: Node) -> NamespacePlan:
    """The network of a node, which a namespace or a machine's own kernel holds."""
    routes = [
        Route("default", str(router), network.interface, network.metric)
        for name, network in topology.networks.items()
        if name in node.addresses
        for router in topology.outside.router[name]
    ]
    return NamespacePlan(
        paths.namespace(node.name),
        ROUTING,
        _cables(topology, node.name, node.addresses),
        tuple(_own(topology, node.addresses)),
        tuple(routes),
    )


def _outside(topology: Topology, paths: LabPaths) -> NamespacePlan:
    outside = topology.outside
    addresses = _own(topology, outside.router)
    for server in outside.servers:
        for address in server.addresses:
            if server.network is not None:
                network = topology.networks[server.network]
                addresses.append((network.interface, str(network.interface_of(address))))
            else:
                addresses.append((INTERNET_LINK, f"{address}/{address.max_prefixlen}"))
    return NamespacePlan(
        paths.namespace(OUTSIDE),
        ROUTING,
        _cables(topology, OUTSIDE, outside.router),
        tuple(addresses),
    )
