"""The control plane is killed at random moments; afterwards everything is there, once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from egresslab.api.resources import DEPLOYMENTS, REPLICASETS, Object
from tests.cluster.controllers.conftest import Cluster, daemonset, deployment

KILLS = 3


async def crash_now_and_then(cluster: Cluster, rng: random.Random, longest_s: float = 0.25) -> None:
    """Kill -9 and start again, some times, after a moment that is not known to anyone."""
    for _ in range(KILLS):
        await asyncio.sleep(rng.uniform(0, longest_s))
        await asyncio.to_thread(cluster.server.kill)
        await asyncio.to_thread(cluster.server.start)


def controlled(pods: list[Object]) -> Counter[str]:
    """How many pods each owner has."""
    return Counter(pod["metadata"]["ownerReferences"][0]["uid"] for pod in pods)


@pytest.mark.parametrize("seed", [1, 2])
async def test_twenty_pods_are_made_once_however_often_the_maker_dies(cluster: Cluster, seed: int) -> None:
    await cluster.apply(deployment("web", 20), daemonset("agent"))
    await crash_now_and_then(cluster, random.Random(seed))
    await cluster.kubelets.until("all run", lambda: len(cluster.kubelets.running()) == 24, timeout_s=60)
    assert len(cluster.kubelets.seen) == 24, "each pod was made once and none was taken away again"
    assert all(len(nodes) == 1 for nodes in cluster.kubelets.bound_to.values())
    assert sorted(pod["spec"]["nodeName"] for pod in cluster.kubelets.running(app="agent")) == cluster.kubelets.names
    sets, _ = await cluster.api.list(REPLICASETS)
    assert len(sets) == 1


async def test_a_rollout_survives_its_control_plane(cluster: Cluster) -> None:
    await cluster.apply(deployment("web", 8, strategy={"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}}))
    await cluster.kubelets.until("all run", lambda: len(cluster.kubelets.running(app="web")) == 8)
    most: Counter[str] = Counter()

    def finished() -> bool:
        active = [pod for pod in cluster.kubelets.pods if "deletionTimestamp" not in pod["metadata"]]
        most.update({uid: max(0, count - most[uid]) for uid, count in controlled(active).items()})
        new = [pod for pod in active if pod["spec"]["containers"][0]["image"] == "busybox:2"]
        return len(new) == len(active) == 8 == len(cluster.kubelets.running(app="web"))

    watching = asyncio.create_task(cluster.kubelets.until("only new pods", finished, timeout_s=60))
    await cluster.kubectl("set", "image", "deploy/web", "main=busybox:2")
    await crash_now_and_then(cluster, random.Random(3))
    await watching
    assert all(count <= 8 for count in most.values())
    assert len(cluster.kubelets.seen) == 16, "eight old, eight new, and none in vain"
    await cluster.until(
        DEPLOYMENTS,
        lambda items: any(
            item["reason"] == "NewReplicaSetAvailable" for item in items[0]["status"].get("conditions", ())
        ),
    )
    sets, _ = await cluster.api.list(REPLICASETS)
    assert sorted(item["spec"]["replicas"] for item in sets) == [0, 8]


async def test_an_idle_cluster_writes_nothing(cluster: Cluster) -> None:
    await cluster.apply(deployment("web", 3), daemonset("agent"))
    await cluster.kubectl("expose", "deploy/web", "--port=80")
    await cluster.kubectl("rollout", "status", "deploy/web", "--timeout=30s")
    await cluster.kubectl("rollout", "status", "ds/agent", "--timeout=30s")

    async def versions() -> dict[str, str]:
        answer = await cluster.kubectl(
            "get",
            "all,endpoints,endpointslices,nodes,events,ns,cm,sa,controllerrevisions",
            "-A",
            "-o",
            r'jsonpath={range .items[*]}{.metadata.uid} {.metadata.resourceVersion}{"\n"}{end}',
        )
        return dict(line.split() for line in answer.splitlines())

    async with asyncio.timeout(20):
        before = await versions()
        while True:
            # What may follow from the rollout is over when two looks, a moment apart, see the same.
            await asyncio.sleep(1)
            after = await versions()
            if after == before:
                return
            before = after
