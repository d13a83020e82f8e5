"""Keeps EndpointSlices, and the older Endpoints beside them for those who still read these, in step with pods."""

from __future__ import annotations

from egresslab.api.connection import Api, ApiError
from egresslab.api.reflector import ObjectChange
from egresslab.api.resources import ENDPOINT_SLICES, ENDPOINTS, PODS, SERVICES, Object, Resource, key_of
from egresslab.cluster.controllers.caches import Caches, Index
from egresslab.cluster.controllers.serviceendpoints import (
    MANAGER,
    MANAGER_LABEL,
    SERVICE_LABEL,
    legacy,
    selects,
    slices,
)
from egresslab.cluster.controllers.statuses import differs
from egresslab.cluster.controllers.workqueue import WorkQueue

COMPARED = ("addressType", "endpoints", "ports", "subsets")


class EndpointsController:
    """Reconciles services; the key is (namespace, name). Services without selector are left to their authors."""

    def __init__(self, api: Api, caches: Caches) -> None:
        self._api = api
        self._services = caches.of(SERVICES)
        self._pods = Index(caches.of(PODS), lambda pod: (pod["metadata"]["namespace"],))
        slices_cache = caches.of(ENDPOINT_SLICES)
        self._slices = Index(slices_cache, _service_of)
        self._legacy = caches.of(ENDPOINTS)
        self.queue: WorkQueue[tuple[str, str]] = WorkQueue("endpoints", self._reconcile)
        self._services.listen(lambda change: self.queue.add(key_of(change.object)))
        caches.of(PODS).listen(self._on_pod)
        slices_cache.listen(self._on_slice)
        self._legacy.listen(lambda change: self.queue.add(key_of(change.object)))

    def _on_pod(self, change: ObjectChange) -> None:
        namespace = change.object["metadata"]["namespace"]
        if change.old is not None and _relevant(change.old) == _relevant(change.object) and not _gone(change):
            return
        for service in self._services:
            if service["metadata"]["namespace"] == namespace and any(
                selects(service, pod["metadata"].get("labels") or {}) for pod in (change.object, change.old) if pod
            ):
                self.queue.add(key_of(service))

    def _on_slice(self, change: ObjectChange) -> None:
        for key in _service_of(change.object):
            self.queue.add(key)

    async def _reconcile(self, key: tuple[str, str]) -> None:
        namespace, name = key
        service = self._services.get(name, namespace)
        if service is None or not service["spec"].get("selector"):
            # What a deleted service leaves behind is garbage by its owner references; Endpoints have none.
            if service is None and self._manages_legacy(key):
                await self._delete(ENDPOINTS, namespace, name)
            return
        if "deletionTimestamp" in service["metadata"]:
            return
        wanted = slices(service, self._pods.of(namespace))
        known = {item["metadata"]["name"]: item for item in self._slices.of(key)}
        for slice_name, body in wanted.items():
            await self._ensure(ENDPOINT_SLICES, body, known.get(slice_name))
        for slice_name in known.keys() - wanted.keys():
            await self._delete(ENDPOINT_SLICES, namespace, slice_name)
        await self._ensure(ENDPOINTS, legacy(service, wanted), self._legacy.get(name, namespace))

    def _manages_legacy(self, key: tuple[str, str]) -> bool:
        known = self._legacy.get(key[1], key[0])
        return known is not None and "endpoints.kubernetes.io/managed-by" in (known["metadata"].get("labels") or {})

    async def _ensure(self, resource: Resource, body: Object, known: Object | None) -> None:
        metadata = body["metadata"]
        if known is None:
            await self._api.create(resource, body, metadata["namespace"])
            return
        content = {field: body[field] for field in COMPARED if field in body}
        if differs(known, content) or (known["metadata"].get("labels") or {}) != metadata["labels"]:
            version = {"resourceVersion": known["metadata"]["resourceVersion"], "uid": known["metadata"]["uid"]}
            await self._api.replace(resource, {**body, "metadata": {**metadata, **version}})

    async def _delete(self, resource: Resource, namespace: str, name: str) -> None:
        try:
            await self._api.delete(resource, name, namespace)
        except ApiError as error:
            if error.status != 404:
                raise


def _service_of(item: Object) -> tuple[tuple[str, str], ...]:
    labels = item["metadata"].get("labels") or {}
    if labels.get(MANAGER_LABEL) != MANAGER or SERVICE_LABEL not in labels:
        return ()
    return ((item["metadata"]["namespace"], labels[SERVICE_LABEL]),)


def _relevant(pod: Object) -> tuple[object, ...]:
    metadata, status = pod["metadata"], pod.get("status") or {}
    conditions = [item["status"] for item in status.get("conditions") or () if item["type"] == "Ready"]
    return (
        metadata.get("labels"),
        "deletionTimestamp" in metadata,
        status.get("phase"),
        status.get("podIPs"),
        conditions,
        pod["spec"].get("nodeName"),
    )


def _gone(change: ObjectChange) -> bool:
    return change.type.value == "DELETED"
