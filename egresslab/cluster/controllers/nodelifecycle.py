"""The node lifecycle controller: notices nodes that have gone silent, and turns conditions into taints.

A heartbeat is a change of the node's Lease or of its status, timed by our own monotonic clock when it is seen: a node's
clock is never compared with ours, and a restarted control plane gives every node a full grace period.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from egresslab.api.connection import Api, ApiError, PatchType
from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.api.resources import LEASES, NODES, PODS, Object
from egresslab.cluster.controllers.caches import Caches, Index
from egresslab.cluster.controllers.nodehealth import readiness, silent_conditions, taints_due
from egresslab.cluster.controllers.podstate import condition, is_finished, is_ready
from egresslab.cluster.controllers.settings import Settings
from egresslab.cluster.controllers.tolerations import UNREACHABLE, Effect, parse_taints
from egresslab.cluster.controllers.workqueue import WorkQueue
from egresslab.cluster.events import EventRecorder, EventType, now

logger = logging.getLogger(__name__)

LEASE_NAMESPACE = "kube-node-lease"


class NodeLifecycleController:
    """Reconciles nodes; the key is the node's name."""

    def __init__(self, api: Api, caches: Caches, pods_on: Index, events: EventRecorder, settings: Settings) -> None:
        self._api = api
        self._events = events
        self._nodes = caches.of(NODES)
        self._pods_on = pods_on
        self._grace_s = settings.node_grace_s
        self._heard: dict[str, float] = {}
        self._in_doubt: set[str] = set()
        self.queue: WorkQueue[str] = WorkQueue("node", self._reconcile)
        self._nodes.listen(self._on_node)
        caches.of(LEASES).listen(self._on_lease)

    def _on_lease(self, change: ObjectChange) -> None:
        metadata = change.object["metadata"]
        if metadata.get("namespace") == LEASE_NAMESPACE and change.type is not ChangeType.DELETED:
            self._hear(metadata["name"])

    def _on_node(self, change: ObjectChange) -> None:
        node, old = change.object, change.old
        name = node["metadata"]["name"]
        if change.type is ChangeType.DELETED:
            self._heard.pop(name, None)
            self._in_doubt.discard(name)
        elif old is None or _heartbeat(node) != _heartbeat(old):
            self._hear(name)
        if old is None or change.type is ChangeType.DELETED or readiness(old) != readiness(node):
            # Whether any node is healthy decides what happens to all of them.
            for other in self._nodes:
                self.queue.add(other["metadata"]["name"])
        self.queue.add(name)

    def _hear(self, name: str) -> None:
        self._heard[name] = asyncio.get_running_loop().time()
        self.queue.add_after(name, self._grace_s)
        for other in self._in_doubt:
            self.queue.add(other)

    async def _reconcile(self, name: str) -> None:
        node = self._nodes.get(name)
        if node is None:
            return
        left_s = self._heard[name] + self._grace_s - asyncio.get_running_loop().time()
        if left_s > 0:
            self.queue.add_after(name, left_s)
        elif readiness(node) != "Unknown":
            node = await self._declare_silent(node)
        evicting = self._evicts(name, node)
        (self._in_doubt.discard if evicting or readiness(node) != "Unknown" else self._in_doubt.add)(name)
        taints = taints_due(node, evicting=evicting, at=datetime.now(UTC))
        if taints is not None:
            guard = {"resourceVersion": node["metadata"]["resourceVersion"]}
            await self._api.patch(NODES, name, {"metadata": guard, "spec": {"taints": taints or None}})
        if readiness(node) == "Unknown":
            await self._doubt_pods(name)

    def _evicts(self, name: str, node: Object) -> bool:
        """Whether the node may lose its pods if it is not ready: only while another node is well.

        When all fall silent at once the first one found silent is no worse than the rest. So another node has to have
        been heard after this one should have been; until then it is in doubt.
        """
        others = [other["metadata"]["name"] for other in self._nodes if readiness(other) == "True"]
        if readiness(node) != "Unknown":
            return bool(others)
        overdue = self._heard[name] + self._grace_s
        marked = (UNREACHABLE, Effect.NO_EXECUTE) in {(taint.key, taint.effect) for taint in parse_taints(node)}
        return any(other != name and (marked or self._heard[other] >= overdue) for other in others)

    async def _declare_silent(self, node: Object) -> Object:
        name = node["metadata"]["name"]
        logger.info("node %s: no heartbeat for %g s", name, self._grace_s)
        self._events.record(node, EventType.NORMAL, "NodeNotReady", f"Node {name} status is now: NodeNotReady")
        body: Object = {
            "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
            "status": {"conditions": silent_conditions(node, datetime.now(UTC))},
        }
        return await self._api.patch(NODES, name, body, patch_type=PatchType.STRATEGIC, subresource="status")

    async def _doubt_pods(self, name: str) -> None:
        """Nobody can say that pods on a silent node are ready, so they are taken out of services."""
        for pod in self._pods_on.of(name):
            if is_finished(pod) or not is_ready(pod):
                continue
            metadata, known = pod["metadata"], condition(pod, "Ready")
            state = {**(known or {}), "type": "Ready", "status": "False", "lastTransitionTime": now()}
            body: Object = {"metadata": {"uid": metadata["uid"]}, "status": {"conditions": [state]}}
            try:
                await self._api.patch(
                    PODS,
                    metadata["name"],
                    body,
                    metadata["namespace"],
                    patch_type=PatchType.STRATEGIC,
                    subresource="status",
                )
            except ApiError as error:
                if error.status not in (404, 409):
                    raise
            self._events.record(pod, EventType.WARNING, "NodeNotReady", "Node is not ready")


def _heartbeat(node: Object) -> object:
    """What the kubelet changes with every status it posts; our own writes leave it alone."""
    ready = condition(node, "Ready")
    return ready.get("lastHeartbeatTime") if ready else None
