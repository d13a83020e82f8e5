"""Schemas: what is pruned, filled in and refused, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from egresslab.api.crds import check, definitions, schema
from egresslab.api.formats import FORMATS, is_cidr, is_ip
from egresslab.api.schema import Schema, fill_defaults, prune, validate


def said(raw: dict[str, Any], value: Any, old: Any = None) -> list[str]:
    """Messages about `value` standing in a field `f`."""
    whole = Schema({"type": "object", "properties": {"f": raw}})
    return [str(fault) for fault in validate(whole, {"f": value}, None if old is None else {"f": old})]


@pytest.mark.parametrize(
    ("raw", "value", "message"),
    [
        ({"type": "string"}, 1, 'f: Invalid value: "integer": f in body must be of type string: "integer"'),
        ({"type": "string"}, True, 'f: Invalid value: "boolean": f in body must be of type string: "boolean"'),
        ({"type": "integer"}, "1", 'f: Invalid value: "string": f in body must be of type integer: "string"'),
        ({"type": "array"}, {}, 'f: Invalid value: "object": f in body must be of type array: "object"'),
        ({"type": "string", "enum": ["A", "B"]}, "C", 'f: Unsupported value: "C": supported values: "A", "B"'),
        ({"type": "string", "pattern": "^a+$"}, "b", "f: Invalid value: \"b\": f in body should match '^a+$'"),
        ({"type": "string", "maxLength": 3}, "abcd", "f: Too long: may not be more than 3 bytes"),
        ({"type": "string", "minLength": 1}, "", 'f: Invalid value: "": f in body should be at least 1 chars long'),
        ({"type": "integer", "minimum": 1}, 0, "f: Invalid value: 0: f in body should be greater than or equal to 1"),
        ({"type": "integer", "maximum": 5}, 6, "f: Invalid value: 6: f in body should be less than or equal to 5"),
        ({"type": "array", "maxItems": 1}, [1, 2], "f: Too many: 2: must have at most 1 items"),
        ({"type": "array", "minItems": 1}, [], "f: Invalid value: 0: f in body should have at least 1 items"),
        ({"type": "object", "required": ["a"]}, {}, "f.a: Required value"),
        ({"type": "string", "format": "cidr"}, "x", 'f: Invalid value: "x": f in body must be of type cidr: "x"'),
        (
            {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            ["a", "a"],
            'f[1]: Duplicate value: "a"',
        ),
        (
            {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {}},
            [{"k": 1}, {"k": 1}],
            'f[1]: Duplicate value: {"k":1}',
        ),
        (
            {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            {"a": 1, "b": 2},
            'f: Invalid value: "": "f" must validate one and only one schema (oneOf). Found 2 valid',
        ),
    ],
)
def test_messages_are_those_of_kubernetes(raw: dict[str, Any], value: Any, message: str) -> None:
    assert said(raw, value) == [message]


def test_a_rule_speaks_when_the_structure_is_sound() -> None:
    rule = {"rule": "self.min <= self.max", "message": "min must not exceed max"}
    number = {"type": "integer"}
    raw = {"type": "object", "properties": {"min": number, "max": number}, "x-kubernetes-validations": [rule]}
    assert said(raw, {"min": 2, "max": 1}) == ["f: Invalid value: min must not exceed max"]
    assert said(raw, {"min": "2", "max": 1}) == [
        'f.min: Invalid value: "string": f.min in body must be of type integer: "string"'
    ]
    assert said(raw, {"min": 1, "max": 2}) == []


def test_a_transition_rule_compares_with_the_old_value() -> None:
    raw = {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is fixed"}]}
    assert said(raw, "a") == []
    assert said(raw, "a", "a") == []
    assert said(raw, "b", "a") == ['f: Invalid value: "b": is fixed']


def test_a_rule_that_cannot_be_evaluated_refuses() -> None:
    raw = {"type": "object", "x-kubernetes-validations": [{"rule": "self.missing > 1"}]}
    assert "rule evaluation error" in said(raw, {"a": 1})[0]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("isIP(self)", "fd00::1"),
        ("ip(self).family() == 6", "fd00::1"),
        ("isCIDR(self) && cidr(self).prefixLength() == 24", "10.0.0.5/24"),
        ("cidr(self).containsIP('10.0.0.9')", "10.0.0.5/24"),
        ("cidr(self).containsCIDR('10.0.0.128/25')", "10.0.0.0/24"),
    ],
)
def test_rules_know_addresses_as_kubernetes_does(expression: str, value: str) -> None:
    assert said({"type": "string", "x-kubernetes-validations": [{"rule": expression}]}, value) == []


def test_unknown_fields_are_pruned_and_named() -> None:
    raw = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}}
    value = {"apiVersion": "v1", "kind": "X", "metadata": {"name": "n"}, "spec": {"a": "b", "c": 1}, "more": {}}
    assert sorted(prune(Schema(raw), value, root=True)) == ["more", "spec.c"]
    assert value == {"apiVersion": "v1", "kind": "X", "metadata": {"name": "n"}, "spec": {"a": "b"}}


def test_preserved_fields_are_kept() -> None:
    raw = {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"a": {"type": "object"}}}
    value = {"b": {"c": 1}}
    assert list(prune(Schema(raw), value)) == []
    assert value == {"b": {"c": 1}}


def test_defaults_fill_what_is_missing_or_null_but_make_no_parents() -> None:
    inner = {"type": "object", "properties": {"n": {"type": "integer", "default": 3}}}
    schema = Schema({"type": "object", "properties": {"a": inner, "b": {"type": "array", "items": inner}}})
    value: dict[str, Any] = {"a": {"n": None}, "b": [{}, {"n": 1}]}
    fill_defaults(schema, value)
    assert value == {"a": {"n": 3}, "b": [{"n": 3}, {"n": 1}]}
    empty: dict[str, Any] = {}
    fill_defaults(schema, empty)
    assert empty == {}


@pytest.mark.parametrize("text", ["10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00::1/64", "10.0.0.5/24"])
def test_these_are_cidrs(text: str) -> None:
    assert is_cidr(text)


@pytest.mark.parametrize("text", ["", "10.0.0.1", "10.0.0.0/33", "10.0.0.0/08", "010.0.0.0/8", "::/129", "a/8", "10/8"])
def test_these_are_not(text: str) -> None:
    assert not is_cidr(text)


@pytest.mark.parametrize(
    ("text", "right"), [("1.2.3.4", True), ("::1", True), ("1.2.3", False), ("fe80::1%eth0", False)]
)
def test_addresses(text: str, right: bool) -> None:
    assert is_ip(text) is right


def test_a_date_is_checked() -> None:
    assert FORMATS["date-time"]("2026-11-21T11:00:00Z")
    assert not FORMATS["date-time"]("2026-13-21T11:00:00Z")
    assert not FORMATS["date-time"]("yesterday")


def test_every_shipped_definition_has_a_schema() -> None:
    kinds = {
        (f"{d['spec']['group']}/{v['name']}", d["spec"]["names"]["kind"])
        for d in definitions()
        for v in d["spec"]["versions"]
    }
    assert ("cilium.io/v2", "CiliumEgressGatewayPolicy") in kinds
    assert all(schema(*kind) is not None for kind in kinds)


def test_an_offline_check_finds_what_the_server_would() -> None:
    policy = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": "a"},
        "spec": {
            "selectors": [{"podSelecter": {}}],
            "destinationCIDRs": ["10.0.0.1"],
            "egressGateway": {"nodeSelector": {}, "interface": "eth0"},
        },
    }
    messages = [str(fault) for fault in check(policy)]
    assert messages == [
        "spec.selectors[0].podSelecter: Invalid value: {}: unknown field",
        'spec.destinationCIDRs[0]: Invalid value: "10.0.0.1": spec.destinationCIDRs[0] in body must be of type cidr: '
        '"10.0.0.1"',
    ]
    assert "podSelecter" in policy["spec"]["selectors"][0]  # type: ignore[index]
