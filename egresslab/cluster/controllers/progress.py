"""A Deployment's status: its counts, whether it is available and whether it progresses. Pure; the clock is passed in.

`kubectl rollout status` reads exactly this.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from egresslab.api.resources import Object
from egresslab.cluster.controllers.podstate import condition, moment
from egresslab.cluster.controllers.rollout import Bounds
from egresslab.cluster.events import timestamp

DONE = "NewReplicaSetAvailable"
LATE = "ProgressDeadlineExceeded"
NO_DEADLINE_S = 2**31 - 1
"""Kubernetes takes this progressDeadlineSeconds for "none"."""


def status(
    deployment: Object, bounds: Bounds, current: Object | None, sets: Sequence[Object], at: datetime
) -> tuple[Object, float | None]:
    """The status of `deployment` with all its ReplicaSets, and in how many seconds its deadline passes, if it may."""
    counts = _counts(deployment, bounds, current, sets)
    conditions = {item["type"]: item for item in (deployment.get("status") or {}).get("conditions") or ()}
    available = counts["availableReplicas"] >= bounds.desired - bounds.max_unavailable
    _set(
        conditions,
        "Available",
        "True" if available else "False",
        "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable",
        f"Deployment {'has' if available else 'does not have'} minimum availability.",
        at,
    )
    wait_s = _progress(deployment, bounds, current, counts, conditions, at)
    failure = condition(current, "ReplicaFailure") if current else None
    conditions.pop("ReplicaFailure", None)
    if failure is not None:
        conditions["ReplicaFailure"] = failure
    return {**counts, "conditions": list(conditions.values())}, wait_s


def is_complete(deployment: Object, counts: Object) -> bool:
    """Whether all pods are new and available, and no old ones are left."""
    desired = deployment["spec"].get("replicas", 1)
    return bool(
        counts["updatedReplicas"] == desired == counts["replicas"]
        and counts["availableReplicas"] == desired
        and counts["observedGeneration"] >= deployment["metadata"].get("generation", 0)
    )


def _counts(deployment: Object, bounds: Bounds, current: Object | None, sets: Sequence[Object]) -> Object:
    def total(field: str, items: Sequence[Object]) -> int:
        return sum((item.get("status") or {}).get(field) or 0 for item in items)

    available = total("availableReplicas", sets)
    return {
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "replicas": total("replicas", sets),
        "updatedReplicas": total("replicas", [current] if current else []),
        "readyReplicas": total("readyReplicas", sets),
        "availableReplicas": available,
        "unavailableReplicas": max(0, sum(item["spec"].get("replicas", 1) for item in sets) - available),
        "terminatingReplicas": total("terminatingReplicas", sets),
        "collisionCount": (deployment.get("status") or {}).get("collisionCount"),
    }


def _progress(
    deployment: Object,
    bounds: Bounds,
    current: Object | None,
    counts: Object,
    conditions: dict[str, Object],
    at: datetime,
) -> float | None:
    spec, known = deployment["spec"], conditions.get("Progressing")
    if spec.get("paused"):
        _set(conditions, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", at)
        return None
    if known is not None and known["reason"] == "DeploymentPaused":
        _set(conditions, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", at)
        known = conditions["Progressing"]
    settled = known is not None and known["reason"] == DONE and counts["replicas"] == counts["updatedReplicas"]
    if settled or current is None:
        return None
    name = f'ReplicaSet "{current["metadata"]["name"]}"'
    before = deployment.get("status") or {}
    if is_complete(deployment, counts):
        _set(conditions, "Progressing", "True", DONE, f"{name} has successfully progressed.", at)
        return None
    if known is None or name not in known["message"]:
        # Another template than the one the condition speaks of: the clock starts anew.
        _set(conditions, "Progressing", "True", *_begun(current, name), at, renewed=True)
    elif _advanced(before, counts) or known["reason"] == DONE:
        _set(conditions, "Progressing", "True", "ReplicaSetUpdated", f"{name} is progressing.", at, renewed=True)
    deadline_s = spec.get("progressDeadlineSeconds", NO_DEADLINE_S)
    state = conditions["Progressing"]
    if deadline_s >= NO_DEADLINE_S or state["reason"] == LATE:
        return None
    since = moment(state.get("lastUpdateTime")) or at
    left_s = (since + timedelta(seconds=deadline_s) - at).total_seconds()
    if left_s > 0:
        return left_s
    _set(conditions, "Progressing", "False", LATE, f"{name} has timed out progressing.", at)
    return None


def _begun(current: Object, name: str) -> tuple[str, str]:
    if (current.get("status") or {}).get("observedGeneration"):
        return "FoundNewReplicaSet", f"Found new {name}"
    return "NewReplicaSetCreated", f"Created new {name}"


def _advanced(before: Object, counts: Object) -> bool:
    def was(field: str) -> int:
        return before.get(field) or 0

    return bool(
        counts["updatedReplicas"] > was("updatedReplicas")
        or counts["replicas"] - counts["updatedReplicas"] < was("replicas") - was("updatedReplicas")
        or counts["readyReplicas"] > was("readyReplicas")
        or counts["availableReplicas"] > was("availableReplicas")
    )


def _set(
    conditions: dict[str, Object], name: str, state: str, reason: str, message: str, at: datetime, renewed: bool = False
) -> None:
    known = conditions.get(name)
    same = known is not None and (known["status"], known["reason"]) == (state, reason)
    if same and not renewed:
        return
    changed = known is None or known["status"] != state
    conditions[name] = {
        "type": name,
        "status": state,
        "reason": reason,
        "message": message,
        "lastUpdateTime": timestamp(at),
        "lastTransitionTime": timestamp(at) if changed or known is None else known["lastTransitionTime"],
    }
