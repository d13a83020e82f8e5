"""Plan says what a change adds, moves and removes, and whose source address changes."""

from __future__ import annotations

from egresslab.policy.inventory import Value
from egresslab.policy.objects import from_kubernetes
from egresslab.policy.plan import plan
from tests.unit.policy import build

ETH1 = {"nodeSelector": {"matchLabels": {"egress": "true"}}, "interface": "eth1"}
BASE = [build.node("gw-a", 2), build.node("gw-b", 3), build.pod("a", "10.0.0.1"), build.pod("b", "10.0.0.2", labels={})]


def values(*objects: build.Object) -> list[Value]:
    found = [from_kubernetes(obj) for obj in objects]
    return [value for value in found if value is not None]


def test_no_change_is_an_empty_plan() -> None:
    assert not plan(values(*BASE, build.cilium()), values(*BASE, build.cilium()))


def test_a_new_policy_adds_entries_and_readdresses_its_pods() -> None:
    result = plan(values(*BASE), values(*BASE, build.cilium()))
    assert [(row.source, row.destination) for row in result.added] == [("10.0.0.1", "203.0.113.0/24")]
    assert not result.removed
    assert [(pod.pod, pod.before, pod.after) for pod in result.pods] == [("default/a", None, "192.168.60.2")]


def test_another_interface_moves_entries() -> None:
    result = plan(values(*BASE, build.cilium()), values(*BASE, build.cilium(egressGateway=ETH1)))
    assert not result.added
    assert not result.removed
    (moved,) = result.moved
    assert (moved.before.egress_ip, moved.after.egress_ip) == ("192.168.60.2", "172.18.18.2")
    assert [(pod.before, pod.after) for pod in result.pods] == [("192.168.60.2", "172.18.18.2")]


def test_a_narrower_entry_with_the_same_outcome_readdresses_nobody() -> None:
    wide = build.cilium(destinationCIDRs=["203.0.0.0/16"])
    result = plan(values(*BASE, wide), values(*BASE, wide, build.cilium("q")))
    assert len(result.added) == 1
    assert not result.pods


def test_a_policy_that_goes_and_its_problems() -> None:
    nowhere = build.cilium(egressGateway={"nodeSelector": {"matchLabels": {"no": "node"}}})
    result = plan(values(*BASE, build.cilium()), values(*BASE, nowhere))
    assert [(pod.before, pod.after) for pod in result.pods] == [("192.168.60.2", "dropped")]
    assert [problem.subject for problem in result.new_problems] == ["CiliumEgressGatewayPolicy/p"]
    back = plan(values(*BASE, nowhere), values(*BASE))
    assert [row.source for row in back.removed] == ["10.0.0.1"]
    assert [(pod.before, pod.after) for pod in back.pods] == [("dropped", None)]
    assert [problem.subject for problem in back.solved_problems] == ["CiliumEgressGatewayPolicy/p"]


def test_another_spelling_of_a_destination_moves_nothing_for_pods() -> None:
    spelt = build.cilium(destinationCIDRs=["203.0.113.9/24"])
    result = plan(values(*BASE, build.cilium()), values(*BASE, spelt))
    assert not result.added
    assert not result.pods
