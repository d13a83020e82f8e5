"""What the operator writes means to Cilium's parser what the source means to ours."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from egresslab.policy.ciliumobjects import Active, digest, hostname_of, label_value, translate
from egresslab.policy.dialects import cilium, deckhouse, egresslab
from egresslab.policy.model import EgressPolicy, GatewayGroup
from egresslab.policy.sources import Resolved

V4, V6 = IPv4Address("192.168.60.200"), IPv6Address("fd00:60::200")
HOLDER = Active("host-2", Resolved(V4, V6))


def group(**spec: Any) -> GatewayGroup:
    source = spec.pop("source", {"virtualIPs": [str(V4), str(V6)]})
    body = {"nodeSelector": {"matchLabels": {"egress": "true"}}, "source": source, **spec}
    return egresslab.parse_gateway(
        {"apiVersion": "egresslab.dev/v1alpha1", "kind": "EgressGateway", "metadata": {"name": "out"}, "spec": body}
    )


def policy(name: str = "web", **spec: Any) -> EgressPolicy:
    body = {
        "egressGatewayName": "out",
        "selectors": [{"podSelector": {}}],
        "destinationCIDRs": ["0.0.0.0/0", "2001:db8::/32"],
        **spec,
    }
    metadata = {"name": name}
    return egresslab.parse_policy(
        {"apiVersion": "egresslab.dev/v1alpha1", "kind": "EgressGatewayPolicy", "metadata": metadata, "spec": body}
    )


def read(name: str, spec: dict[str, Any]) -> EgressPolicy:
    """As Cilium's agent would read it."""
    body = {"apiVersion": "cilium.io/v2", "kind": "CiliumEgressGatewayPolicy", "metadata": {"name": name}, "spec": spec}
    return cilium.parse_policy(body)


def test_selectors_and_networks_come_through_unchanged() -> None:
    selectors = [
        {
            "podSelector": {
                "matchLabels": {"app": "web"},
                "matchExpressions": [
                    {"key": "tier", "operator": "In", "values": ["a", "b"]},
                    {"key": "old", "operator": "DoesNotExist"},
                    {"key": "app", "operator": "NotIn", "values": ["db"]},
                ],
            },
            "namespaceSelector": {"matchLabels": {"team": "x"}},
        },
        {"namespaceSelector": {}},
    ]
    source = policy(selectors=selectors, excludedCIDRs=["10.0.0.5/24", "2001:db8:1::/48"])
    objects = [read(wanted.name, wanted.spec) for wanted in translate(source, group(), HOLDER).objects]
    assert len(objects) == 2
    for obj in objects:
        assert set(obj.selections) == set(source.selections)
    assert {c for obj in objects for c in obj.destinations} == set(source.destinations)
    assert {c for obj in objects for c in obj.exclusions} == set(source.exclusions)


def test_selectors_of_nodes_do_not_bind_each_other() -> None:
    """Cilium pools the nodeSelectors of a policy, so each has an object of its own."""
    on = {"podSelector": {"matchLabels": {"app": "a"}}, "nodeSelector": {"matchLabels": {"zone": "1"}}}
    anywhere = {"podSelector": {"matchLabels": {"app": "b"}}}
    translation = translate(policy(selectors=[on, anywhere], destinationCIDRs=["0.0.0.0/0"]), group(), HOLDER)
    assert [wanted.name for wanted in translation.objects] == ["web-egresslab-ipv4", "web-egresslab-ipv4-2"]
    assert sorted(len(wanted.spec["selectors"]) for wanted in translation.objects) == [1, 1]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"virtualIPs": [str(V4)]}, {"egressIP": str(V4)}),
        ({"addresses": [str(V4), "192.168.60.201"]}, {"egressIP": str(V4)}),
        ({"interface": "eth1"}, {"interface": "eth1"}),
        ({}, {}),
    ],
)
def test_each_kind_of_source_has_its_field(source: dict[str, Any], expected: dict[str, str]) -> None:
    (wanted,) = translate(policy(destinationCIDRs=["0.0.0.0/0"]), group(source=source), HOLDER).objects
    gateway = dict(wanted.spec["egressGateway"])
    assert gateway.pop("nodeSelector") == {"matchLabels": {"kubernetes.io/hostname": "host-2"}}
    assert gateway == expected
    read(wanted.name, wanted.spec)


def test_without_a_gateway_packets_are_dropped_or_pass_as_the_policy_says() -> None:
    for found in (translate(policy(), group(), None), translate(policy(), None, None)):
        assert [hostname_of(wanted.spec) for wanted in found.objects] == [None, None]
        assert all("egressIP" not in wanted.spec["egressGateway"] for wanted in found.objects)
    assert translate(policy(failMode="Open"), group(), None).objects == ()
    assert len(translate(policy(failMode="Open"), group(), HOLDER).objects) == 2


def test_a_family_without_an_address_is_dropped_and_told() -> None:
    found = translate(policy(), group(source={"virtualIPs": [str(V4)]}), Active("host-2", Resolved(V4)))
    assert [hostname_of(wanted.spec) for wanted in found.objects] == ["host-2", None]
    assert "ipv6 is dropped" in " ".join(found.lost)


def test_what_leads_to_many_nodes_is_told_and_leads_nowhere() -> None:
    found = translate(policy(), group(mode="Spread", source={"interface": "eth1"}), HOLDER)
    assert {hostname_of(wanted.spec) for wanted in found.objects} == {None}
    assert "Spread" in " ".join(found.lost)


def test_long_names_stay_names_and_tell_apart() -> None:
    long = ["a" * 250 + end for end in ("x", "y")]
    names = {wanted.name for name in long for wanted in translate(policy(name), group(), HOLDER).objects}
    assert len(names) == 4
    assert max(map(len, names)) <= 253
    assert len(label_value(long[0])) <= 63 and label_value(long[0]) != label_value(long[1])


def test_deckhouse_policies_of_the_same_name_have_objects_of_their_own() -> None:
    body = {"egressGatewayName": "out", "selectors": [{"podSelector": {}}], "destinationCIDRs": ["0.0.0.0/0"]}
    metadata, version = {"name": "web"}, "network.deckhouse.io/v1alpha1"
    theirs = deckhouse.parse_policy(
        {"apiVersion": version, "kind": "EgressGatewayPolicy", "metadata": metadata, "spec": body}
    )
    names = [wanted.name for p in (policy(), theirs) for wanted in translate(p, group(), HOLDER).objects]
    assert len(set(names)) == 3


def test_what_a_server_fills_in_is_no_difference() -> None:
    (wanted,) = translate(policy(destinationCIDRs=["0.0.0.0/0"]), group(), HOLDER).objects
    assert digest({**wanted.spec, "egressGateways": [], "excludedCIDRs": None}) == wanted.digest
    more: dict[str, Any] = {"nodeSelector": {}}
    assert digest({**wanted.spec, "egressGateways": [more]}) != wanted.digest
    # An empty selector means everything; that it is there is a difference.
    assert digest({"selectors": [{"podSelector": {}}]}) != digest({"selectors": [{}]})
