"""The cluster as decisions see it: objects followed at the API, told to an engine in the order in which they arrive.

Agents and the operator run the same view, so they decide alike. It never writes to the API.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Set
from dataclasses import replace

from egresslab.agent.chain import MIRROR
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
from egresslab.api.settings import Backend
from egresslab.errors import ClusterError, PolicyError
from egresslab.policy.engine import Engine, Settings
from egresslab.policy.entries import Change, Changes, Configure, Delete, Refuse, Upsert
from egresslab.policy.inventory import Kind, Pod, Ref
from egresslab.policy.model import Dialect
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


NAME_LABEL = "app.kubernetes.io/name"
AGENT = "egresslab-agent"
"""What the pods of the DaemonSet of agents carry; the one kind of pod whose readiness matters."""
ANNOUNCER = "egresslab-announcer"
"""The same of announcers, on nodes whose datapath is another's."""
GATEWAY_DIALECTS = frozenset({Dialect.DECKHOUSE, Dialect.EGRESSLAB})
"""Dialects whose gateways are objects of their own, which another backend than our datapath may carry out."""


def slim_pod(pod: Object) -> Object:
    """A pod without what no decision reads; a cluster has many pods and an agent should stay small."""
    metadata, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    kept = ("name", "namespace", "uid", "resourceVersion", "labels", "creationTimestamp", "deletionTimestamp")
    states = ["phase", "podIP", "podIPs", *(["conditions"] if is_agent(pod) else [])]
    mirror = (metadata.get("annotations") or {}).get(MIRROR)
    annotations = {"annotations": {MIRROR: mirror}} if mirror else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {key: metadata[key] for key in kept if key in metadata} | annotations,
        "spec": {key: spec[key] for key in ("nodeName", "hostNetwork") if key in spec},
        "status": {key: status[key] for key in states if key in status},
    }


def is_agent(pod: Object, name: str = AGENT) -> bool:
    """Whether a pod is a node's agent, or another of our DaemonSets' by its name."""
    metadata = pod["metadata"]
    return bool(metadata.get("namespace") == config.NAMESPACE and metadata.get("labels", {}).get(NAME_LABEL) == name)


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
        *,
        followed: Iterable[Resource] = FOLLOWED,
        under_cilium: Set[Kind] = frozenset(),
        complete: Callable[[Object, Pod], Pod] = lambda obj, pod: pod,
    ) -> None:
        """`on_change` hears what decisions changed, `on_object` each object as it is, also before all is synced.
        `under_cilium`: kinds of values of gateway dialects that count also where Cilium carries them out. `complete`
        adds to a pod what the API does not say of it."""
        self.engine = Engine(settings)
        self.backend = Backend.EGRESSLAB
        self._under_cilium = under_cilium
        self._complete = complete
        self.objects = {
            resource: Reflector(api, resource, self._take, strip=slim_pod if resource is PODS else slim)
            for resource in followed
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
        self.on_backend: Callable[[], None] = lambda: None
        """Called after `backend` changed."""
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

    def tell_again(self, namespace: str, name: str) -> None:
        """A pod, if it is known, after something changed that `complete` adds."""
        obj = self.objects[PODS].get(name, namespace)
        if obj is not None:
            told = _told(ObjectChange(ChangeType.MODIFIED, obj, obj))
            if told is not None:
                self.tell(self._completed(obj, told))

    def _completed(self, obj: Object, told: Change) -> Change:
        match told:
            case Upsert(Pod() as pod):
                return Upsert(self._complete(obj, pod))
        return told

    def _take(self, change: ObjectChange) -> None:
        self._on_object(change)
        ref = ref_of_object(change.object)
        told = _told(change)
        if ref is not None and self._elsewhere(ref) and not isinstance(told, Refuse):
            # Whoever carries it out: what is wrong with it, and that nothing is any more, is told here.
            told = Delete(ref) if ref in self.engine.refused else None
        if told is not None:
            self.tell(self._completed(change.object, told))

    def _take_config(self, change: ObjectChange) -> None:
        try:
            found = config.parse_settings(None if change.type is ChangeType.DELETED else change.object)
        except ClusterError as error:
            logger.warning("the settings stay as they are: %s", error)
            return
        if found.health_aware != self.engine.settings.cilium_health_aware_gateways:
            logger.info("%s is %s", config.HEALTH_AWARE, found.health_aware)
            self.tell(Configure(replace(self.engine.settings, cilium_health_aware_gateways=found.health_aware)))
        if found.backend is not self.backend:
            logger.info("%s is %s", config.BACKEND, found.backend)
            self._change_backend(found.backend)

    def _change_backend(self, backend: Backend) -> None:
        """What is carried out elsewhere from now on goes, what no longer is comes."""
        before, self.backend = self.backend, backend
        for objects in self.objects.values():
            for obj in objects:
                ref = ref_of_object(obj)
                if ref is None or self._elsewhere(ref) is self._elsewhere(ref, before):
                    continue
                told = Delete(ref) if self._elsewhere(ref) else _told(ObjectChange(ChangeType.ADDED, obj, None))
                if told is not None:
                    self.tell(told)
        self.on_backend()

    def _elsewhere(self, ref: Ref, backend: Backend | None = None) -> bool:
        """Whether somebody else carries a policy or gateway out."""
        if (backend or self.backend) is Backend.EGRESSLAB or ref.kind not in (Kind.POLICY, Kind.GROUP):
            return False
        return ref.kind not in self._under_cilium and ref.name.rpartition("/")[0] in GATEWAY_DIALECTS


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
