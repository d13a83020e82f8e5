"""From what a client sent to an object of the right kind: names checked, unknown fields found, types checked.

Built-in kinds are decoded as Go decodes them (null is absent, a wrong type is a bad request); custom resources are
pruned by their schema and judged later. `fieldValidation` says whether unknown fields are an error, a warning or
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from egresslab.api.resources import Object
from egresslab.api.schema import Schema, json_type, prune
from egresslab.cluster.apiserver import status
from egresslab.cluster.apiserver.declarations import ResourceType
from egresslab.cluster.apiserver.requests import WriteOptions
from egresslab.cluster.apiserver.types import schema_of, schema_of_model

_GO_TYPES = {"string": "string", "boolean": "bool", "integer": "int64", "number": "float64"}
_GO_WORDS = {"integer": "number", "boolean": "bool"}


def identify(kind: ResourceType, body: Any, *, expected: tuple[str, str] | None = None) -> Object:
    """The body as an object of the kind (or of `expected` apiVersion and kind); raises 400 for another."""
    api_version, name = expected or (kind.api_version, kind.kind)
    if not isinstance(body, dict):
        raise status.bad_request(f"the object provided is unrecognized (must be of type {name}): not an object")
    found_version, found = body.setdefault("apiVersion", api_version), body.setdefault("kind", name)
    if found != name:
        raise status.bad_request(
            f"{found} in version {_quote(found_version)} cannot be handled as a {name}: the kind does not match"
        )
    if found_version != api_version:
        raise status.bad_request(
            f"the API version in the data ({found_version}) does not match the expected API version ({api_version})"
        )
    metadata = body.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise _undecodable(kind, f"json: cannot unmarshal {_go_word(metadata)} into Go struct field .metadata")
    body["metadata"] = metadata or {}
    return body


def decode(kind: ResourceType, obj: Object, options: WriteOptions) -> None:
    """Bring an identified object into the form of its kind, in place; raises 400 for what cannot be."""
    schema = schema_of(kind)
    unknown: list[str] = []
    if kind.custom:
        if schema is not None:
            unknown += prune(schema, obj, root=True)
        unknown += _decode(kind, schema_of_model("V1ObjectMeta"), obj["metadata"], "metadata", "ObjectMeta")
    elif schema is not None:
        unknown += _decode(kind, schema, obj, "", kind.kind)
    if not unknown or options.validation == "Ignore":
        return
    words = [f'unknown field "{path}"' for path in unknown]
    if options.validation == "Strict":
        raise _undecodable(kind, "strict decoding error: " + ", ".join(words))
    options.warnings += words


def _undecodable(kind: ResourceType, why: str) -> status.Refusal:
    return status.bad_request(
        f"{kind.kind} in version {_quote(kind.version)} cannot be handled as a {kind.kind}: {why}"
    )


def _quote(text: object) -> str:
    return f'"{text}"'


def _decode(kind: ResourceType, schema: Schema, value: Any, path: str, struct: str) -> Iterator[str]:
    if isinstance(value, dict):
        if schema.type not in ("object", "") or schema.int_or_string:
            raise _mismatch(kind, schema, value, path, struct)
        struct = schema.raw.get("title", struct)
        known, rest, is_open = schema.properties, schema.additional, schema.open
        for name in list(value):
            child = known.get(name) or rest
            item = value[name]
            if child is None:
                if not is_open and not (not path and name in ("apiVersion", "kind")):
                    del value[name]
                    yield f"{path}.{name}" if path else name
            elif item is None:
                del value[name]
            else:
                # Of a map of scalars Go names the map, not the key.
                whole = name not in known and child.type not in ("object", "array")
                yield from _decode(kind, child, item, path if whole else f"{path}.{name}" if path else name, struct)
    elif isinstance(value, list):
        if schema.type not in ("array", "") or schema.int_or_string:
            raise _mismatch(kind, schema, value, path, struct)
        if schema.items is None:
            return
        for index, item in enumerate(value):
            yield from _decode(kind, schema.items, item, f"{path}[{index}]", struct)
    elif not _scalar(schema, value):
        raise _mismatch(kind, schema, value, path, struct)


def _scalar(schema: Schema, value: Any) -> bool:
    if schema.int_or_string:
        return isinstance(value, str | int) and not isinstance(value, bool)
    match schema.type:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
    return not schema.type


def _mismatch(kind: ResourceType, schema: Schema, value: Any, path: str, struct: str) -> status.Refusal:
    wanted = _GO_TYPES.get(schema.type) or (f"v1.{schema.raw['title']}" if "title" in schema.raw else schema.type)
    field = ".".join(part.partition("[")[0] for part in path.split("."))
    found = _go_word(value)
    return _undecodable(kind, f"json: cannot unmarshal {found} into Go struct field {struct}.{field} of type {wanted}")


def _go_word(value: Any) -> str:
    word = json_type(value)
    return _GO_WORDS.get(word, word)
