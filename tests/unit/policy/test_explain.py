"""Explain names the policy that decided, says why each other lost, and judges every node."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from egresslab.policy.engine import Engine
from egresslab.policy.explain import Explanation, Verdict, explain
from tests.unit.policy import build

ETH1 = {"nodeSelector": {"matchLabels": {"egress": "true"}}, "interface": "eth1"}


def world() -> Engine:
    return build.engine(
        build.node("gw-a", 2),
        build.node("gw-b", 3),
        build.node("worker", 4, gateway=False),
        build.namespace("default", team="a"),
        build.pod("a", "10.244.4.7"),
        build.cilium("b-wide", destinationCIDRs=["203.0.0.0/16"], excludedCIDRs=["203.0.9.0/24"]),
        build.cilium("c-narrow", egressGateway=ETH1),
        build.cilium("d-same", destinationCIDRs=["203.0.113.0/24"]),
        build.cilium("e-elsewhere", destinationCIDRs=["198.51.100.0/24"]),
        build.cilium("f-labels", selectors=[{"podSelector": {"matchLabels": {"app": "api"}}}]),
        build.cilium("g-space", selectors=[{"namespaceSelector": {"matchLabels": {"team": "b"}}}]),
        build.cilium("h-node", selectors=[{"podSelector": {}, "nodeSelector": {"matchLabels": {"zone": "z"}}}]),
    )


def ask(told: Engine, destination: str, pod: str = "uid-default-a") -> Explanation:
    return explain(told, pod, ip_address(destination))


def reasons(answer: Explanation) -> dict[str, str]:
    return {candidate.policy.partition("/")[2]: candidate.reason for candidate in answer.candidates}


def test_the_winner_and_why_each_other_lost() -> None:
    answer = ask(world(), "203.0.113.7")
    assert answer.verdict is Verdict.GATEWAY
    assert answer.policy == "CiliumEgressGatewayPolicy/c-narrow"
    assert (answer.gateway_node, answer.egress_ip, answer.egress_interface) == ("gw-a", "172.18.18.2", "eth1")
    assert [candidate.policy for candidate in answer.candidates if candidate.won] == [answer.policy]
    found = reasons(answer)
    assert "shorter prefix than 203.0.113.0/24" in found["b-wide"]
    assert "comes first by name" in found["d-same"]
    assert "none of its destinations contains 203.0.113.7" in found["e-elsewhere"]
    assert "podSelector needs app=api" in found["f-labels"]
    assert "namespaceSelector needs team=b" in found["g-space"]
    assert "nodeSelector needs zone=z on worker" in found["h-node"]


def test_every_node_is_judged() -> None:
    told = world()
    judged = {node.node: (node.chosen, node.reason) for node in ask(told, "203.0.113.7").gateways}
    assert judged["gw-a"] == (True, "the first eligible node by name")
    assert judged["gw-b"] == (False, "eligible, but gw-a comes first by name")
    assert judged["worker"] == (False, "does not match the gateway's nodeSelector")


@pytest.mark.parametrize(("why", "text"), [("ready", "is not Ready"), ("cordoned", "is cordoned")])
def test_an_ineligible_node_is_told_why(why: str, text: str) -> None:
    first = build.node("gw-a", 2, ready=why != "ready", cordoned=why == "cordoned")
    told = build.engine(first, build.node("gw-b", 3), build.gateway(), build.policy(), build.pod("a", "10.0.0.1"))
    judged = {node.node: node.reason for node in ask(told, "203.0.113.7").gateways}
    assert judged["gw-a"] == f"matches, but {text}"


@pytest.mark.parametrize(
    ("destination", "verdict"),
    [
        ("203.0.9.9", Verdict.EXCLUDED),
        ("8.8.8.8", Verdict.NO_POLICY),
        ("10.244.3.3", Verdict.IN_CLUSTER),
        ("192.168.60.3", Verdict.IN_CLUSTER),
        ("2001:db8::1", Verdict.NO_ADDRESS),
    ],
)
def test_verdicts(destination: str, verdict: Verdict) -> None:
    assert ask(world(), destination).verdict is verdict


def test_drops_are_called_drops() -> None:
    pod = build.pod("a", "10.0.0.1")
    nobody = build.engine(build.cilium(), pod)
    assert ask(nobody, "203.0.113.7").verdict is Verdict.NO_GATEWAY
    absent = {"nodeSelector": {"matchLabels": {"egress": "true"}}, "egressIP": "192.0.2.1"}
    no_address = build.engine(build.cilium(egressGateway=absent), pod, build.node("gw", 2))
    assert ask(no_address, "203.0.113.7").verdict is Verdict.NO_EGRESS_IP
    leaking = build.engine(build.policy(failMode="Open"), build.gateway(), pod)
    assert ask(leaking, "203.0.113.7").verdict is Verdict.FAIL_OPEN


def test_priority_is_given_as_the_reason() -> None:
    told = build.engine(
        build.node("gw", 2),
        build.gateway(),
        build.policy("high", destinationCIDRs=["203.0.0.0/16"], priority=3),
        build.policy("low", egressGatewayName="missing"),
        build.pod("a", "10.0.0.1"),
    )
    answer = ask(told, "203.0.113.7")
    assert answer.policy == "EgressGatewayPolicy/high"
    assert "its priority 0 is below 3" in reasons(answer)["low"]


@pytest.mark.parametrize(
    ("destination", "why"),
    [("10.244.3.3", "does not leave the cluster"), ("2001:db8::1", "has no IPv6 address")],
)
def test_nobody_wins_a_packet_that_policies_do_not_apply_to(destination: str, why: str) -> None:
    told = world()
    build.tell(told, build.cilium("z-all", destinationCIDRs=["0.0.0.0/0", "::/0"]))
    answer = ask(told, destination)
    assert answer.policy is None
    assert not [candidate for candidate in answer.candidates if candidate.won]
    assert why in reasons(answer)["z-all"]


def test_a_pod_on_the_hosts_network_is_selected_by_nobody() -> None:
    host = build.pod("h", "192.168.60.4")
    host["spec"]["hostNetwork"] = True
    told = world()
    build.tell(told, host)
    answer = ask(told, "203.0.113.7", pod="uid-default-h")
    assert answer.verdict is Verdict.HOST_NETWORK
    assert {candidate.won for candidate in answer.candidates} == {False}
    assert reasons(answer)["c-narrow"] == "does not select the pod: it is on the host's network"
