"""A pod's link to its node: a veth pair with fixed MACs, host routes and permanent neighbours on both sides.

Nothing is learnt at run time, neither by ARP nor by neighbour discovery, so the first packet is not delayed and no pod
can pretend to be another one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from egresslab.cluster.node.config import NAMESPACES, Address
from egresslab.cluster.node.namespaces import make_namespace, remove_namespace
from egresslab.errors import ClusterError

POD_MTU = 1450
"""Leaves room for VXLAN over IPv4 or IPv6 in the nodes' 1500."""

POD_INTERFACE = "eth0"

POD_SETTINGS = {
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
    # Addresses come from one place and are unique: they are usable at once.
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv4/ping_group_range": "0 2147483647",
    "net/ipv4/ip_unprivileged_port_start": "0",
}


@dataclass(frozen=True, slots=True)
class PodLink:
    """One pod's network: its namespace's name, the node's end of the link, and the pod's addresses."""

    namespace: str
    host_interface: str
    addresses: tuple[Address, ...]

    @property
    def path(self) -> Path:
        """Where the namespace is bound."""
        return NAMESPACES / self.namespace


def host_interface(uid: str) -> str:
    """Name of the node's end of a pod's link."""
    return f"veth{uid[:8]}"


def link_addresses(uid: str) -> tuple[str, str]:
    """MACs of the node's and the pod's end: locally administered, fixed by the UID."""
    digest = blake2b(uid.encode(), digest_size=5).hexdigest()
    tail = ":".join(digest[index : index + 2] for index in range(0, 10, 2))
    return f"0e:{tail}", f"0a:{tail}"


def prefix(address: Address) -> str:
    """The address as a network of its own."""
    return f"{address}/{address.max_prefixlen}"


async def create_link(
    host: AsyncIPRoute, uid: str, link: PodLink, gateways: Sequence[Address], settings: Mapping[str, str]
) -> None:
    """Make the namespace and the link; raises `ClusterError` and leaves nothing behind when that fails.

    `host` is a socket of the node, `gateways` are the node's addresses towards pods, `settings` further sysctls.
    """
    route_socket = make_namespace(link.namespace, {**POD_SETTINGS, **settings})
    pod = AsyncIPRoute(fileno=route_socket.detach())
    try:
        await _connect(host, pod, uid, link, gateways)
    except NetlinkError as error:
        await remove_link(host, link)
        raise ClusterError(f"cannot connect the pod: {error}", object=link.host_interface) from error
    finally:
        pod.close()


async def _connect(host: AsyncIPRoute, pod: AsyncIPRoute, uid: str, link: PodLink, gateways: Sequence[Address]) -> None:
    host_mac, pod_mac = link_addresses(uid)
    namespace = os.open(link.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        peer = {"ifname": POD_INTERFACE, "net_ns_fd": namespace, "mtu": POD_MTU, "address": pod_mac}
        await host.link("add", ifname=link.host_interface, kind="veth", address=host_mac, peer=peer)
    finally:
        os.close(namespace)
    with suppress(FileNotFoundError):
        Path(f"/proc/sys/net/ipv6/conf/{link.host_interface}/accept_dad").write_text("0")
    (outer,) = await host.link_lookup(ifname=link.host_interface)
    (inner,) = await pod.link_lookup(ifname=POD_INTERFACE)
    await pod.link("set", index=1, state="up")
    await pod.link("set", index=inner, state="up")
    await host.link("set", index=outer, state="up")
    for address in link.addresses:
        extra: dict[str, Any] = {"flags": 2} if address.version == 6 else {}  # IFA_F_NODAD
        await pod.addr("add", index=inner, address=str(address), prefixlen=address.max_prefixlen, **extra)
        await host.route("replace", dst=prefix(address), oif=outer, scope="link")
        await host.neigh("replace", dst=str(address), lladdr=pod_mac, ifindex=outer, state="permanent")
    for address in gateways:
        await pod.route("add", dst=prefix(address), oif=inner, scope="link")
        await pod.neigh("add", dst=str(address), lladdr=host_mac, ifindex=inner, state="permanent")
        family = 2 if address.version == 4 else 10
        await pod.route("add", dst="default", gateway=str(address), oif=inner, family=family)


async def remove_link(host: AsyncIPRoute, link: PodLink) -> None:
    """Remove link and namespace; what is gone is let be."""
    try:
        # The kernel removes a namespace's links some time later; the pod's routes on the node must go now.
        for index in await host.link_lookup(ifname=link.host_interface):
            await host.link("del", index=index)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
    remove_namespace(link.namespace)


async def link_exists(host: AsyncIPRoute, link: PodLink) -> bool:
    """Whether namespace and link are both there, as after a restart of the kubelet but not of the node."""
    return link.path.exists() and bool(await host.link_lookup(ifname=link.host_interface))
