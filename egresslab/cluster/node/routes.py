"""The node's own place in the pod network: its addresses, and routes to the pods of other nodes.

Routes follow the Node objects (spec.podCIDRs and InternalIP addresses) and carry a protocol number of their own, by
which a restarted kubelet finds those that nobody wants any more. Routes of others are never touched.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from egresslab.api.resources import Object
from egresslab.cluster.node.addresses import gateway, of_version
from egresslab.cluster.node.config import Address, Network, Peer
from egresslab.netlink import dump

logger = logging.getLogger(__name__)

PROTOCOL = 97
LOOPBACK = 1

Routes = dict[Network, Address]


def forward_packets() -> None:
    """Let the node forward for its pods, in both families."""
    for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        with suppress(FileNotFoundError):
            Path("/proc/sys", key).write_text("1")


async def own_addresses(host: AsyncIPRoute, networks: Sequence[Network], extra: Sequence[Address]) -> None:
    """Put the node's address in each pod CIDR, and `extra` ones, on the loopback link; refuse unknown pod addresses."""
    await host.link("set", index=LOOPBACK, state="up")
    for address in (*(gateway(network) for network in networks), *extra):
        try:
            await host.addr("add", index=LOOPBACK, address=str(address), prefixlen=address.max_prefixlen)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
    for network in networks:
        # Without this, packets for an address no pod has would travel to the default router and back.
        family = 2 if network.version == 4 else 10
        with suppress(NetlinkError):
            await host.route("del", dst=str(network), type="unreachable", family=family, proto=PROTOCOL + 1)
        await host.route("add", dst=str(network), type="unreachable", family=family, proto=PROTOCOL + 1)


def peer_of(node: Object) -> Peer:
    """What a Node object says about routes."""
    spec, status = node.get("spec") or {}, node.get("status") or {}
    cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    internal = [item["address"] for item in status.get("addresses") or [] if item["type"] == "InternalIP"]
    return Peer(
        name=node["metadata"]["name"],
        pod_cidrs=tuple(ip_network(cidr) for cidr in cidrs),
        internal_addresses=tuple(ip_address(address) for address in internal),
    )


class PeerRoutes:
    """Keeps the routes to other nodes' pods as the known peers want them; `run` is the task that writes them."""

    def __init__(self, host: AsyncIPRoute, own_name: str, peers: Iterable[Peer]) -> None:
        self._host = host
        self._own_name = own_name
        self._peers: dict[str, Peer] = {peer.name: peer for peer in peers if peer.name != own_name}
        self._dirty = asyncio.Event()
        self._dirty.set()

    def learn(self, node: Object) -> None:
        """A Node object is new or has changed."""
        peer = peer_of(node)
        if peer.name != self._own_name and self._peers.get(peer.name) != peer:
            self._peers[peer.name] = peer
            self._dirty.set()

    def forget(self, name: str) -> None:
        """A node is gone."""
        if self._peers.pop(name, None) is not None:
            self._dirty.set()

    def wanted(self) -> Routes:
        """Pod CIDR -> internal address of the same family."""
        return {
            cidr: via
            for peer in self._peers.values()
            for cidr in peer.pod_cidrs
            if (via := of_version(peer.internal_addresses, cidr.version)) is not None
        }

    async def run(self) -> None:
        """Write what has changed, until cancelled; a route the kernel refuses is tried again with the next change."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._write(self.wanted())

    async def _write(self, wanted: Mapping[Network, Address]) -> None:
        present = await self._present()
        for network, via in wanted.items():
            if present.get(network) != via:
                await self._change("replace", network, via)
        for network, via in present.items():
            if network not in wanted:
                await self._change("del", network, via)

    async def _change(self, verb: str, network: Network, via: Address) -> None:
        try:
            await self._host.route(verb, dst=str(network), gateway=str(via), proto=PROTOCOL)
        except NetlinkError as error:
            logger.warning("cannot %s the route to %s via %s: %s", verb, network, via, error)

    async def _present(self) -> Routes:
        found: Routes = {}
        for family in (2, 10):
            for message in await dump(self._host.route, family=family, proto=PROTOCOL):
                via = message.get("gateway")
                if via is not None and message["proto"] == PROTOCOL:
                    found[ip_network(f"{message.get('dst')}/{message['dst_len']}")] = ip_address(via)
        return found
