"""What is refused when read: always with object, field, value and fix, and never at the cost of a neighbour."""

from __future__ import annotations

from typing import Any

import pytest

from egresslab.errors import PolicyError
from egresslab.policy.entries import Reason, Refuse
from egresslab.policy.objects import from_kubernetes, ref_of_object
from tests.unit.policy import build

NODES = {"matchLabels": {"egress": "true"}}
DECKHOUSE = "network.deckhouse.io/v1alpha1"


def deckhouse(kind: str, spec: Any) -> build.Object:
    return {"apiVersion": DECKHOUSE, "kind": kind, "metadata": {"name": "d"}, "spec": spec}


def vip(**block: Any) -> build.Object:
    return {"mode": "VirtualIPAddress", "virtualIPAddress": block}


REFUSED: list[tuple[build.Object, str]] = [
    (build.cilium(destinationCIDRs=None), "spec.destinationCIDRs"),
    (build.cilium(destinationCIDRs=["10.0.0.1"]), "spec.destinationCIDRs[0]"),
    (build.cilium(destinationCIDRs=["10.0.0.0/33"]), "spec.destinationCIDRs[0]"),
    (build.cilium(destinationCIDRs=["10.0.0.0/255.0.0.0"]), "spec.destinationCIDRs[0]"),
    (build.cilium(destinationCIDRs=["10.0.0.0/08"]), "spec.destinationCIDRs[0]"),
    (build.cilium(destinationCIDRs=["fe80::%1/64"]), "spec.destinationCIDRs[0]"),
    (build.cilium(destinationCIDRs=["10.0.0.0/8", 7]), "spec.destinationCIDRs[1]"),
    (build.cilium(destinationCIDRs="10.0.0.0/8"), "spec.destinationCIDRs"),
    (build.cilium(excludedCIDRs=["nonsense"]), "spec.excludedCIDRs[0]"),
    (build.cilium(egressGateway=None), "spec.egressGateway"),
    (build.cilium(egressGateway={"interface": "eth1"}), "spec.egressGateway.nodeSelector"),
    (build.cilium(egressGateway={"nodeSelector": NODES, "egressIP": "x"}), "spec.egressGateway.egressIP"),
    (
        build.cilium(egressGateway={"nodeSelector": NODES, "egressIP": "192.0.2.1", "interface": "eth1"}),
        "spec.egressGateway.egressIP",
    ),
    (
        build.cilium(egressGateways=[{"nodeSelector": NODES}, {"nodeSelector": NODES, "egressIP": "192.0.2.256"}]),
        "spec.egressGateways[1].egressIP",
    ),
    (build.cilium(egressGateways=[None]), "spec.egressGateways[0]"),
    (build.cilium(egressGateways=[{"nodeSelector": NODES}] * 65), "spec.egressGateways"),
    (build.cilium(selectors=None), "spec.selectors"),
    (build.cilium(selectors=[{}]), "spec.selectors[0].podSelector"),
    (build.cilium(selectors=[{"nodeSelector": NODES}]), "spec.selectors[0].podSelector"),
    (
        build.cilium(selectors=[{"podSelector": {"matchLabels": {"org": True}}}]),
        "spec.selectors[0].podSelector.matchLabels.org",
    ),
    ({**build.cilium(), "spec": None}, "spec"),
    ({**build.cilium(), "metadata": {}}, "metadata.name"),
    (deckhouse("EgressGateway", {}), "spec.sourceIP"),
    (deckhouse("EgressGateway", {"sourceIP": {"mode": "Other"}}), "spec.sourceIP.mode"),
    (deckhouse("EgressGateway", {"sourceIP": vip()}), "spec.sourceIP.virtualIPAddress.ip"),
    (deckhouse("EgressGateway", {"sourceIP": vip(ip="1.2.3")}), "spec.sourceIP.virtualIPAddress.ip"),
    (
        deckhouse("EgressGateway", {"sourceIP": vip(ip="1.2.3.4"), "nodeSelector": {"a": 1}}),
        "spec.nodeSelector.a",
    ),
    (deckhouse("EgressGatewayPolicy", {"destinationCIDRs": []}), "spec.egressGatewayName"),
    (deckhouse("EgressGatewayPolicy", {"egressGatewayName": "d"}), "spec.destinationCIDRs"),
    (
        deckhouse("EgressGatewayPolicy", {"egressGatewayName": "d", "destinationCIDRs": ["::/0"], "selectors": [{}]}),
        "spec.selectors[0].podSelector",
    ),
    (build.gateway(nodeSelector=None), "spec.nodeSelector"),
    (build.gateway(mode="Both"), "spec.mode"),
    (build.gateway(source={"virtualIPs": ["192.0.2.1"], "interface": "eth1"}), "spec.source.virtualIPs"),
    (build.gateway(mode="Spread", source={"virtualIPs": ["192.0.2.1"]}), "spec.source.virtualIPs"),
    (build.gateway(source={"announceInterfaces": ["eth0"]}), "spec.source.announceInterfaces"),
    (build.gateway(failback={"policy": "Never", "delaySeconds": 5}), "spec.failback.delaySeconds"),
    (build.gateway(health={"intervalMilliseconds": 1}), "spec.health.intervalMilliseconds"),
    (
        build.gateway(health={"upstream": [{"protocol": "HTTP", "target": "192.0.2.1"}]}),
        "spec.health.upstream[0].target",
    ),
    (build.gateway(sessionReplication="yes"), "spec.sessionReplication"),
    (build.gateway(failBack={}), "spec.failBack"),
    (build.policy(selectors=[]), "spec.selectors"),
    (build.policy(destinationCIDRs=[]), "spec.destinationCIDRs"),
    (build.policy(destinationDomains=["10.0.0.1"]), "spec.destinationDomains[0]"),
    (build.policy(destinationDomains=["a..b"]), "spec.destinationDomains[0]"),
    (build.policy(failMode="Maybe"), "spec.failMode"),
    (build.policy(priority=1.5), "spec.priority"),
    (build.policy(priority=True), "spec.priority"),
    (build.policy(excludedCidrs=[]), "spec.excludedCidrs"),
    (build.pod("x", "10.0.0.300"), "status.podIPs[0].ip"),
    (build.pod("x", labels={"app": 1}), "metadata.labels.app"),
]


