"""Sets of fields as trees in the FieldsV1 form (`{"f:metadata": {"f:labels": {".": {}, "f:app": {}}}}`).

A leaf `{}` is a member; a member that has members below it says so with ".". Lists that merge by key have one element
for each key (`k:{"name":"web"}`), sets one for each value (`v:"x"`), and everything atomic is one leaf.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from egresslab.api.schema import Schema

Tree = dict[str, Any]
_SELF = "."


def well_formed(tree: Any) -> bool:
    """Whether something that a client sent is a set of fields."""
    if not isinstance(tree, dict):
        return False
    return all(_element(mark) and well_formed(below) for mark, below in tree.items())


def _element(mark: str) -> bool:
    kind, _, rest = mark.partition(":")
    if kind != "k":
        return mark == _SELF or kind in ("f", "v")
    try:
        return isinstance(orjson.loads(rest), dict)
    except orjson.JSONDecodeError:
        return False


def granular_map(schema: Schema | None) -> bool:
    """Whether fields of a map are owned one by one."""
    return schema is None or schema.map_type != "atomic"


def keyed(schema: Schema | None) -> bool:
    """Whether items of a list are told apart by key or value."""
    return schema is not None and schema.list_type in ("map", "set")


def element(schema: Schema, item: Any) -> str:
    """The path element of a list item."""
    if schema.list_type == "set":
        return "v:" + orjson.dumps(item).decode()
    return "k:" + orjson.dumps(item_key(schema, item), option=orjson.OPT_SORT_KEYS).decode()


def item_key(schema: Schema, item: Any) -> dict[str, Any]:
    """The key fields of an item, with their defaults where they are left out."""
    key = {}
    for name in schema.list_keys:
        value = item.get(name) if isinstance(item, dict) else None
        if value is None and name == "protocol":
            value = "TCP"
        if value is not None:
            key[name] = value
    return key


def items(schema: Schema, values: Any) -> dict[str, Any]:
    """List items by path element."""
    return {element(schema, item): item for item in values}


def of(value: Any, schema: Schema | None, *, own: bool = False) -> Tree:
    """The set of a value's fields; with `own`, maps and lists themselves are members too (they are new)."""
    tree: Tree = {}
    if isinstance(value, dict) and value and granular_map(schema):
        for name, item in value.items():
            tree[f"f:{name}"] = of(item, schema.child(name) if schema else None, own=own)
        if own and not (schema and schema.properties):
            tree[_SELF] = {}
    elif isinstance(value, list) and value and schema is not None and keyed(schema):
        for mark, item in items(schema, value).items():
            tree[mark] = of(item, schema.items, own=own) | {_SELF: {}} if schema.list_type == "map" else {}
        if own:
            tree[_SELF] = {}
    return tree


def compare(old: Any, new: Any, schema: Schema | None) -> tuple[Tree, Tree]:
    """(fields added or changed, fields removed) between two values of one schema."""
    changed: Tree = {}
    removed: Tree = {}
    if isinstance(old, dict) and isinstance(new, dict) and granular_map(schema):
        pairs = ((f"f:{name}", name, schema.child(name) if schema else None) for name in {**old, **new})
        befores, afters = old, new
    elif isinstance(old, list) and isinstance(new, list) and schema is not None and keyed(schema):
        befores, afters = items(schema, old), items(schema, new)
        pairs = ((mark, mark, schema.items) for mark in {**befores, **afters})
    else:
        return ({_SELF: {}} if old != new else {}), {}
    for mark, name, child in pairs:
        if name not in befores:
            changed[mark] = of(afters[name], child, own=True)
            if mark.startswith("k:"):
                changed[mark][_SELF] = {}
        elif name not in afters:
            removed[mark] = of(befores[name], child, own=True) | {_SELF: {}}
        elif befores[name] != afters[name]:
            more, less = compare(befores[name], afters[name], child)
            if more:
                changed[mark] = _plain(more)
            if less:
                removed[mark] = less
    return changed, removed


def _plain(tree: Tree) -> Tree:
    return {} if tree == {_SELF: {}} else tree


def union(one: Tree, other: Tree) -> Tree:
    """Members of either."""
    merged = dict(one)
    for mark, below in other.items():
        if mark not in merged:
            merged[mark] = below
        elif merged[mark] != below:
            merged[mark] = union(merged[mark] or {_SELF: {}}, below or {_SELF: {}})
    return merged


def difference(one: Tree, other: Tree) -> Tree:
    """Members of `one` that are not in `other`."""
    rest: Tree = {}
    for mark, below in one.items():
        if mark not in other:
            rest[mark] = below
        elif not below:
            if other[mark] and _SELF not in other[mark]:
                rest[mark] = {}
        elif left := difference(below, other[mark] or {_SELF: {}}):
            rest[mark] = _plain(left)
    return rest


def intersection(one: Tree, other: Tree) -> Tree:
    """Members of both."""
    common: Tree = {}
    for mark, below in one.items():
        if mark in other:
            both = intersection(below or {_SELF: {}}, other[mark] or {_SELF: {}}) if mark != _SELF else {_SELF: {}}
            if both:
                common[mark] = {} if mark == _SELF else _plain(both)
    return common


def paths(tree: Tree, prefix: str = "") -> Iterator[str]:
    """Members as Kubernetes prints them: `.spec.containers[name="web"].image`."""
    if not tree or _SELF in tree:
        yield prefix
    for mark, below in tree.items():
        if mark != _SELF:
            yield from paths(below, prefix + _shown(mark))


def _shown(mark: str) -> str:
    kind, _, rest = mark.partition(":")
    if kind == "f":
        return f".{rest}"
    if kind == "k":
        parts = (f"{name}={orjson.dumps(value).decode()}" for name, value in orjson.loads(rest).items())
        return f"[{','.join(parts)}]"
    return f"[={rest}]"
