"""The garbage collector: what is owned by something that is gone goes too (Kubernetes "Garbage Collection").

Works on metadata alone, of every kind that the server serves. An owner counts as gone only when the server itself says
so; a cache that lags behind never costs an object its life.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from egresslab.api.connection import Api, ApiError
from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.api.resources import CRDS, Object, Resource
from egresslab.cluster.controllers.caches import Caches
from egresslab.cluster.controllers.discovery import Served, discover
from egresslab.cluster.controllers.workqueue import WorkQueue

logger = logging.getLogger(__name__)

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
UNOWNED_PLURALS = ("events",)
KEPT_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "ownerReferences",
    "finalizers",
    "deletionTimestamp",
)
REMEMBERED_ABSENT = 10_000
DISCOVERY = "discovery"


@dataclass(frozen=True, slots=True)
class _Node:
    resource: Resource
    metadata: Object

    @property
    def owners(self) -> list[Object]:
        return list(self.metadata.get("ownerReferences") or ())

    @property
    def finalizers(self) -> list[str]:
        return list(self.metadata.get("finalizers") or ())

    @property
    def terminating(self) -> bool:
        return "deletionTimestamp" in self.metadata


def metadata_only(obj: Object) -> Object:
    """What the collector keeps of an object."""
    metadata = {name: obj["metadata"][name] for name in KEPT_METADATA if name in obj["metadata"]}
    return {"apiVersion": obj.get("apiVersion"), "kind": obj.get("kind"), "metadata": metadata}


class GarbageCollector:
    """Reconciles objects by UID; the key `discovery` stands for looking which kinds there are."""

    def __init__(self, api: Api, caches: Caches) -> None:
        self._api = api
        self._caches = caches
        self._served = Served(())
        self._followed: set[Resource] = set()
        self._nodes: dict[str, _Node] = {}
        self._dependents: dict[str, set[str]] = {}
        self._absent: OrderedDict[str, None] = OrderedDict()
        self.queue: WorkQueue[str] = WorkQueue("garbage", self._reconcile, parallel=8)
        caches.of(CRDS).listen(lambda change: self.queue.add(DISCOVERY))

    async def follow_served(self) -> Served:
        """Follow what the server serves now, and no longer what it does not."""
        self._served = await discover(self._api)
        wanted = {item for item in self._served.resources if item.plural not in UNOWNED_PLURALS}
        for resource in wanted - self._followed:
            self._caches.of(resource, metadata_only).listen(partial(self._on_change, resource))
        for resource in self._followed - wanted:
            self._caches.drop(resource)
            for uid in [uid for uid, node in self._nodes.items() if node.resource == resource]:
                self._remove(uid)
        self._followed = wanted
        return self._served

    def _on_change(self, resource: Resource, change: ObjectChange) -> None:
        metadata = metadata_only(change.object)["metadata"]
        uid = metadata["uid"]
        if change.type is ChangeType.DELETED:
            self._remove(uid)
            return
        old = self._nodes.get(uid)
        node = self._nodes[uid] = _Node(resource, metadata)
        before = {item["uid"] for item in old.owners} if old else set()
        after = {item["uid"] for item in node.owners}
        for owner in before - after:
            self._disown(owner, uid)
        for owner in after - before:
            self._dependents.setdefault(owner, set()).add(uid)
        if (after and (after != before or node.terminating)) or (node.terminating and node.finalizers):
            self.queue.add(uid)

    def _remove(self, uid: str) -> None:
        node = self._nodes.pop(uid, None)
        if node is None:
            return
        for owner in node.owners:
            self._disown(owner["uid"], uid)
        for dependent in self._dependents.get(uid, ()):
            self.queue.add(dependent)

    def _disown(self, owner: str, uid: str) -> None:
        members = self._dependents.get(owner, set())
        members.discard(uid)
        if not members:
            self._dependents.pop(owner, None)
        waiting = self._nodes.get(owner)
        if waiting is not None and waiting.terminating:
            self.queue.add(owner)

    async def _reconcile(self, uid: str) -> None:
        if uid == DISCOVERY:
            await self.follow_served()
            return
        node = self._nodes.get(uid)
        if node is None:
            return
        try:
            if node.terminating:
                await self._finish_owner(uid, node)
            elif node.owners:
                await self._judge(uid, node)
        except ApiError as error:
            if error.status != 404:
                raise

    async def _finish_owner(self, uid: str, node: _Node) -> None:
        """An object that is to go with its dependents (foreground), or without them (orphan)."""
        if ORPHAN in node.finalizers:
            for _, dependent in self._dependents_of(uid):
                await self._drop_references(dependent, {uid})
            await self._drop_finalizer(node, ORPHAN)
        elif FOREGROUND in node.finalizers:
            blocking = False
            for dependent_uid, dependent in self._dependents_of(uid):
                blocking |= any(item["uid"] == uid and item.get("blockOwnerDeletion") for item in dependent.owners)
                if not dependent.terminating:
                    self.queue.add(dependent_uid)
            if not blocking:
                await self._drop_finalizer(node, FOREGROUND)

    async def _judge(self, uid: str, node: _Node) -> None:
        """An object with owners: it stays while one of them does."""
        solid, waiting, gone = False, set(), set()
        for reference in node.owners:
            owner = self._nodes.get(reference["uid"])
            if owner is not None and _reaches(owner, node):
                if owner.terminating and FOREGROUND in owner.finalizers:
                    waiting.add(reference["uid"])
                else:
                    solid = True
            elif await self._is_absent(reference, node):
                gone.add(reference["uid"])
            else:
                solid = True
        if solid:
            if gone or waiting:
                await self._drop_references(node, gone | waiting)
            return
        has_dependents = bool(self._dependents.get(uid))
        propagation = "Foreground" if waiting and has_dependents else "Background"
        metadata = node.metadata
        logger.info("%s %s/%s: no owner left", node.resource.kind, metadata.get("namespace", ""), metadata["name"])
        await self._api.delete(
            node.resource, metadata["name"], metadata.get("namespace"), uid=metadata["uid"], propagation=propagation
        )

    async def _is_absent(self, reference: Object, node: _Node) -> bool:
        """Ask the server for an owner that no cache shows; a UID that is gone never comes back."""
        uid = reference["uid"]
        if uid in self._absent:
            return True
        resource = self._served.of_kind(reference["apiVersion"], reference["kind"])
        if resource is None or (resource.namespaced and "namespace" not in node.metadata):
            # A kind that is not served (any more), or an owner without a place: nobody can tell, so nothing is deleted.
            return False
        try:
            found = await self._api.get(resource, reference["name"], node.metadata.get("namespace"))
        except ApiError as error:
            if error.status != 404:
                raise
        else:
            if found["metadata"]["uid"] == uid:
                return False
        self._absent[uid] = None
        if len(self._absent) > REMEMBERED_ABSENT:
            self._absent.popitem(last=False)
        return True

    def _dependents_of(self, uid: str) -> Iterator[tuple[str, _Node]]:
        for dependent in list(self._dependents.get(uid, ())):
            node = self._nodes.get(dependent)
            if node is not None:
                yield dependent, node

    async def _drop_references(self, node: _Node, uids: set[str]) -> None:
        left = [item for item in node.owners if item["uid"] not in uids]
        await self._patch(node, {"ownerReferences": left or None})

    async def _drop_finalizer(self, node: _Node, finalizer: str) -> None:
        left = [item for item in node.finalizers if item != finalizer]
        await self._patch(node, {"finalizers": left or None})

    async def _patch(self, node: _Node, change: Object) -> None:
        metadata = node.metadata
        guard = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        try:
            await self._api.patch(
                node.resource, metadata["name"], {"metadata": {**guard, **change}}, metadata.get("namespace")
            )
        except ApiError as error:
            if error.status != 404:
                raise


def _reaches(owner: _Node, node: _Node) -> bool:
    """Owners are cluster-wide or in the object's own namespace; a reference elsewhere is to nothing."""
    namespace = owner.metadata.get("namespace")
    return not namespace or namespace == node.metadata.get("namespace")
