"""Nodes that stop reporting or vanish, with less patience than Kubernetes has by default."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from egresslab.api.resources import NODES, PODS, Object
from egresslab.cluster.controllers import Settings
from egresslab.cluster.controllers.nodehealth import readiness
from tests.cluster.controllers.conftest import Cluster, daemonset, deployment, hollow_cluster

SETTINGS = Settings(node_grace_s=1.5, orphan_quarantine_s=0.3)
IMPATIENT = [
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}
    for key in ("not-ready", "unreachable")
]


@pytest.fixture
async def beating(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster whose nodes report, except those that a test puts among the silent."""
    async with hollow_cluster(tmp_path, SETTINGS) as cluster:

        async def beat() -> None:
            while True:
                for name in cluster.kubelets.names:
                    if name not in cluster.kubelets.silent:
                        await cluster.kubelets.heartbeat(name)
                await asyncio.sleep(0.3)

        task = asyncio.create_task(beat())
        yield cluster
        task.cancel()


def taints(node: Object) -> set[tuple[str, str]]:
    return {(item["key"].rpartition("/")[2], item["effect"]) for item in node["spec"].get("taints") or ()}


def named(items: list[Object], name: str) -> Object:
    return next(item for item in items if item["metadata"]["name"] == name)


async def test_a_silent_node_loses_its_pods_to_others_and_gets_new_ones_when_it_returns(beating: Cluster) -> None:
    await beating.apply(deployment("web", 4, pod={"tolerations": IMPATIENT}), daemonset("agent"))
    await beating.kubelets.until("all run", lambda: len(beating.kubelets.running()) == 8)
    beating.kubelets.silent.add("n1")
    nodes = await beating.until(NODES, lambda items: len(taints(named(items, "n1"))) == 2)
    assert readiness(named(nodes, "n1")) == "Unknown"
    assert taints(named(nodes, "n1")) == {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}
    await beating.kubelets.until(
        "four pods elsewhere",
        lambda: (
            sorted(pod["spec"]["nodeName"] for pod in beating.kubelets.running(app="web")) == ["n0", "n0", "n2", "n3"]
        ),
    )
    [stranded] = [
        pod for pod in beating.kubelets.pods if pod["spec"].get("nodeName") == "n1" and pod in terminating(beating)
    ]
    assert stranded["metadata"]["labels"]["app"] == "web", "it stays until its kubelet or the node's end says otherwise"
    pods = await beating.until(
        PODS, lambda items: all(not ready(pod) for pod in items if pod["spec"].get("nodeName") == "n1")
    )
    assert any(pod["metadata"]["labels"]["app"] == "agent" and not ready(pod) for pod in pods), "daemons stay, in doubt"
    beating.kubelets.silent.clear()
    await beating.until(NODES, lambda items: not taints(named(items, "n1")))
    reasons = await beating.kubectl("get", "events", "-A", "-o", "jsonpath={.items[*].reason}")
    assert {"NodeNotReady", "TaintManagerEviction"} <= set(reasons.split())


async def test_the_pods_of_a_deleted_node_are_cleared_away(beating: Cluster) -> None:
    await beating.apply(deployment("web", 4), daemonset("agent"))
    await beating.kubelets.until("all run", lambda: len(beating.kubelets.running()) == 8)
    beating.kubelets.silent.add("n2")
    await beating.kubectl("delete", "node", "n2")
    await beating.kubelets.until(
        "nothing on n2",
        lambda: (
            len(beating.kubelets.running(app="web")) == 4
            and len(beating.kubelets.running(app="agent")) == 3
            and all(pod["spec"].get("nodeName") != "n2" for pod in beating.kubelets.pods)
        ),
    )


async def test_nobody_is_evicted_when_no_node_is_heard(beating: Cluster) -> None:
    await beating.apply(deployment("web", 4, pod={"tolerations": IMPATIENT}))
    await beating.kubelets.until("all run", lambda: len(beating.kubelets.running()) == 4)
    before = {pod["metadata"]["uid"] for pod in beating.kubelets.pods}
    beating.kubelets.silent.update(beating.kubelets.names)
    nodes = await beating.until(
        NODES,
        lambda items: all(taints(node) == {("unreachable", "NoSchedule")} for node in items),
    )
    assert {readiness(node) for node in nodes} == {"Unknown"}
    assert {pod["metadata"]["uid"] for pod in beating.kubelets.pods if pod not in terminating(beating)} == before
    reasons = await beating.kubectl("get", "events", "-A", "-o", "jsonpath={.items[*].reason}")
    assert "TaintManagerEviction" not in reasons


async def test_no_execute_drives_pods_away_when_their_time_is_up(beating: Cluster) -> None:
    tolerations = [{"key": "maintenance", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]
    await beating.apply(
        deployment("patient", 1, pod={"tolerations": tolerations, "nodeSelector": {"kubernetes.io/hostname": "n0"}}),
        deployment("plain", 1, pod={"nodeSelector": {"kubernetes.io/hostname": "n0"}}),
    )
    await beating.kubelets.until("both run", lambda: len(beating.kubelets.running()) == 2)
    known = {pod["metadata"]["labels"]["app"]: pod["metadata"]["uid"] for pod in beating.kubelets.running()}
    order: list[str] = []

    def both_gone() -> bool:
        left = {pod["metadata"]["uid"] for pod in beating.kubelets.running()}
        order.extend(app for app, uid in known.items() if uid not in left and app not in order)
        return len(order) == 2

    watching = asyncio.create_task(beating.kubelets.until("both gone", both_gone))
    await beating.kubectl("taint", "node", "n0", "maintenance=yes:NoExecute")
    await watching
    assert order == ["plain", "patient"]


def terminating(cluster: Cluster) -> list[Object]:
    return [pod for pod in cluster.kubelets.pods if "deletionTimestamp" in pod["metadata"]]


def ready(pod: Object) -> bool:
    return any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"].get("conditions") or ())
