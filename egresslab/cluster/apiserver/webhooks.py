"""Mutating and validating admission webhooks (admissionregistration.k8s.io/v1), called over HTTPS by URL.

A webhook is asked in order of names; its JSON patch is applied, its refusal is the answer. Only `clientConfig.url`
can be called: services are reached from nodes, not from the control plane's process.
"""

from __future__ import annotations

import base64
import ssl
import uuid
from typing import Any

import aiohttp
import orjson

from egresslab.api.resources import Object
from egresslab.api.selectors import EVERYTHING, SelectorError, parse_selector
from egresslab.cluster.apiserver import patches, status
from egresslab.cluster.apiserver.declarations import ResourceType
from egresslab.cluster.apiserver.requests import WriteOptions
from egresslab.cluster.apiserver.store import Store

_GROUP = "admissionregistration.k8s.io"
_BUCKETS = (f"mutatingwebhookconfigurations.{_GROUP}", f"validatingwebhookconfigurations.{_GROUP}")
_LONGEST_S = 30


class Webhooks:
    """Calls the webhooks that are registered in a store; costs nothing while there are none."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def call(self, kind: ResourceType, obj: Object, old: Object | None, options: WriteOptions) -> Object:
        """The object after all webhooks that match; raises the refusal of the first that refuses."""
        if kind.group == _GROUP:
            return obj
        for bucket in _BUCKETS:
            for _, entry in sorted(self._store.bucket(bucket).entries.items()):
                for webhook in entry.object().get("webhooks") or ():
                    if self._matches(webhook, kind, obj, old):
                        obj = await self._ask(webhook, kind, obj, old, options)
        return obj

    def _matches(self, webhook: Object, kind: ResourceType, obj: Object, old: Object | None) -> bool:
        operation = "CREATE" if old is None else "UPDATE"
        if not any(_rule_matches(rule, kind, operation) for rule in webhook.get("rules") or ()):
            return False
        labels = obj["metadata"].get("labels") or {}
        if not _selected(webhook.get("objectSelector"), labels):
            return False
        namespace = self._store.bucket("namespaces").entries.get(("", obj["metadata"].get("namespace", "")))
        return namespace is None or _selected(webhook.get("namespaceSelector"), namespace.labels)

    async def _ask(
        self, webhook: Object, kind: ResourceType, obj: Object, old: Object | None, options: WriteOptions
    ) -> Object:
        name, client = webhook.get("name", ""), webhook.get("clientConfig") or {}
        review = _review(kind, obj, old, options)
        try:
            if not client.get("url"):
                raise status.service_unavailable("only clientConfig.url can be called by the embedded cluster")
            timeout = aiohttp.ClientTimeout(total=min(webhook.get("timeoutSeconds") or 10, _LONGEST_S))
            bundle = client.get("caBundle")
            context = ssl.create_default_context(cadata=base64.b64decode(bundle).decode() if bundle else None)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(client["url"], data=orjson.dumps(review), headers=_JSON, ssl=context) as answer,
            ):
                response = orjson.loads(await answer.read())["response"]
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, status.Refusal) as error:
            if webhook.get("failurePolicy") == "Ignore":
                return obj
            message = f'Internal error occurred: failed calling webhook "{name}": {error}'
            raise status.Refusal(500, "InternalError", message) from error
        options.warnings += response.get("warnings") or []
        if not response.get("allowed"):
            why = (response.get("status") or {}).get("message") or "without explanation"
            raise status.Refusal(403, "Forbidden", f'admission webhook "{name}" denied the request: {why}')
        if response.get("patch"):
            changed: Object = patches.json_patch(obj, orjson.loads(base64.b64decode(response["patch"])))
            return changed
        return obj


_JSON = {"Content-Type": "application/json"}


def _rule_matches(rule: Object, kind: ResourceType, operation: str) -> bool:
    scope = rule.get("scope") or "*"
    return (
        _has(rule.get("operations"), operation)
        and _has(rule.get("apiGroups"), kind.group)
        and _has(rule.get("apiVersions"), kind.version)
        and _has(rule.get("resources"), kind.plural)
        and scope in ("*", "Namespaced" if kind.namespaced else "Cluster")
    )


def _has(values: Any, wanted: str) -> bool:
    return bool(values) and ("*" in values or wanted in values)


def _selected(selector: object, labels: dict[str, str]) -> bool:
    try:
        return (parse_selector(selector) if selector else EVERYTHING).matches(labels)
    except SelectorError:
        return False


def _review(kind: ResourceType, obj: Object, old: Object | None, options: WriteOptions) -> Object:
    gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    gvr = {"group": kind.group, "version": kind.version, "resource": kind.plural}
    request = {
        "uid": str(uuid.uuid4()),
        "kind": gvk,
        "resource": gvr,
        "requestKind": gvk,
        "requestResource": gvr,
        "name": obj["metadata"].get("name", ""),
        "namespace": obj["metadata"].get("namespace", ""),
        "operation": "CREATE" if old is None else "UPDATE",
        "userInfo": options.user.info(),
        "object": obj,
        "oldObject": old,
        "dryRun": options.dry_run,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
