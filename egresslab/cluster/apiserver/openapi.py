"""OpenAPI v3 of what is served: enough for kubectl to validate on the server, to apply and to explain.

Schemas of built-in kinds come from `types`, those of custom resources from their definitions. Paths say what
kubectl asks of them: the group, version and kind behind each, and the parameters of a patch.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from egresslab.api.schema import Schema
from egresslab.cluster.apiserver.declarations import ResourceType
from egresslab.cluster.apiserver.documents import APPLY
from egresslab.cluster.apiserver.naming import component, model_name
from egresslab.cluster.apiserver.registry import Registry
from egresslab.cluster.apiserver.types import UnknownType, components, raw

SWAGGER_MEDIA = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
SWAGGER = b"\x0a\x032.0" + b"\x12\x13" + b"\x0a\x0aKubernetes" + b"\x12\x05v1.37"
"""OpenAPI v2 without a definition, in protobuf: kubectl asks for it before it sends a v1 List and checks what it knows.

Knowing nothing it checks nothing itself, and the server judges each of the items, as it does all others.
"""
_WRITE_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation")


def _parameter(name: str, kind: str = "string") -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": True}}


class Documents:
    """OpenAPI documents by group and version; made when asked for and kept until what is served changes."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._made: dict[str, bytes] = {}
        self._generation = registry.generation

    def index(self) -> dict[str, Any]:
        """/openapi/v3: where each group version's document is."""
        paths = {}
        for group, versions in self._registry.groups().items():
            for version, kinds in versions.items():
                place = f"apis/{group}/{version}" if group else f"api/{version}"
                paths[place] = {"serverRelativeURL": f"/openapi/v3/{place}?hash={_mark(kinds)}"}
        return {"paths": paths}

    def document(self, place: str) -> bytes | None:
        """The document of `api/v1` or `apis/GROUP/VERSION`, or None when it is not served."""
        if self._generation != self._registry.generation:
            self._made.clear()
            self._generation = self._registry.generation
        if place not in self._made:
            parts = place.strip("/").split("/")
            group, version = (parts[1], parts[2]) if len(parts) == 3 else ("", parts[-1])
            kinds = self._registry.groups().get(group, {}).get(version)
            if kinds is None:
                return None
            self._made[place] = orjson.dumps(_document(place, kinds))
        return self._made[place]


def _mark(kinds: list[ResourceType]) -> str:
    seen = [[kind.plural, kind.schema.raw if isinstance(kind.schema, Schema) else None] for kind in kinds]
    return hashlib.sha256(orjson.dumps(seen)).hexdigest()[:32].upper()


def _document(place: str, kinds: list[ResourceType]) -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for kind in kinds:
        if not kind.verbs:
            continue
        name = _schema(kind, schemas)
        collection = (
            f"/{place}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"/{place}/{kind.plural}"
        )
        paths[collection] = {"get": _operation(kind, "list", name), "post": _operation(kind, "post", name)}
        if kind.stored:
            methods = ("get", "put", "patch", "delete")
            paths[f"{collection}/{{name}}"] = {method: _operation(kind, method, name) for method in methods}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.37"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _schema(kind: ResourceType, schemas: dict[str, Any]) -> str:
    if not kind.custom:
        try:
            model = model_name(kind)
            schemas |= components(model)
        except UnknownType:
            return ""
        name = component(model)
        shape = dict(schemas[name])
    else:
        name = ".".join([*reversed(kind.group.split(".")), kind.version, kind.kind])
        schemas |= components("V1ObjectMeta")
        shape = dict(kind.schema.raw) if isinstance(kind.schema, Schema) else {"type": "object"}
        reference = {"$ref": f"#/components/schemas/{component('V1ObjectMeta')}"}
        known = raw("V1Pod")["properties"]
        shape["properties"] = {
            **{part: known[part] for part in ("apiVersion", "kind")},
            "metadata": {"allOf": [reference], "description": "Standard object's metadata."},
            **{
                key: value
                for key, value in shape.get("properties", {}).items()
                if key not in ("apiVersion", "kind", "metadata")
            },
        }
    shape["x-kubernetes-group-version-kind"] = [_gvk(kind)]
    schemas[name] = shape
    return name


def _gvk(kind: ResourceType) -> dict[str, str]:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _operation(kind: ResourceType, action: str, schema: str) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{schema}"} if schema else {"type": "object"}}
    operation: dict[str, Any] = {
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(kind),
        "responses": {"200": {"description": "OK", "content": {"application/json": content}}},
    }
    if action in ("post", "put", "patch"):
        operation["parameters"] = [_parameter(name) for name in _WRITE_PARAMETERS]
        # Strategic merge is left out, so that kubectl computes such patches from its own types.
        media = ["application/json-patch+json", "application/merge-patch+json", APPLY] if action == "patch" else ["*/*"]
        operation["requestBody"] = {"content": dict.fromkeys(media, content)}
    if action == "patch":
        operation["parameters"].append(_parameter("force", "boolean"))
    if action == "delete":
        operation["parameters"] = [_parameter("dryRun")]
    return operation
