"""The operator's parts wired together: what it follows, what it asks, what it writes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from egresslab.agent.peers import PORT
from egresslab.agent.programmer import ENTRIES
from egresslab.agent.view import ClusterView
from egresslab.api.connection import Api
from egresslab.api.reflector import Reflector
from egresslab.api.resources import (
    CILIUM_POLICIES,
    DECKHOUSE_GATEWAYS,
    EGRESSLAB_GATEWAYS,
    EGRESSLAB_POLICIES,
    PODS,
    Object,
    Resource,
)
from egresslab.operator.conditions import status_of
from egresslab.operator.electorate import Elector
from egresslab.operator.gatewayreports import GatewayReports, Watched
from egresslab.operator.gateways import GatewayView, spread_view, standby_view
from egresslab.operator.metrics import OperatorMetrics
from egresslab.operator.observer import Observer
from egresslab.operator.policyreports import PolicyReports, Situation
from egresslab.operator.registrar import Ballot, Registrar
from egresslab.operator.reports import ProblemReports
from egresslab.policy.engine import Settings
from egresslab.policy.entries import Change, Changes, Delete, Problem, Refuse, Upsert
from egresslab.policy.inventory import ActiveChoice, Kind, ref_of
from egresslab.policy.model import Dialect, GroupKey
from egresslab.policy.objects import ref_of_object
from egresslab.policy.standby import standby_groups

AGENT_LABEL = "app.kubernetes.io/name=egresslab-agent"
POLICY_GROUPS = frozenset({CILIUM_POLICIES.group, DECKHOUSE_GATEWAYS.group, EGRESSLAB_GATEWAYS.group})
GATEWAYS: Mapping[Dialect, Resource] = {Dialect.DECKHOUSE: DECKHOUSE_GATEWAYS, Dialect.EGRESSLAB: EGRESSLAB_GATEWAYS}


class Operator:
    """Follows the cluster and its nodes and reports on both; `agent_port` is where agents answer."""

    def __init__(self, api: Api, agent_port: int = PORT, metrics: OperatorMetrics | None = None) -> None:
        self._view = ClusterView(api, Settings(capacity=ENTRIES), self._changed)
        self._agents = Reflector(api, PODS, lambda change: self._wake_all(), label_selector=AGENT_LABEL)
        self._observer = Observer(self._targets, self._observed, agent_port)
        self._registrar = Registrar(api, self._ballot, lambda: self._observer.wake.set())
        self._problems = ProblemReports(api, self._problems_by_object)
        self._gateways = GatewayReports(api, self._watched)
        self._policies = PolicyReports(api, self._situation)
        if metrics is not None:
            metrics.lead(self._view, self._views)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._view.run())
            group.create_task(self._agents.run())
            await self._view.wait_synced()
            await self._agents.synced.wait()
            self._wake_all()
            group.create_task(self._registrar.run())
            group.create_task(self._observer.run())
            group.create_task(self._problems.run())
            group.create_task(self._gateways.run())
            group.create_task(self._policies.run())

    # What happens.

    def _changed(self, change: Change, changes: Changes) -> None:
        self._problems.wake.set()
        self._policies.wake.set()
        match change:
            case Upsert(value):
                kind = ref_of(value).kind
            case Delete(ref) | Refuse(ref):
                kind = ref.kind
            case _:
                kind = Kind.GROUP
        if kind in (Kind.NODE, Kind.GROUP):
            self._gateways.wake.set()
            self._registrar.wake.set()
            self._observer.wake.set()

    def _wake_all(self) -> None:
        for part in (self._problems, self._policies, self._gateways, self._registrar, self._observer):
            part.wake.set()

    def _observed(self) -> None:
        """Whoever holds a lease is the gateway for our decisions too, as it is for the nodes'."""
        engine = self._view.engine
        for view in self._views():
            if not view.group.standby or not view.known:
                continue
            choice = ActiveChoice(view.key, view.active or "")
            engine.apply(Upsert(choice) if view.active is not None else Delete(choice.ref))
        self._problems.wake.set()
        self._policies.wake.set()
        self._gateways.wake.set()
        self._registrar.wake.set()

    # What others look at.

    def _targets(self) -> dict[str, IPv4Address]:
        """Candidates and voters; every node while another set of voters is wanted."""
        nodes = self._view.engine.registry.nodes
        names = set(nodes) if self._registrar.pending else self._candidates() | self._voters()
        found = ((name, nodes[name].internal_v4) for name in sorted(names & nodes.keys()))
        return {name: address for name, address in found if address is not None}

    def _candidates(self) -> set[str]:
        groups = self._view.engine.registry.groups.values()
        return {name for g in groups if isinstance(g.key, GroupKey) for found in g.candidates for _, name in found}

    def _voters(self) -> set[str]:
        return set(self._registrar.voters.nodes) if self._registrar.voters is not None else set()

    def _views(self) -> Iterator[GatewayView]:
        engine, reports, voters = self._view.engine, self._observer.reports, self._voters()
        for standby in list(standby_groups(engine)):
            concerned = voters | {candidate.node for candidate in standby.candidates}
            yield standby_view(standby, reports, self._observer.asked & concerned)
        for state in list(engine.registry.groups.values()):
            if state.group is not None and state.group.key is not None and not state.group.standby:
                yield spread_view(state, engine, reports)

    def _watched(self) -> Iterator[Watched]:
        """Gateways and what is true of them; none before anybody was asked."""
        if not self._observer.looked:
            return
        views = {view.key: view for view in self._views()}
        refused = {
            ref.name: refuse.reason for ref, refuse in self._view.engine.refused.items() if ref.kind is Kind.GROUP
        }
        for dialect, resource in GATEWAYS.items():
            for obj in self._view.objects[resource]:
                key = GroupKey(dialect, obj["metadata"]["name"])
                view, why = views.get(key), refused.get(key.text, "")
                if view is not None or why:
                    yield Watched(resource, obj, replace(view, refused=why) if view is not None else None, dialect, why)

    def _ballot(self) -> Ballot:
        ready = self._ready_agents()
        candidates = self._candidates()
        registry = self._view.engine.registry
        electors = [Elector(n.name, n.ready and n.name in ready, n.name in candidates) for n in registry.nodes.values()]
        counting = {node: report.generation for node, report in self._observer.reports.items()}
        alive = {pod["spec"].get("nodeName", "") for pod in self._agents} & {e.name for e in electors if e.fit}
        probes = [group.group.health for group in registry.groups.values() if group.group and group.group.standby]
        return Ballot(electors, counting, alive, max((p.interval_s * (p.failures + 1) for p in probes), default=0.0))

    def _ready_agents(self) -> set[str]:
        return {
            pod["spec"].get("nodeName", "")
            for pod in self._agents
            if "deletionTimestamp" not in pod["metadata"]
            and status_of(pod.get("status", {}).get("conditions"), "Ready") == "True"
        }

    def _situation(self) -> Situation:
        objects = list(self._view.objects[EGRESSLAB_POLICIES])
        engine = self._view.engine
        return Situation(engine, engine.problems(), objects, self._ready_agents())

    def _problems_by_object(self) -> dict[Problem, Object]:
        """What is wrong now, with the policy or gateway concerned."""
        objects = {
            ref_of_object(obj): obj
            for resource, objects in self._view.objects.items()
            if resource.group in POLICY_GROUPS
            for obj in objects
        }
        found = self._view.engine.problems()
        return {problem: objects[problem.ref] for problem in found if problem.ref in objects}
