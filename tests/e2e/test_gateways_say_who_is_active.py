"""Statuses and Events of gateways on a running lab: both dialects, a cordon, a cable that is pulled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import kubernetes
import pytest

from egresslab.environments.base import Fault, FaultKind
from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.lab import Lab

NODES = ("lab-worker2", "lab-worker3")
SELECTOR = {"kubernetes.io/hostname": NODES[1]}
OURS: dict[str, Any] = {
    "apiVersion": "egresslab.dev/v1alpha1",
    "kind": "EgressGateway",
    "metadata": {"name": "said"},
    "spec": {
        "nodeSelector": {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [*NODES]}]},
        "source": {"interface": "eth1"},
    },
}
DECKHOUSE: dict[str, Any] = {
    "apiVersion": "network.deckhouse.io/v1alpha1",
    "kind": "EgressGateway",
    "metadata": {"name": "said"},
    "spec": {
        "nodeSelector": SELECTOR,
        "sourceIP": {"mode": "VirtualIPAddress", "virtualIPAddress": {"ip": "192.168.60.210"}},
    },
}


@pytest.fixture
def client(environment: NetnsEnvironment) -> Iterator[Any]:
    found = kubernetes.config.new_client_from_config(str(environment.kubeconfig()))
    yield found
    core = kubernetes.client.CoreV1Api(found)
    for node in NODES:
        core.patch_node(node, {"spec": {"unschedulable": None}})
        environment.heal(node)


def status(client: Any, gateway: dict[str, Any]) -> dict[str, Any]:
    group, version = gateway["apiVersion"].split("/")
    api = kubernetes.client.CustomObjectsApi(client)
    return dict(api.get_cluster_custom_object(group, version, "egressgateways", "said").get("status") or {})


def told(client: Any, reason: str) -> list[str]:
    events = kubernetes.client.CoreV1Api(client).list_namespaced_event("default").items
    return [e.message for e in events if e.reason == reason and e.involved_object.name == "said"]


def active(client: Any, gateway: dict[str, Any], *wanted: str) -> Callable[[], bool]:
    field = "activeNode" if gateway is OURS else "activeNodeName"
    return lambda: status(client, gateway).get(field) in wanted


def test_status_follows_the_holder_and_says_why(lab: Lab, environment: NetnsEnvironment, client: Any) -> None:
    lab.apply([OURS, DECKHOUSE])
    lab.wait_for("our active node", active(client, OURS, *NODES), timeout_s=20)
    lab.wait_for("Deckhouse's active node", active(client, DECKHOUSE, NODES[1]), timeout_s=20)
    first = status(client, OURS)["activeNode"]
    other = next(node for node in NODES if node != first)

    kubernetes.client.CoreV1Api(client).patch_node(first, {"spec": {"unschedulable": True}})
    lab.wait_for(f"{other} active", active(client, OURS, other), timeout_s=20)
    lab.wait_for("the event", lambda: told(client, "Moved"), timeout_s=10)
    assert f"from {first} to {other} (NoLongerEligible" in told(client, "Moved")[0]
    assert {"node": first, "role": "Ineligible", "reason": "is cordoned"} in status(client, OURS)["candidates"]

    kubernetes.client.CoreV1Api(client).patch_node(first, {"spec": {"unschedulable": None}})
    lab.wait_for("two ready nodes", lambda: status(client, OURS)["readyNodes"] == 2, timeout_s=20)
    environment.break_(Fault(FaultKind.CUT, other, "public"))
    lab.wait_for(f"{first} active", active(client, OURS, first), timeout_s=20)

    def reason() -> bool:
        found = {item["node"]: item.get("reason") for item in status(client, OURS)["candidates"]}
        return bool(found[other] == "has no link on eth1")

    lab.wait_for("the reason", reason, timeout_s=20)
    assert status(client, OURS)["lastFailover"]["to"] == first
