"""Admission: what Kubernetes' built-in plug-ins do to a request before it is stored, and the webhooks that users add.

Namespaces that end take nothing new, pods get an account, a priority and tolerations, services an address. Anything a
plug-in refuses is 403 Forbidden in its words.
"""

from __future__ import annotations

import secrets
from ipaddress import IPv4Network, IPv6Network

from egresslab.api.resources import Object
from egresslab.cluster.apiserver import addresses, status
from egresslab.cluster.apiserver.declarations import ResourceType
from egresslab.cluster.apiserver.requests import WriteOptions
from egresslab.cluster.apiserver.store import Bucket, Store
from egresslab.cluster.apiserver.watching import Watcher
from egresslab.cluster.apiserver.webhooks import Webhooks

_TOLERATED_S = 300
_NODE_TROUBLES = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_ACCOUNT_WAIT_S = 2.0
_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_PRIORITY = "priorityclasses.scheduling.k8s.io"


class Admission:
    """The plug-ins in Kubernetes' order. `accounts` says whether pods must have a service account that exists."""

    def __init__(
        self, store: Store, webhooks: Webhooks, services: IPv4Network | IPv6Network, *, accounts: bool
    ) -> None:
        self._store = store
        self._webhooks = webhooks
        self._services = services
        self._accounts = accounts

    async def admit(
        self, kind: ResourceType, obj: Object, old: Object | None, options: WriteOptions, subresource: str = ""
    ) -> Object:
        """The object as admitted; raises 403 when it is not."""
        if old is None:
            self._namespace(kind, obj)
            if kind.bucket == "pods":
                await self._pod(kind, obj)
        if not subresource:
            obj = await self._webhooks.call(kind, obj, old, options)
        if kind.bucket == "services" and not subresource and not _addressed(obj, old):
            addresses.allocate(_typed(obj), self._store.bucket("services"), self._services)
        return obj

    def _namespace(self, kind: ResourceType, obj: Object) -> None:
        if not kind.namespaced:
            return
        name = obj["metadata"]["namespace"]
        entry = self._store.bucket("namespaces").entries.get(("", name))
        if entry is None:
            raise status.not_found("", "namespaces", name)
        if entry.fields["status.phase"] == "Terminating" and kind.bucket != "events":
            why = f"unable to create new content in namespace {name} because it is being terminated"
            refusal = status.forbidden(kind.group, kind.plural, obj["metadata"].get("name", ""), why)
            cause = {"reason": "NamespaceTerminating", "message": f"namespace {name} is being terminated"}
            refusal.details = {**(refusal.details or {}), "causes": [{**cause, "field": "metadata.namespace"}]}
            raise refusal

    async def _pod(self, kind: ResourceType, pod: Object) -> None:
        spec = pod.setdefault("spec", {})
        if self._accounts:
            await self._account(kind, pod, spec)
        self._priority(kind, pod, spec)
        tolerations = spec.setdefault("tolerations", [])
        for key in _NODE_TROUBLES:
            if not any(_tolerates(item, key) for item in tolerations):
                tolerations.append(
                    {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _TOLERATED_S}
                )

    async def _account(self, kind: ResourceType, pod: Object, spec: Object) -> None:
        namespace = pod["metadata"]["namespace"]
        name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        accounts = self._store.bucket("serviceaccounts")
        if (namespace, name) not in accounts.entries:
            await _appears(accounts, namespace, name)
        entry = accounts.entries.get((namespace, name))
        if entry is None:
            why = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
            raise status.forbidden(kind.group, kind.plural, pod["metadata"].get("name", ""), why)
        automount = spec.get("automountServiceAccountToken")
        if automount is None:
            automount = entry.object().get("automountServiceAccountToken", True)
        if automount:
            _mount_token(spec)

    def _priority(self, kind: ResourceType, pod: Object, spec: Object) -> None:
        classes = self._store.bucket(_PRIORITY).entries
        name = spec.get("priorityClassName")
        if not name:
            spec.setdefault("priority", 0)
            return
        entry = classes.get(("", name))
        if entry is None:
            why = f"no PriorityClass with name {name} was found"
            raise status.forbidden(kind.group, kind.plural, pod["metadata"].get("name", ""), why)
        chosen = entry.object()
        spec["priority"] = chosen.get("value", 0)
        spec.setdefault("preemptionPolicy", chosen.get("preemptionPolicy", "PreemptLowerPriority"))


def _typed(service: Object) -> Object:
    service.setdefault("spec", {}).setdefault("type", "ClusterIP")
    return service


def _addressed(service: Object, old: Object | None) -> bool:
    return old is not None and bool((old.get("spec") or {}).get("clusterIP"))


def _tolerates(toleration: Object, key: str) -> bool:
    return toleration.get("key") in (key, "", None) and toleration.get("effect") in ("NoExecute", "", None)


async def _appears(bucket: Bucket, namespace: str, name: str) -> None:
    """Wait a little for an object: the account of a new namespace is made a moment after the namespace."""
    with Watcher(bucket, lambda entry: entry.key == (namespace, name)) as watcher:
        await watcher.events(_ACCOUNT_WAIT_S)


def _mount_token(spec: Object) -> None:
    """The projected volume with token, CA and namespace that every pod with an account gets."""
    containers = [c for group in ("initContainers", "containers") for c in spec.get(group) or () if isinstance(c, dict)]
    bare = [c for c in containers if not any(m.get("mountPath") == _MOUNT for m in c.get("volumeMounts") or ())]
    if not bare:
        return
    name = "kube-api-access-" + "".join(secrets.choice("bcdfghjklmnpqrstvwxz2456789") for _ in range(5))
    for container in bare:
        mount = {"name": name, "readOnly": True, "mountPath": _MOUNT}
        container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]
    volume = {"name": name, "projected": {"sources": sources, "defaultMode": 0o644}}
    spec["volumes"] = [*(spec.get("volumes") or ()), volume]
