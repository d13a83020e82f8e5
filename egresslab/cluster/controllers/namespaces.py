"""Namespaces: a new one gets its service account and the cluster's CA, a deleted one is emptied before it goes."""

from __future__ import annotations

import logging

from egresslab.api.connection import Api, ApiError
from egresslab.api.reflector import ChangeType, ObjectChange
from egresslab.api.resources import CONFIGMAPS, NAMESPACES, SERVICE_ACCOUNTS, Object, Resource
from egresslab.cluster.controllers.caches import Caches
from egresslab.cluster.controllers.discovery import discover
from egresslab.cluster.controllers.podstate import condition
from egresslab.cluster.controllers.statuses import write_status
from egresslab.cluster.controllers.workqueue import WorkQueue
from egresslab.cluster.events import now

logger = logging.getLogger(__name__)

FINALIZER = "kubernetes"
ROOT_CA = "kube-root-ca.crt"
ACCOUNT = "default"
FIRST_LOOK_S = 0.1
LONGEST_LOOK_S = 2.0


class NamespaceController:
    """Reconciles namespaces; the key is the name. `ca` is the PEM text that pods are to trust."""

    def __init__(self, api: Api, caches: Caches, ca: str) -> None:
        self._api = api
        self._ca = ca
        self._namespaces = caches.of(NAMESPACES)
        self._accounts = caches.of(SERVICE_ACCOUNTS)
        self._maps = caches.of(CONFIGMAPS)
        self._looks: dict[str, int] = {}
        self.queue: WorkQueue[str] = WorkQueue("namespace", self._reconcile)
        self._namespaces.listen(lambda change: self.queue.add(change.object["metadata"]["name"]))
        self._accounts.listen(self._on_furniture)
        self._maps.listen(self._on_furniture)

    def _on_furniture(self, change: ObjectChange) -> None:
        metadata = change.object["metadata"]
        if metadata["name"] in (ACCOUNT, ROOT_CA) and change.type is not ChangeType.ADDED:
            self.queue.add(metadata["namespace"])

    async def _reconcile(self, name: str) -> None:
        namespace = self._namespaces.get(name)
        if namespace is None:
            self._looks.pop(name, None)
        elif "deletionTimestamp" in namespace["metadata"]:
            if FINALIZER in (namespace.get("spec") or {}).get("finalizers", ()):
                await self._empty(namespace)
        else:
            await self._furnish(name)

    async def _furnish(self, name: str) -> None:
        if self._accounts.get(ACCOUNT, name) is None:
            await self._create(SERVICE_ACCOUNTS, name, ACCOUNT, {})
        known = self._maps.get(ROOT_CA, name)
        data = {"ca.crt": self._ca}
        if known is None:
            await self._create(CONFIGMAPS, name, ROOT_CA, {"data": data})
        elif known.get("data") != data:
            await self._api.patch(CONFIGMAPS, ROOT_CA, {"data": data}, name)

    async def _create(self, resource: Resource, namespace: str, name: str, content: Object) -> None:
        body: Object = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "namespace": namespace},
            **content,
        }
        try:
            await self._api.create(resource, body, namespace)
        except ApiError as error:
            # Made already, or the namespace is on its way out.
            if error.status not in (403, 404, 409):
                raise

    async def _empty(self, namespace: Object) -> None:
        """Delete everything inside, and look again until nothing is left."""
        name = namespace["metadata"]["name"]
        left: dict[str, int] = {}
        finalizers: dict[str, int] = {}
        for resource in (await discover(self._api)).resources:
            if not resource.namespaced:
                continue
            items = await self._delete_all(resource, name)
            if items:
                left[f"{resource.plural}.{resource.group}".rstrip(".")] = len(items)
            for finalizer in (found for item in items for found in item["metadata"].get("finalizers") or ()):
                finalizers[finalizer] = finalizers.get(finalizer, 0) + 1
        if not left:
            await self._finalize(namespace)
            return
        await write_status(self._api, NAMESPACES, namespace, {"conditions": _remaining(namespace, left, finalizers)})
        looks = self._looks[name] = self._looks.get(name, 0) + 1
        self.queue.add_after(name, min(FIRST_LOOK_S * 2 ** min(looks, 10), LONGEST_LOOK_S))

    async def _delete_all(self, resource: Resource, namespace: str) -> list[Object]:
        """What is left of `resource` after telling all of it to go."""
        try:
            items, _ = await self._api.list(resource, namespace)
            if any("deletionTimestamp" not in item["metadata"] for item in items):
                await self._api.request("DELETE", resource.path(namespace), propagationPolicy="Background")
                items, _ = await self._api.list(resource, namespace)
        except ApiError as error:
            # A kind that has gone in the meantime has no objects.
            if error.status == 404:
                return []
            raise
        return items

    async def _finalize(self, namespace: Object) -> None:
        spec = namespace.get("spec") or {}
        left = [item for item in spec.get("finalizers") or () if item != FINALIZER]
        body = {**namespace, "spec": {**spec, "finalizers": left}}
        try:
            await self._api.replace(NAMESPACES, body, subresource="finalize")
        except ApiError as error:
            if error.status != 404:
                raise
        logger.info("namespace %s: empty", namespace["metadata"]["name"])


def _remaining(namespace: Object, left: dict[str, int], finalizers: dict[str, int]) -> list[Object]:
    """Conditions that say what a namespace is waiting for, as kubectl's users know them."""

    kinds = ", ".join(f"{name} has {count} resource instances" for name, count in sorted(left.items()))
    holds = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(finalizers.items()))
    found = [("NamespaceContentRemaining", "SomeResourcesRemain", f"Some resources are remaining: {kinds}")]
    if finalizers:
        message = f"Some content in the namespace has finalizers remaining: {holds}"
        found.append(("NamespaceFinalizersRemaining", "SomeFinalizersRemain", message))
    conditions = []
    for kind, reason, message in found:
        known = condition(namespace, kind)
        since = known["lastTransitionTime"] if known else now()
        conditions.append(
            {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": since}
        )
    return conditions
