"""JSON patch, merge patch and strategic merge patch: from a live object and a patch to a new object.

The input is never changed. Strategic merge follows "Update API Objects in Place Using kubectl patch" with its
directives; which lists merge by which key is the schema's word. Server-side apply lives in `applying`.
"""

from __future__ import annotations

import copy
from typing import Any

import jsonpatch

from egresslab.api.schema import Schema
from egresslab.cluster.apiserver import status

_ORDER, _DROP = "$setElementOrder/", "$deleteFromPrimitiveList/"
_PATCH, _RETAIN = "$patch", "$retainKeys"
_LONGEST_JSON_PATCH = 10_000


def json_patch(live: Any, operations: Any) -> Any:
    """RFC 6902; raises 422 when an operation does not fit the object, 400 when it is no patch."""
    if not isinstance(operations, list) or len(operations) > _LONGEST_JSON_PATCH:
        raise status.bad_request("a JSON patch is a list of operations")
    try:
        return jsonpatch.apply_patch(live, operations)
    except jsonpatch.InvalidJsonPatch as error:
        raise status.bad_request(f"error decoding JSON patch: {error}") from error
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        raise status.Refusal(
            422, "Invalid", f"the server rejected our request due to an error in our request: {error}"
        ) from error


def merge_patch(live: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(live) if isinstance(live, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def strategic_merge(live: Any, patch: Any, schema: Schema | None) -> Any:
    """Kubernetes' strategic merge patch of an object; raises 400 for a directive or item that makes no sense."""
    if not isinstance(patch, dict):
        raise status.bad_request("a strategic merge patch is an object")
    return _merge_map(live if isinstance(live, dict) else {}, patch, schema)


def _merge_map(live: dict[str, Any], patch: dict[str, Any], schema: Schema | None) -> dict[str, Any]:
    directive = patch.get(_PATCH)
    if directive == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != _PATCH}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise status.bad_request(f"unknown patch type found: {directive}")
    for name, value in patch.items():
        if (name == _RETAIN or name.startswith((_ORDER, _DROP))) and not isinstance(value, list):
            raise status.bad_request(f"{name} must be a list")
    retained = patch.get(_RETAIN)
    merged = {key: value for key, value in live.items() if retained is None or key in retained}
    for name, value in patch.items():
        if name in (_PATCH, _RETAIN) or name.startswith(_ORDER):
            continue
        if name.startswith(_DROP):
            field = name.removeprefix(_DROP)
            merged[field] = [item for item in merged.get(field) or [] if item not in value]
            continue
        child = schema.child(name) if schema is not None else None
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            before = merged.get(name)
            result = _merge_map(before if isinstance(before, dict) else {}, value, child)
            if result or value.get(_PATCH) != "delete":
                merged[name] = result
            else:
                merged.pop(name, None)
        elif isinstance(value, list):
            merged[name] = _merge_list(merged.get(name) or [], value, child, name)
        else:
            merged[name] = value
    for name, order in patch.items():
        if name.startswith(_ORDER):
            field = name.removeprefix(_ORDER)
            if isinstance(merged.get(field), list):
                child = schema.child(field) if schema is not None else None
                before = live.get(field)
                known = before if isinstance(before, list) else []
                merged[field] = _ordered(merged[field], order, known, child.merge_key if child else "")
    return merged


def _merge_list(live: list[Any], patch: list[Any], schema: Schema | None, field: str) -> list[Any]:
    if schema is None or "merge" not in schema.merge_strategy.split(","):
        return [_bare(item) for item in patch]
    key = schema.merge_key
    if not key:
        return live + [item for item in patch if item not in live]
    if any(isinstance(item, dict) and item.get(_PATCH) == "replace" and key not in item for item in patch):
        return [_bare(item) for item in patch if not (isinstance(item, dict) and item.get(_PATCH) == "replace")]
    merged = list(live)
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise status.bad_request(f"map: {item} does not contain declared merge key: {key} (in {field})")
        at = next((index for index, old in enumerate(merged) if old.get(key) == item[key]), None)
        if item.get(_PATCH) == "delete":
            merged = [old for old in merged if old.get(key) != item[key]]
        elif at is None:
            merged.append(_merge_map({}, item, schema.items))
        else:
            merged[at] = _merge_map(merged[at], item, schema.items)
    return _ordered(merged, patch, live, key)


def _bare(item: Any) -> Any:
    return _merge_map({}, item, None) if isinstance(item, dict) else copy.deepcopy(item)


def _ordered(items: list[Any], order: list[Any], live: list[Any], key: str) -> list[Any]:
    """Items that the order names in its order, among the others in theirs; of two, the one that was behind before comes
    behind, and where that says nothing the one that is named comes first.
    """

    def mark(item: Any) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    wanted, before = [mark(item) for item in order], [mark(item) for item in live]
    named = sorted((item for item in items if mark(item) in wanted), key=lambda item: wanted.index(mark(item)))
    others = [item for item in items if mark(item) not in wanted]
    sorted_items = []
    while named and others:
        first, second = mark(others[0]), mark(named[0])
        both = first in before and second in before
        sorted_items.append((others if both and before.index(first) < before.index(second) else named).pop(0))
    return sorted_items + named + others
