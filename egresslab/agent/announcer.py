"""The agent of a node whose datapath is another's: `python -m egresslab.agent.announcer`, in the node's network.

It programs nothing. It tells the voter beside it (`egresslab.voter --announcer`) who may hold which gateway's lease,
and publishes the node's interfaces; that voter puts the addresses on interfaces. What forwards is told by the operator,
with CiliumEgressGatewayPolicies. NODE_NAME says which node it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from egresslab.agent.interfaces import (
    ANNOTATION,
    DUMP_RETRY_S,
    InterfaceWatch,
    NodeInterface,
    annotation_value,
    read_interfaces,
)
from egresslab.agent.peers import ANNOUNCER_PORT, serve_peers
from egresslab.agent.readiness import AgentReadiness
from egresslab.agent.reportfile import ReportFile
from egresslab.agent.upstream import UpstreamHealth
from egresslab.agent.view import ANNOUNCER, NAME_LABEL, ClusterView
from egresslab.agent.voting import Surroundings, build_voting, choices, newer_voters
from egresslab.api import voters
from egresslab.api.connection import Api, ApiError, Unreachable, connect
from egresslab.api.reflector import ObjectChange, Reflector
from egresslab.api.resources import CONFIGMAPS, DECKHOUSE_GATEWAYS, EGRESSLAB_GATEWAYS, NODES, PODS
from egresslab.api.settings import Backend
from egresslab.errors import ClusterError, EgresslabError
from egresslab.netlink import interrupted
from egresslab.policy.entries import Change, Changes, Delete, Upsert
from egresslab.policy.inventory import Kind, Ref
from egresslab.policy.model import Address, GatewayGroup
from egresslab.policy.settings import Settings
from egresslab.voter.carrier import LONGEST_STAY_NS
from egresslab.voter.files import MILLISECOND, Group, Pace, Report, Voting, write
from egresslab.voter.settings import ANNOUNCER_MESSAGES
from egresslab.voter.sockets import nudge
from egresslab.voter.userland import LEAST_DURATION_MS

logger = logging.getLogger(__name__)

PAUSE_S = 0.05
CALM_S = 0.2
"""Between two looks at the interfaces: an address that is carried is put there again several times a second."""
RETRY_S = 0.5
SLOWEST_INTERVAL_MS = 200
FOLLOWED = (NODES, DECKHOUSE_GATEWAYS, EGRESSLAB_GATEWAYS)


@dataclass(frozen=True, slots=True)
class AnnouncerConfig:
    """Where an announcer runs."""

    node: str
    run_dir: Path = Path("/run/egresslab-announcer")
    port: int = ANNOUNCER_PORT

    @property
    def ready_file(self) -> Path:
        """There while this node's voter is kept up to date."""
        return self.run_dir / "ready"


