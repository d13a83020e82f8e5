"""Listings as Cilium's and our debuggers print them, against what policies imply."""

from __future__ import annotations

import json
from typing import Any

import pytest

from egresslab.errors import PolicyError
from egresslab.policy.engine import Engine
from egresslab.policy.entries import Upsert
from egresslab.policy.objects import from_kubernetes
from egresslab.policy.settings import Fidelity, Settings
from egresslab.policy.verify import Implied, Kind, compare, implied, parse_listing

# `cilium-dbg bpf egress list -o json` on the gateway, 1.18: an entry of each family, an exclusion, host bits kept.
GATEWAY = """[
  {"SourceIP": "10.0.1.7", "DestCIDR": "192.168.60.13/32", "EgressIP": "192.168.60.100", "GatewayIP": "192.168.60.12"},
  {"SourceIP": "10.0.1.7", "DestCIDR": "10.9.8.7/16", "EgressIP": "192.168.60.100", "GatewayIP": "Excluded CIDR"},
  {"SourceIP": "fd00:10:0:1::7", "DestCIDR": "2001:db8::/32", "EgressIP": "fd00:60::12", "GatewayIP": "192.168.60.12"}
]"""
# The same on another node, with the keys of a later version in lower case, and its fifth column.
ELSEWHERE = """[
  {"sourceIP": "10.0.1.7", "destCIDR": "192.168.60.13/32", "egressIP": "0.0.0.0", "gatewayIP": "192.168.60.12",
   "egressIfindex": 0},
  {"sourceIP": "10.0.1.7", "destCIDR": "10.9.0.0/16", "egressIP": "0.0.0.0", "gatewayIP": "Excluded CIDR",
   "egressIfindex": 0},
  {"sourceIP": "fd00:10:0:1::7", "destCIDR": "2001:db8::/32", "egressIP": "::", "gatewayIP": "192.168.60.12",
   "egressIfindex": 0}
]"""
INTERFACES = {
    "eth0": {
        "addresses": ["192.168.60.12/24", "192.168.60.100/24", "fd00:60::12/64"],
        "default_route": ["ipv4", "ipv6"],
    }
}


def node(name: str, last: int, interfaces: dict[str, Any] | None = None) -> dict[str, Any]:
    annotations = {"egresslab.dev/interfaces": json.dumps(interfaces)} if interfaces else {}
    metadata = {"name": name, "labels": {"kubernetes.io/hostname": name}, "annotations": annotations}
    addresses = [{"type": "InternalIP", "address": f"192.168.60.{last}"}]
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": {"addresses": addresses}}


POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
    "spec": {"nodeName": "other"},
    "status": {"podIPs": [{"ip": "10.0.1.7"}, {"ip": "fd00:10:0:1::7"}]},
}


def policy(**gateway: str) -> dict[str, Any]:
    spec = {
        "selectors": [{"podSelector": {"matchLabels": {"app": "web"}}}],
        "destinationCIDRs": ["192.168.60.13/32", "2001:db8::/32"],
        "excludedCIDRs": ["10.9.8.7/16"],
        "egressGateway": {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "gateway"}}, **gateway},
    }
    metadata = {"name": "out"}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumEgressGatewayPolicy", "metadata": metadata, "spec": spec}


def wanted(*, known: bool = True, **gateway: str) -> Implied:
    engine = Engine(Settings(Fidelity.CILIUM))
    objects = [node("gateway", 12, INTERFACES if known else None), node("other", 11), POD]
    for obj in (*objects, policy(**gateway or {"egressIP": "192.168.60.100"})):
        value = from_kubernetes(obj)
        assert value is not None
        engine.apply(Upsert(value))
    return implied(engine)


@pytest.mark.parametrize(("name", "text"), [("gateway", GATEWAY), ("other", ELSEWHERE)])
def test_what_cilium_lists_agrees_with_its_policies(name: str, text: str) -> None:
    assert compare(wanted(), name, parse_listing(text, name)) == []


def test_each_kind_of_difference_is_named_with_pod_and_policy() -> None:
    rows = json.loads(GATEWAY)
    rows[0]["EgressIP"] = "0.0.0.0"
    rows[2]["SourceIP"] = "fd00:10:0:1::8"
    found = compare(wanted(), "gateway", parse_listing(json.dumps(rows), "gateway"))
    told = {(d.kind, d.source, d.pod, d.policy, d.expected_egress, d.found_egress) for d in found}
    assert told == {
        (Kind.DIFFERENT, "10.0.1.7", "shop/web", "out", "192.168.60.100", "0.0.0.0"),
        (Kind.MISSING, "fd00:10:0:1::7", "shop/web", "out", "fd00:60::12", ""),
        (Kind.STALE, "fd00:10:0:1::8", "", "", "", "fd00:60::12"),
    }


def test_another_gateway_is_a_difference_on_every_node() -> None:
    text = ELSEWHERE.replace("192.168.60.12", "192.168.60.14", 1)
    (found,) = compare(wanted(), "other", parse_listing(text, "other"))
    assert (found.kind, found.expected_gateway, found.found_gateway) == (
        Kind.DIFFERENT,
        "192.168.60.12",
        "192.168.60.14",
    )


def test_where_nobody_says_what_interfaces_carry_a_configured_address_is_wanted_and_else_any() -> None:
    rows = [row for row in json.loads(GATEWAY) if ":" not in row["SourceIP"]]
    v4 = {"192.168.60.13/32", "10.9.8.7/16"}
    for gateway, egress, agrees in (
        ({"egressIP": "192.168.60.100"}, "192.168.60.100", True),
        ({"egressIP": "192.168.60.100"}, "192.168.60.12", False),
        ({"interface": "eth0"}, "192.168.60.12", True),
        ({"interface": "eth0"}, "0.0.0.0", False),
    ):
        rows[0]["EgressIP"] = egress
        found = compare(wanted(known=False, **gateway), "gateway", parse_listing(json.dumps(rows), "gateway"))
        assert (not [d for d in found if d.destination in v4]) is agrees, (gateway, egress, found)


@pytest.mark.parametrize("text", ["", "null", "[]", "{}"])
def test_an_empty_map_is_listed_in_several_ways(text: str) -> None:
    assert parse_listing(text, "n") == {}
    assert {d.kind for d in compare(wanted(), "other", {})} == {Kind.MISSING}


@pytest.mark.parametrize("text", ["Source IP   Destination CIDR", '{"a": 1}', '[{"SourceIP": "x"}]', "[1]"])
def test_what_is_no_listing_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match="not a listing"):
        parse_listing(text, "n")
