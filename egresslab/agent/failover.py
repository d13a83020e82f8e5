"""Between the voter and everything else of this node: what it is to vote about goes out, who holds what comes in.

The ballot decides, never this agent: a holder stays the gateway here until the voter reports another, whatever the API
says of it meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from egresslab.agent.failovers import FailoverCounts
from egresslab.agent.flowstream import FlowStream
from egresslab.agent.interfaces import NodeInterface
from egresslab.agent.programmer import Programmer
from egresslab.agent.readiness import AgentReadiness
from egresslab.agent.reportfile import ReportFile
from egresslab.agent.sessionlink import ReplicatedLease
from egresslab.agent.sessions import Sessions
from egresslab.agent.view import ClusterView
from egresslab.agent.voting import Surroundings, build_voting, choices, lease_of, newer_voters, replicated
from egresslab.api import voters
from egresslab.api.connection import Api
from egresslab.api.reflector import ObjectChange, Reflector
from egresslab.api.resources import CONFIGMAPS
from egresslab.datapath.flowcopy import FlowCopier
from egresslab.datapath.flowtable import FlowTable
from egresslab.policy.entries import Change, Delete, Upsert
from egresslab.policy.inventory import ActiveChoice, Kind, Node, NodeHealth, Ref
from egresslab.policy.model import EgressPolicy, GatewayGroup, GroupKey
from egresslab.policy.standby import standby_groups
from egresslab.voter.files import LeaseReport, Report, Voting, read_voting, write
from egresslab.voter.sockets import nudge

logger = logging.getLogger(__name__)

CONCERNED = frozenset({Kind.NODE, Kind.GROUP, Kind.POLICY, Kind.CHOICE})
"""Kinds of values that a ballot paper or the replication of sessions is made from."""
PAUSE_S = 0.02
"""Between two versions of the file: what changes together is written together."""


class Failover:
    """One node's part in failover, the agent's side. `address` is the node's InternalIP."""

    def __init__(
        self, api: Api, view: ClusterView, programmer: Programmer, node: str, run_dir: Path, stretch: int = 1
    ) -> None:
        self._view = view
        self._programmer = programmer
        self._node = node
        self._stretch = stretch
        self._voting_path = run_dir / "voting.json"
        self._voters: voters.VoterSet | None = None
        self._following = Reflector(
            api,
            CONFIGMAPS,
            self._take_voters,
            namespace=voters.NAMESPACE,
            field_selector=f"metadata.name={voters.NAME}",
        )
        self._written: Voting | None = None
        self._told: set[Ref] = set()
        """What the engine was told in the voter's name."""
        self._leases: tuple[LeaseReport, ...] = ()
        self._addresses: dict[str, IPv4Address] = {}
        self._readiness = AgentReadiness(node, time.monotonic)
        self._interfaces: Callable[[], Sequence[NodeInterface]] = tuple
        self._sessions: Sessions | None = None
        self._wake = asyncio.Event()
        self.reports = ReportFile(run_dir / "voter.json", self._take_report)
        self.counts = FailoverCounts()

    def start(self, address: IPv4Address, nat: FlowTable, stream: FlowStream) -> None:
        """Know what the node is, and what its voter said last; to be called once all objects are known, before slots
        are programmed."""
        self._sessions = Sessions(self._node, address, stream, FlowCopier(nat, address), self._wake.set)
        try:
            self._written = read_voting(self._voting_path)
        except ValueError as error:
            logger.warning("the last voting.json is of no use: %s", error)
        if self._written is not None:
            self._addresses = {peer.name: peer.address for peer in self._written.nodes}
        self.reports.look()

    async def run(self, interfaces: Callable[[], Sequence[NodeInterface]]) -> None:
        """Follow voters and their reports, tell the voter what to vote about, replicate sessions; until cancelled.
        `interfaces` gives this node's at present."""
        assert self._sessions is not None, "start first"
        self._interfaces = interfaces
        async with asyncio.TaskGroup() as group:
            group.create_task(self._following.run())
            group.create_task(self.reports.run())
            group.create_task(self._sessions.run())
            await self._following.synced.wait()
            group.create_task(self._write())

    def object_changed(self, change: ObjectChange) -> None:
        """For `ClusterView`: an object as it is."""
        if self._readiness.take(change):
            self._wake.set()

    def changed(self, change: Change) -> None:
        """A value changed that ballots may depend on."""
        match change:
            case Upsert(value):
                concerned = isinstance(value, GatewayGroup | EgressPolicy | Node | ActiveChoice)
            case Delete(ref):
                concerned = ref.kind in CONCERNED
            case _:
                concerned = True
        if concerned:
            self._wake.set()

    def wake(self) -> None:
        """Something else changed: this node's interfaces."""
        self._wake.set()

    def gateways(self, keys: set[GroupKey]) -> set[IPv4Address]:
        """Other nodes that translate for these groups or may do so any moment: all candidates that are not dead."""
        report = self.reports.report
        dead = {node.name for node in report.nodes if node.alive is False} if report is not None else set[str]()
        return {
            candidate.address
            for standby in standby_groups(self._view.engine)
            if standby.key in keys
            for candidate in standby.candidates
            if candidate.node != self._node and candidate.node not in dead
        }

    # In: who votes, who holds.

    def _take_voters(self, change: ObjectChange) -> None:
        told = newer_voters(change, self._voters)
        if told is not None:
            self._voters = told
            self._wake.set()

    def _take_report(self, report: Report) -> None:
        self.counts.take(report)
        if self.reports.fresh is None:
            return
        told = choices(report)
        for node in report.nodes:
            if node.alive is False:
                health = NodeHealth(node.name, False)
                told[health.ref] = health
        for ref in self._told - told.keys():
            self._view.tell(Delete(ref))
        for value in told.values():
            self._view.tell(Upsert(value))
        self._told = set(told)
        if self._leases != report.leases:
            # Epochs and tenures are no values of the engine.
            self._leases = report.leases
            self._wake.set()

    # Out: what to vote about, whose flows to tell.

    async def _write(self) -> None:
        while True:
            wait = self._readiness.wait_s()
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass  # a node's grace is over
            self._wake.clear()
            self._replicate()
            self._put()
            await asyncio.sleep(PAUSE_S)

    def _put(self) -> None:
        nodes = self._view.engine.registry.nodes
        self._addresses.update({n.name: n.internal_v4 for n in nodes.values() if n.internal_v4 is not None})
        around = Surroundings(
            self._node,
            self._interfaces(),
            self._synced,
            lambda group, node: self._readiness.doubt(node.name),
            self._addresses,
            self._stretch,
        )
        voting = build_voting(self._view.engine, self._voters, around)
        if voting != self._written:
            write(self._voting_path, voting)
            self._written = voting
            if self._node in self._addresses:
                nudge(self._addresses[self._node])

    def _synced(self, lease: int, node: str) -> bool:
        assert self._sessions is not None
        known = self._sessions.leases.get(lease)
        return node == self._node or known is None or not known.held or self._sessions.synced(lease, node)

    def _replicate(self) -> None:
        assert self._sessions is not None
        report = self.reports.report
        found = []
        for standby in standby_groups(self._view.engine):
            if not replicated(standby.group):
                continue
            lease = lease_of(standby.key)
            seen = report.lease(lease) if report is not None else None
            found.append(
                ReplicatedLease(
                    lease,
                    seen.epoch if seen is not None else 0,
                    seen is not None and seen.holder == self._node,
                    self._programmer.slots_of(standby.key),
                    {c.node: c.address for c in standby.candidates if c.node != self._node},
                )
            )
        self._sessions.update(found)
