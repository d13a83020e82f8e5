"""Subresources that are more than a part of their object: scale, binding, eviction, token and finalize.

Each turns what the client says in the subresource's own kind into one change of the object behind it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from egresslab.api.resources import Object
from egresslab.api.selectors import SelectorError, parse_selector
from egresslab.cluster.apiserver import ages, deletion, patches, status
from egresslab.cluster.apiserver.authentication import Authenticator
from egresslab.cluster.apiserver.declarations import ResourceType
from egresslab.cluster.apiserver.decoding import identify
from egresslab.cluster.apiserver.requests import WriteOptions
from egresslab.cluster.apiserver.store import Entry, Store
from egresslab.cluster.apiserver.webhooks import Webhooks
from egresslab.cluster.apiserver.writing import Writer

_BUDGETS = "poddisruptionbudgets.policy"


class Subresources:
    """Acts on subresources of the objects in a store."""

    def __init__(
        self, store: Store, writer: Writer, deleter: deletion.Deleter, authenticator: Authenticator, webhooks: Webhooks
    ) -> None:
        self._store, self._writer, self._deleter = store, writer, deleter
        self._authenticator, self._webhooks = authenticator, webhooks

    def scale(self, kind: ResourceType, entry: Entry) -> Object:
        """The Scale of a workload (autoscaling/v1)."""
        return _scale(kind, entry.object())

    async def set_scale(
        self, kind: ResourceType, namespace: str, name: str, body: Any, media: str, options: WriteOptions
    ) -> Object:
        """PUT or PATCH (`media` is the patch's type, "" for PUT) of a Scale."""
        path = _path(kind, "specReplicasPath", ".spec.replicas")

        def change(live: Object) -> Object:
            before = _scale(kind, live)
            if not media:
                after = body
            elif media == "application/json-patch+json":
                after = patches.json_patch(before, body)
            else:
                after = patches.merge_patch(before, body)
            after = identify(kind, after, expected=("autoscaling/v1", "Scale"))
            version = (after.get("metadata") or {}).get("resourceVersion")
            if version and version != live["metadata"]["resourceVersion"]:
                raise status.conflict(kind.group, kind.plural, name)
            replicas = (after.get("spec") or {}).get("replicas", 0)
            if not isinstance(replicas, int) or replicas < 0:
                raise status.bad_request("spec.replicas: must be a whole number, at least 0")
            _set(live, path, replicas)
            return live

        entry = await self._writer.change(kind, namespace, name, change, options, "scale")
        return _scale(kind, entry.object())

    async def bind(self, kind: ResourceType, namespace: str, name: str, body: Any, options: WriteOptions) -> Object:
        """Put a pod on a node (v1 Binding); raises 409 when it is on one already."""
        binding = identify(kind, body, expected=("v1", "Binding"))
        binding["metadata"].update(name=name, namespace=namespace)
        binding = await self._webhooks.call(kind, binding, None, options, "binding")
        node = (binding.get("target") or {}).get("name")
        if not node:
            raise status.bad_request("target.name: Required value")
        given = binding["metadata"]

        def change(live: Object) -> Object:
            spec = live.setdefault("spec", {})
            if given.get("uid", live["metadata"]["uid"]) != live["metadata"]["uid"]:
                raise status.conflict("", "pods/binding", name, "Precondition failed: UID in precondition")
            if live["metadata"].get("deletionTimestamp"):
                raise status.conflict(
                    "", "pods/binding", name, f"pod {name} is being deleted, cannot be assigned to a host"
                )
            if spec.get("nodeName"):
                why = f'pod {name} is already assigned to node "{spec["nodeName"]}"'
                raise status.conflict("", "pods/binding", name, why)
            spec["nodeName"] = node
            live["status"] = _scheduled(live.get("status") or {})
            for part in ("annotations", "labels"):
                if given.get(part):
                    live["metadata"][part] = {**(live["metadata"].get(part) or {}), **given[part]}
            return live

        await self._writer.change(kind, namespace, name, change, options, "binding")
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

    async def evict(self, kind: ResourceType, namespace: str, name: str, entry: Entry, body: Any) -> Object:
        """Delete a pod unless a PodDisruptionBudget forbids it for now (429)."""
        eviction = identify(kind, body, expected=("policy/v1", "Eviction"))
        pod = entry.object()
        running = (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed", "Pending")
        if running and not pod["metadata"].get("deletionTimestamp"):
            self._budget(namespace, entry)
        self._deleter.delete(kind, entry, deletion.read_options(eviction.get("deleteOptions"), {}))
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

    def _budget(self, namespace: str, entry: Entry) -> None:
        bucket = self._store.bucket(_BUDGETS)
        for key, budget in list(bucket.entries.items()):
            obj = budget.object()
            if key[0] != namespace or not _covers(obj, entry):
                continue
            state = obj.get("status") or {}
            if state.get("disruptionsAllowed", 0) < 1:
                message = "Cannot evict pod as it would violate the pod's disruption budget."
                cause = {"reason": "DisruptionBudget", "message": f"The disruption budget {key[1]} is exhausted"}
                raise status.Refusal(429, "TooManyRequests", message, {"causes": [cause]})
            state["disruptionsAllowed"] -= 1
            self._store.put(bucket, obj)

    def token(self, entry: Entry, kind: ResourceType, body: Any) -> Object:
        """A signed token for a service account (authentication.k8s.io/v1 TokenRequest)."""
        request = identify(kind, body, expected=("authentication.k8s.io/v1", "TokenRequest"))
        spec = request.get("spec") or {}
        reference, pod = spec.get("boundObjectRef"), None
        namespace, name = entry.key
        if reference and reference.get("kind") == "Pod":
            bound = self._store.bucket("pods").entries.get((namespace, reference.get("name", "")))
            if bound is None or (reference.get("uid") and reference["uid"] != bound.uid):
                raise status.not_found("", "pods", reference.get("name", ""))
            pod = bound.object()
        seconds = spec.get("expirationSeconds") or 3600
        audiences = spec.get("audiences") or []
        token, expires = self._authenticator.issue(entry.object(), pod, audiences, seconds)
        moment = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": ages.now()},
            "spec": {**spec, "audiences": audiences, "expirationSeconds": seconds},
            "status": {"token": token, "expirationTimestamp": moment},
        }

    async def finalize(self, kind: ResourceType, name: str, body: Any, options: WriteOptions) -> Object:
        """Set a namespace's finalizers; one that ends and has none left is gone."""
        asked = identify(kind, body)
        finalizers = (asked.get("spec") or {}).get("finalizers") or []
        bucket = self._store.bucket(kind.bucket)
        entry = bucket.entries.get(("", name))
        if entry is None:
            raise status.not_found("", "namespaces", name)
        live = entry.object()
        version = asked["metadata"].get("resourceVersion")
        if version and version != live["metadata"]["resourceVersion"]:
            raise status.conflict("", "namespaces", name)
        live["spec"] = {"finalizers": finalizers} if finalizers else {}
        if options.dry_run:
            return live
        if live["metadata"].get("deletionTimestamp") and not finalizers and not live["metadata"].get("finalizers"):
            return self._store.remove(bucket, live).object()
        return self._store.put(bucket, live).object()


def _covers(budget: Object, pod: Entry) -> bool:
    try:
        return parse_selector((budget.get("spec") or {}).get("selector") or {}).matches(pod.labels)
    except SelectorError:
        return False


def _scheduled(state: Object) -> Object:
    others = [c for c in state.get("conditions") or () if c.get("type") != "PodScheduled"]
    condition = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": ages.now()}
    return {**state, "conditions": [*others, condition]}


def _path(kind: ResourceType, name: str, otherwise: str) -> list[str]:
    path = (kind.scale or {}).get(name) or ("" if kind.scale else otherwise)
    return [part for part in str(path).split(".") if part]


def _get(obj: Any, path: list[str]) -> Any:
    for part in path:
        obj = obj.get(part) if isinstance(obj, dict) else None
    return obj


def _set(obj: Object, path: list[str], value: Any) -> None:
    for part in path[:-1]:
        obj = obj.setdefault(part, {})
    obj[path[-1]] = value


def _scale(kind: ResourceType, obj: Object) -> Object:
    metadata = obj["metadata"]
    selector = _get(obj, _path(kind, "labelSelectorPath", ".spec.selector"))
    try:
        text = str(parse_selector(selector)).replace("everything", "") if isinstance(selector, dict) else selector or ""
    except SelectorError:
        text = ""
    names = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in names if key in metadata},
        "spec": {"replicas": _get(obj, _path(kind, "specReplicasPath", ".spec.replicas")) or 0},
        "status": {
            "replicas": _get(obj, _path(kind, "statusReplicasPath", ".status.replicas")) or 0,
            "selector": text,
        },
    }
