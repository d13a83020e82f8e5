"""What a controller has written that its cache does not show yet, so that a stale copy never makes it act twice."""

from __future__ import annotations

from collections.abc import Hashable

from egresslab.api.resources import Object
from egresslab.cluster.controllers.caches import Cache


class Ledger:
    """Own writes to the objects of one cache, by the key of the owner on whose behalf they were made.

    Kept in memory only: after a restart the first list already contains every write that was accepted.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._floors: dict[Hashable, int] = {}
        self._removed: dict[str, tuple[str, str]] = {}

    def wrote(self, key: Hashable, answer: Object) -> None:
        """Remember the server's answer to a create, patch or replace for `key`."""
        version = int(answer["metadata"]["resourceVersion"])
        self._floors[key] = max(self._floors.get(key, 0), version)

    def removed(self, obj: Object) -> None:
        """Remember that the deletion of `obj` was accepted."""
        metadata = obj["metadata"]
        self._removed[metadata["uid"]] = (metadata.get("namespace", ""), metadata["name"])

    def current(self, key: Hashable) -> bool:
        """Whether the cache shows every write made for `key`; if not, the change that will is on its way."""
        floor = self._floors.get(key)
        if floor is None:
            return True
        if self._cache.version < floor:
            return False
        del self._floors[key]
        return True

    def is_removed(self, obj: Object) -> bool:
        """Whether we have deleted `obj`, which the cache may still show as if nothing had happened."""
        if len(self._removed) > 1000:
            self._forget()
        return obj["metadata"]["uid"] in self._removed

    def _forget(self) -> None:
        for uid, (namespace, name) in list(self._removed.items()):
            known = self._cache.get(name, namespace)
            if known is None or known["metadata"]["uid"] != uid:
                del self._removed[uid]
