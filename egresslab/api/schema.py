"""Structural OpenAPI v3 schemas (apiextensions.k8s.io/v1), compiled once and walked many times.

One form serves custom resources and built-in kinds alike: unknown fields are found and pruned, defaults filled in,
values checked, and lists merged by it. Messages and paths are Kubernetes' own. Also used offline, to lint policies.
Nothing here knows kinds, requests or clusters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

from egresslab.api.checks import check_value
from egresslab.api.faults import FaultKind, FieldFault, required
from egresslab.api.rules import Rule

Resolve = Callable[[str], "Schema"]
_UNSET: Any = object()
_BLOCKING = frozenset(
    (FaultKind.REQUIRED, FaultKind.TYPE_INVALID, FaultKind.UNSUPPORTED, FaultKind.TOO_LONG, FaultKind.TOO_MANY)
)
_META = frozenset(("apiVersion", "kind", "metadata"))
_JSON_NAMES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


class Schema:
    """One compiled node. `raw` is the source; attributes carry what walking needs.

    `resolve` turns a `$ref` into its schema (built-in kinds only); custom resources have none.
    """

    __slots__ = (
        "additional",
        "checked",
        "default",
        "embedded",
        "int_or_string",
        "items",
        "list_keys",
        "list_type",
        "map_type",
        "merge_key",
        "merge_strategy",
        "nullable",
        "preserve",
        "properties",
        "raw",
        "required",
        "ruled",
        "rules",
        "type",
    )

    def __init__(self, raw: Mapping[str, Any], resolve: Resolve | None = None) -> None:
        self.raw = raw
        self.type: str = raw.get("type", "")
        self.nullable = bool(raw.get("nullable"))
        self.required: tuple[str, ...] = tuple(raw.get("required") or ())
        self.preserve = bool(raw.get("x-kubernetes-preserve-unknown-fields"))
        self.embedded = bool(raw.get("x-kubernetes-embedded-resource"))
        self.int_or_string = bool(raw.get("x-kubernetes-int-or-string"))
        self.default: Any = orjson.dumps(raw["default"]) if "default" in raw else _UNSET
        self.list_type: str = raw.get("x-kubernetes-list-type", "atomic")
        self.list_keys: tuple[str, ...] = tuple(raw.get("x-kubernetes-list-map-keys") or ())
        self.map_type: str = raw.get("x-kubernetes-map-type", "granular")
        self.merge_key: str = raw.get("x-kubernetes-patch-merge-key", "")
        self.merge_strategy: str = raw.get("x-kubernetes-patch-strategy", "")
        self.rules = tuple(Rule(rule) for rule in raw.get("x-kubernetes-validations") or ())
        self.checked = any(
            key in raw
            for key in (
                *("enum", "pattern", "format", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"),
                *("oneOf", "anyOf", "allOf", "not", "multipleOf", "uniqueItems", "minProperties", "maxProperties"),
            )
        )
        self.properties: dict[str, Schema] = {}
        self.items: Schema | None = None
        self.additional: Schema | None = None
        for name, child in (raw.get("properties") or {}).items():
            self.properties[name] = _child(child, resolve)
        if isinstance(raw.get("items"), Mapping):
            self.items = _child(raw["items"], resolve)
        if isinstance(raw.get("additionalProperties"), Mapping):
            self.additional = _child(raw["additionalProperties"], resolve)
        elif raw.get("additionalProperties") is True:
            self.preserve = True

        below = (*self.properties.values(), self.items, self.additional)
        # A recursive type meets itself half made.
        self.ruled = bool(self.rules) or any(getattr(child, "ruled", False) for child in below)

    def child(self, name: str) -> Schema | None:
        """The schema of a field or map value, None where nothing is known about it."""
        return self.properties.get(name) or self.additional

    @property
    def open(self) -> bool:
        """Whether fields that are not named are kept."""
        return self.preserve or self.embedded or self.additional is not None or not (self.properties or self.type)


def _child(raw: Mapping[str, Any], resolve: Resolve | None) -> Schema:
    if "$ref" in raw and resolve is not None:
        target = resolve(raw["$ref"])
        if not set(raw) - {"$ref", "description"}:
            return target
        raw = {**target.raw, **{key: value for key, value in raw.items() if key != "$ref"}}
    return Schema(raw, resolve)


def prune(schema: Schema, value: Any, path: str = "", *, root: bool = False) -> Iterator[str]:
    """Remove fields that the schema does not know, in place; yields their paths.

    At the root of a resource, apiVersion, kind and metadata are known without being named.
    """
    if isinstance(value, dict):
        known = schema.properties
        for name in list(value):
            here = f"{path}.{name}" if path else name
            child = known.get(name) or schema.additional
            if child is not None:
                if (child.properties or child.items or child.additional) and not (root and name in _META):
                    yield from prune(child, value[name], here, root=child.embedded)
            elif not (schema.open or ((root or schema.embedded) and name in _META)):
                del value[name]
                yield here
    elif isinstance(value, list) and schema.items is not None:
        for index, item in enumerate(value):
            yield from prune(schema.items, item, f"{path}[{index}]", root=schema.items.embedded)


def fill_defaults(schema: Schema, value: Any) -> None:
    """Put defaults where a field is missing, or null and not nullable, in place (CRDs, "Defaulting")."""
    if isinstance(value, dict):
        for name, child in schema.properties.items():
            if child.default is not _UNSET and (name not in value or (value[name] is None and not child.nullable)):
                value[name] = orjson.loads(child.default)
            elif name in value and value[name] is None and not child.nullable and child.type:
                del value[name]
            if name in value:
                fill_defaults(child, value[name])
        if schema.additional is not None:
            for item in value.values():
                fill_defaults(schema.additional, item)
    elif isinstance(value, list) and schema.items is not None:
        for item in value:
            fill_defaults(schema.items, item)


def validate(schema: Schema, value: Any, old: Any = None, path: str = "") -> list[FieldFault]:
    """All faults of a value, checked against `old` too where rules ask for it; rules run unless a fault is blocking."""
    faults = list(_structure(schema, value, path))
    return faults if blocking(faults) else faults + list(_rules(schema, value, old, path))


def blocking(faults: Iterable[FieldFault]) -> bool:
    """Whether rules cannot be run on a value with these faults."""
    return any(fault.kind in _BLOCKING for fault in faults)


def _structure(schema: Schema, value: Any, path: str) -> Iterator[FieldFault]:
    if value is None:
        if not schema.nullable and schema.type and path:
            yield _wrong_type(schema, value, path)
        return
    if not _fits(schema, value):
        yield _wrong_type(schema, value, path)
        return
    if isinstance(value, dict):
        for name in schema.required:
            if name not in value:
                yield required(f"{path}.{name}" if path else name)
        for name, item in value.items():
            child = schema.properties.get(name) or schema.additional
            if child is not None:
                yield from _structure(child, item, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        if schema.items is not None:
            for index, item in enumerate(value):
                yield from _structure(schema.items, item, f"{path}[{index}]")
        yield from _duplicates(schema, value, path)
    if schema.checked:
        yield from check_value(schema.raw, value, path)


def _fits(schema: Schema, value: Any) -> bool:
    if schema.int_or_string:
        return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))
    match schema.type:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            return whole and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
    return True


def json_type(value: Any) -> str:
    """JSON's name for a value's type."""
    return _JSON_NAMES.get(type(value), "null")


def _wrong_type(schema: Schema, value: Any, path: str) -> FieldFault:
    found = json_type(value)
    wanted = "integer,string" if schema.int_or_string else schema.type
    return FieldFault(
        path or "<nil>", FaultKind.TYPE_INVALID, found, f'{path} in body must be of type {wanted}: "{found}"'
    )


def _duplicates(schema: Schema, value: list[Any], path: str) -> Iterator[FieldFault]:
    if schema.list_type not in ("map", "set"):
        return
    seen = set()
    for index, item in enumerate(value):
        shown = {key: item.get(key) for key in schema.list_keys} if isinstance(item, dict) else item
        mark = orjson.dumps(shown, option=orjson.OPT_SORT_KEYS)
        if mark in seen:
            yield FieldFault(f"{path}[{index}]", FaultKind.DUPLICATE, shown)
        seen.add(mark)


def _rules(schema: Schema, value: Any, old: Any, path: str) -> Iterator[FieldFault]:
    if value is None:
        return
    for rule in schema.rules:
        fault = rule.check(value, old, path)
        if fault is not None:
            yield fault
    if isinstance(value, dict):
        for name, item in value.items():
            child = schema.properties.get(name) or schema.additional
            if child is not None:
                before = old.get(name) if isinstance(old, dict) else None
                yield from _rules(child, item, before, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and schema.items is not None:
        for index, item in enumerate(value):
            yield from _rules(schema.items, item, _counterpart(schema, item, old), f"{path}[{index}]")


def _counterpart(schema: Schema, item: Any, old: Any) -> Any:
    """The same item before: only lists merged by key say which that is."""
    if schema.list_type != "map" or not isinstance(old, list) or not isinstance(item, dict):
        return None
    return next((other for other in old if all(other.get(key) == item.get(key) for key in schema.list_keys)), None)


_REFERENCE = re.compile(r"#/components/schemas/(.+)")


def reference(text: str) -> str:
    """The name in a `$ref`."""
    match = _REFERENCE.fullmatch(text)
    return match[1] if match else text
