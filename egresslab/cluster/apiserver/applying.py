"""Server-side apply: a manager states what it wants, and the server keeps to what each manager owns.

Fields that the manager stated before and no longer states go away, unless another manager owns them too; a field that
another manager owns with another value is a conflict (Kubernetes, "Server-Side Apply", "Conflicts").
"""

from __future__ import annotations

import copy
from functools import reduce
from typing import Any

from egresslab.api.resources import Object
from egresslab.api.schema import Schema
from egresslab.cluster.apiserver.ages import now
from egresslab.cluster.apiserver.declarations import ResourceType
from egresslab.cluster.apiserver.fieldsets import (
    Tree,
    compare,
    difference,
    granular_map,
    intersection,
    items,
    keyed,
    of,
    paths,
    union,
)
from egresslab.cluster.apiserver.ownership import APPLY, Claim, claims, ownable, record
from egresslab.cluster.apiserver.requests import WriteOptions
from egresslab.cluster.apiserver.status import Refusal, conflict
from egresslab.cluster.apiserver.types import schema_of


def claim(kind: ResourceType, intent: Object, manager: str) -> None:
    """Record a new object's applier as the owner of all that it states."""
    fields = of(ownable(intent), schema_of(kind))
    record(intent, [Claim(manager, APPLY, intent["apiVersion"], "", fields, now())])


def apply(kind: ResourceType, live: Object, intent: Object, options: WriteOptions, subresource: str) -> Object:
    """The live object with the intent applied; raises 409 with one cause a conflicting field unless forced."""
    asked, version = intent["metadata"].get("resourceVersion"), live["metadata"]["resourceVersion"]
    if asked and asked != version:
        raise conflict(kind.group, kind.plural, live["metadata"]["name"])
    schema = schema_of(kind)
    before, stated = ownable(live), ownable(intent)
    mine = Claim(options.manager, APPLY, intent["apiVersion"], subresource, of(stated, schema), now())
    others, earlier = [], None
    for known in claims(live):
        if known.key == mine.key:
            earlier = known
        else:
            others.append(known)
    unowned = {key: value for key, value in live["metadata"].items() if key not in (before.get("metadata") or ())}
    merged = _merge(before, stated, schema)
    if earlier is not None:
        kept = reduce(union, (other.fields for other in others), mine.fields)
        # Metadata is never one manager's to take away, only what is in it.
        kept = {**kept, "f:metadata": kept.get("f:metadata", {})}
        _remove(merged, difference(earlier.fields, kept), kept, schema)
    changed, _ = compare(before, merged, schema)
    _contest(others, intersection(changed, mine.fields), options.force)
    if earlier is not None and not changed and earlier.fields == mine.fields:
        mine.time = earlier.time
    metadata = {**unowned, **merged.pop("metadata", {})}
    new = {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": metadata, **merged}
    record(new, [*others, mine])
    return new


def _contest(others: list[Claim], wanted: Tree, force: bool) -> None:
    """Refuse, or with `force` take, fields that others own with another value."""
    lost: list[tuple[Claim, str]] = []
    for other in others:
        if hit := intersection(other.fields, wanted):
            lost += [(other, path) for path in paths(hit)]
            other.fields = difference(other.fields, hit)
    if not lost or force:
        return
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {owner}", "field": path} for owner, path in lost
    ]
    if len(lost) == 1:
        text = f"Apply failed with 1 conflict: conflict with {lost[0][0]}: {lost[0][1]}"
    else:
        by_owner: dict[str, list[str]] = {}
        for owner, path in lost:
            by_owner.setdefault(str(owner), []).append(f"- {path}")
        listed = [f"conflicts with {owner}:\n" + "\n".join(fields) for owner, fields in sorted(by_owner.items())]
        text = f"Apply failed with {len(lost)} conflicts: " + "\n".join(listed)
    raise Refusal(409, "Conflict", text, {"causes": causes})


def _merge(live: Any, intent: Any, schema: Schema | None) -> Any:
    """What is stated wins, what is not stated stays."""
    if isinstance(live, dict) and isinstance(intent, dict) and granular_map(schema):
        merged = {name: value for name, value in live.items() if name not in intent}
        for name, value in intent.items():
            child = schema.child(name) if schema else None
            merged[name] = _merge(live[name], value, child) if name in live else copy.deepcopy(value)
        return {name: merged[name] for name in {**live, **intent}}
    if isinstance(live, list) and isinstance(intent, list) and schema is not None and keyed(schema):
        before, stated = items(schema, live), items(schema, intent)
        merged_items = {mark: item for mark, item in before.items() if mark not in stated or schema.list_type == "set"}
        for mark, item in stated.items():
            merged_items[mark] = _merge(before[mark], item, schema.items) if mark in before else copy.deepcopy(item)
        order = [mark for mark in before if mark in merged_items] + [mark for mark in stated if mark not in before]
        return [merged_items[mark] for mark in order]
    return copy.deepcopy(intent)


def _remove(value: Any, gone: Tree, kept: Tree, schema: Schema | None) -> None:
    """Take out the members of `gone`, and what is left empty by that; what holds a member of `kept` stays."""
    for mark, below in gone.items():
        if mark.startswith("f:") and isinstance(value, dict):
            name = mark[2:]
            if name not in value:
                continue
            child = schema.child(name) if schema else None
            # A field of a structure goes with what defaults put into it (structured-merge-diff does the same).
            named = schema is not None and name in schema.properties
            if mark not in kept and (named or not below or "." in below):
                del value[name]
            else:
                had = bool(value[name])
                _remove(value[name], below, kept.get(mark, {}), child)
                if had and not value[name]:
                    del value[name]
        elif isinstance(value, list) and schema is not None and keyed(schema):
            _remove_item(value, mark, below, kept, schema)


def _remove_item(values: list[Any], mark: str, below: Tree, kept: Tree, schema: Schema) -> None:
    known = items(schema, values)
    if mark not in known:
        return
    if mark not in kept and (not below or "." in below):
        values.remove(known[mark])
    else:
        _remove(known[mark], below, kept.get(mark, {}), schema.items)
