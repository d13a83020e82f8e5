"""Deployments and DaemonSets as kubectl's users see them, on a real API server."""

from __future__ import annotations

from egresslab.api.resources import DAEMONSETS, DEPLOYMENTS, EVENTS, NODES, PODS, REPLICASETS, Object
from tests.cluster.controllers.conftest import Cluster, daemonset, deployment


def images(pods: list[Object]) -> set[str]:
    return {pod["spec"]["containers"][0]["image"] for pod in pods}


async def test_a_deployment_comes_up_rolls_out_and_goes_back(cluster: Cluster) -> None:
    await cluster.apply(deployment("web"))
    assert "successfully rolled out" in await cluster.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    [web] = await cluster.until(DEPLOYMENTS, lambda items: items[0]["status"].get("availableReplicas") == 3)
    assert {item["type"]: item["reason"] for item in web["status"]["conditions"]} == {
        "Available": "MinimumReplicasAvailable",
        "Progressing": "NewReplicaSetAvailable",
    }
    assert len({pod["spec"]["nodeName"] for pod in cluster.kubelets.running(app="web")}) == 3
    await cluster.kubectl("set", "image", "deploy/web", "main=busybox:2")
    await cluster.kubectl("annotate", "deploy/web", "kubernetes.io/change-cause=second")
    await cluster.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    assert images(cluster.kubelets.running(app="web")) == {"busybox:2"}
    history = await cluster.kubectl("rollout", "history", "deploy/web")
    assert [line.split() for line in history.strip().splitlines()[2:]] == [["1", "<none>"], ["2", "second"]]
    await cluster.kubectl("rollout", "undo", "deploy/web")
    await cluster.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    assert images(cluster.kubelets.running(app="web")) == {"busybox:1"}
    sets, _ = await cluster.api.list(REPLICASETS)
    revisions = {item["metadata"]["annotations"]["deployment.kubernetes.io/revision"] for item in sets}
    assert revisions == {"2", "3"}
    events, _ = await cluster.api.list(EVENTS)
    assert {"ScalingReplicaSet", "SuccessfulCreate", "SuccessfulDelete", "Scheduled"} <= {
        event["reason"] for event in events
    }


async def test_restart_scale_pause_and_resume(cluster: Cluster) -> None:
    await cluster.apply(deployment("web", 2))
    await cluster.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    before = {pod["metadata"]["uid"] for pod in cluster.kubelets.running(app="web")}
    await cluster.kubectl("rollout", "restart", "deploy/web")
    await cluster.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    assert before.isdisjoint(pod["metadata"]["uid"] for pod in cluster.kubelets.running(app="web"))
    await cluster.kubectl("rollout", "pause", "deploy/web")
    await cluster.kubectl("set", "image", "deploy/web", "main=busybox:2")
    await cluster.kubectl("scale", "deploy/web", "--replicas=5")
    await cluster.kubelets.until("five pods", lambda: len(cluster.kubelets.running(app="web")) == 5)
    assert images(cluster.kubelets.running(app="web")) == {"busybox:1"}
    await cluster.kubectl("rollout", "resume", "deploy/web")
    await cluster.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    assert images(cluster.kubelets.running(app="web")) == {"busybox:2"}
    assert len(cluster.kubelets.running(app="web")) == 5


async def test_recreate_never_runs_two_templates_at_once(cluster: Cluster) -> None:
    mixed = []

    def no_two() -> bool:
        found = images([pod for pod in cluster.kubelets.pods if "app" in pod["metadata"].get("labels", {})])
        mixed.append(len(found) > 1)
        return found == {"busybox:2"} and len(cluster.kubelets.running(app="web")) == 3

    await cluster.apply(deployment("web", strategy={"type": "Recreate"}))
    await cluster.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    await cluster.kubectl("set", "image", "deploy/web", "main=busybox:2")
    await cluster.kubelets.until("only new pods", no_two)
    assert not any(mixed)


async def test_a_pod_that_is_deleted_or_relabelled_is_replaced_and_an_orphan_is_adopted(cluster: Cluster) -> None:
    await cluster.apply(deployment("web", 2))
    await cluster.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    first, second = cluster.kubelets.running(app="web")
    await cluster.kubectl("delete", "pod", first["metadata"]["name"])
    await cluster.kubectl("label", "pod", second["metadata"]["name"], "app=quarantine", "--overwrite")
    known = {first["metadata"]["uid"], second["metadata"]["uid"]}
    await cluster.kubelets.until(
        "two new pods",
        lambda: len([p for p in cluster.kubelets.running(app="web") if p["metadata"]["uid"] not in known]) == 2,
    )
    [released] = cluster.kubelets.running(app="quarantine")
    assert "ownerReferences" not in released["metadata"]
    await cluster.kubectl("label", "pod", second["metadata"]["name"], "app=web", "--overwrite")
    await cluster.kubelets.until("two pods again", lambda: len(cluster.kubelets.running(app="web")) == 2)


