"""A pod's status, computed from its spec and the states of its containers. Pure: no clock, no kernel, no API.

Words and rules are those of Kubernetes' kubelet, so that `kubectl get` and `kubectl describe` read as they do
elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from egresslab.api.resources import Object
from egresslab.cluster.node.config import Address
from egresslab.cluster.node.containers import Exit, Record

CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


@dataclass(slots=True)
class ContainerState:
    """What is known of one container of a pod: why it waits, the run that is on or ended, and the run before."""

    name: str
    image: str
    waiting: tuple[str, str] = ("ContainerCreating", "")
    run: Record | None = None
    exit: Exit | None = None
    last: tuple[Record, Exit] | None = None
    restarts: int = 0
    started: bool = False
    ready: bool = False

    @property
    def running(self) -> bool:
        """Whether a run is on."""
        return self.run is not None and self.exit is None

    @property
    def terminated(self) -> bool:
        """Whether the latest run has ended and no other is waiting to start."""
        return self.run is not None and self.exit is not None


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What a status is computed from; `states` and `init_states` are in the order of the spec, `now` is the present."""

    pod: Object
    states: Sequence[ContainerState]
    init_states: Sequence[ContainerState]
    host_addresses: tuple[Address, ...]
    addresses: tuple[Address, ...]
    sandbox_ready: bool
    start_time: str
    now: datetime
    sidecars: frozenset[str] = field(default=frozenset())


def timestamp(nanoseconds: int) -> str:
    """`metav1.Time` of nanoseconds of the epoch."""
    return datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def container_id(record: Record) -> str:
    """ID as in a container status: runtime and number."""
    return f"bubblewrap://{record.id}"


def _terminated(record: Record, exit: Exit) -> Object:
    state: Object = {
        "exitCode": exit.code,
        "reason": exit.reason,
        "startedAt": timestamp(record.started_ns),
        "finishedAt": timestamp(exit.finished_ns),
        "containerID": container_id(record),
    }
    return {"terminated": state | ({"message": exit.message} if exit.message else {})}


def container_status(state: ContainerState) -> Object:
    """One entry of containerStatuses."""
    if state.run is None:
        reason, message = state.waiting
        current: Object = {"waiting": {"reason": reason} | ({"message": message} if message else {})}
    elif state.exit is None:
        current = {"running": {"startedAt": timestamp(state.run.started_ns)}}
    else:
        current = _terminated(state.run, state.exit)
    shown = state.run or (state.last[0] if state.last else None)
    return {
        "name": state.name,
        "state": current,
        "lastState": _terminated(*state.last) if state.last else {},
        "ready": state.ready,
        "started": state.started,
        "restartCount": state.restarts,
        "image": state.image,
        "imageID": shown.image_id if shown else "",
        **({"containerID": container_id(shown)} if shown else {}),
    }


def _initialized(facts: PodFacts) -> bool:
    return all(_init_done(state, facts) for state in facts.init_states)


def _init_done(state: ContainerState, facts: PodFacts) -> bool:
    if state.name in facts.sidecars:
        return state.started
    return state.exit is not None and state.exit.code == 0


def phase(facts: PodFacts) -> str:
    """Pending, Running, Succeeded or Failed (kubelet's rules)."""
    policy = facts.pod["spec"].get("restartPolicy") or "Always"
    if not _initialized(facts):
        failed = any(state.terminated and state.exit and state.exit.code for state in facts.init_states)
        never_ran = all(state.run is None and state.last is None for state in facts.states)
        if never_ran:
            return "Failed" if failed and policy == "Never" else "Pending"
    if any(state.run is None and state.last is None for state in facts.states):
        return "Pending"
    if any(state.running for state in facts.states):
        return "Running"
    if policy == "Always" or any(state.run is None for state in facts.states):
        return "Running"
    if all(state.exit is not None and state.exit.code == 0 for state in facts.states):
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def _conditions(facts: PodFacts, current_phase: str) -> dict[str, tuple[bool, str, str]]:
    """Condition -> (status, reason, message)."""
    unready = [state.name for state in facts.states if not state.ready]
    incomplete = [state.name for state in facts.init_states if not _init_done(state, facts)]
    if current_phase == "Succeeded":
        initialized, ready = (True, "PodCompleted", ""), (False, "PodCompleted", "")
    elif current_phase == "Failed":
        initialized, ready = (not incomplete, "", ""), (False, "PodFailed", "")
    else:
        text = f"containers with incomplete status: [{' '.join(incomplete)}]"
        initialized = (False, "ContainersNotInitialized", text) if incomplete else (True, "", "")
        text = f"containers with unready status: [{' '.join(unready)}]"
        ready = (False, "ContainersNotReady", text) if unready else (True, "", "")
    return {
        "PodReadyToStartContainers": (facts.sandbox_ready, "", ""),
        "Initialized": initialized,
        "Ready": _gated(facts.pod, ready),
        "ContainersReady": ready,
        "PodScheduled": (True, "", ""),
    }


def _gated(pod: Object, ready: tuple[bool, str, str]) -> tuple[bool, str, str]:
    known = {item["type"]: item["status"] for item in (pod.get("status") or {}).get("conditions") or []}
    for gate in pod["spec"].get("readinessGates") or []:
        if ready[0] and known.get(gate["conditionType"]) != "True":
            text = f'corresponding condition of pod readiness gate "{gate["conditionType"]}" is not "True".'
            return False, "ReadinessGatesNotReady", text
    return ready


def _merged(previous: Sequence[Object], wanted: Mapping[str, tuple[bool, str, str]], now: str) -> list[Object]:
    """Conditions with the time of their last change; those of others stay as they are."""
    before = {item["type"]: item for item in previous}
    result = []
    for kind in CONDITIONS:
        truth, reason, message = wanted[kind]
        status, old = str(truth), before.get(kind)
        changed = old is None or old.get("status") != status
        condition: Object = {
            "type": kind,
            "status": status,
            "lastProbeTime": None,
            "lastTransitionTime": now if changed or old is None else old.get("lastTransitionTime"),
        }
        condition |= {"reason": reason} if reason else {}
        condition |= {"message": message} if message else {}
        result.append(condition)
    return result + [item for item in previous if item["type"] not in wanted]


def qos_class(pod: Object) -> str:
    """Guaranteed, Burstable or BestEffort, by what the containers ask for."""
    asked: list[tuple[Any, Any]] = []
    for container in pod["spec"]["containers"]:
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            asked.append((requests.get(name, limits.get(name)), limits.get(name)))
    if all(request is None and limit is None for request, limit in asked):
        return "BestEffort"
    return "Guaranteed" if all(limit is not None and request == limit for request, limit in asked) else "Burstable"


def pod_status(facts: PodFacts, previous: Object) -> Object:
    """The whole status; `previous` is the one that the API server has, for the times of conditions."""
    current_phase = phase(facts)
    now = facts.now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    hosts = [str(address) for address in facts.host_addresses]
    addresses = [str(address) for address in facts.addresses]
    status: Object = {
        "phase": current_phase,
        "conditions": _merged(previous.get("conditions") or [], _conditions(facts, current_phase), now),
        "hostIP": hosts[0],
        "hostIPs": [{"ip": address} for address in hosts],
        "startTime": facts.start_time,
        "qosClass": qos_class(facts.pod),
        "containerStatuses": [container_status(state) for state in facts.states],
    }
    if addresses:
        status |= {"podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]}
    if facts.init_states:
        status["initContainerStatuses"] = [container_status(state) for state in facts.init_states]
    return status
