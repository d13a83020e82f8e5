"""Statuses of our policies: pods, entries, and whether they are accepted, in force and uncontested."""

from __future__ import annotations

from typing import Any

from egresslab.api.resources import EGRESSLAB_GATEWAYS, EGRESSLAB_POLICIES, PODS, Object
from tests.operator.conftest import Cluster, condition, gateway, kubectl, until


def policy(name: str = "web", **spec: Any) -> Object:
    return {
        "apiVersion": "egresslab.dev/v1alpha1",
        "kind": "EgressGatewayPolicy",
        "metadata": {"name": name},
        "spec": {
            "egressGatewayName": "out",
            "selectors": [{"podSelector": {"matchLabels": {"app": "web"}}}],
            "destinationCIDRs": ["0.0.0.0/0"],
            "excludedCIDRs": ["10.0.0.0/8"],
            **spec,
        },
    }


async def pod(cluster: Cluster, name: str, address: str) -> None:
    body: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {"nodeName": "lab-worker", "containers": [{"name": "x", "image": "x"}]},
    }
    await cluster.apply(body, PODS)
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    await cluster.api.patch(PODS, name, {"status": status}, "default", subresource="status")


async def said(cluster: Cluster, kind: str, status: str, name: str = "web") -> Any:
    found = await cluster.status(EGRESSLAB_POLICIES, name)
    return found if condition(found, kind).get("status") == status else None


async def test_pods_and_entries_are_counted(cluster: Cluster) -> None:
    await cluster.node("lab-worker2", egress="true")
    await cluster.apply(gateway(), EGRESSLAB_GATEWAYS)
    await cluster.apply(policy(), EGRESSLAB_POLICIES)
    for number in (1, 2):
        await pod(cluster, f"web-{number}", f"10.244.1.{number}")
    async with cluster.operator():
        status = await until("the status", lambda: said(cluster, "Programmed", "True"))
        listed = kubectl(cluster.server, "get", "egressgatewaypolicies.egresslab.dev", "web").stdout
    assert (status["pods"], status["entries"]) == (2, 4)
    assert condition(status, "Accepted")["status"] == "True"
    assert condition(status, "Conflict")["status"] == "False"
    assert "2" in listed.splitlines()[1].split()


async def test_what_keeps_a_policy_from_working_is_said(cluster: Cluster) -> None:
    await cluster.apply(policy(), EGRESSLAB_POLICIES)
    await cluster.apply(policy("other", egressGatewayName="elsewhere", excludedCIDRs=[]), EGRESSLAB_POLICIES)
    await pod(cluster, "web-1", "10.244.1.1")
    async with cluster.operator():
        status = await until("the status", lambda: said(cluster, "Programmed", "False"))
        assert condition(status, "Programmed")["reason"] == "NoGatewayObject"
        await cluster.node("lab-worker2", egress="true")
        await cluster.apply(gateway(), EGRESSLAB_GATEWAYS)
        status = await until("the status", lambda: said(cluster, "Programmed", "True"))
        contested = condition(await until("a conflict", lambda: said(cluster, "Conflict", "True")), "Conflict")
        assert "EgressGatewayPolicy/other" in contested["message"]
        await cluster.agent("lab-worker", ready=False)
        status = await until("the status", lambda: said(cluster, "Programmed", "False"))
        assert condition(status, "Programmed")["message"] == "no agent is ready on lab-worker"