async def test_a_daemonset_follows_the_nodes(cluster: Cluster) -> None:
    await cluster.apply(daemonset("agent"))
    await cluster.kubectl("rollout", "status", "ds/agent", "--timeout=30s")
    await cluster.kubectl("taint", "node", "n1", "maintenance=yes:NoExecute")
    await cluster.kubectl("cordon", "n2")
    await cluster.until(DAEMONSETS, lambda items: items[0]["status"]["desiredNumberScheduled"] == 3)
    await cluster.kubelets.until(
        "no daemon on n1",
        lambda: {pod["spec"]["nodeName"] for pod in cluster.kubelets.running(app="agent")} == {"n0", "n2", "n3"},
    )
    await cluster.kubectl("taint", "node", "n1", "maintenance-")
    await cluster.kubectl("set", "image", "ds/agent", "main=busybox:2")
    await cluster.kubectl("rollout", "status", "ds/agent", "--timeout=30s")
    running = cluster.kubelets.running(app="agent")
    assert sorted(pod["spec"]["nodeName"] for pod in running) == ["n0", "n1", "n2", "n3"]
    assert images(running) == {"busybox:2"}
    await cluster.kubectl("rollout", "undo", "ds/agent")
    await cluster.kubectl("rollout", "status", "ds/agent", "--timeout=30s")
    assert images(cluster.kubelets.running(app="agent")) == {"busybox:1"}
    assert len((await cluster.kubectl("rollout", "history", "ds/agent")).strip().splitlines()) == 4


async def test_a_pod_waits_for_the_label_that_it_asks_for(cluster: Cluster) -> None:
    await cluster.apply(deployment("picky", 1, pod={"nodeSelector": {"egress-node": "true"}}))
    [pod] = await cluster.until(PODS, lambda items: bool(items) and bool(items[0]["status"].get("conditions")))
    assert pod["status"]["conditions"][0] | {"lastTransitionTime": None} == {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": (
            "0/4 nodes are available: 4 node(s) didn't match Pod's node affinity/selector. "
            "preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling."
        ),
        "lastTransitionTime": None,
    }
    assert "FailedScheduling" in await cluster.kubectl("describe", "pod", pod["metadata"]["name"])
    await cluster.kubectl("label", "node", "n2", "egress-node=true")
    await cluster.kubelets.until("running on n2", lambda: len(cluster.kubelets.running(app="picky")) == 1)
    assert cluster.kubelets.running(app="picky")[0]["spec"]["nodeName"] == "n2"


async def test_a_pod_follows_the_pods_it_wants_to_be_with(cluster: Cluster) -> None:
    selector = {"matchExpressions": [{"key": "app", "operator": "In", "values": ["mediabot"]}]}
    term = {"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"}
    affinity = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    await cluster.apply(deployment("egress-ip-assign", 1, pod={"affinity": affinity, "hostNetwork": True}))
    await cluster.until(PODS, lambda items: bool(items) and bool(items[0]["status"].get("conditions")))
    await cluster.apply(deployment("mediabot", 1, pod={"nodeSelector": {"kubernetes.io/hostname": "n3"}}))
    await cluster.kubelets.until("both run", lambda: len(cluster.kubelets.running()) == 2)
    assert {pod["spec"]["nodeName"] for pod in cluster.kubelets.running()} == {"n3"}


async def test_cordon_and_drain_move_pods_and_leave_daemons(cluster: Cluster) -> None:
    await cluster.apply(deployment("web", 4), daemonset("agent"))
    await cluster.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    await cluster.kubectl("rollout", "status", "ds/agent", "--timeout=30s")
    await cluster.kubectl("drain", "n1", "--ignore-daemonsets", "--timeout=30s")
    await cluster.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    on_n1 = [pod["metadata"]["labels"]["app"] for pod in cluster.kubelets.running() if pod["spec"]["nodeName"] == "n1"]
    assert on_n1 == ["agent"]
    nodes = await cluster.until(NODES, lambda items: any((item["spec"].get("taints")) for item in items))
    [taint] = next(node["spec"]["taints"] for node in nodes if node["metadata"]["name"] == "n1")
    assert (taint["key"], taint["effect"]) == ("node.kubernetes.io/unschedulable", "NoSchedule")
    await cluster.kubectl("uncordon", "n1")
    await cluster.until(NODES, lambda items: not any((item["spec"].get("taints")) for item in items))


async def test_one_object_that_cannot_be_read_stops_nothing(cluster: Cluster) -> None:
    odd = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "odd"},
        "status": {"allocatable": {"cpu": "plenty"}},
    }
    await cluster.api.create(NODES, odd)
    await cluster.apply(deployment("web", 2))
    await cluster.kubelets.until("both run", lambda: len(cluster.kubelets.running(app="web")) == 2)
    await cluster.kubectl("label", "node", "n1", "seen=yes")
    assert "Traceback" in (cluster.server.directory / "server.log").read_text(), "but somebody is told"
