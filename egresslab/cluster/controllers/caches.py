"""The controllers' copies of the cluster, one for each resource and shared by all, with indexes kept beside them.

Objects in here are read-only: they belong to everyone who looks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Iterable

from egresslab.api.connection import Api
from egresslab.api.reflector import ChangeType, ObjectChange, Reflector
from egresslab.api.resources import Object, Resource

logger = logging.getLogger(__name__)

SYNC_DEADLINE_S = 60.0


class Cache(Reflector):
    """A reflector with several listeners that knows how far it has got.

    `version` is the newest resourceVersion seen, as a number: Kubernetes defines them as comparable integers within a
    resource (KEP-5504), and it is what tells whether our own last write is already in the copy.
    """

    def __init__(self, api: Api, resource: Resource, strip: Callable[[Object], Object] | None = None) -> None:
        super().__init__(api, resource, self._tell, strip=strip)
        self.version = 0
        self._listeners: list[Callable[[ObjectChange], None]] = []

    def listen(self, listener: Callable[[ObjectChange], None]) -> None:
        """Call `listener` for every change from now on, and for what is already here as added."""
        self._listeners.append(listener)
        for obj in self:
            listener(ObjectChange(ChangeType.ADDED, obj, None))

    async def _list(self) -> str:
        version = await super()._list()
        self.version = max(self.version, int(version))
        return version

    def _deliver(self, kind: ChangeType, obj: Object) -> None:
        self.version = max(self.version, int(obj["metadata"]["resourceVersion"]))
        super()._deliver(kind, obj)

    def _tell(self, change: ObjectChange) -> None:
        for listener in self._listeners:
            try:
                listener(change)
            except Exception:
                # One object that we cannot read must not end the cache for all; the traceback reports our defect.
                logger.exception("%s %s", self.resource.plural, change.object["metadata"]["name"])


class Index:
    """Objects of one cache by a key computed from each; an object whose keys are empty is left out."""

    def __init__(self, cache: Cache, keys: Callable[[Object], Iterable[Hashable]]) -> None:
        self._keys = keys
        self._objects: dict[Hashable, dict[str, Object]] = {}
        cache.listen(self._change)

    def of(self, key: Hashable) -> list[Object]:
        """Objects with that key, in no particular order."""
        return list(self._objects.get(key, {}).values())

    def _change(self, change: ObjectChange) -> None:
        uid = change.object["metadata"]["uid"]
        if change.old is not None:
            for key in self._keys(change.old):
                members = self._objects.get(key, {})
                members.pop(uid, None)
                if not members:
                    self._objects.pop(key, None)
        if change.type is not ChangeType.DELETED:
            for key in self._keys(change.object):
                self._objects.setdefault(key, {})[uid] = change.object


class Caches:
    """All caches of one process; those asked for before `run` are synced together, later ones on their own."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._caches: dict[tuple[str, str], Cache] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def of(self, resource: Resource, strip: Callable[[Object], Object] | None = None) -> Cache:
        """The cache of `resource`; `strip` counts only for whoever asks first."""
        identity = (resource.group, resource.plural)
        cache = self._caches.get(identity)
        if cache is None:
            cache = self._caches[identity] = Cache(self._api, resource, strip)
            if self._group is not None:
                self._start(identity, cache)
        return cache

    def drop(self, resource: Resource) -> None:
        """Follow `resource` no longer, since it is served no longer."""
        identity = (resource.group, resource.plural)
        self._caches.pop(identity, None)
        task = self._tasks.pop(identity, None)
        if task is not None:
            task.cancel()

    def start(self, group: asyncio.TaskGroup) -> None:
        """Follow everything, in tasks of `group`."""
        self._group = group
        for identity, cache in self._caches.items():
            self._start(identity, cache)

    async def wait_synced(self) -> None:
        """Wait until each cache has its first list; raises `ClusterError` naming the resource that does not come."""
        for cache in list(self._caches.values()):
            await cache.wait_synced(SYNC_DEADLINE_S)

    def _start(self, identity: tuple[str, str], cache: Cache) -> None:
        assert self._group is not None
        self._tasks[identity] = self._group.create_task(cache.run(), name=f"cache-{cache.resource.plural}")
