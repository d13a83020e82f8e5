"""Where a local pod's packets enter the node: the host side of its link, and the MAC behind it, whatever made the link.

Two shapes are known, and the kernel is asked for both: a host route to the pod over a link of its own (this project's
lab, the CNI plug-in `ptp`, kindnet, Calico), and a bridge whose network holds the pod, where the forwarding table tells
the port (the CNI plug-in `bridge`, Flannel, k3s). It only reads, except that it lets the kernel ask for a MAC.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from egresslab.datapath.values import IPAddress
from egresslab.netlink import dump, interrupted

MAIN_TABLE = 254
FAMILIES = {socket.AF_INET: 32, socket.AF_INET6: 128}
AF_BRIDGE = 7
NTF_USE = 0x01
"""linux/neighbour.h: somebody wants to send there; the kernel then finds out the MAC."""
NTF_SELF = 0x02
UNICAST = 1
"""rtnetlink(7): RTN_UNICAST."""

Place = tuple[int, str]
"""Index of the pod's link on the node, MAC of the pod."""


@dataclass(frozen=True, slots=True)
class _Route:
    network: IPv4Network | IPv6Network
    link: int


class Whereabouts:
    """Looks through the namespace that `netlink` was opened in; nobody else may use `netlink` meanwhile."""

    def __init__(self, netlink: AsyncIPRoute) -> None:
        self._netlink = netlink

    async def find(self, addresses: Iterable[IPAddress]) -> dict[IPAddress, Place]:
        """The place of every address of which the kernel knows link and MAC by now.

        For one whose MAC it does not know the kernel is made to ask, so that a later call finds it. Raises what
        netlink raises.
        """
        wanted = set(addresses)
        if not wanted:
            return {}
        hosts, networks = await self._routes(wanted)
        macs = await self._neighbours({str(address) for address in wanted})
        found: dict[IPAddress, Place] = {}
        bridged: dict[IPAddress, Place] = {}
        unknown: list[tuple[IPAddress, int]] = []
        for address in wanted:
            link = hosts.get(str(address))
            behind = link is None
            if link is None:
                link = max((r for r in networks if address in r.network), key=_length, default=_NOWHERE).link
            if not link:
                continue
            mac = macs.get((str(address), link))
            if mac is None:
                unknown.append((address, link))
            elif behind:
                bridged[address] = (link, mac)
            else:
                found[address] = (link, mac)
        if bridged:
            ports = await self._ports()
            for address, (bridge, mac) in bridged.items():
                if (bridge, mac) in ports:
                    found[address] = (ports[bridge, mac], mac)
                else:
                    unknown.append((address, bridge))
        for address, link in unknown:
            await self._ask(address, link)
        return found

    async def _routes(self, wanted: set[IPAddress]) -> tuple[dict[str, int], list[_Route]]:
        """Links of host routes by address, and networks that are reached directly."""
        texts = {str(address) for address in wanted}
        hosts: dict[str, int] = {}
        networks: list[_Route] = []
        for family, length in FAMILIES.items():
            for route in await dump(self._netlink.route, family=family, table=MAIN_TABLE):
                destination, link = route.get("dst"), route.get("oif")
                if not destination or not link or route["type"] != UNICAST:
                    continue
                if route["dst_len"] == length:
                    if destination in texts:
                        hosts[destination] = link
                elif not route.get("gateway"):
                    networks.append(_Route(ip_network(f"{destination}/{route['dst_len']}"), link))
        return hosts, networks

    async def _neighbours(self, texts: set[str]) -> dict[tuple[str, int], str]:
        macs = {}
        for family in FAMILIES:
            for neighbour in await dump(self._netlink.neigh, family=family):
                if neighbour.get("dst") in texts and neighbour.get("lladdr"):
                    macs[neighbour.get("dst"), neighbour["ifindex"]] = str(neighbour.get("lladdr"))
        return macs

    async def _ports(self) -> dict[Place, int]:
        """Bridge and MAC to the port behind which it was heard."""
        ports = {}
        for entry in await dump(self._netlink.neigh, family=AF_BRIDGE):
            master, mac = entry.get("master"), entry.get("lladdr")
            if master and mac and not entry["flags"] & NTF_SELF and entry["ifindex"] != master:
                ports[master, str(mac)] = int(entry["ifindex"])
        return ports

    async def _ask(self, address: IPAddress, link: int) -> None:
        try:
            await self._netlink.neigh("replace", dst=str(address), ifindex=link, flags=NTF_USE, state=0)
        except NetlinkError as error:
            if interrupted(error):
                raise


_NOWHERE = _Route(ip_network("0.0.0.0/0"), 0)


def _length(route: _Route) -> int:
    return route.network.prefixlen
