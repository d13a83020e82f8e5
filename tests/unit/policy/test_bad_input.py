"""Whatever a user writes ends in a value or in a `PolicyError` with object, field and fix; nothing else escapes."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from egresslab.cli.manifests import LOADER, UNREADABLE
from egresslab.errors import PolicyError
from egresslab.policy.engine import Engine
from egresslab.policy.entries import Upsert
from egresslab.policy.explain import explain
from egresslab.policy.inventory import Pod
from egresslab.policy.lint.linter import lint
from egresslab.policy.model import EgressPolicy, GatewayGroup
from egresslab.policy.objects import from_kubernetes, ref_of_object
from egresslab.policy.rows import listing
from tests.unit.policy import build
from tests.unit.policy.test_deckhouse import gateway as deckhouse_gateway
from tests.unit.policy.test_deckhouse import policy as deckhouse_policy

NODES = {"matchLabels": {"egress": "true"}}
EXPRESSIONS = [{"key": "a", "operator": "NotIn", "values": ["x"]}, {"key": "b", "operator": "Exists"}]
VALID: list[build.Object] = [
    build.cilium(
        selectors=[
            {"podSelector": {"matchLabels": {"a": "b"}, "matchExpressions": EXPRESSIONS}, "nodeSelector": NODES},
            {"namespaceSelector": {}},
        ],
        destinationCIDRs=["0.0.0.0/0", "2001:db8::/32"],
        excludedCIDRs=["10.0.0.0/8"],
        egressGateways=[{"nodeSelector": NODES, "egressIP": "192.0.2.1"}, {"nodeSelector": NODES, "interface": "e"}],
    ),
    deckhouse_gateway(),
    deckhouse_policy(excludedCIDRs=["10.0.0.0/8"]),
    build.gateway(
        source={"virtualIPs": ["192.0.2.1", "2001:db8::1"], "announceInterfaces": ["eth0"]},
        failback={"policy": "Delayed", "delaySeconds": 5},
        health={"failures": 2, "upstream": [{"protocol": "HTTP", "target": "http://192.0.2.1:80/x"}]},
    ),
    build.policy(destinationDomains=["*.example.com"], excludedCIDRs=["10.0.0.0/8"], failMode="Open", priority=4),
    build.node("gw", 2),
    build.pod("a", "10.0.0.1", "fd00::1"),
    build.namespace("default", team="a"),
]
TEXTS = [
    "", " ", "a", "-", "true", "10.0.0.1", "10.0.0.0/8", "10.0.0.0/99", "::/0", "fe80::1%eth0", "fe80::%1/64", "\x00",
    "\ud800", "é", "٣", "1" * 5000, "a/b/c", "=", "http://[", "*.x", "0.0.0.0", "::", "::ffff:1.2.3.4/120", "In",
]  # fmt: skip
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(TEXTS),
    st.text(max_size=8),
    st.binary(max_size=3),
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.one_of(st.text(max_size=4), st.integers()), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = ["spec", "metadata", "name", "selectors", "podSelector", "matchLabels", "egressIP", "values", "bogus", ""]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a decoded object."""
    found: list[tuple[Any, Any]] = []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found.append((value, key))
        found += places(child)
    return found


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A valid object with one to three of its parts replaced, removed or renamed."""
    obj = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(places(obj)))
        action = draw(st.sampled_from(["replace", "replace", "remove", "rename", "wrap"]))
        if action == "replace":
            container[key] = draw(anything)
        elif action == "wrap":
            container[key] = [container[key]]
        else:
            child = container.pop(key)
            if action == "rename" and isinstance(container, dict):
                container[draw(st.sampled_from(KEYS))] = child
        if not places(obj):
            break
    return obj


def accepted(obj: object) -> bool:
    """Whether the object was taken; checks that a refusal is one that helps, and that what is taken can be used."""
    try:
        value = from_kubernetes(obj, [])
    except PolicyError as error:
        assert error.message
        assert error.object
        assert error.fix
        assert len(str(error)) < 2000
        str(error).encode(errors="surrogateescape" if not str(error).isascii() else "strict")
        return False
    ref_of_object(obj)
    if value is None:
        return False
    engine = Engine()
    for other in (*VALID[-3:], VALID[0]):
        other_value = from_kubernetes(other)
        assert other_value is not None
        engine.apply(Upsert(other_value))
    engine.apply(Upsert(value))
    json.dumps([row.as_dict() for row in listing(engine.entries(), engine.slots(), "gw")]).encode()
    for pod in [held for held in engine.values.values() if isinstance(held, Pod)]:
        for policy in [held for held in engine.values.values() if isinstance(held, EgressPolicy)]:
            for cidr in policy.destinations[:1]:
                explain(engine, pod.uid, cidr.network.network_address)
    engine.problems()
    return isinstance(value, EgressPolicy | GatewayGroup)


@settings(max_examples=400, deadline=None)
@given(obj=mutated())
@example(obj={"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "uid": "\ud800"}})
@example(obj=build.cilium(destinationCIDRs=["\ud800"]))
@example(obj=build.cilium(selectors=[{"podSelector": {"matchLabels": {"a": float("nan")}}}]))
def test_mutated_objects(obj: object) -> None:
    accepted(obj)
    lint([obj, *VALID])


@settings(max_examples=150, deadline=None)
@given(obj=anything)
def test_any_decoded_value(obj: object) -> None:
    assert not accepted(obj)
    for kind in ("CiliumEgressGatewayPolicy", "EgressGateway", "EgressGatewayPolicy"):
        for version in ("cilium.io/v2", "network.deckhouse.io/v1alpha1", "egresslab.dev/v1alpha1"):
            accepted({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": obj})


@settings(max_examples=200, deadline=None)
@given(
    at=st.integers(0, 600),
    cut=st.integers(0, 20),
    text=st.sampled_from(["", "\t", "- ", ": ", "{", "*a", "&a ", "!!", "'", "\n"]),
)
def test_damaged_yaml(at: int, cut: int, text: str) -> None:
    whole = yaml.safe_dump(VALID[0])
    damaged = whole[:at] + text + whole[at + cut :]
    try:
        decoded = yaml.load(damaged, Loader=LOADER)
    except UNREADABLE:
        return
    accepted(decoded)


def test_a_small_text_that_means_a_huge_object_costs_little() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20)]
    bomb = yaml.load("\n".join(lines), Loader=LOADER)["a19"]
    for spec in (
        {"selectors": bomb, "destinationCIDRs": []},
        {"selectors": [{"podSelector": {"matchLabels": {"a": bomb}}}], "destinationCIDRs": []},
        {"selectors": [{"podSelector": {"matchLabels": bomb}}], "destinationCIDRs": []},
        {"selectors": [], "destinationCIDRs": bomb},
        {"selectors": [], "destinationCIDRs": [], "egressGateway": {"nodeSelector": {}, "egressIP": bomb}},
    ):
        obj = {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumEgressGatewayPolicy",
            "metadata": {"name": "x"},
            "spec": spec,
        }
        assert not accepted(obj)


def test_an_object_that_contains_itself_is_refused() -> None:
    loop = yaml.load("&a {matchLabels: *a}", Loader=LOADER)
    assert not accepted(build.cilium(selectors=[{"podSelector": loop}]))
