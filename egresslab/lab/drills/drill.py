"""A drill from beginning to end: set the scene, let traffic flow, disturb it, measure, put everything back.

Whatever happens, also Ctrl-C, what was broken is healed and what was made is removed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum

from egresslab.api.resources import EGRESSLAB_POLICIES, NAMESPACES, NODES, Object
from egresslab.environments.base import Environment, Progress
from egresslab.errors import EgresslabError, LabError
from egresslab.lab import entries, nodes, waits
from egresslab.lab.capture import Capture
from egresslab.lab.client import Client
from egresslab.lab.drills import gaps, promises, scene
from egresslab.lab.drills.breakages import Breakage, Mode, breakage
from egresslab.lab.drills.families import Family
from egresslab.lab.drills.interrupts import uninterrupted
from egresslab.lab.drills.owners import Owners, Watch
from egresslab.lab.drills.records import GATEWAY_TRAFFIC, Observation, Protocol
from egresslab.lab.drills.result import DrillResult, Event, Measured
from egresslab.lab.drills.scene import Addressing, Scene
from egresslab.lab.drills.sender import Pattern, Sender
from egresslab.lab.entries import IPAddress
from egresslab.lab.nodes import Node
from egresslab.lab.ownership import RUN_LABEL, Ledger, Owned

API_BACK_S = 20.0
NODE_BACK_S = 60.0
GONE_S = 30.0
LOOK_S = 0.3
ECHOES = {Family.IPV4: "icmp[icmptype] == 8", Family.IPV6: "(icmp6 and ip6[40] == 128)"}
"""Echo requests, in pcap-filter(7)'s words."""


