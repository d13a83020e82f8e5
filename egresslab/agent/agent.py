"""One node's agent: its parts wired together, and the order in which they start.

The order matters: maps are filled before programs are attached, and the gate opens last, so that at no time a packet
meets a program that knows less than it must.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network
from pathlib import Path

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from egresslab.agent.addresses import AssignedAddresses
from egresslab.agent.admission import Admission
from egresslab.agent.claims import Claims
from egresslab.agent.coexistence import check_neighbours
from egresslab.agent.exposition import serve_metrics
from egresslab.agent.failover import Failover
from egresslab.agent.flowserver import serve_flows
from egresslab.agent.flowstream import FlowStream, PodName
from egresslab.agent.gate import Sandbox, install_plugin, serve_gate
from egresslab.agent.hostplugin import HostPlugin, take_away
from egresslab.agent.interfaces import (
    ANNOTATION,
    DUMP_RETRY_S,
    InterfaceWatch,
    NodeInterface,
    annotation_value,
    read_interfaces,
)
from egresslab.agent.links import PodLinks, Wires
from egresslab.agent.metrics import PORT as METRICS_PORT
from egresslab.agent.metrics import AgentMetrics
from egresslab.agent.peers import serve_peers
from egresslab.agent.podnames import NAMES_SOCKET, serve_names
from egresslab.agent.programmer import ENTRIES, SLOTS, Programmer
from egresslab.agent.upstream import UpstreamHealth
from egresslab.agent.view import ClusterView
from egresslab.api.connection import Api, ApiError, Unreachable
from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.api.resources import NODES, PODS, Object
from egresslab.datapath.attachments import OVERLAY_PORT, Attachments
from egresslab.datapath.census import Census
from egresslab.datapath.datapath import Datapath
from egresslab.datapath.values import IPAddress, NodeConfig
from egresslab.errors import ClusterError, DatapathError
from egresslab.netlink import interrupted
from egresslab.policy.assignments import assignments
from egresslab.policy.engine import Settings
from egresslab.policy.entries import Change, Changes, Delete, Upsert
from egresslab.policy.inventory import ActiveChoice, Kind, Namespace, Node, Pod
from egresslab.policy.model import GatewayGroup
from egresslab.policy.objects import parse_node, parse_pod

logger = logging.getLogger(__name__)

OVERLAY = "egress_vxlan"
PLUGIN_DIR = Path("/etc/cni/net.d")
UNDERLAY_MTU = 1500
OVERLAY_OVERHEAD = 50
"""Bytes that VXLAN over IPv4 puts around an inner packet: Ethernet 14, VXLAN 8, UDP 8, IPv4 20 (RFC 7348)."""
EXPIRY_PERIOD_S = 10.0
RETRY_S = 0.5
NAMES_KEPT = 131_072


class Gate(StrEnum):
    """Who asks before a pod starts: our kubelet over a socket, a runtime by the chained CNI plug-in, nobody."""

    SOCKET = "socket"
    CHAIN = "chain"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Where an agent runs. Paths are the same on the node and in the agent's container."""

    node: str
    service_networks: tuple[IPv4Network | IPv6Network, ...]
    pin_dir: Path = Path("/sys/fs/bpf/egresslab")
    run_dir: Path = Path("/run/egresslab-agent")
    plugin_dir: Path = PLUGIN_DIR
    """Where our kubelet learns that it has to ask before it starts a pod."""
    chained: HostPlugin | None = None
    """The CNI plug-in by which other kubelets' runtimes ask; None where nobody keeps it."""
    gate: Gate = Gate.SOCKET
    underlay_mtu: int = UNDERLAY_MTU
    overlay_port: int = OVERLAY_PORT
    tunnel_device: bool = False
    """Every packet between nodes takes the overlay device, where captures show it, not the programs' shorter way."""
    stretch: int = 1
    """How many times more slowly than the objects say gateways are probed: for nodes whose processors are emulated."""

    @property
    def socket(self) -> Path:
        """Where the kubelet asks before it starts a pod."""
        return self.run_dir / "cni.sock"

    @property
    def flows_socket(self) -> Path:
        """Where flow events can be read."""
        return self.run_dir / "flows.sock"

    @property
    def addresses_file(self) -> Path:
        """Which egress IPs this node's agent has put on interfaces."""
        return self.run_dir / "addresses.json"

    @property
    def ready_file(self) -> Path:
        """There while the node's datapath is in place and kept up to date."""
        return self.run_dir / "ready"


