"""create, update and patch: one pipeline that every write goes through.

Decode, give identity, let admission change it, set defaults, judge, record who owns which field, store. The stages
between reading the live object and storing the new one do not wait for anything unless an admission webhook does, and
then the version is compared again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from egresslab.api.faults import invalid
from egresslab.api.resources import Object
from egresslab.api.schema import blocking, fill_defaults, validate
from egresslab.cluster.apiserver import applying, metadata, ownership, patches, status
from egresslab.cluster.apiserver.admission import Admission
from egresslab.cluster.apiserver.conversion import shown, stored
from egresslab.cluster.apiserver.declarations import ResourceType, StatusWrites
from egresslab.cluster.apiserver.decoding import decode, identify
from egresslab.cluster.apiserver.documents import APPLY
from egresslab.cluster.apiserver.requests import WriteOptions
from egresslab.cluster.apiserver.store import Bucket, Entry, Store
from egresslab.cluster.apiserver.strategies import PLAIN, STRATEGIES
from egresslab.cluster.apiserver.types import schema_of

_RETRIES = 5
_RULES_LEFT = (
    "some validation rules were not checked because the object was invalid; correct the existing errors to complete "
    "validation"
)
Change = Callable[[Object], Object]
"""From a copy of the live object to the object as it shall be."""


class Writer:
    """Writes to a store. `admission` may change or refuse; it is asked once for each write."""

    def __init__(self, store: Store, admission: Admission) -> None:
        self._store = store
        self._admission = admission

    def _bucket(self, kind: ResourceType) -> Bucket:
        return self._store.bucket(kind.bucket, kind.fields)

    async def create(self, kind: ResourceType, namespace: str, body: Any, options: WriteOptions) -> Entry:
        """A new object; raises 409 AlreadyExists."""
        obj = identify(kind, body)
        decode(kind, obj, options)
        return await self._create(kind, namespace, obj, options)

    async def _create(
        self, kind: ResourceType, namespace: str, obj: Object, options: WriteOptions, *, apply: bool = False
    ) -> Entry:
        obj = stored(kind, obj)
        if kind.status is StatusWrites.APART:
            obj.pop("status", None)
        metadata.begin(kind, obj, namespace)
        bucket = self._bucket(kind)
        key = (obj["metadata"].get("namespace", ""), obj["metadata"].get("name") or "")
        if key in bucket.entries:
            raise status.already_exists(kind.group, kind.plural, key[1])
        obj = await self._admission.admit(kind, obj, None, options)
        self._finish(kind, obj, None)
        if not apply:
            ownership.track(kind, {}, obj, options.manager)
        if key in bucket.entries:
            raise status.already_exists(kind.group, kind.plural, key[1])
        return self._put(bucket, obj, options)

    def _finish(self, kind: ResourceType, obj: Object, old: Object | None) -> None:
        """Defaults and judgement."""
        strategy = STRATEGIES.get(kind.bucket, PLAIN) if not kind.custom else PLAIN
        schema = schema_of(kind)
        if kind.custom and schema is not None:
            fill_defaults(schema, obj)
        strategy.prepare(obj, old)
        metadata.tidy(obj["metadata"])
        faults = metadata.judge(kind, obj, old)
        if schema is not None and kind.custom:
            found = validate(schema, obj, old)
            if schema.ruled and blocking(found):
                found.append(invalid("<nil>", None, _RULES_LEFT))
            faults += found
        faults += strategy.validate(obj, old)
        if faults:
            name = obj["metadata"].get("name") or obj["metadata"].get("generateName") or ""
            raise status.invalid(kind.group, kind.kind, name, faults)

    def _put(self, bucket: Bucket, obj: Object, options: WriteOptions) -> Entry:
        ordered = {"apiVersion": obj.pop("apiVersion"), "kind": obj.pop("kind"), "metadata": obj.pop("metadata"), **obj}
        if options.dry_run:
            entry = bucket.entry(ordered, version := int(ordered["metadata"].get("resourceVersion") or 0))
            if not version:
                del ordered["metadata"]["resourceVersion"]
            return replace(entry, data=orjson.dumps(ordered))
        return self._store.put(bucket, ordered)

    async def replace(
        self, kind: ResourceType, namespace: str, name: str, body: Any, options: WriteOptions, subresource: str = ""
    ) -> Entry:
        """PUT; raises 404, and 409 when the body's resourceVersion is not the live one."""
        new = identify(kind, body)
        decode(kind, new, options)
        new = stored(kind, new)

        def change(live: Object) -> Object:
            version = new["metadata"].get("resourceVersion")
            if version and version != live["metadata"]["resourceVersion"]:
                raise status.conflict(kind.group, kind.plural, name)
            return new

        return await self.change(kind, namespace, name, change, options, subresource)

    async def patch(
        self,
        kind: ResourceType,
        namespace: str,
        name: str,
        body: Any,
        media: str,
        options: WriteOptions,
        subresource: str = "",
    ) -> tuple[Entry, bool]:
        """PATCH of any type; the second value says whether the object was created by applying."""
        if media == APPLY:
            return await self._apply(kind, namespace, name, body, options, subresource)

        def change(live: Object) -> Object:
            version = live["metadata"]["resourceVersion"]
            new = identify(kind, _patched(kind, shown(kind, live), body, media))
            if new["metadata"].get("resourceVersion", version) != version:
                raise status.conflict(kind.group, kind.plural, name)
            decode(kind, new, options)
            return stored(kind, new)

        return await self.change(kind, namespace, name, change, options, subresource), False

    async def _apply(
        self, kind: ResourceType, namespace: str, name: str, body: Any, options: WriteOptions, subresource: str
    ) -> tuple[Entry, bool]:
        intent = identify(kind, body)
        if intent["metadata"].setdefault("name", name) != name:
            found = intent["metadata"]["name"]
            raise status.bad_request(f"the name of the object ({found}) does not match the name on the URL ({name})")
        if intent["metadata"].get("managedFields"):
            raise status.bad_request("metadata.managedFields must be nil")
        decode(kind, intent, options)
        intent = stored(kind, intent)
        if (namespace if kind.namespaced else "", name) not in self._bucket(kind).entries:
            if subresource:
                raise status.not_found(kind.group, kind.plural, name)
            applying.claim(kind, intent, options.manager)
            return await self._create(kind, namespace, intent, options, apply=True), True

        def change(live: Object) -> Object:
            return applying.apply(kind, live, intent, options, subresource)

        return await self.change(kind, namespace, name, change, options, subresource, apply=True), False

    async def change(
        self,
        kind: ResourceType,
        namespace: str,
        name: str,
        change: Change,
        options: WriteOptions,
        subresource: str = "",
        *,
        apply: bool = False,
    ) -> Entry:
        """Update an object by a function of it; starts over when it changed while admission waited."""
        bucket = self._bucket(kind)
        for _ in range(_RETRIES):
            entry = bucket.entries.get((namespace if kind.namespaced else "", name))
            if entry is None:
                raise status.not_found(kind.group, kind.plural, name)
            live = entry.object()
            new = change(entry.object())
            metadata.carry(kind, new, live)
            new["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
            new = _scope(kind, new, live, subresource)
            new = await self._admission.admit(kind, new, live, options, subresource)
            self._finish(kind, new, live)
            if kind.generation and _intent(new) != _intent(live):
                new["metadata"]["generation"] = live["metadata"].get("generation", 0) + 1
            if not apply:
                ownership.track(kind, live, new, options.manager, subresource)
            if bucket.entries.get(entry.key) is entry:
                return self._settle(bucket, entry, new, live, options)
        raise status.conflict(kind.group, kind.plural, name)

    def _settle(self, bucket: Bucket, entry: Entry, new: Object, live: Object, options: WriteOptions) -> Entry:
        if new == live:
            return entry
        meta = new["metadata"]
        held = meta.get("finalizers") or meta.get("deletionGracePeriodSeconds")
        if meta.get("deletionTimestamp") and not held and not (new.get("spec") or {}).get("finalizers"):
            return entry if options.dry_run else self._store.remove(bucket, new)
        return self._put(bucket, new, options)


def _patched(kind: ResourceType, live: Object, body: Any, media: str) -> Any:
    match media:
        case "application/json-patch+json":
            return patches.json_patch(live, body)
        case "application/merge-patch+json":
            return patches.merge_patch(live, body)
        case "application/strategic-merge-patch+json" if not kind.custom:
            return patches.strategic_merge(live, body, schema_of(kind))
    accepted = ["application/json-patch+json", "application/merge-patch+json", APPLY]
    raise status.unsupported_media_type(media, accepted)


def _scope(kind: ResourceType, new: Object, live: Object, subresource: str) -> Object:
    """What the place written to may change: status through its subresource, everything else through the resource."""
    if subresource == "status":
        keep = {key: value for key, value in live.items() if key != "status"}
        keep["metadata"] = new["metadata"] if not kind.custom else {**live["metadata"]}
        if kind.custom and "managedFields" in new["metadata"]:
            keep["metadata"]["managedFields"] = new["metadata"]["managedFields"]
        return keep | ({"status": new["status"]} if "status" in new else {})
    if kind.status is not StatusWrites.PLAIN and not subresource:
        new.pop("status", None)
        if "status" in live:
            new["status"] = live["status"]
    return new


def _intent(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")}