@pytest.mark.parametrize(("obj", "field"), REFUSED, ids=[f"{field}-{i}" for i, (_, field) in enumerate(REFUSED)])
def test_refused_by_field_with_a_fix(obj: build.Object, field: str) -> None:
    with pytest.raises(PolicyError) as caught:
        from_kubernetes(obj)
    assert caught.value.field == field
    assert caught.value.object
    assert caught.value.fix
    assert caught.value.fix in str(caught.value)


def test_a_bad_interfaces_annotation_names_the_place() -> None:
    node = build.node("n", 1)
    for text, field in [("{", ""), ("[]", ""), ('{"eth0": {"addresses": ["x"]}}', ".eth0.addresses[0]")]:
        node["metadata"]["annotations"]["egresslab.dev/interfaces"] = text
        with pytest.raises(PolicyError) as caught:
            from_kubernetes(node)
        assert caught.value.field == f"metadata.annotations.egresslab.dev/interfaces{field}"


@pytest.mark.parametrize(
    "obj",
    [
        build.cilium(destinationCIDRs=[]),
        build.cilium(selectors=[]),
        build.cilium(excludedCIDRs=None),
        build.cilium(egressGateway=None, egressGateways=[{"nodeSelector": NODES}]),
        build.cilium(egressGateway={"nodeSelector": {}, "egressIP": "", "interface": ""}),
        build.cilium(egressGateway={"interface": "a", "egressIP": "b"}, egressGateways=[{"nodeSelector": NODES}]),
        build.cilium(spelling="wrong"),
    ],
)
def test_what_cilium_keeps_is_kept(obj: build.Object) -> None:
    assert from_kubernetes(obj) is not None


def test_a_refused_update_keeps_what_was_accepted_and_harms_nobody() -> None:
    told = build.engine(
        build.node("gw", 2), build.pod("a", "10.0.0.1"), build.cilium("p"), build.cilium("q", destinationCIDRs=["::/0"])
    )
    before = build.rows(told)
    bad = build.cilium("p", destinationCIDRs=["10.0.0.1"])
    ref = ref_of_object(bad)
    assert ref is not None
    told.apply(Refuse(ref, "CiliumEgressGatewayPolicy/p", "not a CIDR"))
    assert build.rows(told) == before
    assert [problem.subject for problem in told.problems() if problem.reason is Reason.REFUSED] == [
        "CiliumEgressGatewayPolicy/p"
    ]
    build.tell(told, build.cilium("p", destinationCIDRs=["198.51.100.0/24"]))
    assert not [problem for problem in told.problems() if problem.reason is Reason.REFUSED]


def test_kinds_that_decide_nothing_are_passed_over() -> None:
    assert from_kubernetes({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}) is None
    assert from_kubernetes({}) is None
    assert from_kubernetes([]) is None


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("cilium.io/v2alpha1", "CiliumEgressGatewayPolicy"),
        (None, "CiliumEgressGatewayPolicy"),
        ("egresslab.dev/v1", "EgressGateway"),
        ("network.deckhouse.io/v1", "EgressGatewayPolicy"),
        (None, "EgressGatewayPolicy"),
        (None, "Pod"),
        ("v2", "Node"),
    ],
)
def test_a_version_nobody_serves_is_not_passed_over_in_silence(version: str | None, kind: str) -> None:
    obj = {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": {}}
    with pytest.raises(PolicyError) as caught:
        from_kubernetes(obj)
    assert (caught.value.object, caught.value.field) == (f"{kind}/x", "apiVersion")
    assert caught.value.fix


def test_kinds_of_the_same_name_in_other_groups_are_others_business() -> None:
    for version in ("egressgateway.spidernet.io/v1beta1", "networking.example.com/v1"):
        for kind in ("EgressGateway", "EgressGatewayPolicy", "Node"):
            assert from_kubernetes({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}}) is None


def test_an_ipv4_address_in_ipv6_clothes_is_told_to_change() -> None:
    policy = build.cilium(egressGateway={"nodeSelector": NODES, "egressIP": "::ffff:192.0.2.1"})
    with pytest.raises(PolicyError) as caught:
        from_kubernetes(policy)
    assert caught.value.field == "spec.egressGateway.egressIP"
    assert caught.value.fix == "write 192.0.2.1"