class Agent:
    """The agent of node `config.node`; `run` ends only by cancellation or an error that a restart should mend."""

    def __init__(self, config: AgentConfig, api: Api, datapath: Datapath, netlink: AsyncIPRoute) -> None:
        self._config = config
        self._api = api
        self._datapath = datapath
        self._netlink = netlink
        self._turn = asyncio.Lock()
        self._adopted = False
        """Whether the kernel has been made equal to the decisions once; before, its slots' numbers are not known."""
        self._attachments = Attachments(datapath, netlink)
        self._claims = Claims(config.node, self._address_of)
        self._view = ClusterView(
            api, Settings(capacity=ENTRIES), self._changed, self._object_changed, complete=self._claims.complete
        )
        self._programmer = Programmer(datapath, config.node, self._index_of)
        self._failover = Failover(api, self._view, self._programmer, config.node, config.run_dir, config.stretch)
        self._upstream = UpstreamHealth(api, self._view, config.node)
        self._addresses = AssignedAddresses(config.addresses_file, lambda: assignments(self._view.engine, config.node))
        self._links = PodLinks(datapath, self._attachments, netlink, self._turn, config.node, self._programmer.complete)
        self._wires = Wires(self._attachments)
        self._interfaces: tuple[NodeInterface, ...] = ()
        self._watch = InterfaceWatch()
        self._publish = asyncio.Event()
        self._admission = Admission(
            config.node, self._view, self._claims, self._links, self._failover, datapath, self._own_address
        )
        self._names: dict[IPAddress, PodName] = {}
        """Whose an address is or was last: a flow's end is told when its pod may be gone."""
        self._flows = FlowStream(datapath.flows, self._names.get, self._programmer.gateway_of)
        self._metrics = AgentMetrics(
            api,
            datapath,
            self._flows,
            Census(config.pin_dir),
            self._failover.counts,
            lambda: self._programmer.incomplete,
        )

    async def run(self) -> None:
        """Bring the node's datapath to what the cluster asks for and keep it there."""
        self._config.ready_file.unlink(missing_ok=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._view.run())
            group.create_task(self._watch.run())
            await self._view.wait_synced()
            self._failover.start(self._own_address(), self._datapath.nat, self._flows)
            await self._program()
            group.create_task(self._flows.run())
            group.create_task(self._failover.run(lambda: self._interfaces))
            group.create_task(self._links.run())
            group.create_task(self._follow_interfaces())
            group.create_task(self._publish_interfaces())
            group.create_task(self._upstream.run())
            group.create_task(self._addresses.run())
            group.create_task(self._expire_flows())
            async with (
                self._admission.peers,
                serve_peers(
                    self._own_address(),
                    self._links.wait_learnt,
                    lambda: self._failover.reports.fresh,
                    takes=self._admission.take,
                ),
                serve_flows(self._config.flows_socket, self._config.node, self._flows),
                serve_names(self._config.run_dir / NAMES_SOCKET.name, self._names),
                serve_metrics(str(self._own_address()), METRICS_PORT, self._metrics.read),
                serve_gate(self._config.socket, self._admit, self._dismiss, self._admission.answer),
            ):
                self._open_gate(group)
                self._config.ready_file.touch()
                logger.info("node %s is ready", self._config.node)
                await asyncio.get_running_loop().create_future()

    @property
    def runtime(self) -> str:
        """The container runtime of the node, as its kubelet says (`containerd://1.7.2`)."""
        return str(self._own_node().get("status", {}).get("nodeInfo", {}).get("containerRuntimeVersion", ""))

    def _open_gate(self, group: asyncio.TaskGroup) -> None:
        """Have whoever starts pods ask from now on."""
        if self._config.gate is Gate.SOCKET:
            install_plugin(self._config.plugin_dir, self._config.socket)
        if self._config.chained is None:
            return
        if self._config.gate is Gate.CHAIN:
            self._config.chained.look()
            group.create_task(self._config.chained.run())
        else:
            take_away(self._config.chained, self.runtime)

    async def _program(self) -> None:
        """First complete programming, from what the API and the kernel say now."""
        address = self._own_address()
        self._interfaces = await read_interfaces(self._netlink)
        overlay_mtu, port = self._config.underlay_mtu - OVERLAY_OVERHEAD, self._config.overlay_port
        await check_neighbours(self._netlink, self._config.node, OVERLAY, port)
        overlay = await self._attachments.ensure_overlay(OVERLAY, address, mtu=overlay_mtu, port=port)
        node = parse_node(self._own_node())
        self._datapath.configure(
            NodeConfig(
                address_v4=address,
                address_v6=node.internal_v6,
                overlay_ifindex=overlay,
                overlay_mtu=overlay_mtu,
                overlay_port=port,
                underlay=None if self._config.tunnel_device else await self._attachments.underlay(address),
            )
        )
        self._set_cluster_networks()
        for pod in self._view.objects[PODS]:
            self._learn(parse_pod(pod))
        self._programmer.adopt(self._view.engine)
        self._links.adopt()
        self._adopted = True
        await self._attachments.attach_overlay(overlay)
        await self._wires.set(self._interfaces)

    def _changed(self, change: Change, changes: Changes) -> None:
        if not self._adopted:
            return  # the first programming takes everything in as it is then
        if changes:
            incomplete = self._programmer.incomplete
            self._programmer.apply(changes)
            if self._programmer.incomplete != incomplete:
                self._links.wake.set()
        self._failover.changed(change)
        if not isinstance(change, Upsert) or not isinstance(change.value, Pod | Namespace):
            self._upstream.wake.set()
            self._addresses.wake.set()
        match change:
            case Upsert(Pod() as pod):
                self._learn(pod)
            case Upsert(Namespace() as namespace):
                self._admission.namespace_known(namespace.name)
            case Delete(ref) if ref.kind is Kind.POD:
                self._links.forget(ref.name)
            case Upsert(Node() as node):
                self._set_cluster_networks()
                if node.name == self._config.node:
                    self._publish.set()
                    self._programmer.rewrite_slots()
            case Upsert(GatewayGroup() | ActiveChoice()):
                self._programmer.rewrite_slots()
            case Delete(ref) if ref.kind is Kind.NODE:
                self._set_cluster_networks()

    def _object_changed(self, change: ObjectChange) -> None:
        if change.type is ChangeType.DELETED and change.object["kind"] == PODS.kind:
            self._claims.forget(change.object)
        self._failover.object_changed(change)

    def _learn(self, pod: Pod) -> None:
        if not pod.host_network:
            name = PodName(pod.namespace, pod.name)
            for address in pod.addresses:
                self._names.pop(address, None)
                self._names[address] = name
            while len(self._names) > NAMES_KEPT:
                del self._names[next(iter(self._names))]
        self._links.learn(pod, self._address_of(pod.node) if pod.node else None)

    def _set_cluster_networks(self) -> None:
        """What counts as inside: pod networks, the nodes' own addresses, and services."""
        inside = set(self._config.service_networks)
        for obj in self._view.objects[NODES]:
            inside.update(parse_node(obj).pod_cidrs)
            for address in obj.get("status", {}).get("addresses", ()):
                if address["type"] in ("InternalIP", "ExternalIP"):
                    inside.add(ip_network(address["address"]))
        self._datapath.cluster_cidrs.replace(inside)

    async def _follow_interfaces(self) -> None:
        """Programs on new interfaces, new indexes in slots, a new annotation, whenever the kernel reports a change."""
        while True:
            await self._watch.changed.wait()
            self._watch.changed.clear()
            self._links.wake.set()
            before = self._interfaces
            try:
                async with self._turn:
                    self._interfaces = await read_interfaces(self._netlink)
                    if self._interfaces != before:
                        await self._wires.set(self._interfaces)
            except NetlinkError as error:
                if not interrupted(error):
                    raise
                asyncio.get_running_loop().call_later(DUMP_RETRY_S, self._watch.changed.set)
            except DatapathError as error:
                logger.warning("an interface was not programmed: %s", error)
                asyncio.get_running_loop().call_later(RETRY_S, self._watch.changed.set)
            if self._interfaces != before:
                self._programmer.rewrite_slots()
                self._failover.wake()
                self._addresses.wake.set()
                self._publish.set()

    async def _publish_interfaces(self) -> None:
        """Keep the Node's annotation equal to what the kernel says; decisions everywhere wait for it."""
        self._publish.set()
        while True:
            await self._publish.wait()
            self._publish.clear()
            text = annotation_value(self._interfaces)
            node = self._view.objects[NODES].get(self._config.node)
            if node is None or node["metadata"].get("annotations", {}).get(ANNOTATION) == text:
                continue
            try:
                await self._api.patch(NODES, self._config.node, {"metadata": {"annotations": {ANNOTATION: text}}})
            except (ApiError, Unreachable) as error:
                logger.warning("cannot publish the interfaces: %s", error)
                await asyncio.sleep(RETRY_S)
                self._publish.set()

    async def _expire_flows(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_PERIOD_S)
            for _ in self._datapath.nat.expire():
                await asyncio.sleep(0)

    async def _admit(self, sandbox: Sandbox) -> None:
        await self._admission.admit(sandbox.uid)

    async def _dismiss(self, sandbox: Sandbox) -> None:
        self._links.wake.set()

    def _own_node(self) -> Object:
        node = self._view.objects[NODES].get(self._config.node)
        if node is None:
            raise ClusterError(
                "no such node", object=f"Node/{self._config.node}", fix="set NODE_NAME to the node's name"
            )
        return node

    def _own_address(self) -> IPv4Address:
        address = self._address_of(self._config.node)
        if address is None:
            raise ClusterError(
                "the node has no IPv4 InternalIP, which tunnels need",
                object=f"Node/{self._config.node}",
                field="status.addresses",
            )
        return address

    def _address_of(self, node: str) -> IPv4Address | None:
        obj = self._view.objects[NODES].get(node)
        return parse_node(obj).internal_v4 if obj is not None else None

    def _index_of(self, name: str) -> int | None:
        found = (i.index for i in self._interfaces if i.name == name or name in i.altnames)
        return next(found, None)


def open_datapath(pin_dir: Path) -> Datapath:
    """The node's datapath with room for as many slots as a programmer hands out."""
    return Datapath.open(pin_dir, policy_entries=ENTRIES, slot_entries=SLOTS)


def networks(texts: Iterable[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Networks from their text forms; raises ValueError."""
    return tuple(ip_network(text.strip()) for text in texts if text.strip())
