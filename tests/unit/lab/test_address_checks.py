"""What the checks of source addresses say when things are so, and when they are not."""

from __future__ import annotations

import pytest

from egresslab.errors import LabError
from egresslab.lab.checks import addresses
from egresslab.lab.checks.model import Outcome
from tests.unit.lab.conftest import FakeBench, make_policy

INTERNET = "http://203.0.113.10/"


def test_a_pod_without_policy_leaves_as_its_node(bench: FakeBench) -> None:
    finding = addresses.source_is_node(bench, pod="client-1")
    assert finding.outcome is Outcome.PASS
    assert "192.168.60.11" in finding.expected
    assert finding.command == "kubectl -n demo exec client-1 -- curl -s http://192.168.60.13/"


def test_the_family_of_the_url_decides_which_node_address_is_expected(bench: FakeBench) -> None:
    finding = addresses.source_is_node(bench, pod="client-3", url="http://[fd00:60::13]/")
    assert finding.outcome is Outcome.PASS
    assert "fd00:60::14" in finding.expected


def test_another_address_than_the_nodes_fails(bench: FakeBench) -> None:
    bench.sources["client-1"] = "172.18.18.12"
    finding = addresses.source_is_node(bench, pod="client-1")
    assert finding.outcome is Outcome.FAIL
    assert "172.18.18.12" in finding.observed


def test_one_wrong_pod_among_several_fails_and_is_named(bench: FakeBench) -> None:
    bench.sources["client-2"] = None
    finding = addresses.source_is_node(bench, pod=["client-1", "client-2"])
    assert finding.outcome is Outcome.FAIL
    assert "client-2 on lab-worker2: no address: no answer in time" in finding.observed


@pytest.mark.parametrize(
    ("gateway", "url", "address"),
    [
        ({}, INTERNET, "172.18.18.12"),
        ({}, "http://[2001:db8:113::10]/", "fd00:18::12"),
        ({"interface": None, "egressIP": "192.168.60.12"}, INTERNET, "192.168.60.12"),
        ({"interface": None, "egressIP": "192.168.60.12"}, "http://[2001:db8:113::10]/", "fd00:60::12"),
    ],
)
def test_the_policy_says_which_address_is_expected(
    bench: FakeBench, gateway: dict[str, object], url: str, address: str
) -> None:
    bench.policies = [make_policy(**gateway)]
    bench.sources = dict.fromkeys(bench.pods, address)
    finding = addresses.source_is_egress_ip(bench, pod=list(bench.pods), policy="first-policy", url=url)
    assert (finding.outcome, address in finding.expected) == (Outcome.PASS, True)


def test_the_nodes_own_address_is_not_the_egress_ip(bench: FakeBench) -> None:
    bench.policies = [make_policy()]
    assert addresses.source_is_egress_ip(bench, "client-1", "first-policy", INTERNET).outcome is Outcome.FAIL


def test_without_the_policy_nothing_was_attempted(bench: FakeBench) -> None:
    finding = addresses.source_is_egress_ip(bench, pod="client-1", policy="first-policy")
    assert finding.outcome is Outcome.NOT_ATTEMPTED


def test_a_policy_whose_gateway_nobody_is_says_so(bench: FakeBench) -> None:
    bench.policies = [make_policy(nodeSelector={"matchLabels": {"egress-node": "true"}})]
    with pytest.raises(LabError, match=r"no node has these labels.*egress-node=true"):
        addresses.source_is_egress_ip(bench, pod="client-1", policy="first-policy")


def test_an_address_that_the_gateway_does_not_carry_is_named(bench: FakeBench) -> None:
    bench.policies = [make_policy(interface=None, egressIP="192.168.60.100")]
    with pytest.raises(LabError, match=r"no interface of the gateway carries it.*192\.168\.60\.100"):
        addresses.source_is_egress_ip(bench, pod="client-1", policy="first-policy")


def test_one_missing_answer_in_a_row_fails(bench: FakeBench) -> None:
    bench.policies = [make_policy()]
    bench.sources["client-1"] = "172.18.18.12"
    assert addresses.answers_in_a_row(bench, "client-1", "first-policy", INTERNET).outcome is Outcome.PASS
    bench.sources["client-1"] = None
    finding = addresses.answers_in_a_row(bench, "client-1", "first-policy", INTERNET)
    assert (finding.outcome, finding.observed[:7]) == (Outcome.FAIL, "0 of 10")


def test_an_exercise_that_was_not_begun_is_told_from_one_that_went_wrong(bench: FakeBench) -> None:
    asked = {"pod": "client-1", "address": "192.168.60.14"}
    assert addresses.source_is_address(bench, **asked).outcome is Outcome.NOT_ATTEMPTED
    bench.sources["client-1"] = "192.168.60.12"
    assert addresses.source_is_address(bench, **asked).outcome is Outcome.FAIL
    bench.sources["client-1"] = "192.168.60.14"
    assert addresses.source_is_address(bench, **asked).outcome is Outcome.PASS
