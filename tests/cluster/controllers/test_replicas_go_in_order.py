"""ReplicaSets: how many pods to add or take away, and which go first."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from egresslab.cluster.controllers.replicas import status, step

Object = dict[str, Any]


def pod(
    name: str,
    *,
    phase: str = "Running",
    node: str | None = "n1",
    ready: str | None = "2029-01-01T00:00:00Z",
    created: str = "2029-01-01T00:00:00Z",
    cost: str | None = None,
    restarts: int = 0,
) -> Object:
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": ready}] if ready else []
    annotations = {"controller.kubernetes.io/pod-deletion-cost": cost} if cost else {}
    return {
        "metadata": {"name": name, "uid": name, "creationTimestamp": created, "annotations": annotations, "labels": {}},
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, "conditions": conditions, "containerStatuses": [{"restartCount": restarts}]},
    }


def order(*pods: Object) -> list[str]:
    return [item["metadata"]["name"] for item in step(0, pods).delete]


def test_finished_and_terminating_pods_are_replaced() -> None:
    going = pod("going")
    going["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    assert step(3, [pod("a"), pod("failed", phase="Failed"), going]).create == 2
    assert step(1, [pod("a"), pod("failed", phase="Failed"), going]) == step(1, [pod("a")])


def test_the_least_useful_pod_goes_first() -> None:
    assert order(
        pod("ready"),
        pod("unready", ready=None),
        pod("pending", phase="Pending", ready=None),
        pod("unbound", phase="Pending", node=None, ready=None),
    ) == ["unbound", "pending", "unready", "ready"]


def test_equally_useful_pods_go_by_cost_then_crowd_then_youth() -> None:
    assert order(pod("dear", cost="5"), pod("cheap", cost="-1"), pod("plain")) == ["cheap", "plain", "dear"]
    assert order(pod("alone", node="n2"), pod("one"), pod("two", restarts=3))[-1] == "alone"
    late = "2029-06-01T00:00:00Z"
    assert order(pod("old"), pod("readied-late", ready=late), pod("shaky", restarts=2)) == [
        "readied-late",
        "shaky",
        "old",
    ]


def test_a_pod_is_available_when_it_has_been_ready_long_enough() -> None:
    owner = {"metadata": {"generation": 2}, "spec": {"minReadySeconds": 10, "template": {}}}
    pods = [pod("old"), pod("fresh", ready="2029-12-31T23:59:56Z"), pod("unready", ready=None)]
    result, wait_s = status(owner, pods, datetime(2030, 1, 1, tzinfo=UTC), None)
    assert (result["replicas"], result["readyReplicas"], result["availableReplicas"], wait_s) == (3, 2, 1, 6.0)
