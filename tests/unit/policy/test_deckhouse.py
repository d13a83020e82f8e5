"""Deckhouse's EgressGateway and EgressGatewayPolicy: election, eligibility, both source modes, and no leak."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from egresslab.policy.entries import Delete, Reason, Upsert
from egresslab.policy.inventory import ActiveChoice, NodeHealth
from egresslab.policy.model import Dialect, GroupKey
from egresslab.policy.objects import ref_of_object
from tests.unit.policy import build

VERSION = "network.deckhouse.io/v1alpha1"
TO = ("10.0.0.1", "203.0.113.0/24")
WEB = build.pod("a", "10.0.0.1")
VIRTUAL = {"mode": "VirtualIPAddress", "virtualIPAddress": {"ip": "192.168.60.200", "interfaces": ["eth0"]}}
PRIMARY = {
    "mode": "PrimaryIPFromEgressGatewayNodeInterface",
    "primaryIPFromEgressGatewayNodeInterface": {"interfaceName": "eth1"},
}


def gateway(name: str = "myegg", source: Any = VIRTUAL, **spec: Any) -> build.Object:
    return {
        "apiVersion": VERSION,
        "kind": "EgressGateway",
        "metadata": {"name": name},
        "spec": {"nodeSelector": {"egress": "true"}, "sourceIP": source, **spec},
    }


def policy(name: str = "p", **spec: Any) -> build.Object:
    return {
        "apiVersion": VERSION,
        "kind": "EgressGatewayPolicy",
        "metadata": {"name": name},
        "spec": {
            "egressGatewayName": "myegg",
            "selectors": [
                {"podSelector": {"matchLabels": {"app": "web", "io.kubernetes.pod.namespace": "default"}}},
            ],
            "destinationCIDRs": ["203.0.113.0/24"],
            **spec,
        },
    }


def elected(name: str, nodes: list[str]) -> str:
    return min(nodes, key=lambda node: hashlib.sha256(f"{name}#{node}".encode()).hexdigest())


@pytest.mark.parametrize("name", ["myegg", "other", "third"])
def test_the_lowest_hash_is_elected(name: str) -> None:
    nodes = ["gw-a", "gw-b", "gw-c"]
    told = build.engine(
        *(build.node(node, number) for number, node in enumerate(nodes, 2)),
        gateway(name),
        policy(egressGatewayName=name),
        WEB,
    )
    address = f"192.168.60.{nodes.index(elected(name, nodes)) + 2}"
    assert build.rows(told)[TO] == ("192.168.60.200", address)


def test_the_virtual_address_is_shown_on_the_active_node_only() -> None:
    told = build.engine(build.node("gw-a", 2), gateway(), policy(), WEB)
    assert build.rows(told, "gw-a")[TO] == ("192.168.60.200", "192.168.60.2")
    assert build.rows(told, "other")[TO] == ("0.0.0.0", "192.168.60.2")


def test_primary_mode_takes_the_interface_of_whoever_is_active() -> None:
    told = build.engine(build.node("gw-a", 2), build.node("gw-b", 3), gateway(source=PRIMARY), policy(), WEB)
    first, second = (2, 3) if elected("myegg", ["gw-a", "gw-b"]) == "gw-a" else (3, 2)
    assert build.rows(told)[TO] == (f"172.18.18.{first}", f"192.168.60.{first}")
    changes = build.tell(told, build.node(f"gw-{'ab'[first - 2]}", first, cordoned=True))
    assert build.rows(told)[TO] == (f"172.18.18.{second}", f"192.168.60.{second}")
    assert not changes.entries


@pytest.mark.parametrize("why", ["ready", "cordoned", "unhealthy", "label"])
def test_ineligible_nodes_are_not_elected(why: str) -> None:
    told = build.engine(build.node("gw-a", 2), build.node("gw-b", 3), gateway(), policy(), WEB)
    active = elected("myegg", ["gw-a", "gw-b"])
    other = "192.168.60.3" if active == "gw-a" else "192.168.60.2"
    number = 2 if active == "gw-a" else 3
    if why == "unhealthy":
        told.apply(Upsert(NodeHealth(active, False)))
    else:
        build.tell(
            told,
            build.node(active, number, ready=why != "ready", cordoned=why == "cordoned", gateway=why != "label"),
        )
    assert build.rows(told)[TO] == ("192.168.60.200", other)


def test_an_operators_choice_comes_before_the_election() -> None:
    told = build.engine(build.node("gw-a", 2), build.node("gw-b", 3), gateway(), policy(), WEB)
    key = GroupKey(Dialect.DECKHOUSE, "myegg")
    for node, address in [("gw-a", "192.168.60.2"), ("gw-b", "192.168.60.3")]:
        told.apply(Upsert(ActiveChoice(key, node)))
        assert build.rows(told)[TO][1] == address


def test_an_empty_node_selector_matches_every_node() -> None:
    told = build.engine(build.node("only", 2, gateway=False), gateway(nodeSelector={}), policy(), WEB)
    assert build.rows(told)[TO] == ("192.168.60.200", "192.168.60.2")


def test_a_policy_whose_gateway_does_not_exist_drops() -> None:
    told = build.engine(build.node("gw-a", 2), gateway(), policy(egressGatewayName="missing"), WEB)
    assert build.rows(told)[TO] == ("0.0.0.0", "0.0.0.0")
    assert [(p.subject, p.reason) for p in told.problems()] == [("EgressGatewayPolicy/p", Reason.NO_GATEWAY_OBJECT)]


def test_a_problem_is_that_of_one_object_though_another_dialect_has_its_name() -> None:
    told = build.engine(build.node("gw-a", 2), gateway(), policy(egressGatewayName="missing"), build.policy(), WEB)
    here = ref_of_object(policy())
    assert [(p.subject, p.ref) for p in told.problems() if p.reason is Reason.NO_GATEWAY_OBJECT] == [
        ("EgressGatewayPolicy/p", ref_of_object(build.policy())),
        ("EgressGatewayPolicy/p", here),
    ]
    told.apply(Delete(ref_of_object(build.policy())))
    assert {p.ref for p in told.problems()} == {here}


def test_deleting_the_gateway_drops_as_well() -> None:
    told = build.engine(build.node("gw-a", 2), gateway(), policy(), WEB)
    ref = next(ref for ref in told.values if ref.kind == "Group")
    changes = told.apply(Delete(ref))
    assert build.rows(told)[TO] == ("0.0.0.0", "0.0.0.0")
    assert not changes.entries


def test_nobody_eligible_drops() -> None:
    told = build.engine(build.node("gw-a", 2, ready=False), gateway(), policy(), WEB)
    assert build.rows(told)[TO] == ("0.0.0.0", "0.0.0.0")


def test_one_address_serves_one_family_and_the_other_is_dropped() -> None:
    told = build.engine(
        build.node("gw-a", 2),
        gateway(),
        policy(destinationCIDRs=["203.0.113.0/24", "2001:db8::/32"]),
        build.pod("a", "10.0.0.1", "fd00::1"),
    )
    assert build.rows(told)["fd00::1", "2001:db8::/32"] == ("::", "192.168.60.2")
    assert [problem.reason for problem in told.problems()] == [Reason.FAMILY_MISSING]
