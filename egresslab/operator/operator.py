"""The operator's parts wired together: what it follows, what it asks, what it writes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address

from egresslab.agent.peers import ANNOUNCER_PORT, PORT
from egresslab.agent.programmer import ENTRIES
from egresslab.agent.view import AGENT, ANNOUNCER, NAME_LABEL, ClusterView, is_agent
from egresslab.api.connection import Api
from egresslab.api.reflector import ObjectChange, Reflector
from egresslab.api.resources import (
    CILIUM_POLICIES,
    DECKHOUSE_GATEWAYS,
    DECKHOUSE_POLICIES,
    EGRESSLAB_GATEWAYS,
    EGRESSLAB_POLICIES,
    PODS,
    Object,
    Resource,
)
from egresslab.api.settings import Backend
from egresslab.errors import PolicyError
from egresslab.operator.ciliumbackend import CiliumBackend, Source
from egresslab.operator.conditions import status_of
from egresslab.operator.electorate import Elector
from egresslab.operator.gatewayreports import GatewayReports, Watched
from egresslab.operator.gateways import GatewayView, spread_view, standby_view
from egresslab.operator.metrics import OperatorMetrics
from egresslab.operator.observer import Observer
from egresslab.operator.policyreports import PolicyReports, Situation
from egresslab.operator.registrar import Ballot, Registrar
from egresslab.operator.reports import ProblemReports
from egresslab.policy.ciliumobjects import HOSTNAME, Active
from egresslab.policy.engine import Engine, Settings
from egresslab.policy.entries import Change, Changes, Delete, Problem, Refuse, Upsert
from egresslab.policy.inventory import ActiveChoice, Kind, ref_of
from egresslab.policy.model import Dialect, EgressPolicy, GroupKey
from egresslab.policy.objects import from_kubernetes, ref_of_object
from egresslab.policy.standby import own_source, standby_groups

DAEMONS = f"{NAME_LABEL} in ({AGENT},{ANNOUNCER})"
POLICY_GROUPS = frozenset({CILIUM_POLICIES.group, DECKHOUSE_GATEWAYS.group, EGRESSLAB_GATEWAYS.group})
GATEWAYS: Mapping[Dialect, Resource] = {Dialect.DECKHOUSE: DECKHOUSE_GATEWAYS, Dialect.EGRESSLAB: EGRESSLAB_GATEWAYS}


class Operator:
    """Follows the cluster and its nodes and reports on both; with Cilium as the backend it writes Cilium's policies.

    `agent_port` and `announcer_port` are where those answer; `term` tells this leader from others.
    """

    def __init__(
        self,
        api: Api,
        agent_port: int = PORT,
        metrics: OperatorMetrics | None = None,
        *,
        announcer_port: int = ANNOUNCER_PORT,
        term: str = "",
        stretch: int = 1,
    ) -> None:
        """`stretch`: how many times more slowly than the objects say agents have gateways probed."""
        self._stretch = stretch
        self._view = ClusterView(
            api, Settings(capacity=ENTRIES), self._changed, self._object_changed, under_cilium=frozenset({Kind.GROUP})
        )
        self._view.on_backend = self._other_backend
        self._ports = {Backend.EGRESSLAB: agent_port, Backend.CILIUM: announcer_port}
        self._agents = Reflector(api, PODS, lambda change: self._wake_all(), label_selector=DAEMONS)
        self._observer = Observer(self._targets, self._observed, lambda: self._ports[self._view.backend])
        self._parsed: dict[str, tuple[str, EgressPolicy | None]] = {}
        self._cilium = CiliumBackend(
            api,
            self._sources,
            lambda: self._view.objects[CILIUM_POLICIES],
            self._carried_out,
            ready=lambda: self._observer.looked or not self._concerned(),
            term=term,
        )
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
            group.create_task(self._cilium.run())

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
        if kind is not Kind.POD:
            self._cilium.wake.set()
        if kind in (Kind.NODE, Kind.GROUP):
            self._gateways.wake.set()
            self._registrar.wake.set()
            self._observer.wake.set()

    def _object_changed(self, change: ObjectChange) -> None:
        """Also of what others carry out, which changes no decision of ours."""
        if self._view.backend is Backend.CILIUM and change.object["apiVersion"].partition("/")[0] in POLICY_GROUPS:
            self._cilium.wake.set()

    def _wake_all(self) -> None:
        for part in (self._problems, self._policies, self._gateways, self._registrar, self._observer, self._cilium):
            part.wake.set()

    def _other_backend(self) -> None:
        """Others hold the leases from now on, and what was heard so far says nothing of them."""
        self._observer.forget()
        self._wake_all()

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
        self._cilium.wake.set()

    def _carried_out(self) -> None:
        self._problems.wake.set()
        self._policies.wake.set()

    # What others look at.

    def _concerned(self) -> bool:
        """Whether anything depends on what nodes report: a gateway's status, or a change of the voters."""
        return self._registrar.pending or any(len(self._view.objects[resource]) for resource in GATEWAYS.values())

    def _targets(self) -> dict[str, IPv4Address] | None:
        """Candidates and voters; every node while another set of voters is wanted. None: nothing to be asked."""
        if not self._concerned():
            return None
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
        longest = max((probe.interval_s * (probe.failures + 1) for probe in probes), default=0.0)
        return Ballot(electors, counting, alive, longest * self._stretch)

    def _sources(self) -> list[Source] | None:
        """Policies that Cilium is to carry out; None where it is not asked, nor anybody's voice heard yet."""
        if self._view.backend is not Backend.CILIUM:
            return None
        engine = self._view.engine
        views = {view.key: view for view in self._views()}
        found, parsed = [], {}
        for resource in (DECKHOUSE_POLICIES, EGRESSLAB_POLICIES):
            for obj in self._view.objects[resource]:
                metadata = obj["metadata"]
                known = self._parsed.get(metadata["uid"])
                if known is None or known[0] != metadata["resourceVersion"]:
                    known = metadata["resourceVersion"], _policy(obj) or (known[1] if known is not None else None)
                parsed[metadata["uid"]] = known
                policy = known[1]
                if policy is not None and isinstance(policy.group, GroupKey):
                    found.append(Source(obj, policy, views.get(policy.group), partial(active_of, engine, policy.group)))
        self._parsed = parsed
        return found

    def _ready_agents(self) -> set[str]:
        name = ANNOUNCER if self._view.backend is Backend.CILIUM else AGENT
        return {
            pod["spec"].get("nodeName", "")
            for pod in self._agents
            if is_agent(pod, name)
            and "deletionTimestamp" not in pod["metadata"]
            and status_of(pod.get("status", {}).get("conditions"), "Ready") == "True"
        }

    def _situation(self) -> Situation:
        objects = list(self._view.objects[EGRESSLAB_POLICIES])
        engine = self._view.engine
        outcomes = self._cilium.outcomes if self._view.backend is Backend.CILIUM else None
        return Situation(engine, engine.problems(), objects, self._ready_agents(), outcomes)

    def _problems_by_object(self) -> dict[Problem, Object]:
        """What is wrong now, with the policy or gateway concerned."""
        objects = {
            ref_of_object(obj): obj
            for resource, objects in self._view.objects.items()
            if resource.group in POLICY_GROUPS
            for obj in objects
        }
        found = [*self._view.engine.problems(), *(p for told in self._cilium.problems().values() for p in told)]
        return {problem: objects[problem.ref] for problem in found if problem.ref in objects}


def active_of(engine: Engine, key: GroupKey, node: str) -> Active | None:
    """What a node leaves with as the gateway of a group; None when it cannot be."""
    own, known = own_source(engine, key, node), engine.registry.nodes.get(node)
    return Active(known.labels.get(HOSTNAME, node), own) if own is not None and known is not None else None


def _policy(obj: Object) -> EgressPolicy | None:
    """None for what is refused, which is told where all refusals are."""
    try:
        value = from_kubernetes(obj)
    except PolicyError:
        return None
    return value if isinstance(value, EgressPolicy) else None
