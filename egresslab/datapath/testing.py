"""A small network of namespaces to try the datapath in: nodes, pods, and an outside that sees who knocks.

    pod -- veth -- node --+-- cluster 192.168.60.0/24, fd00:60::/64 --+-- outside (.1, ::1)
                          +-- public  172.18.18.0/24, fd00:18::/64  --+

Every node forwards, masquerades its pods behind itself as clusters do, and has strict reverse-path filters. All names
are random and everything is removed on exit. Nothing enters a namespace in this process: sockets are made there by
short-lived children, commands run through nsenter(1).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import shutil
import socket
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyroute2 import AsyncIPRoute, netns

from egresslab.datapath.attachments import Attachments
from egresslab.datapath.datapath import Datapath
from egresslab.datapath.values import Endpoint, GatewaySlot, IPAddress, IPNetwork, NodeConfig, PolicyEntry, Underlay
from egresslab.errors import DatapathError

COMMAND_TIMEOUT_S = 30.0
SCOPE_LINK = 253
INSIDE: tuple[IPNetwork, ...] = tuple(
    ip_network(text) for text in ("10.244.0.0/16", "fd00:10:244::/48", "192.168.60.8/29", "fd00:60::10/124")
)
SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv4/conf/all/rp_filter": "1",
    "net/ipv4/conf/default/rp_filter": "1",
    "net/ipv4/icmp_ratelimit": "0",
    "net/ipv6/icmp/ratelimit": "0",
    "net/ipv4/ping_group_range": "0 2147483647",
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
}
MASQUERADE = """
table inet pods
delete table inet pods
table inet pods {
  chain postrouting {
    type nat hook postrouting priority srcnat
    ip saddr 10.244.0.0/16 ip daddr != { 10.244.0.0/16, 192.168.60.8/29 } masquerade
    ip6 saddr fd00:10:244::/48 ip6 daddr != { fd00:10:244::/48, fd00:60::10/124 } masquerade
  }
}
"""


@dataclass
class Pod:
    """A namespace with one interface, reached through its node."""

    name: str
    namespace: str
    node: Node
    v4: IPv4Address
    v6: IPv6Address
    ifindex: int = 0
    mac: str = ""

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        return (self.v4, self.v6)


@dataclass
class Node:
    """A namespace with `eth0` on the cluster network and `eth1` on the public one, and a datapath of its own."""

    name: str
    number: int
    namespace: str
    pin_dir: Path
    datapath: Datapath
    netlink: AsyncIPRoute
    attachments: Attachments
    overlay: int = 0
    underlay: Underlay | None = None
    links: dict[str, int] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)

    @property
    def v4(self) -> IPv4Address:
        return IPv4Address(f"192.168.60.{self.number}")

    @property
    def v6(self) -> IPv6Address:
        return IPv6Address(f"fd00:60::{self.number}")

    @property
    def public_v4(self) -> IPv4Address:
        return IPv4Address(f"172.18.18.{self.number}")

    @property
    def public_v6(self) -> IPv6Address:
        return IPv6Address(f"fd00:18::{self.number}")

    def config(self, **changes: Any) -> NodeConfig:
        """The node's own configuration; pass it to `datapath.configure`."""
        values = {
            "address_v4": self.v4,
            "address_v6": self.v6,
            "overlay_ifindex": self.overlay,
            "overlay_mtu": 1450,
            "underlay": self.underlay,
        }
        return NodeConfig(**{**values, **changes})


