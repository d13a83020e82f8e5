"""A gateway fails, or is taken out of service, and another goes on: proved by packets sent and answers counted."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import pytest

from egresslab.api import settings as config
from egresslab.environments.base import Fault, FaultKind
from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.environments.netns.paths import LabPaths
from egresslab.lab import Lab
from egresslab.lab.drills.records import Protocol
from egresslab.lab.drills.result import DrillResult
from egresslab.lab.nodes import INTERFACES_ANNOTATION
from egresslab.lab.waits import Pending
from egresslab.voter.files import read_report, read_voting
from tests.e2e.policies import IFCONFIG, policy

FIRST, SECOND, ELSEWHERE = "lab-worker", "lab-worker2", "lab-worker3"
VIRTUAL = {4: "192.168.60.210", 6: "fd00:60::210"}
SHORT = {"before_s": 0.5, "after_s": 2.0}


def ours(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "egresslab.dev/v1alpha1",
        "kind": "EgressGateway",
        "metadata": {"name": name},
        "spec": {
            "nodeSelector": {"matchLabels": {"e2e-failover": "true"}},
            "source": {"virtualIPs": [*VIRTUAL.values()], "announceInterfaces": ["eth0"]},
        },
    }


def deckhouse(name: str, family: int) -> dict[str, Any]:
    return {
        "apiVersion": "network.deckhouse.io/v1alpha1",
        "kind": "EgressGateway",
        "metadata": {"name": name},
        "spec": {
            "nodeSelector": {"e2e-failover": "true"},
            "sourceIP": {
                "mode": "VirtualIPAddress",
                "virtualIPAddress": {"ip": VIRTUAL[family], "interfaces": ["eth0"]},
            },
        },
    }


def through(gateway: dict[str, Any] | str, namespace: str) -> dict[str, Any]:
    """A policy for every pod of the namespace, in the gateway's dialect."""
    version = gateway["apiVersion"] if isinstance(gateway, dict) else "egresslab.dev/v1alpha1"
    name = gateway["metadata"]["name"] if isinstance(gateway, dict) else gateway
    return {
        "apiVersion": version,
        "kind": "EgressGatewayPolicy",
        "metadata": {"name": namespace},
        "spec": {
            "egressGatewayName": name,
            "selectors": [{"podSelector": {"matchLabels": {"io.kubernetes.pod.namespace": namespace}}}],
            "destinationCIDRs": ["0.0.0.0/0", "::/0"],
        },
    }


@pytest.fixture
def candidates(lab: Lab) -> None:
    for node in (FIRST, SECOND):
        lab.label_node(node, "e2e-failover", "true")


def leaves_as(lab: Lab, pod: str, family: int) -> bool:
    return str(lab.reach(pod, IFCONFIG, family=family).address) == VIRTUAL[family]


@pytest.fixture
def settled(lab: Lab, environment: NetnsEnvironment) -> None:
    """Three voters, every one at work: what an earlier test broke has come back, which the API tells much later."""
    paths = LabPaths(environment.lab)
    runs = [paths.node_root(node.name) / "run/egresslab-agent" for node in lab.nodes]

    def ready() -> bool | Pending:
        reports = [read_report(run / "voter.json") for run in runs]
        votings = [read_voting(run / "voting.json") for run in runs]
        fresh = [report.node for report in reports if report and report.quorum and time.time() - report.time < 1.5]
        voters = {voting.voters for voting in votings if voting is not None}
        return (len(fresh) == len(runs) and [len(names) for names in voters] == [3]) or Pending((fresh, voters))

    lab.wait_for("every voter to be at work", ready, timeout_s=60)


TIMES = frozenset({"traffic goes on", "connections that cannot live on are told"})
"""Promises about times; benchmarks hold us to them, on a machine that does nothing else."""


def drill(lab: Lab, kind: str = "failover", **options: Any) -> DrillResult:
    result = lab.drill(kind, **SHORT | options)
    broken = [claim.title for claim in result.claims if not claim.held and claim.title not in TIMES]
    assert not broken, str(result)
    return result


def hardware(lab: Lab, node: str) -> str:
    """Hardware address of a node's public interface, as its agent says."""
    body = json.loads(lab.kubectl(f"get node {node} -o json").stdout)
    mac: str = json.loads(body["metadata"]["annotations"][INTERFACES_ANNOTATION])["eth1"]["mac"]
    return mac


def lost(result: DrillResult) -> dict[Protocol, int]:
    return {protocol: loss.lost for protocol, loss in result.measured.losses.items() if loss.lost}


def recovered(result: DrillResult) -> bool:
    return all(loss.gap is None or loss.gap.closed for loss in result.measured.losses.values())


