"""The scheduler: binds pods that have no node yet, and says in condition and event why a pod stays without one.

A pod that fits nowhere waits for a change that could help it; nothing is tried again on a timer.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from egresslab.api.connection import Api, ApiError, PatchType
from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.api.resources import NAMESPACES, NODES, PODS, Object, key_of
from egresslab.cluster.controllers.board import Board
from egresslab.cluster.controllers.caches import Caches
from egresslab.cluster.controllers.facts import PodFacts, node_facts, pod_facts
from egresslab.cluster.controllers.podstate import condition, is_finished, is_terminating
from egresslab.cluster.controllers.scheduling import place
from egresslab.cluster.controllers.workqueue import WorkQueue
from egresslab.cluster.events import EventRecorder, EventType, now
from egresslab.errors import EgresslabError

logger = logging.getLogger(__name__)

NAME = "default-scheduler"


class Scheduler:
    """Decides one pod at a time, synchronously, and notes the decision on the board before it tells the server.

    So the next decision already counts with it, however long the binding takes.
    """

    def __init__(self, api: Api, caches: Caches, events: EventRecorder) -> None:
        self._api = api
        self._events = events
        self._board = Board()
        self._pods = caches.of(PODS)
        self._assumed: set[str] = set()
        self._stuck: dict[tuple[str, str], PodFacts | None] = {}
        self.queue: WorkQueue[tuple[str, str]] = WorkQueue("scheduler", self._schedule, parallel=8)
        caches.of(NAMESPACES).listen(self._on_namespace)
        caches.of(NODES).listen(self._on_node)
        self._pods.listen(self._on_pod)

    def _on_namespace(self, change: ObjectChange) -> None:
        metadata = change.object["metadata"]
        gone = change.type is ChangeType.DELETED
        self._board.set_namespace(metadata["name"], None if gone else metadata.get("labels") or {})
        if change.old is not None and change.old["metadata"].get("labels") != metadata.get("labels"):
            self._retry(only_followers=False)

    def _on_node(self, change: ObjectChange) -> None:
        if change.type is ChangeType.DELETED:
            self._board.remove_node(change.object["metadata"]["name"])
            # No pod fits better now, but the reason they wait for has changed.
            self._retry(only_followers=False)
        elif self._board.set_node(node_facts(change.object)):
            self._retry(only_followers=False)

    def _on_pod(self, change: ObjectChange) -> None:
        pod, old = change.object, change.old
        uid, key = pod["metadata"]["uid"], key_of(pod)
        node = pod["spec"].get("nodeName")
        if change.type is ChangeType.DELETED or is_finished(pod):
            self._stuck.pop(key, None)
            self._assumed.discard(uid)
            if self._board.remove_pod(uid):
                self._retry(only_followers=False)
        elif not node:
            if (
                old is None
                or old["spec"] != pod["spec"]
                or old["metadata"].get("labels") != pod["metadata"].get("labels")
            ):
                self.queue.add(key)
        elif (
            old is None
            or not old["spec"].get("nodeName")
            or old["metadata"].get("labels") != pod["metadata"].get("labels")
        ):
            self._stuck.pop(key, None)
            self._assumed.discard(uid)
            try:
                self._board.set_pod(pod_facts(pod))
            except (EgresslabError, ValueError) as error:
                logger.warning("pod %s/%s is left out of scheduling: %s", *key, error)
            self._retry(only_followers=True)

    def _retry(self, *, only_followers: bool) -> None:
        """Try the waiting pods once more; a pod that was added can help only those that follow other pods."""
        for key, facts in self._stuck.items():
            if not only_followers or (facts is not None and facts.affinity.pods):
                self.queue.add(key)

    async def _schedule(self, key: tuple[str, str]) -> None:
        namespace, name = key
        pod = self._pods.get(name, namespace)
        if pod is None or not _is_ours(pod) or pod["metadata"]["uid"] in self._assumed:
            self._stuck.pop(key, None)
            return
        try:
            facts = pod_facts(pod)
        except (EgresslabError, ValueError) as error:
            await self._refuse(key, pod, None, str(error))
            return
        placement = place(facts, self._board)
        if placement.node is None:
            await self._refuse(key, pod, facts, placement.message)
        else:
            self._stuck.pop(key, None)
            await self._bind(pod, facts, placement.node)

    async def _bind(self, pod: Object, facts: PodFacts, node: str) -> None:
        self._board.set_pod(replace(facts, node=node))
        self._assumed.add(facts.uid)
        binding: Object = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": facts.name, "namespace": facts.namespace, "uid": facts.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            await self._api.create(PODS, binding, facts.namespace, "binding", facts.name)
        except EgresslabError as error:
            # Whether it was bound after all will show in the cache; the server never binds a pod a second time.
            known = self._pods.get(facts.name, facts.namespace)
            if known is None or known["metadata"]["uid"] != facts.uid or not known["spec"].get("nodeName"):
                self._board.remove_pod(facts.uid)
            self._assumed.discard(facts.uid)
            if isinstance(error, ApiError) and error.status in (404, 409):
                return
            raise
        where = f"{facts.namespace}/{facts.name} to {node}"
        self._events.record(pod, EventType.NORMAL, "Scheduled", f"Successfully assigned {where}")

    async def _refuse(self, key: tuple[str, str], pod: Object, facts: PodFacts | None, message: str) -> None:
        self._stuck[key] = facts
        known = condition(pod, "PodScheduled")
        if known is not None and known.get("message") == message and known.get("status") == "False":
            return
        self._events.record(pod, EventType.WARNING, "FailedScheduling", message)
        state: Object = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": known["lastTransitionTime"] if known and known.get("status") == "False" else now(),
        }
        body: Object = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": {"conditions": [state]}}
        await self._api.patch(PODS, key[1], body, key[0], patch_type=PatchType.STRATEGIC, subresource="status")


def _is_ours(pod: Object) -> bool:
    """Whether the pod still waits for this scheduler."""
    spec = pod["spec"]
    return not (
        spec.get("nodeName")
        or spec.get("schedulingGates")
        or (spec.get("schedulerName") or NAME) != NAME
        or is_terminating(pod)
        or is_finished(pod)
    )
