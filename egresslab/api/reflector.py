"""A local copy of one resource, kept up to date by list and watch, for everything of ours that follows a cluster.

It survives what an API server does to its clients: cut watches, restarts, expired resource versions. A consumer sees
each object's changes in order and never a change twice; what happened while it was away arrives as the difference
between the old copy and the new list.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from egresslab.api.connection import Api, ApiError, Unreachable
from egresslab.api.resources import Object, Resource, key_of
from egresslab.errors import ClusterError

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0


class ChangeType(StrEnum):
    """What happened to an object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """One change; `object` is the new state, or the last known one when deleted; `old` what was known before."""

    type: ChangeType
    object: Object
    old: Object | None


class Reflector:
    """List, then watch, for ever; `run` is cancelled by its owner.

    `on_change` is called in order, in the event loop, for every change; it must not block. `synced` is set after the
    first list has been delivered. A kind that the server does not serve (404) counts as having no objects for now.
    `strip` cuts an object down to what its consumer reads, before it is kept; metadata's name, namespace, uid and
    resourceVersion must stay.
    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        on_change: Callable[[ObjectChange], None] | None = None,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        strip: Callable[[Object], Object] | None = None,
        on_reach: Callable[[bool], None] | None = None,
    ) -> None:
        self.resource = resource
        self.synced = asyncio.Event()
        self._api = api
        self._on_change = on_change or (lambda change: None)
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._strip = strip or (lambda obj: obj)
        self._on_reach = on_reach or (lambda reached: None)
        self._objects: dict[tuple[str, str], Object] = {}

    def get(self, name: str, namespace: str = "") -> Object | None:
        """The object of that name, or None; treat it as read-only."""
        return self._objects.get((namespace, name))

    def __iter__(self) -> Iterator[Object]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    async def wait_synced(self, timeout_s: float) -> None:
        """Wait for the first list; raises `ClusterError` naming the resource when it does not come in time."""
        try:
            # Not wait_for(), which can lose a cancellation in Python 3.11.
            async with asyncio.timeout(timeout_s):
                await self.synced.wait()
        except TimeoutError as error:
            raise ClusterError(f"no list within {timeout_s:g} s", object=self.resource.plural) from error

    async def run(self) -> None:
        """Follow the resource until cancelled."""
        pause = FIRST_PAUSE_S
        version: str | None = None
        while True:
            try:
                if version is None:
                    version = await self._list()
                    self._on_reach(True)
                version = await self._follow(version)
                pause = FIRST_PAUSE_S
                continue
            except ApiError as error:
                if error.status == 410:
                    version = None
                    continue
                if error.status == 404:
                    self._replace({})
                    pause = LONGEST_PAUSE_S
                else:
                    logger.warning("following %s: %s", self.resource.plural, error)
            except Unreachable as error:
                logger.info("following %s: %s", self.resource.plural, error)
            self._on_reach(False)
            # A list afterwards costs little and is right whatever the server forgot.
            version = None
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _list(self) -> str:
        items, version = await self._api.list(
            self.resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        self._replace({key_of(item): self._strip(item) for item in items})
        return version

    def _replace(self, fresh: dict[tuple[str, str], Object]) -> None:
        for key, known in list(self._objects.items()):
            new = fresh.get(key)
            if new is None or new["metadata"]["uid"] != known["metadata"]["uid"]:
                self._deliver(ChangeType.DELETED, known)
        for item in fresh.values():
            self._deliver(ChangeType.MODIFIED, item)
        self.synced.set()

    async def _follow(self, version: str) -> str:
        events = self._api.watch(
            self.resource,
            version,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        async for event in events:
            obj: Object = event["object"]
            if event["type"] == "ERROR":
                raise ApiError(
                    str(obj.get("message")), status=int(obj.get("code") or 500), reason=str(obj.get("reason"))
                )
            version = obj["metadata"]["resourceVersion"]
            if event["type"] != "BOOKMARK":
                self._deliver(ChangeType(event["type"]), self._strip(obj))
        return version

    def _deliver(self, kind: ChangeType, obj: Object) -> None:
        key = key_of(obj)
        old = self._objects.get(key)
        if kind is ChangeType.DELETED:
            if old is None:
                return
            del self._objects[key]
        else:
            if old is not None and old["metadata"]["uid"] != obj["metadata"]["uid"]:
                # Deleted and made anew while we were away: two objects, two changes.
                del self._objects[key]
                self._on_change(ObjectChange(ChangeType.DELETED, old, old))
                old = None
            if old is not None and old["metadata"]["resourceVersion"] == obj["metadata"]["resourceVersion"]:
                return
            kind = ChangeType.ADDED if old is None else ChangeType.MODIFIED
            self._objects[key] = obj
        self._on_change(ObjectChange(kind, obj, old))
