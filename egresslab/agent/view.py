"""The cluster as decisions see it: objects followed at the API, told to an engine in the order in which they arrive.

Agents and the operator run the same view, so they decide alike. It never writes to the API.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from egresslab.api.connection import Api
from egresslab.api.reflector import ChangeType, ObjectChange, Reflector
from egresslab.api.resources import (
    CILIUM_POLICIES,
    DECKHOUSE_GATEWAYS,
    DECKHOUSE_POLICIES,
    EGRESSLAB_GATEWAYS,
    EGRESSLAB_POLICIES,
    NAMESPACES,
    NODES,
    PODS,
    Object,
    Resource,
)
from egresslab.errors import PolicyError
from egresslab.policy.engine import Engine, Settings
from egresslab.policy.entries import Change, Changes, Delete, Refuse, Upsert
from egresslab.policy.objects import from_kubernetes, ref_of_object

logger = logging.getLogger(__name__)

FOLLOWED: tuple[Resource, ...] = (
    NAMESPACES,
    NODES,
    DECKHOUSE_GATEWAYS,
    EGRESSLAB_GATEWAYS,
    CILIUM_POLICIES,
    DECKHOUSE_POLICIES,
    EGRESSLAB_POLICIES,
    PODS,
)


def slim_pod(pod: Object) -> Object:
    """A pod without what no decision reads; a cluster has many pods and an agent should stay small."""
    metadata, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    kept = ("name", "namespace", "uid", "resourceVersion", "labels", "creationTimestamp", "deletionTimestamp")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {key: spec[key] for key in ("nodeName", "hostNetwork") if key in spec},
        "status": {key: status[key] for key in ("phase", "podIP", "podIPs") if key in status},
    }


def slim(obj: Object) -> Object:
    """Any other object without its managed fields."""
    obj["metadata"].pop("managedFields", None)
    return obj


class ClusterView:
    """Follows what decisions need; once all is synced, `on_change` is called for each value, in order."""

    def __init__(
        self, api: Api, settings: Settings, on_change: Callable[[Change, Changes], None] = lambda change, changes: None
    ) -> None:
        self.engine = Engine(settings)
        self.objects = {
            resource: Reflector(api, resource, self._take, strip=slim_pod if resource is PODS else slim)
            for resource in FOLLOWED
        }
        self._on_change = on_change
        self._synced = False

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reflector in self.objects.values():
                group.create_task(reflector.run())

    async def wait_synced(self) -> None:
        """Wait until every kind has been listed once; from then on changes are passed on."""
        for reflector in self.objects.values():
            await reflector.synced.wait()
        self._synced = True

    def _take(self, change: ObjectChange) -> None:
        told = _told(change)
        if told is None:
            return
        changes = self.engine.apply(told)
        if self._synced:
            self._on_change(told, changes)


def _told(change: ObjectChange) -> Change | None:
    ref = ref_of_object(change.object)
    if ref is None:
        return None
    if change.type is ChangeType.DELETED:
        return Delete(ref)
    try:
        value = from_kubernetes(change.object)
    except PolicyError as error:
        subject = error.object or str(ref.name)
        logger.warning("refused: %s", error)
        return Refuse(ref, subject, str(error))
    return Upsert(value) if value is not None else None
