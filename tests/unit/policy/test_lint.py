"""Lint finds each thing it is meant to find, at the field where it stands, and is silent on what is right."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network

import pytest

from egresslab.policy.lint.findings import Level
from egresslab.policy.lint.linter import lint
from tests.unit.policy import build

NODES = {"matchLabels": {"egress": "true"}}
WORLD = [
    build.node("gw", 2),
    build.node("worker", 4, gateway=False),
    build.namespace("default"),
    build.pod("a", "10.244.4.7"),
]
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"template": {"metadata": {"labels": {"app": "shop"}}}},
}
DECKHOUSE_POLICY = {
    "apiVersion": "network.deckhouse.io/v1alpha1",
    "kind": "EgressGatewayPolicy",
    "metadata": {"name": "d"},
    "spec": {
        "egressGatewayName": "missing",
        "destinationCIDRs": ["203.0.113.0/24"],
        "selectors": [{"podSelector": {"matchLabels": {"app": "web"}}}],
    },
}


def found(*objects: object, level: Level | None = None) -> set[tuple[str, str]]:
    """(rule, field), notes left out unless asked for."""
    located = lint([*WORLD, *objects], cluster_networks=[ip_network("10.96.0.0/12")], map_size=100)
    return {
        (each.finding.rule.name, each.finding.field)
        for each in located
        if each.finding.rule.level is level or (level is None and each.finding.rule.level is not Level.NOTE)
    }


def test_a_policy_that_is_right_is_left_alone() -> None:
    assert found(build.cilium()) == set()
    assert found(build.gateway(), build.policy()) == set()


ETH1 = {"nodeSelector": NODES, "interface": "eth1"}
ONLY_A_LIST = build.cilium(egressGateway=None, egressGateways=[{"nodeSelector": NODES}])
MANY = [f"172.18.18.{last}" for last in range(20, 29)]
CASES: list[tuple[str, Sequence[object], tuple[str, str]]] = [
    ("refused", [build.cilium(destinationCIDRs=["x"])], ("refused", "spec.destinationCIDRs[0]")),
    ("schema", [ONLY_A_LIST], ("schema", "spec.egressGateway")),
    ("unknown", [build.cilium(excludedCIDR=[])], ("unknown-field", "spec.excludedCIDR")),
    (
        "unknown inside",
        [build.cilium(egressGateway={"nodeSelector": NODES, "egressIp": "1.2.3.4"})],
        ("unknown-field", "spec.egressGateway.egressIp"),
    ),
    (
        "nothing",
        [build.cilium(selectors=[{"podSelector": {"matchLabels": {"app": "wbe"}}}])],
        ("selects-nothing", "spec.selectors[0]"),
    ),
    (
        "nothing in the namespace",
        [build.cilium(selectors=[{"namespaceSelector": {"matchLabels": {"team": "x"}}}])],
        ("selects-nothing", "spec.selectors[0]"),
    ),
    ("no entries", [build.cilium(selectors=[])], ("selects-nothing", "spec.selectors")),
    ("two nodes", [build.node("gw2", 3), build.cilium()], ("several-gateway-nodes", "spec.egressGateway.nodeSelector")),
    (
        "no node",
        [build.cilium(egressGateway={"nodeSelector": {"matchLabels": {"a": "b"}}})],
        ("no-gateway-node", "spec.egressGateway.nodeSelector"),
    ),
    (
        "address nowhere",
        [build.cilium(egressGateway={"nodeSelector": NODES, "egressIP": "192.0.2.9"})],
        ("egress-ip-nowhere", "spec.egressGateway"),
    ),
    (
        "interface missing",
        [build.cilium(egressGateway={"nodeSelector": NODES, "interface": "eth9"})],
        ("interface-missing", "spec.egressGateway"),
    ),
    (
        "family",
        [
            build.cilium(
                destinationCIDRs=["2001:db8::/32"], egressGateway={"nodeSelector": NODES, "egressIP": "172.18.18.2"}
            )
        ],
        ("family-mismatch", "spec.egressGateway"),
    ),
    (
        "pods",
        [build.cilium(destinationCIDRs=["10.244.0.0/16"])],
        ("in-cluster-destination", "spec.destinationCIDRs[0]"),
    ),
    (
        "node",
        [build.cilium(destinationCIDRs=["192.168.60.0/24"])],
        ("in-cluster-destination", "spec.destinationCIDRs[0]"),
    ),
    (
        "told",
        [build.cilium(destinationCIDRs=["10.96.0.10/32"])],
        ("in-cluster-destination", "spec.destinationCIDRs[0]"),
    ),
    ("host bits", [build.cilium(destinationCIDRs=["203.0.113.7/24"])], ("host-bits", "spec.destinationCIDRs[0]")),
    ("useless", [build.cilium(excludedCIDRs=["198.51.100.0/24"])], ("useless-exclusion", "spec.excludedCIDRs[0]")),
    ("conflict", [build.cilium("p"), build.cilium("q", egressGateway=ETH1)], ("conflict", "spec.destinationCIDRs")),
    (
        "overlap",
        [build.cilium("p"), build.cilium("q", destinationCIDRs=["203.0.0.0/16"], egressGateway=ETH1)],
        ("overlapping-policies", "spec.destinationCIDRs"),
    ),
    ("own conflict", [build.cilium(excludedCIDRs=["203.0.113.0/24"])], ("conflict", "spec.excludedCIDRs")),
    ("too many by schema", [build.gateway(source={"virtualIPs": MANY})], ("schema", "spec.source.virtualIPs")),
    (
        "too many assigned",
        [build.gateway(source={"addresses": MANY, "assign": True})],
        ("schema", "spec.source"),
    ),
    (
        "too many carried",
        [
            build.node("gw", 2, interfaces={"eth1": {"addresses": [f"{one}/24" for one in MANY]}}),
            build.gateway(source={"addresses": MANY}),
        ],
        ("too-many-addresses", "spec.source"),
    ),
    ("missing gateway", [DECKHOUSE_POLICY], ("missing-gateway", "spec.egressGatewayName")),
    ("twice", [build.cilium(), build.cilium()], ("duplicate", "metadata.name")),
    (
        "pooled",
        [
            build.cilium(
                selectors=[
                    {"podSelector": {}, "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "worker"}}},
                    {"podSelector": {"matchLabels": {"app": "web"}}},
                ]
            )
        ],
        ("pooled-node-selectors", "spec.selectors"),
    ),
    (
        "several addresses",
        [
            build.node("gw", 2, interfaces={"eth1": {"addresses": ["172.18.0.3/16", "10.1.0.1/24"]}}),
            build.cilium(egressGateway=ETH1),
        ],
        ("several-addresses", "spec.egressGateway"),
    ),
    (
        "outside identities",
        [build.cilium(selectors=[{"podSelector": {"matchLabels": {"pod-template-hash": "5d"}}}])],
        ("label-outside-identity", "spec.selectors[0].podSelector"),
    ),
    (
        "ours, address nowhere",
        [build.gateway(source={"addresses": ["192.0.2.9"]}), build.policy()],
        ("egress-ip-nowhere", "spec.source.addresses[0]"),
    ),
    (
        "ours, family",
        [build.gateway(source={"virtualIPs": ["192.168.60.200"]}), build.policy(destinationCIDRs=["2001:db8::/32"])],
        ("family-mismatch", "spec.egressGatewayName"),
    ),
    (
        "map",
        [build.cilium(), *(build.pod(f"x{n}", f"10.244.4.{n}") for n in range(20, 130))],
        ("map-full", ""),
    ),
]


@pytest.mark.parametrize(("objects", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_it_is_found(objects: Sequence[object], expected: tuple[str, str]) -> None:
    assert expected in found(*objects)


def test_an_exclusion_makes_an_in_cluster_destination_right() -> None:
    inside = build.cilium(
        destinationCIDRs=["10.0.0.0/8", "192.168.60.13/32"], excludedCIDRs=["10.244.0.0/16", "10.96.0.0/12"]
    )
    assert found(inside) == set()


def test_what_cilium_does_otherwise_is_noted() -> None:
    on_cilium = build.cilium(
        destinationCIDRs=["0.0.0.0/0"],
        egressGateway={"nodeSelector": NODES, "egressIP": "172.18.18.2"},
    )
    assert found(on_cilium, level=Level.NOTE) == {
        ("default-route-destination", "spec.destinationCIDRs[0]"),
        ("address-not-watched", "spec.egressGateway.egressIP"),
        ("untranslatable-protocols", "spec.destinationCIDRs"),
    }


def test_pods_of_templates_count_as_pods() -> None:
    shop = build.cilium(
        selectors=[{"podSelector": {"matchLabels": {"app": "shop", "io.kubernetes.pod.namespace": "shop"}}}]
    )
    assert ("selects-nothing", "spec.selectors[0]") in found(shop)
    assert found(shop, DEPLOYMENT) == set()


def test_without_the_annotation_only_a_doubt_is_said() -> None:
    bare = build.node("gw", 2)
    del bare["metadata"]["annotations"]
    absent = {"nodeSelector": NODES, "egressIP": "192.0.2.9"}
    own = {"nodeSelector": NODES, "egressIP": "192.168.60.2"}
    rules = {each.finding.rule.name for each in lint([bare, build.cilium(egressGateway=absent)])}
    assert "egress-ip-unseen" in rules
    assert "egress-ip-nowhere" not in rules
    assert "egress-ip-unseen" not in {e.finding.rule.name for e in lint([bare, build.cilium(egressGateway=own)])}


def test_overlap_is_found_without_any_pod() -> None:
    both = [
        build.cilium("p", selectors=[{"podSelector": {"matchLabels": {"app": "x"}}}]),
        build.cilium("q", selectors=[{"podSelector": {"matchLabels": {"app": "x", "tier": "y"}}}], egressGateway=ETH1),
    ]
    rules = {each.finding.rule.name for each in lint([build.node("gw", 2), *both])}
    assert "conflict" in rules
    assert "selects-nothing" not in rules


def test_the_findings_of_one_object_do_not_hide_anothers() -> None:
    located = lint(
        [build.cilium("bad", destinationCIDRs=[1]), None, 7, {}, build.cilium("q", destinationCIDRs=["1.2.3.4/24"])]
    )
    assert [(each.index, each.finding.rule.name) for each in located if each.finding.rule.level is not Level.NOTE] == [
        (0, "refused"),
        (4, "host-bits"),
    ]


def test_an_object_beyond_all_measure_is_told_so() -> None:
    bomb: list[object] = []
    for _ in range(60):
        bomb = [bomb, bomb]
    located = lint([{**build.cilium(), "bogus": bomb}])
    assert ("refused", "") in {(each.finding.rule.name, each.finding.field) for each in located}
