"""Where programs meet links: clsact filters and the overlay device, through netlink.

Attaching is idempotent and replaces an older program of ours in one step; a filter that is not ours is never touched.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from pyroute2 import AsyncIPRoute

from egresslab.datapath.datapath import Datapath

OVERLAY_PORT = 8472


class Attachments:
    """Attaches the programs of `datapath` to links of the namespace that `netlink` was opened in."""

    def __init__(self, datapath: Datapath, netlink: AsyncIPRoute) -> None:
        raise NotImplementedError

    async def ensure_overlay(self, name: str, local: IPv4Address, *, mtu: int, port: int = OVERLAY_PORT) -> int:
        """The index of a VXLAN device in external mode, made or corrected as needed; `mtu` is that of inner packets."""
        raise NotImplementedError

    async def attach_overlay(self, ifindex: int) -> None:
        """`from_overlay` on the overlay device."""
        raise NotImplementedError

    async def attach_pod(self, ifindex: int) -> None:
        """`from_pod` and `to_pod` on the host side of a pod's link. Set its endpoints first."""
        raise NotImplementedError

    async def attach_wire(self, ifindex: int) -> None:
        """`from_wire` and `to_wire` on an interface that leads out of the node, and note its MTU."""
        raise NotImplementedError

    async def detach(self, ifindex: int) -> None:
        """Remove our filters, and the clsact qdisc if nothing else uses it. A link that is gone is no error."""
        raise NotImplementedError
