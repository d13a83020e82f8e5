"""CustomResourceDefinitions: judged, completed, and turned into served resources at once.

One that is accepted is Established in the same write, so a client that waits for it waits for nothing. Conversion
between versions is by apiVersion alone, as with strategy None.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from egresslab.api import schema as schemas
from egresslab.api.faults import OMITTED, FieldFault, forbidden, invalid, required, unsupported
from egresslab.api.resources import Object
from egresslab.api.schema import Schema
from egresslab.cluster.apiserver import ages
from egresslab.cluster.apiserver.declarations import BUILT_IN, Column, ResourceType, StatusWrites
from egresslab.cluster.apiserver.jsonpath import PathError, find
from egresslab.cluster.apiserver.registry import Registry
from egresslab.cluster.apiserver.store import Bucket, Change, ChangeType, Entry, Store
from egresslab.cluster.apiserver.types import schema_of_model

BUCKET = "customresourcedefinitions.apiextensions.k8s.io"
_TYPES = ["array", "boolean", "integer", "number", "object", "string"]
_COLUMN_TYPES = ["boolean", "date", "integer", "number", "string"]
_OWN_GROUPS = frozenset(kind.group for kind in BUILT_IN)


def prepare(obj: Object, old: Object | None) -> None:
    """Names that follow from others, conversion, and the conditions of a definition that is served."""
    spec = obj.setdefault("spec", {})
    names = spec.setdefault("names", {})
    if kind := names.get("kind"):
        names.setdefault("singular", kind.lower())
        names.setdefault("listKind", f"{kind}List")
    spec.setdefault("conversion", {"strategy": "None"})
    status = obj["status"] = dict(obj.get("status") or {})
    known = {condition["type"]: condition for condition in status.get("conditions") or ()}
    for name, reason, message in (
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ):
        if known.get(name, {}).get("status") != "True":
            moment = ages.now()
            known[name] = {"type": name, "status": "True", "reason": reason, "message": message}
            known[name]["lastTransitionTime"] = moment
    status["conditions"] = list(known.values())
    status["acceptedNames"] = dict(names)
    stored = [version.get("name", "") for version in spec.get("versions") or () if version.get("storage")]
    status["storedVersions"] = list(dict.fromkeys([*(status.get("storedVersions") or ()), *stored]))


def validate(obj: Object, old: Object | None) -> list[FieldFault]:
    """Faults of a definition, its schemas included."""
    faults = schemas.validate(schema_of_model("V1CustomResourceDefinitionSpec"), obj["spec"], path="spec")
    if faults:
        return faults
    spec, names = obj["spec"], obj["spec"]["names"]
    if spec.get("group") in _OWN_GROUPS:
        faults.append(forbidden("spec.group", "is a group of the API server itself"))
    expected = f"{names.get('plural')}.{spec.get('group')}"
    if obj["metadata"]["name"] != expected:
        words = 'must be spec.names.plural+"."+spec.group'
        faults.append(invalid("metadata.name", obj["metadata"]["name"], words))
    if spec.get("scope") not in ("Cluster", "Namespaced"):
        faults.append(unsupported("spec.scope", spec.get("scope"), ["Cluster", "Namespaced"]))
    if old is not None:
        for field in ("group", "scope"):
            if old["spec"].get(field) != spec.get(field):
                faults.append(invalid(f"spec.{field}", spec.get(field), "field is immutable"))
    versions = spec.get("versions") or []
    if sum(bool(version.get("storage")) for version in versions) != 1:
        faults.append(invalid("spec.versions", [], "must have exactly one version marked as storage version"))
    for index, version in enumerate(versions):
        faults += _version(version, f"spec.versions[{index}]")
    if not faults:
        try:
            resource_types(obj)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            # What we cannot serve we must not store: every later start would fail on it.
            faults.append(invalid("spec.versions", OMITTED, f"cannot be served: {error!r}"))
    return faults


def _version(version: Object, path: str) -> Iterator[FieldFault]:
    raw = (version.get("schema") or {}).get("openAPIV3Schema")
    if raw is None:
        yield required(f"{path}.schema.openAPIV3Schema", "schemas are required")
        return
    here = f"{path}.schema.openAPIV3Schema"
    if raw.get("type") != "object":
        yield invalid(f"{here}.type", raw.get("type", ""), "must be object at the root")
    yield from _structural(raw, here)
    for number, column in enumerate(version.get("additionalPrinterColumns") or ()):
        where = f"{path}.additionalPrinterColumns[{number}]"
        yield from (required(f"{where}.{part}") for part in ("name", "jsonPath") if not column.get(part))
        if column.get("type") not in _COLUMN_TYPES:
            yield unsupported(f"{where}.type", column.get("type"), _COLUMN_TYPES)
        try:
            find({}, column.get("jsonPath") or "")
        except PathError as error:
            yield invalid(f"{where}.jsonPath", column.get("jsonPath"), f"is an invalid path expression: {error}")


def _structural(raw: Any, path: str) -> Iterator[FieldFault]:
    """What makes a schema structural (CRDs, "Specifying a structural schema"), and rules that parse."""
    open_type = raw.get("x-kubernetes-int-or-string") or raw.get("x-kubernetes-preserve-unknown-fields")
    if not raw.get("type"):
        if not open_type:
            yield required(f"{path}.type", "must not be empty for specified object fields")
    elif raw["type"] not in _TYPES:
        yield unsupported(f"{path}.type", raw["type"], _TYPES)
    if raw.get("type") == "array" and not isinstance(raw.get("items"), dict):
        yield required(f"{path}.items", "must be specified")
    if raw.get("properties") and raw.get("additionalProperties"):
        yield forbidden(f"{path}.additionalProperties", "properties and additionalProperties are mutually exclusive")
    for number, rule in enumerate(raw.get("x-kubernetes-validations") or ()):
        try:
            Schema({"x-kubernetes-validations": [rule]})
        except (ValueError, KeyError) as error:
            words = f"compilation failed: {error}"
            yield invalid(f"{path}.x-kubernetes-validations[{number}].rule", rule.get("rule"), words)
    for name, child in (raw.get("properties") or {}).items():
        yield from _structural(child, f"{path}.properties[{name}]")
    for name in ("items", "additionalProperties"):
        if isinstance(raw.get(name), dict):
            # The client's models leave these two untyped.
            faults = schemas.validate(schema_of_model("V1JSONSchemaProps"), raw[name], path=f"{path}.{name}")
            yield from faults or _structural(raw[name], f"{path}.{name}")


def resource_types(definition: Object) -> list[ResourceType]:
    """The resources that a definition serves, the storage version first."""
    spec = definition["spec"]
    names, found = spec["names"], []
    for version in sorted(spec["versions"], key=lambda item: not item.get("storage")):
        if not version.get("served"):
            continue
        subresources = version.get("subresources") or {}
        found.append(
            ResourceType(
                spec["group"],
                version["name"],
                names["plural"],
                names["kind"],
                tuple(names.get("shortNames") or ()),
                tuple(names.get("categories") or ()),
                namespaced=spec["scope"] == "Namespaced",
                status=StatusWrites.APART if "status" in subresources else StatusWrites.PLAIN,
                subresources=("scale",) if "scale" in subresources else (),
                generation=True,
                fields=tuple(item["jsonPath"].lstrip(".") for item in version.get("selectableFields") or ()),
                singular=names.get("singular", ""),
                list_kind=names.get("listKind", ""),
                columns=tuple(
                    Column(
                        item["name"],
                        item["type"],
                        item["jsonPath"],
                        item.get("description", ""),
                        item.get("priority", 0),
                        item.get("format", ""),
                    )
                    for item in version.get("additionalPrinterColumns") or ()
                ),
                schema=Schema(version["schema"]["openAPIV3Schema"]),
                custom=True,
                scale=subresources.get("scale"),
            )
        )
    return found


class Publisher:
    """Keeps the registry to the definitions in the store; the objects of one that goes are deleted."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store, self._registry = store, registry
        self._bucket: Bucket = store.bucket(BUCKET)
        for entry in self._bucket.entries.values():
            self._publish(entry)
        self._bucket.listeners.append(self._on_change)

    def _on_change(self, change: Change) -> None:
        if change.type is ChangeType.DELETED:
            for kind in self._registry.drop_custom(change.entry.key[1]):
                bucket = self._store.bucket(kind.bucket)
                for entry in list(bucket.entries.values()):
                    with contextlib.suppress(KeyError):
                        self._store.remove(bucket, entry.object())
        elif change.previous is None or _spec(change.entry) != _spec(change.previous):
            self._publish(change.entry)

    def _publish(self, entry: Entry) -> None:
        kinds = resource_types(entry.object())
        for kind in kinds:
            self._store.bucket(kind.bucket, kind.fields)
        self._registry.put_custom(entry.key[1], kinds)


def _spec(entry: Entry) -> Any:
    return entry.object().get("spec")
