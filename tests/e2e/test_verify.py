"""`egresslab policy verify` on kernels that somebody tampered with: what is missing, stale and different is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from egresslab.cli.policy import app
from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.lab import Lab
from egresslab.lab.waits import Pending
from tests.e2e.policies import ELSEWHERE, GATEWAY, policy

TAMPER = """
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from egresslab.datapath.inspection import pinned_maps
from egresslab.datapath.values import PolicyEntry
source, stale = map(ip_address, sys.argv[1:3])
gone, other, every = map(ip_network, ("203.0.113.0/24", "198.51.100.0/24", "0.0.0.0/0"))
with pinned_maps(Path("/sys/fs/bpf/egresslab")) as maps:
    slot = maps.policy.get(source, other[1]).slot
    if sys.argv[3] == "do":
        rows = PolicyEntry(stale, every, slot), PolicyEntry(source, other, slot, excluded=True)
        maps.policy.update(rows, [(source, gone)])
    else:
        rows = PolicyEntry(source, gone, slot), PolicyEntry(source, other, slot)
        maps.policy.update(rows, [(stale, every)])
"""


def verify(environment: NetnsEnvironment, *more: str) -> tuple[int, Any]:
    arguments = ["verify", "--kubeconfig", str(environment.kubeconfig()), "-o", "json", "--settle", "0.3", *more]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def address(lab: Lab, environment: NetnsEnvironment) -> str:
    """IPv4 of a pod with three destinations that every kernel knows."""
    lab.run_pod("client", node=ELSEWHERE)
    lab.apply(policy(lab.current_namespace, destinationCIDRs=["203.0.113.0/24", "198.51.100.0/24", "2001:db8::/32"]))

    def agree() -> bool | Pending:
        code, found = verify(environment)
        rows = [node.get("rows", 0) for node in found["nodes"]]
        return (code == 0 and min(rows) >= 3) or Pending(found)

    lab.wait_for("every kernel to agree", agree, timeout_s=20)
    return next(str(address) for address in lab.pod("client").addresses if address.version == 4)


def agent_of(lab: Lab, node: str) -> str:
    chosen = f"-l app.kubernetes.io/name=egresslab-agent --field-selector spec.nodeName={node}"
    name = lab.kubectl(f"-n kube-system get pods {chosen} -o name").stdout.strip().removeprefix("pod/")
    return f"kube-system/{name}"


def test_a_row_that_was_taken_out_added_or_altered_by_hand_is_named(
    lab: Lab, environment: NetnsEnvironment, address: str
) -> None:
    stale = "10.244.9.9"
    tamper = ["python", "-c", TAMPER, address, stale]
    lab.exec(agent_of(lab, GATEWAY), [*tamper, "do"], show=False)
    try:
        code, found = verify(environment)
    finally:
        lab.exec(agent_of(lab, GATEWAY), [*tamper, "undo"], show=False)
    assert code == 1
    told = {(d["node"], d["kind"], d["source"], d["destination"], d["pod"]) for d in found["differences"]}
    pod = f"{lab.current_namespace}/client"
    assert told == {
        (GATEWAY, "missing", address, "203.0.113.0/24", pod),
        (GATEWAY, "different", address, "198.51.100.0/24", pod),
        (GATEWAY, "stale", stale, "0.0.0.0/0", ""),
    }
    answered = {node["node"]: node["answered"] for node in found["nodes"]}
    assert all(answered.values()) and len(answered) == len(lab.nodes)


def test_ciliums_agents_are_asked_by_their_own_names_and_nodes_without_one_are_told(
    lab: Lab, environment: NetnsEnvironment, address: str
) -> None:
    """One pod that passes for Cilium's agent: the same kernel, the debugger under its other name."""
    volume = {"name": "bpf", "hostPath": {"path": "/sys/fs/bpf"}}
    container = {
        "name": "cilium-agent",
        "image": "egresslab/agent",
        "command": ["sleep", "600"],
        "securityContext": {"privileged": True},
        "volumeMounts": [{"name": "bpf", "mountPath": "/sys/fs/bpf"}],
    }
    metadata = {"name": "cilium-stand-in", "namespace": "kube-system", "labels": {"k8s-app": "cilium"}}
    spec = {"nodeName": GATEWAY, "hostNetwork": True, "containers": [container], "volumes": [volume]}
    lab.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def asked() -> Any:
        code, found = verify(environment, "--agents", "cilium")
        return (code == 1 and any(node["answered"] for node in found["nodes"]) and found) or Pending(found)

    found = lab.wait_for("the stand-in to answer", asked, timeout_s=20)
    assert {node["node"] for node in found["nodes"] if node["answered"]} == {GATEWAY}
    assert found["differences"] == []
    assert {node["error"] for node in found["nodes"] if not node["answered"]} == {"no agent runs there"}
