"""Where programs meet links: clsact filters and the overlay device, through netlink.

Attaching is idempotent and replaces an older program of ours in one step; a filter that is not ours is never touched.
"""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.protocols import ETH_P_ALL

from egresslab.datapath.datapath import Datapath
from egresslab.datapath.values import TUNNEL_PORTS, Program, Underlay
from egresslab.errors import DatapathError
from egresslab.netlink import dump

OVERLAY_PORT = 8472
MAIN_TABLE = 254
CLSACT = 0xFFFF0000
INGRESS = 0xFFFFFFF2
EGRESS = 0xFFFFFFF3
"""Parents of a clsact qdisc's two hooks (linux/pkt_sched.h: TC_H_CLSACT, TC_H_MIN_INGRESS, TC_H_MIN_EGRESS)."""
PRIORITY = 0xE6
HANDLE = 1
PREFIX = "egresslab:"
ARPHRD_ETHER = 1
GONE = frozenset({errno.ENODEV, errno.ENOENT})
"""What the kernel answers about a link or filter that is not there; about a qdisc, EINVAL."""


class Attachments:
    """Attaches the programs of `datapath` to links of the namespace that `netlink` was opened in."""

    def __init__(self, datapath: Datapath, netlink: AsyncIPRoute) -> None:
        self._datapath = datapath
        self._netlink = netlink

    async def ensure_overlay(self, name: str, local: IPv4Address, *, mtu: int, port: int = OVERLAY_PORT) -> int:
        """The index of a VXLAN device in external mode, made or corrected as needed; `mtu` is that of inner packets.

        Forwarding must be on in the namespace, as on any node: bpf_fib_lookup() refuses devices without.
        `local` must be an address of this node: the underlay that the tunnel runs over. Raises DatapathError when a
        device of that name is something else.
        """
        if not await self._owns(local):
            raise DatapathError("not an address of this node", object=f"link {name}", field="local", value=str(local))
        index = await self._index(name)
        if index is not None and not await self._is_overlay(index, port):
            raise DatapathError(
                "a link of this name is no overlay of ours", object=f"link {name}", fix=f"ip link delete {name}"
            )
        if index is None:
            await self._netlink.link(
                "add",
                ifname=name,
                kind="vxlan",
                vxlan_collect_metadata=True,
                vxlan_port=port,
                vxlan_learning=False,
                vxlan_port_range=dict(zip(("low", "high"), TUNNEL_PORTS, strict=True)),
            )
            index = await self._index(name)
        if index is None:
            raise DatapathError("the kernel made no overlay device", object=f"link {name}")
        await self._netlink.link("set", index=index, mtu=mtu, state="up")
        return index

    async def underlay(self, local: IPv4Address) -> Underlay:
        """The interface that has `local`, for `NodeConfig.underlay`. Raises DatapathError when none has it."""
        found = [item["index"] for item in await dump(self._netlink.addr, address=str(local))]
        if not found:
            raise DatapathError("not an address of this node", object="the tunnel", field="local", value=str(local))
        info = (await self._link(found[0])).get("linkinfo")
        return Underlay(found[0], veth=info is not None and info.get("kind") == "veth")

    async def attach_overlay(self, ifindex: int) -> None:
        """`from_overlay` on the overlay device."""
        await self._attach(ifindex, {INGRESS: Program.FROM_OVERLAY})

    async def attach_pod(self, ifindex: int) -> None:
        """`from_pod` and `to_pod` on the host side of a pod's link. Set its endpoints first."""
        await self._attach(ifindex, {INGRESS: Program.FROM_POD, EGRESS: Program.TO_POD})

    async def attach_wire(self, ifindex: int) -> None:
        """`from_wire` and `to_wire` on an interface that leads out of the node, and note its MTU, MAC and IPv6
        default gateway; to be called again when those change. Raises DatapathError for a link without Ethernet
        headers."""
        link = await self._link(ifindex)
        if link["ifi_type"] != ARPHRD_ETHER:
            raise DatapathError(
                "no Ethernet link", object=f"link {link.get('ifname')}", fix="choose an Ethernet interface for egress"
            )
        self._datapath.set_wire(ifindex, link.get("mtu"), link.get("address"), await self._default_gateway_v6(ifindex))
        await self._attach(ifindex, {INGRESS: Program.FROM_WIRE, EGRESS: Program.TO_WIRE})

    async def attached(self, ifindex: int) -> frozenset[Program]:
        """Which of our programs the link carries."""
        return frozenset([program for parent in (INGRESS, EGRESS) for program in await self._ours(ifindex, parent)])

    async def detach(self, ifindex: int) -> None:
        """Remove our filters, and the clsact qdisc if nothing else uses it. A link that is gone is no error."""
        self._datapath.forget_wire(ifindex)
        foreign = False
        for parent in (INGRESS, EGRESS):
            for options, name in await self._filters(ifindex, parent):
                if not name.startswith(PREFIX):
                    foreign = True
                    continue
                await self._forgiving(
                    "del-filter",
                    ifindex,
                    kind="bpf",
                    parent=parent,
                    prio=options["info"] >> 16,
                    protocol=ETH_P_ALL,
                    handle=options["handle"],
                )
        if not foreign:
            await self._forgiving("del", ifindex, kind="clsact", parent=0xFFFFFFF1, handle=CLSACT)

    async def _attach(self, ifindex: int, programs: dict[int, Program]) -> None:
        try:
            await self._netlink.tc("add", "clsact", index=ifindex)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise _refused("cannot prepare the link", ifindex, error) from error
        for parent, program in programs.items():
            name = PREFIX + program.name.lower()
            for options, present in await self._filters(ifindex, parent):
                if options["info"] >> 16 == PRIORITY and present != name:
                    raise DatapathError(
                        "another filter has our priority", object=f"link {ifindex}", field="prio", value=present
                    )
            try:
                await self._netlink.tc(
                    "replace-filter",
                    "bpf",
                    index=ifindex,
                    handle=HANDLE,
                    parent=parent,
                    prio=PRIORITY,
                    protocol=ETH_P_ALL,
                    fd=self._datapath.program_fd(program),
                    name=name,
                    direct_action=True,
                )
            except NetlinkError as error:
                raise _refused(f"cannot attach {name}", ifindex, error) from error

    async def _forgiving(self, command: str, ifindex: int, **arguments: Any) -> None:
        try:
            await self._netlink.tc(command, index=ifindex, **arguments)
        except NetlinkError as error:
            if error.code not in GONE and not (command == "del" and error.code == errno.EINVAL):
                raise _refused("cannot detach", ifindex, error) from error

    async def _ours(self, ifindex: int, parent: int) -> list[Program]:
        names = [
            name.removeprefix(PREFIX) for _, name in await self._filters(ifindex, parent) if name.startswith(PREFIX)
        ]
        return [Program[name.upper()] for name in names]

    async def _filters(self, ifindex: int, parent: int) -> list[tuple[Any, str]]:
        """Filters of one hook with the names of their programs (empty for other kinds)."""
        found = []
        try:
            async for message in await self._netlink.tc("dump-filter", index=ifindex, parent=parent):
                options = message.get("options")
                name = options.get("TCA_BPF_NAME") if message.get("kind") == "bpf" and options else ""
                if message["handle"]:
                    found.append((message, name or ""))
        except NetlinkError as error:
            if error.code not in GONE and error.code != errno.EINVAL:
                raise
        return found

    async def _link(self, ifindex: int) -> Any:
        try:
            return (await self._netlink.link("get", index=ifindex))[0]
        except NetlinkError as error:
            raise _refused("no such link", ifindex, error) from error

    async def _default_gateway_v6(self, ifindex: int) -> IPv6Address | None:
        routes = [
            (route.get("priority") or 0, route.get("gateway"))
            for route in await dump(self._netlink.route, family=socket.AF_INET6, table=MAIN_TABLE)
            if not route["dst_len"] and route.get("oif") == ifindex and route.get("gateway")
        ]
        return IPv6Address(min(routes)[1]) if routes else None

    async def _index(self, name: str) -> int | None:
        found = await self._netlink.link_lookup(ifname=name)
        return int(found[0]) if found else None

    async def _is_overlay(self, index: int, port: int) -> bool:
        info = (await self._link(index)).get("linkinfo")
        if info is None or info.get("kind") != "vxlan":
            return False
        data = info.get("data")
        return bool(data.get("vxlan_collect_metadata")) and data.get("vxlan_port") == port

    async def _owns(self, address: IPv4Address) -> bool:
        return bool(await dump(self._netlink.addr, address=str(address)))


def _refused(what: str, ifindex: int, error: NetlinkError) -> DatapathError:
    return DatapathError(f"{what}: {error}", object=f"link {ifindex}", fix="check that the link still exists")
