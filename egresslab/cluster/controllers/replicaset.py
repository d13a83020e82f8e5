"""The ReplicaSet controller: as many pods as asked for, no more and no fewer, whoever made them."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from functools import partial

from egresslab.api.connection import Api, ApiError
from egresslab.api.reflector import ObjectChange
from egresslab.api.resources import PODS, REPLICASETS, Object, key_of
from egresslab.api.selectors import parse_selector
from egresslab.cluster.controllers.caches import Caches, Index
from egresslab.cluster.controllers.ledger import Ledger
from egresslab.cluster.controllers.ownership import (
    ORPHANS,
    adopt,
    claim,
    controller_of,
    create_pod,
    delete_pod,
    pod_from_template,
    release,
)
from egresslab.cluster.controllers.podstate import condition
from egresslab.cluster.controllers.replicas import status, step
from egresslab.cluster.controllers.statuses import write_status
from egresslab.cluster.controllers.workqueue import WorkQueue
from egresslab.cluster.events import EventRecorder, EventType, now

CATCH_UP_S = 1.0
LARGEST_BATCH = 16


class ReplicaSetController:
    """Reconciles ReplicaSets; the key is (namespace, name)."""

    def __init__(self, api: Api, caches: Caches, pods: Index, events: EventRecorder) -> None:
        self._api = api
        self._events = events
        self._random = random.Random()
        self._sets = caches.of(REPLICASETS)
        self._cache = caches.of(PODS)
        self._pods = pods
        self._ledger = Ledger(self._cache)
        self.queue: WorkQueue[tuple[str, str]] = WorkQueue("replicaset", self._reconcile)
        self._sets.listen(lambda change: self.queue.add(key_of(change.object)))
        self._cache.listen(self._on_pod)

    def _on_pod(self, change: ObjectChange) -> None:
        for pod in (change.object, change.old):
            if pod is None:
                continue
            reference = controller_of(pod)
            if reference is not None:
                if reference["kind"] == REPLICASETS.kind:
                    self.queue.add((pod["metadata"]["namespace"], reference["name"]))
            elif change.old is None or pod["metadata"].get("labels") != change.old["metadata"].get("labels"):
                self._wake_adopters(pod)

    def _wake_adopters(self, pod: Object) -> None:
        labels = pod["metadata"].get("labels") or {}
        for owner in self._sets if labels else ():
            same = owner["metadata"]["namespace"] == pod["metadata"]["namespace"]
            if same and parse_selector(owner["spec"]["selector"]).matches(labels):
                self.queue.add(key_of(owner))

    async def _reconcile(self, key: tuple[str, str]) -> None:
        owner = self._sets.get(key[1], key[0])
        if owner is None:
            return
        uid = owner["metadata"]["uid"]
        if not self._ledger.current(uid):
            self.queue.add_after(key, CATCH_UP_S)
            return
        pods = await self._claim(owner)
        refusal = None
        if "deletionTimestamp" not in owner["metadata"]:
            refusal = await self._scale(owner, [pod for pod in pods if not self._ledger.is_removed(pod)])
        result, wait_s = status(owner, pods, datetime.now(UTC), _failure(owner, refusal) if refusal else None)
        await write_status(self._api, REPLICASETS, owner, result)
        if refusal is not None:
            raise refusal
        if wait_s is not None:
            self.queue.add_after(key, wait_s)

    async def _claim(self, owner: Object) -> list[Object]:
        metadata = owner["metadata"]
        selector = parse_selector(owner["spec"]["selector"])
        found = claim(owner, selector, self._pods.of(metadata["uid"]), self._pods.of((ORPHANS, metadata["namespace"])))
        owned = list(found.owned)
        for pod in found.adopt:
            owned.append(await adopt(self._api, owner, REPLICASETS, pod, PODS))
            self._ledger.wrote(metadata["uid"], owned[-1])
        for pod in found.release:
            self._ledger.wrote(metadata["uid"], await release(self._api, owner, pod, PODS))
        return owned

    async def _scale(self, owner: Object, pods: list[Object]) -> ApiError | None:
        """Take one step; the server's refusal if it refused."""
        plan = step(owner["spec"].get("replicas", 1), pods)
        tasks = [partial(self._create, owner) for _ in range(plan.create)]
        tasks += [partial(self._delete, owner, pod) for pod in plan.delete]
        batch = 1
        while tasks:
            # A slow start: what is refused for one pod is refused for all, and need not be asked a hundred times.
            answers = await asyncio.gather(*(task() for task in tasks[:batch]))
            refusals = [answer for answer in answers if answer is not None]
            if refusals:
                return refusals[0]
            tasks = tasks[batch:]
            batch = min(batch * 2, LARGEST_BATCH)
        return None

    async def _create(self, owner: Object) -> ApiError | None:
        pod = pod_from_template(owner, REPLICASETS, owner["spec"]["template"], {})
        try:
            answer = await create_pod(self._api, pod, self._random)
        except ApiError as error:
            self._events.record(owner, EventType.WARNING, "FailedCreate", f"Error creating: {error.message}")
            return error
        self._ledger.wrote(owner["metadata"]["uid"], answer)
        name = answer["metadata"]["name"]
        self._events.record(owner, EventType.NORMAL, "SuccessfulCreate", f"Created pod: {name}")
        return None

    async def _delete(self, owner: Object, pod: Object) -> ApiError | None:
        name = pod["metadata"]["name"]
        try:
            await delete_pod(self._api, pod)
        except ApiError as error:
            self._events.record(owner, EventType.WARNING, "FailedDelete", f"Error deleting: {error.message}")
            return error
        self._ledger.removed(pod)
        self._events.record(owner, EventType.NORMAL, "SuccessfulDelete", f"Deleted pod: {name}")
        return None


def _failure(owner: Object, refusal: ApiError) -> Object:
    known = condition(owner, "ReplicaFailure")
    return {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": refusal.message,
        "lastTransitionTime": known["lastTransitionTime"] if known else now(),
    }
