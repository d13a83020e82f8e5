"""The cluster as decisions see it: objects followed at the API, told to an engine in the order in which they arrive.

Agents and the operator run the same view, so they decide alike. It never writes to the API.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from egresslab.api import settings as config
from egresslab.api.connection import Api
from egresslab.api.reflector import ChangeType, ObjectChange, Reflector
from egresslab.api.resources import (
    CILIUM_POLICIES,
    CONFIGMAPS,
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
from egresslab.errors import ClusterError, PolicyError
from egresslab.policy.engine import Engine, Settings
from egresslab.policy.entries import Change, Changes, Configure, Delete, Refuse, Upsert
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


AGENT_LABEL = "app.kubernetes.io/name", "egresslab-agent"
"""What the pods of the DaemonSet of agents carry; the one kind of pod whose readiness matters."""


def slim_pod(pod: Object) -> Object:
    """A pod without what no decision reads; a cluster has many pods and an agent should stay small."""
    metadata, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    kept = ("name", "namespace", "uid", "resourceVersion", "labels", "creationTimestamp", "deletionTimestamp")
    states = ["phase", "podIP", "podIPs", *(["conditions"] if is_agent(pod) else [])]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {key: spec[key] for key in ("nodeName", "hostNetwork") if key in spec},
        "status": {key: status[key] for key in states if key in status},
    }


def is_agent(pod: Object) -> bool:
    """Whether a pod is a node's agent."""
    key, value = AGENT_LABEL
    metadata = pod["metadata"]
    return bool(metadata.get("namespace") == config.NAMESPACE and metadata.get("labels", {}).get(key) == value)


def slim(obj: Object) -> Object:
    """Any other object without its managed fields."""
    obj["metadata"].pop("managedFields", None)
    return obj


class ClusterView:
    """Follows what decisions need; once all is synced, `on_change` is called for each value, in order."""

    def __init__(
        self,
        api: Api,
        settings: Settings,
        on_change: Callable[[Change, Changes], None] = lambda change, changes: None,
        on_object: Callable[[ObjectChange], None] = lambda change: None,
    ) -> None:
        """`on_change` hears what decisions changed, `on_object` each object as it is, also before all is synced."""
        self.engine = Engine(settings)
        self.objects = {
            resource: Reflector(api, resource, self._take, strip=slim_pod if resource is PODS else slim)
            for resource in FOLLOWED
        }
        self._config = Reflector(
            api,
            CONFIGMAPS,
            self._take_config,
            namespace=config.NAMESPACE,
            field_selector=f"metadata.name={config.NAME}",
        )
        self._on_change = on_change
        self._on_object = on_object
        self._synced = False

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reflector in (*self.objects.values(), self._config):
                group.create_task(reflector.run())

    async def wait_synced(self) -> None:
        """Wait until every kind has been listed once; from then on changes are passed on."""
        for reflector in (*self.objects.values(), self._config):
            await reflector.synced.wait()
        self._synced = True

    def tell(self, told: Change) -> None:
        """What did not come from the API: who holds a lease, who was found dead."""
        changes = self.engine.apply(told)
        if self._synced:
            self._on_change(told, changes)

    def _take(self, change: ObjectChange) -> None:
        self._on_object(change)
        told = _told(change)
        if told is not None:
            self.tell(told)

    def _take_config(self, change: ObjectChange) -> None:
        try:
            aware = config.parse_health_aware(None if change.type is ChangeType.DELETED else change.object)
        except ClusterError as error:
            logger.warning("the settings stay as they are: %s", error)
            return
        if aware != self.engine.settings.cilium_health_aware_gateways:
            logger.info("%s is %s", config.HEALTH_AWARE, aware)
            self.tell(Configure(replace(self.engine.settings, cilium_health_aware_gateways=aware)))


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
