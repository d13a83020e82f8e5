"""What a node's readiness means for its conditions and taints. Pure; time is passed in."""

from __future__ import annotations

from datetime import datetime

from egresslab.api.resources import Object
from egresslab.cluster.controllers.podstate import condition
from egresslab.cluster.controllers.tolerations import NOT_READY, UNREACHABLE, UNSCHEDULABLE, Effect
from egresslab.cluster.events import timestamp

HEARTBEAT_CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
PRESSURES = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
MANAGED = (NOT_READY, UNREACHABLE, UNSCHEDULABLE, *PRESSURES.values())


def readiness(node: Object) -> str | None:
    """The status of the Ready condition: "True", "False", "Unknown", or None when it was never reported."""
    ready = condition(node, "Ready")
    return ready["status"] if ready is not None else None


def silent_conditions(node: Object, at: datetime) -> list[Object]:
    """The conditions to write on a node that has fallen silent."""
    written = []
    for name in HEARTBEAT_CONDITIONS:
        known = condition(node, name)
        if known is not None and known["status"] == "Unknown":
            continue
        written.append(
            {
                "type": name,
                "status": "Unknown",
                "reason": "NodeStatusUnknown" if known else "NodeStatusNeverUpdated",
                "message": f"Kubelet {'stopped posting' if known else 'never posted'} node status.",
                "lastHeartbeatTime": (known or {}).get("lastHeartbeatTime")
                or node["metadata"].get("creationTimestamp"),
                "lastTransitionTime": timestamp(at),
            }
        )
    return written


def taints_due(node: Object, *, evicting: bool, at: datetime) -> list[Object] | None:
    """All taints the node should have, in the order it has them, or None when they are right already.

    Without `evicting` nothing gets NoExecute: when no node is healthy, it is more likely that the control plane has
    lost its network than that all nodes are dead (Kubernetes "Nodes", "Rate limits on eviction").
    """
    known = (node.get("spec") or {}).get("taints") or []
    wanted = _wanted(node, evicting)
    kept = [item for item in known if item["key"] not in MANAGED or (item["key"], item["effect"]) in wanted]
    present = {(item["key"], item["effect"]) for item in kept}
    added = []
    for key, effect in wanted:
        if (key, effect) not in present:
            taint: Object = {"key": key, "effect": effect}
            if effect == Effect.NO_EXECUTE or key == UNSCHEDULABLE:
                taint["timeAdded"] = timestamp(at)
            added.append(taint)
    return [*kept, *added] if added or len(kept) != len(known) else None


def _wanted(node: Object, evicting: bool) -> list[tuple[str, str]]:
    wanted: list[tuple[str, str]] = []
    ready = readiness(node)
    if ready != "True":
        key = UNREACHABLE if ready == "Unknown" else NOT_READY
        wanted.append((key, Effect.NO_SCHEDULE.value))
        if evicting and ready is not None:
            wanted.append((key, Effect.NO_EXECUTE.value))
    for name, key in PRESSURES.items():
        known = condition(node, name)
        if known is not None and known["status"] == "True":
            wanted.append((key, Effect.NO_SCHEDULE.value))
    if (node.get("spec") or {}).get("unschedulable"):
        wanted.append((UNSCHEDULABLE, Effect.NO_SCHEDULE.value))
    return wanted