class Kind(StrEnum):
    """Drills there are."""

    FAILOVER = "failover"
    MAINTENANCE = "maintenance"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to drill. `gateway` names an EgressGateway that is there; without it one is made, with `addressing`, on as
    many nodes as `candidates`. Traffic runs for `before_s` before and `after_s` after each event."""

    kind: Kind = Kind.FAILOVER
    mode: Mode = Mode.CRASH
    gateway: str | None = None
    addressing: Addressing = Addressing.VIRTUAL_IP
    candidates: int = 2
    interface: str = "eth1"
    virtual: IPAddress | None = None
    pattern: Pattern = field(default_factory=Pattern)
    before_s: float = 1.0
    after_s: float = 3.0
    timeout_s: float = 30.0
    watched: bool = True
    """Whether captures are taken outside."""

    def stretched(self, factor: float) -> Plan:
        """The same for nodes that are slower by the factor: traffic thinner and for longer, waits longer."""
        return replace(
            self,
            pattern=self.pattern.stretched(factor),
            before_s=self.before_s * factor,
            after_s=self.after_s * factor,
            timeout_s=self.timeout_s * factor,
        )


class Drill:
    """One drill; `run` it once. Only the mode `headless` needs the environment. Where the environment's
    nodes are slow, all that is measured in time is stretched by its patience, and so is the gap that is allowed."""

    def __init__(self, client: Client, environment: Environment | None, plan: Plan, progress: Progress) -> None:
        self._client, self._environment, self._progress = client, environment, progress
        self._patience = environment.patience if environment else 1.0
        client.patience = max(client.patience, self._patience)
        self._plan = plan.stretched(self._patience)
        self._run = secrets.token_hex(3)
        self._namespace = f"drill-{self._run}"
        self._ledger = Ledger(self._run)
        self._events: list[Event] = []
        self._cordoned: str | None = None
        self._broken: Breakage | None = None
        self._healed: Breakage | None = None
        self._struck = False
        self._source = ""

    def run(self) -> DrillResult:
        """Do it. Raises `LabError` or `EnvironmentFailure` when it cannot be done; a broken promise is no error."""
        with ExitStack() as cleanup:
            cleanup.callback(self._put_back)
            self._progress.step("gateway, policy and traffic")
            found = self._set_scene()
            before = self._active()
            self._progress.note(f"{before} is active; traffic from {self._source}")
            event = self._prepare(before)
            observation, strangers, watch = self._disturb(found, before, event)
            after = self._active()
        planned = self._plan.kind is Kind.MAINTENANCE
        mode = None if planned else self._plan.mode
        measured = measure(observation, self._events[0].begun, strangers, watch.owners if watch else None)
        return DrillResult(
            self._plan.kind.value,
            "planned" if mode is None else mode.value,
            found.addressing.value,
            self._plan.gateway or found.name,
            before,
            after,
            measured,
            tuple(self._events),
            promises.judge(found, mode, measured, self._patience),
            self._patience,
            self._plan.pattern.family,
        )

    # The scene

    def _set_scene(self) -> Scene:
        known = [nodes.node(body) for body in self._client.list(NODES)]
        self._make_namespace()
        found = self._scene(known)
        outsiders = [node.name for node in known if node.name not in found.candidates and node.ready]
        workers = [node.name for node in known if node.name in outsiders and not node.control_plane]
        if not workers:
            raise LabError("no worker is left for the drill's own pod", object=f"candidates {found.candidates}")
        if found.labelled_here:
            for name in found.candidates:
                self._ledger.set_label(self._client, name, *found.label)
        for resource, body in found.objects:
            self._client.apply(resource, self._ledger.stamp(body, resource))
            self._ledger.note(Owned(resource, body["metadata"]["name"]))
        for resource, body in found.objects:
            if resource is EGRESSLAB_POLICIES:
                self._wait_programmed(body["metadata"]["name"])
        self._sender = Sender(
            self._client, self._namespace, self._plan.pattern, node=workers[-1], labels=scene.POD_LABELS
        )
        pod = self._sender.start(timeout_s=self._plan.timeout_s)
        self._source, self._addresses = workers[-1], pod.addresses
        return found

    def _wait_programmed(self, policy: str) -> None:
        """Before a pod is there that it selects: with another backend, packets pass until its agents know of it."""

        def programmed() -> bool | waits.Pending:
            conditions = (self._client.get(EGRESSLAB_POLICIES, policy).get("status") or {}).get("conditions") or []
            said: Object = next((item for item in conditions if item["type"] == "Programmed"), {})
            return said.get("status") == "True" or waits.Pending(said.get("message") or "no status")

        waits.wait_for(f"EgressGatewayPolicy {policy} to be in force", programmed, timeout_s=self._plan.timeout_s)

    def _make_namespace(self) -> None:
        metadata = {"name": self._namespace, "labels": {RUN_LABEL: self._run}}
        self._client.apply(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self._ledger.note(Owned(NAMESPACES, self._namespace))

    def _scene(self, known: list[Node]) -> Scene:
        plan = self._plan
        if plan.gateway:
            return scene.existing(
                self._client, plan.gateway, known, run=self._run, namespace=self._namespace, target=plan.pattern.target
            )
        workers = [node for node in known if node.ready and not node.control_plane]
        if len(workers) <= plan.candidates:
            raise LabError(
                f"{plan.candidates} candidates and one node for traffic are more than there are",
                object="workers that are Ready",
                value=len(workers),
                fix="wait for the others, or drill with fewer --candidates",
            )
        return scene.own(
            plan.addressing,
            sorted(workers, key=lambda node: node.name)[: plan.candidates],
            run=self._run,
            interface=plan.interface,
            namespace=self._namespace,
            target=plan.pattern.target,
            virtual=plan.virtual,
        )

    def _active(self) -> str:
        """The gateway that the kernel of the pod's node sends its packets to; empty if none."""
        known = {
            address: node
            for body in self._client.list(NODES)
            for node in [nodes.node(body)]
            for address in node.addresses
        }
        for entry in entries.listing(self._client, self._source):
            if entry.source in self._addresses and not isinstance(entry.gateway, entries.Gateway):
                return known[entry.gateway].name
        return ""

    # The event

    def _prepare(self, active: str) -> Breakage | None:
        if self._plan.kind is Kind.MAINTENANCE:
            return None
        if not active:
            raise LabError("no node is active", object=f"gateway {self._plan.gateway or self._namespace}")
        return breakage(self._plan.mode, self._client, self._environment, active, self._run)

    def _disturb(
        self, found: Scene, active: str, event: Breakage | None
    ) -> tuple[Observation, dict[str, int] | None, Watch | None]:
        capture, watch = None, None
        watched = self._plan.watched and not (event and event.api_lost)
        with ExitStack() as stack:
            if watched:
                capture = stack.enter_context(self._strangers(found))
                if found.virtual is not None:
                    watch = stack.enter_context(Watch(self._client, found.virtual, self._plan.interface))
            time.sleep(self._plan.before_s)
            if event is None:
                self._maintain(found, active)
            else:
                self._break(event)
            self._progress.step("reading what was seen")
        observation = self._sender.finish()
        strangers = {str(address): packets for address, packets in capture.sources.items()} if capture else None
        return observation, strangers, watch

    def _strangers(self, found: Scene) -> Capture:
        """A capture of packets to the target from anywhere but the addresses allowed."""
        pattern = self._plan.pattern
        sources = " or ".join(f"src host {address}" for address in sorted(found.sources, key=str))
        echo = ECHOES[pattern.family]
        ours = f"dst host {pattern.target} and ({echo} or port {pattern.port})"
        return Capture(self._client, f"{ours} and not ({sources})", "any")

    def _break(self, event: Breakage) -> None:
        self._broken = event
        event.prepare()
        self._progress.step(event.title)
        with self._timed(event.title):
            event.do()
        self._struck = True
        if event.returns_after_s is not None:
            time.sleep(event.returns_after_s)
            with self._timed("it comes back"):
                event.undo()
                event.settle()
        time.sleep(self._plan.after_s)
        if event.api_lost:
            self._undo()
            waits.wait_for(
                "the API server to answer",
                lambda: self._client.list(NODES),
                timeout_s=API_BACK_S * self._client.patience,
            )

    def _maintain(self, found: Scene, active: str) -> None:
        """The procedure for a node's maintenance: take its label, cordon it, wait, and give both back."""
        key, value = found.label
        self._progress.step(f"{active} goes into maintenance")
        self._progress.note(f"$ kubectl label node {active} {key}-")
        self._progress.note(f"$ kubectl cordon {active}")
        with self._timed(f"{active} leaves"):
            self._ledger.set_label(self._client, active, key, None)
            self._cordon(active)
            self._wait_moved(active)
        time.sleep(self._plan.after_s)
        self._progress.step(f"{active} returns")
        self._progress.note(f"$ kubectl uncordon {active}")
        self._progress.note(f"$ kubectl label node {active} {key}={value}")
        with self._timed(f"{active} returns"):
            self._uncordon()
            self._ledger.set_label(self._client, active, key, value)
        time.sleep(self._plan.after_s)

    def _wait_moved(self, active: str) -> None:
        def moved() -> str | waits.Pending:
            now = self._active()
            return now if now and now != active else waits.Pending(f"still {now or 'nobody'}")

        waits.wait_for("another node to be active", moved, timeout_s=self._plan.timeout_s, interval_s=LOOK_S)

    def _cordon(self, node: str) -> None:
        self._cordoned = node
        self._client.merge(NODES, node, {"spec": {"unschedulable": True}})

    def _uncordon(self) -> None:
        if self._cordoned is not None:
            self._client.merge(NODES, self._cordoned, {"spec": {"unschedulable": None}})
            self._cordoned = None

    @contextmanager
    def _timed(self, title: str) -> Iterator[None]:
        begun = time.time_ns()
        yield
        self._events.append(Event(title, begun, time.time_ns()))

    # The end

    def _undo(self) -> None:
        if self._broken is not None:
            self._broken.undo()
            # What could not be done at all leaves nothing that would have to come back.
            self._healed, self._broken = self._broken if self._struck else None, None

    def _put_back(self) -> None:
        """Heal and remove everything; what cannot be undone is told, and the rest goes on."""
        self._progress.step("healing, cleaning up")
        failures: list[EgresslabError] = []
        with uninterrupted():
            for task in (self._undo, self._wait_api, self._uncordon, self._remove, self._wait_ready):
                try:
                    task()
                except EgresslabError as error:
                    failures.append(error)
        if failures:
            raise LabError(
                f"not everything could be put back: {failures[0]}",
                object=f"drill {self._run}",
                fix="egresslab fault list; egresslab fault heal NODE",
            ) from failures[0]

    def _wait_api(self) -> None:
        waits.wait_for(
            "the API server to answer", lambda: self._client.list(NODES), timeout_s=API_BACK_S * self._client.patience
        )

    def _remove(self) -> None:
        for _ in self._ledger.clear(self._client):
            pass

        def gone() -> bool | waits.Pending:
            left = self._client.find(NAMESPACES, self._namespace)
            return left is None or waits.Pending(left.get("status"))

        waits.wait_for(f"namespace {self._namespace} to be gone", gone, timeout_s=GONE_S * self._client.patience)

    def _wait_ready(self) -> None:
        def ready() -> bool | waits.Pending:
            missing = [n.name for n in map(nodes.node, self._client.list(NODES)) if not n.ready]
            return not missing or waits.Pending(f"not Ready: {', '.join(missing)}")

        waits.wait_for("every node to be Ready", ready, timeout_s=NODE_BACK_S * self._client.patience)
        if self._healed is not None:
            self._healed.settle()


def measure(
    observation: Observation, since: int, strangers: dict[str, int] | None = None, owners: Owners | None = None
) -> Measured:
    """Everything that traffic tells of an event that was begun at `since`, ns since the epoch."""
    losses = {protocol: gaps.loss(observation, protocol, since) for protocol in GATEWAY_TRAFFIC}
    silence = losses[Protocol.UDP].gap
    return Measured(
        min(flow.questions[0].sent for flow in observation.flows if flow.questions),
        observation.end,
        losses,
        gaps.connections(observation, since, silence.start if silence else None),
        gaps.seen(observation),
        strangers,
        owners,
        gaps.loss(observation, Protocol.CONTROL, since),
        max((ms for at, ms in observation.late if at >= since), default=0.0),
    )