class Rig:
    """`async with Rig("source", "gateway") as rig`: nodes numbered 11, 12, … in that order, each with one pod."""

    OUTSIDE_V4 = IPv4Address("192.168.60.1")
    OUTSIDE_V6 = IPv6Address("fd00:60::1")
    FAR_V4 = IPv4Address("203.0.113.10")
    FAR_V6 = IPv6Address("2001:db8:113::10")
    """Addresses of `outside` that only its default route leads to."""

    def __init__(self, *names: str, policy_entries: int = 4096, nat_entries: int = 65_536) -> None:
        self._names = names
        self._prefix = f"dp-{secrets.token_hex(3)}"
        self._stack = AsyncExitStack()
        self._sizes = {"policy_entries": policy_entries, "nat_entries": nat_entries}
        self.nodes: dict[str, Node] = {}
        self.outside = ""
        self.fabric = ""

    async def __aenter__(self) -> Self:
        try:
            await self._build()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._stack.aclose()

    async def _build(self) -> None:
        root = Path(tempfile.mkdtemp(prefix=f"{self._prefix}-"))
        self._stack.callback(shutil.rmtree, root)
        bpf = self._stack.enter_context(BpfFilesystem(root / "bpf"))
        self.outside = await self._namespace("outside")
        self.fabric = await self._namespace("fabric")
        outside, fabric = await self._netlink(self.outside), await self._netlink(self.fabric)
        for bridge in ("cluster", "public"):
            await fabric.link("add", ifname=bridge, kind="bridge")
            await fabric.link("set", index=await index_of(fabric, bridge), state="up")
        await self._wire(outside, fabric, "outside", self.outside, "1")
        for text in (f"{self.FAR_V4}/32", f"{self.FAR_V6}/128"):
            await outside.addr("add", index=1, address=text.split("/")[0], prefixlen=int(text.split("/")[1]))
        for number, name in enumerate(self._names, start=11):
            await self._node(fabric, name, number, bpf)

    async def _node(self, fabric: AsyncIPRoute, name: str, number: int, bpf: Path) -> None:
        namespace = await self._namespace(name)
        netlink = await self._netlink(namespace)
        datapath = Datapath.open(bpf / name, **self._sizes)
        self._stack.callback(datapath.close)
        node = Node(name, number, namespace, bpf / name, datapath, netlink, Attachments(datapath, netlink))
        self.nodes[name] = node
        node.links = await self._wire(netlink, fabric, name, namespace, str(number))
        for family, gateway in ((4, self.OUTSIDE_V4), (6, self.OUTSIDE_V6)):
            for link, via, metric in (("eth0", gateway, 100), ("eth1", None, 200)):
                public = IPv4Address("172.18.18.1") if family == 4 else IPv6Address("fd00:18::1")
                await netlink.route(
                    "add",
                    dst="default",
                    gateway=str(via or public),
                    oif=node.links[link],
                    priority=metric,
                    family=socket.AF_INET if family == 4 else socket.AF_INET6,
                )
        await self.masquerade(node)
        node.overlay = await node.attachments.ensure_overlay("egress0", node.v4, mtu=1450)
        node.underlay = await node.attachments.underlay(node.v4)
        datapath.configure(node.config())
        datapath.cluster_cidrs.replace(INSIDE)
        await node.attachments.attach_overlay(node.overlay)
        for index in node.links.values():
            await node.attachments.attach_wire(index)
        for other in self.nodes.values():
            for pod in other.pods:
                await self._tell(node, pod)
        await self.add_pod(name, name)

    async def add_pod(self, node_name: str, name: str) -> Pod:
        """A pod on a node, attached and ready."""
        node = self.nodes[node_name]
        order = 10 + len(node.pods)
        namespace = await self._namespace(f"pod-{name}-{order}")
        inner = await self._netlink(namespace)
        host = f"veth{order}"
        await node.netlink.link("add", ifname=host, kind="veth", peer={"ifname": "eth0", "net_ns_fd": namespace})
        ifindex, eth0 = await index_of(node.netlink, host), await index_of(inner, "eth0")
        pod = Pod(
            name,
            namespace,
            node,
            IPv4Address(f"10.244.{node.number}.{order}"),
            IPv6Address(f"fd00:10:244:{node.number}::{order}"),
            ifindex,
            (await inner.link("get", index=eth0))[0].get("address"),
        )
        own: tuple[IPAddress, ...] = (
            IPv4Address(f"10.244.{node.number}.1"),
            IPv6Address(f"fd00:10:244:{node.number}::1"),
        )
        for address in own:
            await node.netlink.addr("replace", index=ifindex, address=str(address), prefixlen=address.max_prefixlen)
        await node.netlink.link("set", index=ifindex, state="up")
        for address in pod.addresses:
            await inner.addr("add", index=eth0, address=str(address), prefixlen=address.max_prefixlen)
        await inner.link("set", index=eth0, state="up")
        host_mac = (await node.netlink.link("get", index=ifindex))[0].get("address")
        for address, gateway in zip(pod.addresses, own, strict=True):
            await node.netlink.neigh("replace", dst=str(address), lladdr=pod.mac, ifindex=ifindex, state="permanent")
            await inner.neigh("replace", dst=str(gateway), lladdr=host_mac, ifindex=eth0, state="permanent")
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            await inner.route(
                "add", dst=f"{gateway}/{gateway.max_prefixlen}", oif=eth0, family=family, scope=SCOPE_LINK
            )
            await inner.route("add", dst="default", gateway=str(gateway), oif=eth0, family=family)
            await node.netlink.route(
                "add", dst=f"{address}/{address.max_prefixlen}", oif=ifindex, family=family, scope=SCOPE_LINK
            )
        node.pods.append(pod)
        for other in self.nodes.values():
            await self._tell(other, pod)
        await node.attachments.attach_pod(ifindex)
        return pod

    async def _tell(self, node: Node, pod: Pod) -> None:
        """What a node knows of a pod: where it is, and for remote ones the way there."""
        for address in pod.addresses:
            if node is pod.node:
                node.datapath.endpoints.set(address, Endpoint(pod.ifindex, pod.mac, None, ready=True))
                continue
            node.datapath.endpoints.set(address, Endpoint(node=pod.node.v4))
            await node.netlink.route(
                "replace",
                dst=f"{address}/{address.max_prefixlen}",
                gateway=str(pod.node.v4 if address.version == 4 else pod.node.v6),
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
            )

    async def masquerade(self, node: Node) -> None:
        """What a cluster's own network does for pods that no policy selects."""
        await self.run(node.namespace, "nft", "-f", "-", input=MASQUERADE)

    def reset(self) -> None:
        """Forget policies, slots and flows on every node; pods stay ready."""
        for node in self.nodes.values():
            node.datapath.policy.replace([])
            node.datapath.slots.replace({})
            node.datapath.nat.delete([flow.key for flow in node.datapath.nat.items()])
            node.datapath.configure(node.config())

    def select(self, pod: Pod, *destinations: str, gateway: str, slot: int = 1, **sources: Any) -> None:
        """Point a pod's traffic at a gateway on every node. `sources`: `source_v4`, `source_v6`, `ifindex` of the slot;
        by default the gateway's public addresses and interface."""
        target = self.nodes[gateway]
        values = {
            "source_v4": target.public_v4,
            "source_v6": target.public_v6,
            "ifindex": target.links["eth1"],
            **sources,
        }
        for node in self.nodes.values():
            local = node is target
            node.datapath.slots.set(
                slot, GatewaySlot(target.v4, local=True, **values) if local else GatewaySlot(target.v4)
            )
            node.datapath.policy.update(
                PolicyEntry(address, network, slot)
                for network in map(ip_network, destinations)
                for address in pod.addresses
                if address.version == network.version
            )

    async def run(self, namespace: str, *command: str, input: str = "", check: bool = True) -> str:
        """Output of a command in a namespace; raises DatapathError when it fails and `check` is set."""
        process = await asyncio.create_subprocess_exec(
            "nsenter",
            f"--net=/run/netns/{namespace}",
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(input.encode()), COMMAND_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        if check and process.returncode:
            raise DatapathError("a command failed", object=" ".join(command), value=output.decode())
        return output.decode()

    def socket(
        self, namespace: str, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, proto: int = 0
    ) -> socket.socket:
        """A non-blocking socket that lives in a namespace."""
        made: socket.socket = netns.create_socket(namespace, family, kind, proto)
        made.setblocking(False)
        return made

    async def _namespace(self, name: str) -> str:
        full = f"{self._prefix}-{name}"
        netns.create(full)
        self._stack.callback(netns.remove, full)
        script = "\n".join(
            f"[ ! -e /proc/sys/{key} ] || echo {value} > /proc/sys/{key}" for key, value in SYSCTLS.items()
        )
        await self.run(full, "sh", "-c", script)
        netlink = await self._netlink(full)
        await netlink.link("set", index=1, state="up")
        return full

    async def _netlink(self, namespace: str) -> AsyncIPRoute:
        return await self._stack.enter_async_context(AsyncIPRoute(netns=namespace))

    async def _wire(
        self, netlink: AsyncIPRoute, fabric: AsyncIPRoute, name: str, namespace: str, number: str
    ) -> dict[str, int]:
        """Links of one member to both networks, with addresses."""
        links = {}
        for order, (bridge, v4, v6) in enumerate(
            (("cluster", "192.168.60", "fd00:60::"), ("public", "172.18.18", "fd00:18::"))
        ):
            port = f"{name[:10]}.{order}"
            peer = {"ifname": f"eth{order}", "net_ns_fd": namespace}
            await fabric.link("add", ifname=port, kind="veth", peer=peer)
            index = await index_of(fabric, port)
            await fabric.link("set", index=index, master=await index_of(fabric, bridge), state="up")
            links[f"eth{order}"] = inner = await index_of(netlink, f"eth{order}")
            await netlink.addr("add", index=inner, address=f"{v4}.{number}", prefixlen=24)
            await netlink.addr("add", index=inner, address=f"{v6}{number}", prefixlen=64)
            await netlink.link("set", index=inner, state="up")
        return links


class BpfFilesystem:
    """A bpffs mounted for a while."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._libc = ctypes.CDLL(None, use_errno=True)

    def __enter__(self) -> Path:
        self._path.mkdir()
        if self._libc.mount(b"bpf", str(self._path).encode(), b"bpf", 0, None):
            code = ctypes.get_errno()
            raise DatapathError(f"cannot mount a bpffs: {os.strerror(code)}", object=str(self._path), fix="run as root")
        return self._path

    def __exit__(self, *_: object) -> None:
        if self._libc.umount2(str(self._path).encode(), 2):
            code = ctypes.get_errno()
            raise DatapathError(f"cannot unmount: {os.strerror(code)}", object=str(self._path))


async def index_of(netlink: AsyncIPRoute, name: str) -> int:
    """Index of a link that must be there."""
    found = await netlink.link_lookup(ifname=name)
    if not found:
        raise DatapathError("no such link", object=f"link {name}")
    return int(found[0])
