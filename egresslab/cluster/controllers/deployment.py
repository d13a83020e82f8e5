"""The Deployment controller: one ReplicaSet for each pod template, sized step by step as the rollout allows."""

from __future__ import annotations

from datetime import UTC, datetime

from egresslab.api.connection import Api, ApiError
from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.api.resources import DEPLOYMENTS, PODS, REPLICASETS, Object, key_of
from egresslab.api.selectors import parse_selector
from egresslab.cluster.controllers.caches import Caches, Index
from egresslab.cluster.controllers.ledger import Ledger
from egresslab.cluster.controllers.ownership import ORPHANS, adopt, claim, controller_key, controller_of, release
from egresslab.cluster.controllers.podstate import is_finished
from egresslab.cluster.controllers.progress import is_complete, status
from egresslab.cluster.controllers.revisions import (
    REVISION,
    annotations_due,
    current_set,
    new_set,
    revision_of,
    set_state,
    sizes_noted,
    surplus_sets,
)
from egresslab.cluster.controllers.rollout import Bounds, bounds_of, next_sizes
from egresslab.cluster.controllers.statuses import write_status
from egresslab.cluster.controllers.workqueue import WorkQueue
from egresslab.cluster.events import EventRecorder, EventType

CATCH_UP_S = 1.0


