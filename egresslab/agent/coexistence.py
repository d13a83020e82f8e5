"""What an agent cannot live beside on its node, found before anything is programmed, and said with the reason.

Other CNI plug-ins are welcome as long as pods hang on veth pairs and the node's stack routes between them; a second
datapath in the same place is not, since of two programs that steer one packet, one has no say. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyroute2 import AsyncIPRoute

from egresslab.errors import DatapathError
from egresslab.netlink import dump

CILIUM_LINKS = frozenset({"cilium_host", "cilium_net", "cilium_vxlan", "cilium_geneve"})
OTHER_DATAPATHS = {"bpfin.cali": "Calico's eBPF datapath", "ovn-k8s-mp0": "OVN-Kubernetes", "antrea-gw0": "Antrea"}
"""A link that only this datapath makes."""


async def check_neighbours(netlink: AsyncIPRoute, node: str, overlay: str, port: int) -> None:
    """Raises `DatapathError` for the first thing on the node that leaves no room for ours.

    `overlay` is the name of our tunnel device, `port` its UDP port.
    """
    links = await dump(netlink.link)
    for trouble in _troubles(links, node, overlay, port):
        raise trouble


def _troubles(links: list[Any], node: str, overlay: str, port: int) -> Iterator[DatapathError]:
    names = {link.get("ifname") for link in links}
    if names & CILIUM_LINKS:
        yield DatapathError(
            "Cilium forwards this node's packets with programs of its own, which decide before ours",
            object=f"Node/{node}",
            field="link",
            value=min(names & CILIUM_LINKS),
            fix="helm upgrade … --set backend=cilium: Cilium then carries the policies out",
        )
    for name, datapath in OTHER_DATAPATHS.items():
        if name in names:
            yield DatapathError(
                f"{datapath} forwards this node's packets past the node's stack, and so past our programs",
                object=f"Node/{node}",
                field="link",
                value=name,
                fix="use a plug-in that routes in the kernel (kindnet, Flannel, Calico with iptables or nftables)",
            )
    for link in links:
        other = _vxlan_port(link)
        if other == port and link.get("ifname") != overlay:
            yield DatapathError(
                f"another tunnel uses UDP port {port}",
                object=f"Node/{node}",
                field="link",
                value=link.get("ifname"),
                fix=f"helm upgrade … --set agent.overlayPort={port + 1} (the same on every node)",
            )


def _vxlan_port(link: Any) -> int | None:
    info = link.get("linkinfo")
    if info is None or info.get("kind") != "vxlan":
        return None
    data = info.get("data")
    return int(data.get("vxlan_port") or 0) if data is not None else None