class Announcer:
    """The announcer of node `config.node`; `run` ends only by cancellation or an error that a restart should mend."""

    def __init__(self, config: AnnouncerConfig, api: Api, netlink: AsyncIPRoute) -> None:
        self._config = config
        self._api = api
        self._netlink = netlink
        self._view = ClusterView(
            api, Settings(), self._changed, followed=FOLLOWED, under_cilium=frozenset({Kind.GROUP})
        )
        self._view.on_backend = self._wake_all
        self._readiness = AgentReadiness(config.node, time.monotonic, ANNOUNCER)
        self._pods = Reflector(
            api, PODS, self._pod_changed, namespace=voters.NAMESPACE, label_selector=f"{NAME_LABEL}={ANNOUNCER}"
        )
        self._voters: voters.VoterSet | None = None
        self._voting = Reflector(
            api,
            CONFIGMAPS,
            self._take_voters,
            namespace=voters.NAMESPACE,
            field_selector=f"metadata.name={voters.NAME}",
        )
        self._upstream = UpstreamHealth(api, self._view, config.node)
        self._reports = ReportFile(config.run_dir / "voter.json", self._take_report)
        self._told: set[Ref] = set()
        self._written: Voting | None = None
        self._addresses: dict[str, IPv4Address] = {}
        self._interfaces: tuple[NodeInterface, ...] = ()
        self._watch = InterfaceWatch()
        self._wake = asyncio.Event()
        self._publish = asyncio.Event()

    async def run(self) -> None:
        """Keep the voter and the Node's annotation up to date."""
        self._config.run_dir.mkdir(parents=True, exist_ok=True)
        self._config.ready_file.unlink(missing_ok=True)
        async with asyncio.TaskGroup() as group:
            for part in (self._view, self._pods, self._voting, self._watch):
                group.create_task(part.run())
            await self._view.wait_synced()
            for reflector in (self._pods, self._voting):
                await reflector.synced.wait()
            self._interfaces = await read_interfaces(self._netlink)
            group.create_task(self._reports.run())
            group.create_task(self._follow_interfaces())
            group.create_task(self._publish_interfaces())
            group.create_task(self._upstream.run())
            group.create_task(self._write())
            async with serve_peers(self._own_address(), _no_pods, lambda: self._reports.fresh, self._config.port):
                self._config.ready_file.touch()
                logger.info("node %s is ready", self._config.node)
                await asyncio.get_running_loop().create_future()

    # In: what the cluster says, what the voter says.

    def _changed(self, change: Change, changes: Changes) -> None:
        self._wake_all()

    def _wake_all(self) -> None:
        self._wake.set()
        self._publish.set()
        self._upstream.wake.set()

    def _pod_changed(self, change: ObjectChange) -> None:
        if self._readiness.take(change):
            self._wake.set()

    def _take_voters(self, change: ObjectChange) -> None:
        told = newer_voters(change, self._voters)
        if told is not None:
            self._voters = told
            self._wake.set()

    def _take_report(self, report: Report) -> None:
        """Who holds counts for decisions here, whatever the objects say of it meanwhile."""
        if self._reports.fresh is None:
            return
        told = choices(report)
        for ref in self._told - told.keys():
            self._view.tell(Delete(ref))
        for value in told.values():
            self._view.tell(Upsert(value))
        self._told = set(told)

    # Out: what to vote about, what interfaces there are.

    async def _write(self) -> None:
        while True:
            self._put()
            try:
                async with asyncio.timeout(self._readiness.wait_s()):
                    await self._wake.wait()
            except TimeoutError:
                pass  # a node's grace is over
            self._wake.clear()
            await asyncio.sleep(PAUSE_S)

    def _put(self) -> None:
        nodes = self._view.engine.registry.nodes
        self._addresses.update({n.name: n.internal_v4 for n in nodes.values() if n.internal_v4 is not None})
        around = Surroundings(
            self._config.node,
            self._interfaces,
            lambda lease, node: True,
            lambda group, node: self._readiness.doubt(node.name),
            self._addresses,
        )
        voting = build_voting(self._view.engine, self._voters, around)
        groups = self._view.engine.registry.groups.values() if self._view.backend is Backend.CILIUM else ()
        known = {state.group.key.text: state.group for state in groups if state.group and state.group.key}
        carried = (carried_group(group, known[group.key], self._interfaces) for group in voting.groups)
        voting = replace(voting, groups=tuple(carried) if known else ())
        if voting != self._written:
            write(self._config.run_dir / "voting.json", voting)
            self._written = voting
            if self._config.node in self._addresses:
                nudge(self._addresses[self._config.node], ANNOUNCER_MESSAGES)

    async def _follow_interfaces(self) -> None:
        while True:
            await self._watch.changed.wait()
            self._watch.changed.clear()
            before = self._interfaces
            try:
                self._interfaces = await read_interfaces(self._netlink)
            except NetlinkError as error:
                if not interrupted(error):
                    raise
                asyncio.get_running_loop().call_later(DUMP_RETRY_S, self._watch.changed.set)
            if self._interfaces != before:
                self._wake_all()
            await asyncio.sleep(CALM_S)

    async def _publish_interfaces(self) -> None:
        """Decisions everywhere, the operator's too, wait for the annotation."""
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

    def _own_address(self) -> IPv4Address:
        node = self._view.engine.registry.nodes.get(self._config.node)
        if node is None or node.internal_v4 is None:
            raise ClusterError(
                "no such node, or it has no IPv4 InternalIP",
                object=f"Node/{self._config.node}",
                field="status.addresses",
                fix="set NODE_NAME to the node's name",
            )
        return node.internal_v4


def carried_group(group: Group, source: GatewayGroup, interfaces: Iterable[NodeInterface]) -> Group:
    """The group as an announcer's voter has it: slow enough for addresses that end by themselves, each on one
    interface."""
    interval = max(group.pace.interval_ms, SLOWEST_INTERVAL_MS)
    # A grant is as old as the last probe when it is looked at, and a few may be lost.
    least = max(LEAST_DURATION_MS, LONGEST_STAY_NS // MILLISECOND + 7 * interval // 2)
    failures = max(group.pace.failures, -(-least // interval) - 1)
    pace = Pace(interval, failures, group.pace.recoveries)
    assigned = source.members[0].source
    addresses = assigned.addresses if assigned.assign else source.virtual_addresses
    leading = [interface for interface in interfaces if interface.leads_out]
    named = {assigned.interface} if assigned.assign and assigned.interface else set(source.announce_interfaces)
    fitting = [i for i in leading if not named or named & {i.name, *i.altnames}]
    announce = tuple(dict.fromkeys(_home(address, fitting) for address in addresses)) if fitting else ()
    return replace(group, addresses=addresses, announce=announce, pace=pace)


def _home(address: Address, interfaces: list[NodeInterface]) -> str:
    """The one whose network has the address, else the one of the default route, else the first."""
    for interface in interfaces:
        if any(address in own.network for own in interface.addresses if own.network.prefixlen < own.max_prefixlen):
            return interface.name
    family = f"ipv{address.version}"
    return next((i for i in interfaces if family in i.default_route), interfaces[0]).name


async def _no_pods(uid: str, patience_s: float) -> bool:
    """Whether this node's datapath knows a pod: nobody asks an announcer, and it could not say."""
    return False


async def main() -> None:
    """Run until told to stop; the voter beside goes on."""
    config = AnnouncerConfig(os.environ["NODE_NAME"])
    async with connect() as api, AsyncIPRoute() as netlink:
        running = asyncio.create_task(Announcer(config, api, netlink).run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        try:
            await running
        except asyncio.CancelledError:
            logging.info("stopped")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(main())
    except* EgresslabError as group:
        for error in group.exceptions:
            print(error, file=sys.stderr)
        sys.exit(1)