class DeploymentController:
    """Reconciles Deployments; the key is (namespace, name).

    Nothing is decided until the cache shows the last writes to the sets, and each write is refused if its set has
    changed since: every size follows from sizes that were true.
    """

    def __init__(self, api: Api, caches: Caches, pods: Index, events: EventRecorder) -> None:
        self._api = api
        self._events = events
        self._deployments = caches.of(DEPLOYMENTS)
        self._cache = caches.of(REPLICASETS)
        self._sets = Index(self._cache, controller_key)
        self._pods = pods
        self._ledger = Ledger(self._cache)
        self.queue: WorkQueue[tuple[str, str]] = WorkQueue("deployment", self._reconcile)
        self._deployments.listen(lambda change: self.queue.add(key_of(change.object)))
        self._cache.listen(self._on_set)
        caches.of(PODS).listen(self._on_pod)

    def _on_pod(self, change: ObjectChange) -> None:
        """A pod that went away for good: a Recreate rollout may have waited for that."""
        pod = change.object
        reference = controller_of(pod)
        if reference is None or reference["kind"] != REPLICASETS.kind:
            return
        if change.type is ChangeType.DELETED or is_finished(pod):
            item = self._cache.get(reference["name"], pod["metadata"]["namespace"])
            owner = controller_of(item) if item is not None else None
            if owner is not None:
                self.queue.add((pod["metadata"]["namespace"], owner["name"]))

    def _on_set(self, change: ObjectChange) -> None:
        for item in (change.object, change.old):
            if item is None:
                continue
            namespace, owner = item["metadata"]["namespace"], controller_of(item)
            if owner is not None:
                self.queue.add((namespace, owner["name"]))
                continue
            labels = item["metadata"].get("labels") or {}
            for deployment in self._deployments:
                mine = deployment["metadata"]["namespace"] == namespace
                if mine and parse_selector(deployment["spec"]["selector"]).matches(labels):
                    self.queue.add(key_of(deployment))

    async def _reconcile(self, key: tuple[str, str]) -> None:
        deployment = self._deployments.get(key[1], key[0])
        if deployment is None:
            return
        uid = deployment["metadata"]["uid"]
        if not self._ledger.current(uid):
            self.queue.add_after(key, CATCH_UP_S)
            return
        sets = await self._claim(deployment)
        current = current_set(deployment, sets)
        bounds = bounds_of(deployment)
        if "deletionTimestamp" not in deployment["metadata"]:
            if not deployment["spec"].get("paused"):
                current = await self._ensure_current(deployment, bounds, current, sets)
            await self._resize(deployment, bounds, current, sets)
        result, wait_s = status(deployment, bounds, current, sets, datetime.now(UTC))
        await write_status(self._api, DEPLOYMENTS, deployment, result)
        if wait_s is not None:
            self.queue.add_after(key, wait_s)
        if is_complete(deployment, result) and current is not None:
            await self._prune(deployment, [item for item in sets if item is not current])

    async def _claim(self, deployment: Object) -> list[Object]:
        metadata = deployment["metadata"]
        mine, orphans = self._sets.of(metadata["uid"]), self._sets.of((ORPHANS, metadata["namespace"]))
        found = claim(deployment, parse_selector(deployment["spec"]["selector"]), mine, orphans)
        sets = list(found.owned)
        for item in found.adopt:
            sets.append(await adopt(self._api, deployment, DEPLOYMENTS, item, REPLICASETS))
            self._ledger.wrote(metadata["uid"], sets[-1])
        for item in found.release:
            self._ledger.wrote(metadata["uid"], await release(self._api, deployment, item, REPLICASETS))
        return [item for item in sets if "deletionTimestamp" not in item["metadata"]]

    async def _ensure_current(
        self, deployment: Object, bounds: Bounds, current: Object | None, sets: list[Object]
    ) -> Object:
        """The set for the present template, made or given the highest revision if need be; `sets` is kept in step."""
        if current is None:
            current = await self._create(deployment, bounds, sets)
            sets.append(current)
        else:
            due = annotations_due(deployment, current, [item for item in sets if item is not current])
            change: Object = {"metadata": {"annotations": due}} if due else {}
            min_ready = deployment["spec"].get("minReadySeconds") or 0
            if (current["spec"].get("minReadySeconds") or 0) != min_ready:
                change["spec"] = {"minReadySeconds": min_ready}
            if change:
                sets[sets.index(current)] = current = await self._patch(deployment, current, change)
        revision = str(revision_of(current))
        if (deployment["metadata"].get("annotations") or {}).get(REVISION) != revision:
            metadata = deployment["metadata"]
            body = {"metadata": {"uid": metadata["uid"], "annotations": {REVISION: revision}}}
            await self._api.patch(DEPLOYMENTS, metadata["name"], body, metadata["namespace"])
        return current

    async def _create(self, deployment: Object, bounds: Bounds, sets: list[Object]) -> Object:
        room = bounds.desired + bounds.max_surge - sum(item["spec"].get("replicas", 1) for item in sets)
        replicas = 0 if bounds.recreate and sets else max(0, min(bounds.desired, room))
        revision = max((revision_of(item) for item in sets), default=0) + 1
        body = new_set(deployment, bounds, replicas, revision)
        try:
            created = await self._api.create(REPLICASETS, body, body["metadata"]["namespace"])
        except ApiError as error:
            if error.status != 409 or error.reason != "AlreadyExists":
                raise
            await self._collide(deployment, body["metadata"]["name"])
            raise
        self._ledger.wrote(deployment["metadata"]["uid"], created)
        self._note(deployment, created, 0, replicas)
        return created

    async def _collide(self, deployment: Object, name: str) -> None:
        """The name is taken: by our own earlier request, which the cache will show, or by a stranger to be avoided."""
        existing = await self._api.get(REPLICASETS, name, deployment["metadata"]["namespace"])
        owner = controller_of(existing)
        ours = owner is not None and owner["uid"] == deployment["metadata"]["uid"]
        if ours and current_set(deployment, [existing]) is not None:
            self._ledger.wrote(deployment["metadata"]["uid"], existing)
            return
        collisions = (deployment.get("status") or {}).get("collisionCount") or 0
        await write_status(self._api, DEPLOYMENTS, deployment, {"collisionCount": collisions + 1})

    async def _resize(self, deployment: Object, bounds: Bounds, current: Object | None, sets: list[Object]) -> None:
        states = [set_state(item, current, self._pods.of(item["metadata"]["uid"])) for item in sets]
        sizes = next_sizes(bounds, states, paused=bool(deployment["spec"].get("paused")))
        for item in list(sets):
            name, before = item["metadata"]["name"], item["spec"].get("replicas", 1)
            if name not in sizes:
                continue
            change = {"metadata": {"annotations": sizes_noted(bounds)}, "spec": {"replicas": sizes[name]}}
            sets[sets.index(item)] = await self._patch(deployment, item, change)
            self._note(deployment, item, before, sizes[name])

    async def _patch(self, deployment: Object, item: Object, change: Object) -> Object:
        """Change a set if it still is what the decision was made on (409 Conflict otherwise)."""
        metadata = item["metadata"]
        guard = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        body = {**change, "metadata": {**guard, **change.get("metadata", {})}}
        answer = await self._api.patch(REPLICASETS, metadata["name"], body, metadata["namespace"])
        self._ledger.wrote(deployment["metadata"]["uid"], answer)
        return answer

    async def _prune(self, deployment: Object, old: list[Object]) -> None:
        for item in surplus_sets(deployment, old):
            metadata = item["metadata"]
            try:
                await self._api.delete(REPLICASETS, metadata["name"], metadata["namespace"], uid=metadata["uid"])
            except ApiError as error:
                if error.status not in (404, 409):
                    raise

    def _note(self, deployment: Object, item: Object, before: int, after: int) -> None:
        if before == after:
            return
        direction = "up" if after > before else "down"
        message = f"Scaled {direction} replica set {item['metadata']['name']} from {before} to {after}"
        self._events.record(deployment, EventType.NORMAL, "ScalingReplicaSet", message)