@pytest.mark.usefixtures("candidates")
@pytest.mark.parametrize("dialect", ["ours", "deckhouse-ipv4", "deckhouse-ipv6"])
def test_a_virtual_address_is_what_the_world_sees_from_every_node(lab: Lab, dialect: str) -> None:
    name = lab.current_namespace
    gateway = ours(name) if dialect == "ours" else deckhouse(name, int(dialect[-1]))
    families = (4, 6) if dialect == "ours" else (int(dialect[-1]),)
    pods = {f"on-{node}": lab.run_pod(f"on-{node}", node=node) for node in (FIRST, SECOND, ELSEWHERE)}
    lab.apply(gateway)
    lab.apply(through(gateway, lab.current_namespace))
    for pod in pods:
        for family in families:
            lab.wait_for(f"the virtual address for {pod}", partial(leaves_as, lab, pod, family), timeout_s=8)
    shown = f"get egressgateways.{gateway['apiVersion'].split('/')[0]} {name} -o jsonpath={{.status}}"
    lab.wait_for("the active node in status", lambda: FIRST in lab.kubectl(shown).stdout, timeout_s=10)
    listed = lab.kubectl("-n kube-system exec ds/egresslab-agent -- egresslab-dbg bpf egress list").stdout
    own = [line for line in listed.splitlines() if line.startswith(str(pods[f"on-{ELSEWHERE}"].addresses[0]))]
    assert own
    assert all(line.split()[-1] in ("192.168.60.11", "192.168.60.12") for line in own if "0.0.0.0/0" in line), listed


def test_a_policy_whose_gateway_does_not_exist_drops(lab: Lab) -> None:
    lab.run_pod("client", node=ELSEWHERE)
    assert lab.reach("client", IFCONFIG, family=4).address is not None
    lab.apply(through("there-is-none", lab.current_namespace))
    lab.wait_for("no answer", lambda: lab.reach("client", IFCONFIG, family=4).address is None, timeout_s=8)
    with lab.capture("tcp dst port 80 and dst net 203.0.113.0/24", interface="any") as capture:
        assert lab.reach("client", IFCONFIG, family=4).address is None
    assert not capture.sources


@pytest.mark.usefixtures("settled")
def test_connections_outlive_the_crash_of_their_gateway(lab: Lab) -> None:
    result = drill(lab, mode="crash")
    assert result.after not in ("", result.before)
    assert recovered(result)
    assert result.measured.connections.kept == 50


@pytest.mark.usefixtures("settled")
def test_connections_over_ipv6_outlive_the_crash_of_their_gateway_too(lab: Lab) -> None:
    result = drill(lab, mode="crash", family="ipv6", connections=10)
    assert result.after not in ("", result.before)
    assert recovered(result)
    assert result.measured.connections.kept == 10
    assert [str(seen.address) for seen in result.measured.sources] == ["fd00:18::242"]
    assert result.measured.strangers == {}
    owners = result.measured.owners
    assert owners is not None
    assert owners.at_once == 1
    # First to last: the one that died, and then the other; nobody else ever claimed the address.
    assert [reign.hardware for reign in owners.reigns] == [hardware(lab, result.before), hardware(lab, result.after)]


@pytest.mark.usefixtures("settled")
def test_a_planned_move_loses_nothing(lab: Lab) -> None:
    result = drill(lab, "maintenance", interval_ms=20.0)
    assert result.after not in ("", result.before)
    assert not lost(result), str(result)


@pytest.mark.usefixtures("settled")
def test_the_death_of_the_active_gateways_agent_is_not_noticed(lab: Lab) -> None:
    result = drill(lab, mode="agent-kill")
    assert result.after == result.before
    assert not lost(result), str(result)


@pytest.mark.usefixtures("settled")
def test_whose_address_changes_is_told_so(lab: Lab) -> None:
    result = drill(lab, mode="crash", addressing="primary-ip", after_s=4.0)
    assert recovered(result)
    assert result.measured.connections.reset == 50


@pytest.mark.usefixtures("settled")
def test_failover_needs_neither_api_server_nor_operator(lab: Lab) -> None:
    result = drill(lab, mode="headless")
    assert recovered(result)
    assert result.measured.connections.kept == 50


@pytest.mark.usefixtures("settled")
def test_nothing_leaks_when_the_only_gateway_dies(lab: Lab) -> None:
    result = drill(lab, mode="crash", candidates=1)
    assert not recovered(result)
    assert result.measured.strangers == {}


@pytest.mark.usefixtures("settled", "candidates")
def test_a_dead_gateway_of_a_cilium_policy_is_passed_over_where_the_setting_says_so(
    lab: Lab, environment: NetnsEnvironment
) -> None:
    lab.run_pod("client", node=ELSEWHERE)
    gateway = {"nodeSelector": {"matchLabels": {"e2e-failover": "true"}}, "interface": "eth1"}
    lab.apply(policy(lab.current_namespace, egressGateway=gateway))
    metadata = {"name": config.NAME, "namespace": config.NAMESPACE}
    lab.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {config.HEALTH_AWARE: "true"}})

    def leaves_through(last: int) -> bool:
        return str(lab.reach("client", IFCONFIG, family=4).address) == f"172.18.18.{last}"

    lab.wait_for("the first gateway's address", partial(leaves_through, 11), timeout_s=8)
    environment.break_(Fault(FaultKind.CRASH, FIRST))
    try:
        lab.wait_for("the second gateway's address", partial(leaves_through, 12), timeout_s=10)
    finally:
        environment.heal(FIRST)
