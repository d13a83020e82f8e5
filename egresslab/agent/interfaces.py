"""What the node's interfaces are and carry, read from the kernel and published as a Node annotation.

Gateway choice needs the addresses of interfaces that the Node object does not show. The annotation is the one way they
travel, so that offline manifests and a running cluster decide alike.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.rtnl import (
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
    RTMGRP_LINK,
)

from egresslab.netlink import dump

ANNOTATION = "egresslab.dev/interfaces"

SCOPE_UNIVERSE = 0
"""rtnetlink(7): RT_SCOPE_UNIVERSE, an address valid everywhere, unlike link-local and host ones."""
IFF_UP = 0x1
IFA_F_DEPRECATED = 0x20
"""linux/if_addr.h: an address not to be used for anything new, unless it is named."""
INNER_KINDS = frozenset({"dummy", "vxlan", "bridge", "geneve", "tun", "wireguard", "ifb", "nlmon"})
"""Kinds of links that lead nowhere outside the node by themselves."""
DUMP_RETRY_S = 0.05
"""How long what changes the kernel's tables is given to finish before they are read again."""
FAMILIES = {socket.AF_INET: "ipv4", socket.AF_INET6: "ipv6"}


@dataclass(frozen=True, slots=True)
class NodeInterface:
    """One interface with its global addresses in the kernel's order, primary first, deprecated ones last."""

    name: str
    index: int
    kind: str | None
    up: bool
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    altnames: tuple[str, ...]
    default_route: tuple[str, ...]
    mtu: int
    routers: tuple[str, ...]
    """Next hops of every default route over this interface, whichever of them is the node's best."""
    mac: str | None = None
    carrier: bool = True
    """Whether it has a link (IFLA_CARRIER)."""

    @property
    def leads_out(self) -> bool:
        """Whether packets may leave or enter the node here: up, addressed, and not one of the node's inner links."""
        return (
            self.up
            and bool(self.addresses)
            and self.kind not in INNER_KINDS
            and self.name != "lo"
            and not self._leads_to_a_pod
        )

    @property
    def _leads_to_a_pod(self) -> bool:
        """The node's end of a pod's own link may bear the pod's gateway, alone in its network (CNI plug-in `ptp`)."""
        return (
            self.kind == "veth"
            and not self.default_route
            and all(address.network.num_addresses == 1 for address in self.addresses)
        )


async def read_interfaces(netlink: AsyncIPRoute) -> tuple[NodeInterface, ...]:
    """All interfaces of the namespace that `netlink` was opened in, by name."""
    links = await dump(netlink.link)
    addresses: dict[int, list[IPv4Interface | IPv6Interface]] = {}
    last_resorts: dict[int, list[IPv4Interface | IPv6Interface]] = {}
    for family in FAMILIES:
        for address in await dump(netlink.addr, family=family):
            if address["scope"] == SCOPE_UNIVERSE:
                text = address.get("local") or address.get("address")
                # The kernel lists the newest IPv6 address first, whatever it may be used for (RFC 4862, section 5.5.4).
                deprecated = (address.get("flags") or 0) & IFA_F_DEPRECATED
                found = last_resorts if deprecated else addresses
                found.setdefault(address["index"], []).append(ip_interface(f"{text}/{address['prefixlen']}"))
    defaults, routers = await _default_routes(netlink)
    interfaces = [
        NodeInterface(
            name=link.get("ifname"),
            index=link["index"],
            kind=_kind(link),
            up=bool(link["flags"] & IFF_UP),
            addresses=(*addresses.get(link["index"], ()), *last_resorts.get(link["index"], ())),
            altnames=tuple(_altnames(link)),
            default_route=tuple(name for family, name in FAMILIES.items() if defaults.get(family) == link["index"]),
            mtu=int(link.get("mtu") or 0),
            routers=tuple(routers.get(link["index"], ())),
            mac=link.get("address"),
            carrier=link.get("carrier") != 0,
        )
        for link in links
    ]
    return tuple(sorted(interfaces, key=lambda interface: interface.name))


async def _default_routes(netlink: AsyncIPRoute) -> tuple[dict[int, int], dict[int, list[str]]]:
    """Family to the interface of its default route with the lowest metric; interface to next hops of all of them."""
    best: dict[int, tuple[int, int]] = {}
    routers: dict[int, list[str]] = {}
    for family in FAMILIES:
        for route in await dump(netlink.route, family=family, table=254):
            if route["dst_len"] or route.get("oif") is None:
                continue
            routers.setdefault(route.get("oif"), []).append(str(route.get("gateway") or "on link"))
            candidate = (route.get("priority") or 0, route.get("oif"))
            best[family] = min(best.get(family, candidate), candidate)
    return {family: index for family, (_, index) in best.items()}, routers


def _kind(link: Any) -> str | None:
    """What made the link (IFLA_INFO_KIND); None for hardware."""
    info = link.get("linkinfo")
    return str(info.get("kind")) if info is not None and info.get("kind") else None


def _altnames(link: Any) -> list[str]:
    properties = link.get("prop_list")
    names = properties.get_attrs("IFLA_ALT_IFNAME") if properties is not None else []
    return sorted(names)


def annotation_value(interfaces: Iterable[NodeInterface]) -> str:
    """The annotation's text: only interfaces that lead out, keys sorted, so that equal states are equal texts."""
    return json.dumps(
        {
            interface.name: {
                "addresses": [str(address) for address in interface.addresses],
                "altnames": list(interface.altnames),
                "default_route": list(interface.default_route),
                **({"mac": interface.mac} if interface.mac else {}),
                **({} if interface.carrier else {"carrier": False}),
            }
            for interface in interfaces
            if interface.leads_out
        },
        sort_keys=True,
    )


class InterfaceWatch:
    """Sets `changed` whenever the kernel reports a change of links, addresses or routes; its owner clears it."""

    GROUPS = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE

    def __init__(self) -> None:
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Follow the kernel's notifications until cancelled."""
        async with AsyncIPRoute() as netlink:
            await netlink.bind(groups=self.GROUPS)
            self.changed.set()
            while True:
                async for _ in netlink.get():
                    self.changed.set()
