"""How many pods a ReplicaSet should add or take away, which ones go first, and what its status says. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from egresslab.api.resources import Object
from egresslab.api.selectors import parse_selector
from egresslab.cluster.controllers.podstate import (
    available_in_s,
    condition,
    is_active,
    is_ready,
    is_terminating,
    moment,
)

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
BURST = 500
"""At most so many pods are added or taken away at once (kube-controller-manager's burst)."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now: create `create` pods, delete `delete`."""

    create: int
    delete: tuple[Object, ...]


def step(desired: int, pods: Sequence[Object]) -> Step:
    """The step from `pods` (those owned) towards `desired` replicas; finished and terminating pods do not count."""
    active = [pod for pod in pods if is_active(pod)]
    surplus = len(active) - desired
    if surplus <= 0:
        return Step(min(-surplus, BURST), ())
    return Step(0, tuple(_victims(active)[: min(surplus, BURST)]))


def _victims(pods: Sequence[Object]) -> list[Object]:
    """In the order in which they go (Kubernetes "ReplicaSet", "Scaling down"), ties by name."""
    crowd = Counter(pod["spec"].get("nodeName") for pod in pods)
    far = datetime.max.replace(tzinfo=UTC)
    phases = {"Pending": 0, "Unknown": 1, "Running": 2}

    def rank(pod: Object) -> tuple[object, ...]:
        node, metadata, status = pod["spec"].get("nodeName"), pod["metadata"], pod.get("status") or {}
        ready = condition(pod, "Ready") if is_ready(pod) else None
        created = moment(metadata.get("creationTimestamp")) or far
        since = (moment(ready.get("lastTransitionTime")) or created) if ready else far
        restarts = max((item.get("restartCount", 0) for item in status.get("containerStatuses") or ()), default=0)
        return (
            node is not None,
            phases.get(status.get("phase") or "Pending", 0),
            ready is not None,
            _cost(pod),
            -crowd[node],
            far - since,
            -restarts,
            far - created,
            metadata["name"],
        )

    return sorted(pods, key=rank)


def _cost(pod: Object) -> int:
    try:
        return int((pod["metadata"].get("annotations") or {}).get(DELETION_COST, "0"))
    except ValueError:
        return 0


def status(owner: Object, pods: Sequence[Object], at: datetime, failure: Object | None) -> tuple[Object, float | None]:
    """The status of ReplicaSet `owner` with `pods`, and in how many seconds it changes by the passing of time alone.

    `failure` is a ReplicaFailure condition, None when there is nothing to complain of.
    """
    spec = owner["spec"]
    template = parse_selector({"matchLabels": (spec["template"].get("metadata") or {}).get("labels") or {}})
    active = [pod for pod in pods if is_active(pod)]
    waits = [available_in_s(pod, spec.get("minReadySeconds") or 0, at) for pod in active]
    result: Object = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(template.matches(pod["metadata"].get("labels") or {}) for pod in active),
        "readyReplicas": sum(wait is not None for wait in waits),
        "availableReplicas": sum(wait == 0 for wait in waits),
        "terminatingReplicas": sum(is_terminating(pod) for pod in pods),
        "observedGeneration": owner["metadata"].get("generation", 0),
        "conditions": [failure] if failure else None,
    }
    return result, min((wait for wait in waits if wait), default=None)
