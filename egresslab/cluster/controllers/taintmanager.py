"""Taint-based eviction: deletes pods from nodes with NoExecute taints when their tolerations are used up.

The time that a pod may stay counts from the taint's `timeAdded`, so that a restart of the control plane neither
shortens nor lengthens it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

from egresslab.api.connection import Api, PatchType
from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.api.resources import NODES, PODS, Object, key_of
from egresslab.cluster.controllers.caches import Caches, Index
from egresslab.cluster.controllers.ownership import delete_pod
from egresslab.cluster.controllers.podstate import is_finished, is_terminating, moment
from egresslab.cluster.controllers.tolerations import Effect, Taint, bearing_s, parse_taints, parse_tolerations
from egresslab.cluster.controllers.workqueue import WorkQueue
from egresslab.cluster.events import EventRecorder, EventType, now


class TaintManager:
    """Reconciles bound pods; the key is (namespace, name)."""

    def __init__(
        self,
        api: Api,
        caches: Caches,
        pods_on: Index,
        events: EventRecorder,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._events = events
        self._clock = clock
        self._pods = caches.of(PODS)
        self._pods_on = pods_on
        self._taints: dict[str, dict[Taint, datetime]] = {}
        self.queue: WorkQueue[tuple[str, str]] = WorkQueue("taints", self._reconcile)
        caches.of(NODES).listen(self._on_node)
        self._pods.listen(self._on_pod)

    def _on_pod(self, change: ObjectChange) -> None:
        if self._taints.get(change.object["spec"].get("nodeName") or ""):
            self.queue.add(key_of(change.object))

    def _on_node(self, change: ObjectChange) -> None:
        name = change.object["metadata"]["name"]
        known = self._taints.pop(name, {})
        if change.type is ChangeType.DELETED:
            return
        taints = {}
        for taint, given in zip(
            parse_taints(change.object), (change.object.get("spec") or {}).get("taints") or (), strict=True
        ):
            if taint.effect is Effect.NO_EXECUTE:
                # kubectl taint gives no time; then it counts from when we saw the taint first.
                taints[taint] = moment(given.get("timeAdded")) or known.get(taint) or self._clock()
        if taints:
            self._taints[name] = taints
        if taints.keys() != known.keys():
            for pod in self._pods_on.of(name):
                self.queue.add(key_of(pod))

    async def _reconcile(self, key: tuple[str, str]) -> None:
        pod = self._pods.get(key[1], key[0])
        if pod is None or is_finished(pod) or is_terminating(pod):
            return
        left_s = self._left_s(pod)
        if left_s == math.inf:
            return
        if left_s > 0:
            self.queue.add_after(key, left_s)
            return
        self._events.record(pod, EventType.NORMAL, "TaintManagerEviction", f"Marking for deletion Pod {'/'.join(key)}")
        state = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": now(),
        }
        body: Object = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": {"conditions": [state]}}
        await self._api.patch(PODS, key[1], body, key[0], patch_type=PatchType.STRATEGIC, subresource="status")
        await delete_pod(self._api, pod)

    def _left_s(self, pod: Object) -> float:
        """Seconds that the pod may stay on its node, inf for ever."""
        tolerations, at = parse_tolerations(pod["spec"]), self._clock()
        left_s = math.inf
        for taint, since in self._taints.get(pod["spec"].get("nodeName") or "", {}).items():
            bearing = bearing_s(taint, tolerations)
            if bearing is not None:
                left_s = min(left_s, max(0.0, bearing - (at - since).total_seconds()))
        return left_s
