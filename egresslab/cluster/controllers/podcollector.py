"""Pods that no kubelet will ever clear away: bound to a node that is gone, or told to stop before they had a node."""

from __future__ import annotations

import asyncio

from egresslab.api.connection import Api, ApiError, PatchType
from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.api.resources import NODES, PODS, Object, key_of
from egresslab.cluster.controllers.caches import Caches, Index
from egresslab.cluster.controllers.nodehealth import readiness
from egresslab.cluster.controllers.podstate import is_finished, is_terminating
from egresslab.cluster.controllers.settings import Settings
from egresslab.cluster.controllers.tolerations import OUT_OF_SERVICE, parse_taints
from egresslab.cluster.controllers.workqueue import WorkQueue
from egresslab.cluster.events import now

NODE_GONE = "PodGC: node no longer exists"
NODE_OUT_OF_SERVICE = "PodGC: node is out of service"


class PodCollector:
    """Reconciles pods; the key is (namespace, name)."""

    def __init__(self, api: Api, caches: Caches, pods_on: Index, settings: Settings) -> None:
        self._api = api
        self._pods = caches.of(PODS)
        self._nodes = caches.of(NODES)
        self._pods_on = pods_on
        self._quarantine_s = settings.orphan_quarantine_s
        self._missing_since: dict[str, float] = {}
        self.queue: WorkQueue[tuple[str, str]] = WorkQueue("podgc", self._reconcile)
        self._nodes.listen(self._on_node)
        self._pods.listen(self._on_pod)

    def _on_node(self, change: ObjectChange) -> None:
        name = change.object["metadata"]["name"]
        if change.type is ChangeType.DELETED or _is_out_of_service(change.object):
            for pod in self._pods_on.of(name):
                self.queue.add(key_of(pod))

    def _on_pod(self, change: ObjectChange) -> None:
        node = change.object["spec"].get("nodeName") or ""
        if is_terminating(change.object) or (node and self._nodes.get(node) is None):
            self.queue.add(key_of(change.object))

    async def _reconcile(self, key: tuple[str, str]) -> None:
        pod = self._pods.get(key[1], key[0])
        if pod is None:
            return
        name = pod["spec"].get("nodeName")
        if not name:
            if is_terminating(pod):
                await self._remove(pod, None)
            return
        node = self._nodes.get(name)
        if node is not None:
            self._missing_since.pop(name, None)
            if is_terminating(pod) and _is_out_of_service(node):
                await self._remove(pod, NODE_OUT_OF_SERVICE)
            return
        time = asyncio.get_running_loop().time()
        left_s = self._missing_since.setdefault(name, time) + self._quarantine_s - time
        if left_s > 0:
            self.queue.add_after(key, left_s)
        elif not await self._exists(name):
            await self._remove(pod, NODE_GONE)

    async def _exists(self, node: str) -> bool:
        try:
            await self._api.get(NODES, node)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    async def _remove(self, pod: Object, why: str | None) -> None:
        metadata = pod["metadata"]
        name, namespace = metadata["name"], metadata["namespace"]
        try:
            if why is not None and not is_finished(pod):
                state = {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "DeletionByPodGC",
                    "message": why,
                    "lastTransitionTime": now(),
                }
                body: Object = {
                    "metadata": {"uid": metadata["uid"]},
                    "status": {"phase": "Failed", "conditions": [state]},
                }
                await self._api.patch(PODS, name, body, namespace, patch_type=PatchType.STRATEGIC, subresource="status")
            await self._api.delete(PODS, name, namespace, uid=metadata["uid"], grace_period_s=0)
        except ApiError as error:
            if error.status not in (404, 409):
                raise


def _is_out_of_service(node: Object) -> bool:
    return readiness(node) != "True" and any(taint.key == OUT_OF_SERVICE for taint in parse_taints(node))
