"""Mutating and validating admission webhooks (admissionregistration.k8s.io/v1), called over HTTPS by URL.

A webhook is asked in order of names; its JSON patch is applied, its refusal is the answer. Only `clientConfig.url`
can be called: services are reached from nodes, not from the control plane's process.
"""

from __future__ import annotations

import base64
import ssl
import uuid
from functools import lru_cache
from typing import Any

import aiohttp
import orjson

from egresslab.api.expressions import cel
from egresslab.api.resources import Object
from egresslab.api.rules import EVALUATION
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
        self._made: aiohttp.ClientSession | None = None
        self._trust = lru_cache(maxsize=16)(_context)

    async def close(self) -> None:
        """Let go of connections."""
        if self._made is not None:
            await self._made.close()

    async def call(
        self, kind: ResourceType, obj: Object, old: Object | None, options: WriteOptions, subresource: str = ""
    ) -> Object:
        """The object after all webhooks that match; raises the refusal of the first that refuses. With a subresource
        that has a kind of its own the object is of that kind.
        """
        if kind.group == _GROUP:
            return obj
        for bucket in _BUCKETS:
            for _, entry in sorted(self._store.bucket(bucket).entries.items()):
                for webhook in entry.object().get("webhooks") or ():
                    if self._matches(webhook, kind, obj, old, subresource):
                        review = _review(kind, obj, old, options, subresource)
                        obj = await self._ask(webhook, review, obj, options)
        return obj

    def _matches(self, webhook: Object, kind: ResourceType, obj: Object, old: Object | None, subresource: str) -> bool:
        operation = "CREATE" if old is None else "UPDATE"
        if not any(_rule_matches(rule, kind, operation, subresource) for rule in webhook.get("rules") or ()):
            return False
        labels = obj["metadata"].get("labels") or {}
        if not _selected(webhook.get("objectSelector"), labels):
            return False
        namespace = self._store.bucket("namespaces").entries.get(("", obj["metadata"].get("namespace", "")))
        if namespace is not None and not _selected(webhook.get("namespaceSelector"), namespace.labels):
            return False
        return _conditions_hold(webhook, obj, old)

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._made is None:
            self._made = aiohttp.ClientSession()
        return self._made

    async def _ask(self, webhook: Object, review: Object, obj: Object, options: WriteOptions) -> Object:
        name, client = webhook.get("name", ""), webhook.get("clientConfig") or {}
        try:
            if not client.get("url"):
                raise status.service_unavailable("only clientConfig.url can be called by the embedded cluster")
            timeout = aiohttp.ClientTimeout(total=min(webhook.get("timeoutSeconds") or 10, _LONGEST_S))
            context = self._trust(client.get("caBundle"))
            body = orjson.dumps(review)
            async with self._session.post(
                client["url"], data=body, headers=_JSON, ssl=context, timeout=timeout
            ) as answer:
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


def _context(bundle: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=base64.b64decode(bundle).decode() if bundle else None)


def _rule_matches(rule: Object, kind: ResourceType, operation: str, subresource: str) -> bool:
    resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
    everything = ("*/*", f"{kind.plural}/*") if subresource else ("*", "*/*")
    scope = rule.get("scope") or "*"
    return (
        _has(rule.get("operations"), operation)
        and _has(rule.get("apiGroups"), kind.group)
        and _has(rule.get("apiVersions"), kind.version)
        and any(name in (rule.get("resources") or ()) for name in (resource, *everything))
        and scope in ("*", "Namespaced" if kind.namespaced else "Cluster")
    )


_compiled = lru_cache(maxsize=256)(cel.compile)


def _conditions_hold(webhook: Object, obj: Object, old: Object | None) -> bool:
    """`matchConditions`; one that cannot be evaluated counts as the webhook's own failure."""
    context = cel.Context(variables={"object": obj, "oldObject": old})
    for condition in webhook.get("matchConditions") or ():
        try:
            if not _compiled(condition["expression"]).execute(context):
                return False
        except EVALUATION as error:
            if webhook.get("failurePolicy") == "Ignore":
                return False
            name, why = condition.get("name", ""), f"{type(error).__name__}: {error}"
            message = f'match condition "{name}" of webhook "{webhook.get("name", "")}": {why}'
            raise status.Refusal(500, "InternalError", f"Internal error occurred: {message}") from error
    return True


def _has(values: Any, wanted: str) -> bool:
    return bool(values) and ("*" in values or wanted in values)


def _selected(selector: object, labels: dict[str, str]) -> bool:
    try:
        return (parse_selector(selector) if selector else EVERYTHING).matches(labels)
    except SelectorError:
        return False


def _review(kind: ResourceType, obj: Object, old: Object | None, options: WriteOptions, subresource: str) -> Object:
    gvk = {"group": kind.group, "version": kind.version, "kind": obj["kind"]}
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
        **({"subResource": subresource, "requestSubResource": subresource} if subresource else {}),
        "dryRun": options.dry_run,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
