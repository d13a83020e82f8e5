"""A pod's runtime asks the agent before the first packet, where the kubelet is not ours: proved by packets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kind.apart import run_apart
from tests.kind.chained import DEBIAN, EGRESS, PROGRAM_MS

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (DEBIAN / "ptp").exists(), reason="Debian's CNI plug-ins are not installed (containernetworking-plugins)"
    ),
]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run of `tests.kind.chained`."""
    return run_apart("tests.kind.chained", tmp_path_factory.mktemp("nodes"))


def address(answer: Any) -> str:
    """What the chain gave the pod, of IPv4."""
    assert answer["code"] == 0, answer
    return str(answer["said"]["ips"][0]["address"]).partition("/")[0]


def test_an_agent_without_a_gate_takes_away_what_another_put_there(nodes: Any) -> None:
    assert nodes["types-before"] == ["ptp"]


def test_the_agent_puts_itself_last_into_the_chain(nodes: Any) -> None:
    assert nodes["types"] == ["ptp", "egresslab"]


def test_the_first_packet_leaves_by_another_nodes_gateway_before_the_api_knows_the_address(nodes: Any) -> None:
    assert address(nodes["add"]) == "10.244.1.2"
    assert nodes["told by the API"] is None
    assert nodes["first packet"] == EGRESS


def test_the_answer_is_that_of_the_plugins_before(nodes: Any) -> None:
    said = nodes["add"]["said"]
    assert said["cniVersion"] == "0.4.0"
    assert [interface["name"] for interface in said["interfaces"]][1:] == ["eth0"]


def test_a_pod_that_nobody_selects_leaves_as_it_is(nodes: Any) -> None:
    assert nodes["unselected packet"] == address(nodes["unselected"])


def test_another_sandbox_of_the_same_pod_is_another_address_with_the_same_entries(nodes: Any) -> None:
    assert nodes["del"]["code"] == 0
    assert address(nodes["again"]) != address(nodes["add"])
    assert nodes["packet again"] == EGRESS


def test_a_pod_that_the_agent_does_not_know_yet_is_waited_for(nodes: Any) -> None:
    assert not nodes["early answered"]
    assert address(nodes["early"])
    assert nodes["early packet"] == EGRESS


def test_without_an_agent_pods_do_not_start_and_can_end(nodes: Any) -> None:
    assert nodes["types without an agent"] == ["ptp", "egresslab"], "an agent that stops leaves its plug-in"
    refused = nodes["alone"]
    assert refused["code"] == 1 and refused["said"]["code"] == 11, "CNI: try again later"
    assert refused["said"]["cniVersion"] == "0.4.0"
    assert "does not answer" in refused["said"]["msg"] and "DaemonSet" in refused["said"]["details"]
    assert refused["took"] >= PROGRAM_MS / 1000
    assert nodes["del alone"]["code"] == 0


def test_the_next_agent_mends_what_was_changed_and_pods_start(nodes: Any) -> None:
    assert nodes["program again"]
    assert address(nodes["add after"])
    assert nodes["packet after"] == EGRESS


def test_the_end_of_a_release_takes_program_and_name_away(nodes: Any) -> None:
    assert nodes["types after"] == ["ptp"]
    assert not nodes["program after"]
    assert nodes["files after"] == ["10-net.conflist"]
