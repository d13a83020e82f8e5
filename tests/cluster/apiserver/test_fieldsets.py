"""Sets of fields: the algebra that ownership rests on, and what changes between two objects."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from egresslab.api.schema import Schema
from egresslab.cluster.apiserver.fieldsets import Tree, compare, difference, intersection, of, paths, union

SCHEMA = Schema(
    {
        "type": "object",
        "properties": {
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
            "plain": {"type": "array", "items": {"type": "string"}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "list": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "a": {"type": "string"}, "b": {"type": "string"}},
                },
            },
        },
    }
)
_text = st.sampled_from("xyz")
_map = st.dictionaries(_text, _text)
_item = st.fixed_dictionaries({"name": _text}, optional={"a": _text, "b": _text})
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "map": _map,
        "whole": _map,
        "plain": st.lists(_text),
        "set": st.lists(_text, unique=True),
        "list": st.lists(_item, unique_by=lambda item: item["name"]),
    },
)


def members(tree: Tree) -> set[str]:
    """As paths."""
    return set(paths(tree)) - {""}


@given(OBJECTS, OBJECTS)
def test_the_algebra_is_that_of_sets(one: dict[str, Any], other: dict[str, Any]) -> None:
    a, b = of(one, SCHEMA, own=True), of(other, SCHEMA, own=True)
    assert members(union(a, b)) == members(a) | members(b)
    assert members(difference(a, b)) == members(a) - members(b)
    assert members(intersection(a, b)) == members(a) & members(b)


@given(OBJECTS)
def test_nothing_changes_between_equals(obj: dict[str, Any]) -> None:
    assert compare(obj, copy.deepcopy(obj), SCHEMA) == ({}, {})


@given(OBJECTS, OBJECTS)
def test_changes_are_exactly_the_fields_that_differ(old: dict[str, Any], new: dict[str, Any]) -> None:
    changed, removed = compare(old, new, SCHEMA)
    before, after = members(of(old, SCHEMA, own=True)), members(of(new, SCHEMA, own=True))
    assert after - before <= members(changed)
    assert before - after <= members(removed)
    assert members(removed) <= before - after
    assert not members(changed) & members(removed)


def test_a_keyed_item_is_named_by_its_key() -> None:
    tree = of({"list": [{"name": "x", "a": "1"}]}, SCHEMA)
    assert tree == {"f:list": {'k:{"name":"x"}': {".": {}, "f:name": {}, "f:a": {}}}}
    assert list(paths({"f:list": {'k:{"name":"x"}': {"f:a": {}}}})) == ['.list[name="x"].a']


def test_what_is_atomic_is_one_member() -> None:
    assert of({"whole": {"x": "y"}, "plain": ["x"]}, SCHEMA) == {"f:whole": {}, "f:plain": {}}
    changed, _ = compare({"whole": {"x": "y"}}, {"whole": {"x": "z"}}, SCHEMA)
    assert changed == {"f:whole": {}}
