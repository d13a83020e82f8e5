"""`egresslab policy explain` and `plan`, on manifests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from egresslab.errors import PolicyError
from tests.unit.cli_policy.conftest import Run
from tests.unit.policy import build

Write = Callable[..., Path]
WORLD = [build.node("gw", 2), build.pod("a", "10.0.0.1"), build.cilium()]
ETH1 = {"nodeSelector": {"matchLabels": {"egress": "true"}}, "interface": "eth1"}


def test_explain_in_words_and_as_json(run: Run, write: Write) -> None:
    path = write("all.yaml", *WORLD, build.cilium("q", destinationCIDRs=["203.0.0.0/16"]))
    text = run("explain", "a", "203.0.113.5", "-f", path).stdout
    assert text.startswith("default/a (10.0.0.1) to 203.0.113.5: leaves through the gateway\n")
    assert "  won   CiliumEgressGatewayPolicy/p: claims 203.0.113.0/24" in text
    assert "  lost  CiliumEgressGatewayPolicy/q: claims 203.0.0.0/16, a shorter prefix" in text
    assert "  used  gw: the first eligible node by name" in text
    answer = json.loads(run("explain", "default/a", "203.0.113.5", "-f", path, "-o", "json").stdout)
    assert answer["verdict"] == "leaves through the gateway"
    assert answer["egress_ip"] == "192.168.60.2"
    assert [candidate["won"] for candidate in answer["candidates"]] == [True, False]


def test_explain_refuses_what_it_cannot_answer(run: Run, write: Write) -> None:
    path = write("all.yaml", *WORLD, build.pod("a", "10.0.0.9", namespace="other"))
    with pytest.raises(PolicyError, match="several pods of that name"):
        run("explain", "a", "203.0.113.5", "-f", path)
    with pytest.raises(PolicyError, match="no such pod"):
        run("explain", "b", "203.0.113.5", "-f", path)
    assert run("explain", "a", "example.com", "-f", path).exit_code == 2


def test_plan_of_a_change_applied_deleted_and_pruned(run: Run, write: Write) -> None:
    present = write("present.yaml", *WORLD)
    change = write("change.yaml", build.cilium(egressGateway=ETH1))
    text = run("plan", "-f", change, "--against", present).stdout
    assert text.startswith("Plan: 0 to add, 1 to move, 0 to remove.\n")
    assert "default/a (10.0.0.1) to 203.0.113.0/24: 192.168.60.2 => 172.18.18.2" in text
    assert run("plan", "-f", present, "--against", present).stdout == "No changes.\n"
    deleted = json.loads(run("plan", "-f", change, "--against", present, "--delete", "-o", "json").stdout)
    assert [row["source"] for row in deleted["removed"]] == ["10.0.0.1"]
    other = write("other.yaml", build.cilium("q", destinationCIDRs=["198.51.100.0/24"]))
    pruned = json.loads(run("plan", "-f", other, "--against", present, "--prune", "-o", "json").stdout)
    assert [row["policy"] for row in pruned["removed"]] == ["p"]
    assert [row["policy"] for row in pruned["added"]] == ["q"]


def test_plan_names_new_problems_and_refused_objects(run: Run, write: Write) -> None:
    present = write("present.yaml", *WORLD)
    missing = {"nodeSelector": {"matchLabels": {"egress": "true"}}, "egressIP": "192.0.2.1"}
    change = write("change.yaml", build.cilium(egressGateway=missing), build.cilium("bad", destinationCIDRs=[]), "x")
    result = run("plan", "-f", change, "--against", present)
    assert "EgressIPNotFound: egress IP 192.0.2.1 is on no interface (node gw)" in result.stdout
    assert "192.168.60.2 => dropped" in result.stdout
    assert result.exit_code == 1
    assert "not a Kubernetes object" in result.stderr


def test_a_pod_given_again_keeps_its_endpoint(run: Run, write: Write) -> None:
    """The spread goes by the CiliumEndpoint, also where only the present state holds it."""
    gateways = [{"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": name}}} for name in ("gw", "gw2")]
    pods = [build.pod(f"p{number}", f"10.0.0.{number}") for number in range(1, 9)]
    endpoints = [
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumEndpoint",
            "metadata": {"name": pod["metadata"]["name"], "namespace": "default", "uid": f"other-{number}"},
        }
        for number, pod in enumerate(pods)
    ]
    nodes = [build.node("gw", 2), build.node("gw2", 3)]
    present = write("present.yaml", *nodes, *pods, *endpoints, build.cilium(egressGateways=gateways))
    assert run("plan", "-f", write("change.yaml", *pods), "--against", present).stdout == "No changes.\n"
