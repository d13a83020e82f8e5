"""What observers see is what packets did: flows with names and reasons as they happen, metrics that count them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from egresslab.agent.metrics import DECLARED
from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.lab import Lab, Pending
from tests.e2e.policies import ELSEWHERE, GATEWAY, IFCONFIG, PUBLIC, policy

PINGS, LOST_PINGS = 7, 3
NOWHERE = "203.0.113.20"
"""example.com, which the policy `nowhere` sends to a gateway that does not exist."""


@pytest.fixture
def client(lab: Lab) -> str:
    """A pod on one node whose packets leave through another, except those to NOWHERE, which do not leave."""
    namespace = lab.current_namespace
    lab.apply(policy(namespace))
    lab.apply(policy(namespace, name=f"{namespace}-nowhere", gateway="nowhere", destinationCIDRs=[f"{NOWHERE}/32"]))
    lab.run_pod("client", image="nicolaka/netshoot", node=ELSEWHERE)
    lab.wait_for("the policy", lambda: str(lab.observed_address("client", IFCONFIG)) == PUBLIC[4], timeout_s=5)
    return "client"


def command(environment: NetnsEnvironment, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "egresslab.cli.main", "observe", "--lab", environment.lab, "-o", "json", *arguments]


def observe(environment: NetnsEnvironment, *arguments: str) -> list[dict[str, Any]]:
    ended = subprocess.run(command(environment, *arguments), capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "")
    return [json.loads(line) for line in ended.stdout.splitlines()]


def metrics(lab: Lab, pod: str, node: str, port: int = 9880) -> dict[tuple[str, str], float]:
    """(metric, last label's value) to value, as a scraper in the cluster gets them."""
    url = f"http://{lab.node(node).address()}:{port}/metrics"
    text = lab.exec(pod, ["curl", "-sS", "--max-time", "5", url]).stdout
    return {
        (sample.name, next(iter(reversed(sample.labels.values())), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_flows_and_metrics_tell_what_packets_did(lab: Lab, environment: NetnsEnvironment, client: str) -> None:
    before = {node: metrics(lab, client, node) for node in (ELSEWHERE, GATEWAY)}
    lab.exec(client, f"ping -q -c {PINGS} -i 0.05 -W 2 ifconfig.me")
    lab.exec(client, f"ping -q -c {LOST_PINGS} -i 0.05 -W 0.2 {NOWHERE}", check=False)
    after = {node: metrics(lab, client, node) for node in (ELSEWHERE, GATEWAY)}

    def grown(node: str, name: str, label: str = "") -> float:
        return after[node][name, label] - before[node][name, label]

    assert grown(GATEWAY, "egresslab_packets_total", "TRANSLATED") == PINGS
    assert grown(GATEWAY, "egresslab_packets_total", "RETURNED") == PINGS
    assert grown(ELSEWHERE, "egresslab_packets_total", "STEERED") == PINGS
    assert grown(ELSEWHERE, "egresslab_packets_total", "DELIVERED") == PINGS
    assert grown(ELSEWHERE, "egresslab_dropped_packets_total", "NO_GATEWAY") == LOST_PINGS
    assert grown(GATEWAY, "egresslab_flow_events_total", "OPENED") == 1
    assert grown(ELSEWHERE, "egresslab_flow_events_total", "DROPPED") == LOST_PINGS
    assert grown(GATEWAY, "egresslab_bytes_total", "TRANSLATED") >= PINGS * 84
    assert after[GATEWAY]["egresslab_source_ports_used", "ICMP"] >= 1
    assert after[GATEWAY]["egresslab_map_entries", "nat_v4"] >= 2

    assert {name for name, _ in after[GATEWAY] if name.startswith("egresslab_")} <= {each.name for each in DECLARED}
    operator = metrics(lab, client, "lab-control-plane", 9882)
    assert operator["egresslab_operator_leading", ""] == 1
    assert operator["egresslab_objects", "CiliumEgressGatewayPolicy"] == 2
    assert operator["egresslab_problems", "NoGatewayNode"] == 1
    assert operator["egresslab_entries", "ipv4"] == after[GATEWAY]["egresslab_map_entries", "egress_policy_v4"] == 2

    mine = ("--pod", f"{lab.current_namespace}/client", "--protocol", "icmp", "--all")
    [forwarded] = observe(environment, *mine, "--to-fqdn", "*config.me")
    assert forwarded["destination"]["names"][0] == "ifconfig.me"
    assert forwarded["egress"]["ip"] == PUBLIC[4]
    assert (forwarded["verdict"], forwarded["node"], forwarded["gateway"]) == ("FORWARDED", GATEWAY, GATEWAY)
    both = observe(environment, *mine)
    assert [flow["time"] for flow in both] == sorted(flow["time"] for flow in both)
    dropped = [flow for flow in both if flow["verdict"] == "DROPPED"]
    assert [(flow["node"], flow["reason"], flow["destination"]["ip"]) for flow in dropped] == [
        (ELSEWHERE, "NO_GATEWAY", NOWHERE)
    ] * LOST_PINGS
    assert [flow for flow in both if flow not in dropped] == [forwarded]


@contextmanager
def following(environment: NetnsEnvironment, to: Path, *arguments: str) -> Iterator[None]:
    """`egresslab observe --follow`, writing to a file."""
    with to.open("w") as file:
        running = subprocess.Popen(command(environment, "--follow", *arguments), stdout=file, stderr=file)
        try:
            yield
        finally:
            running.terminate()
            running.wait(10)


def test_following_sees_new_flows_and_outlives_an_agent(
    lab: Lab, environment: NetnsEnvironment, client: str, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    with following(environment, seen, "--namespace", lab.current_namespace, "--to-port", "7777"):

        def heard(word: str) -> str | Pending:
            """A new connection each time, so that it does not matter when the observer began to listen."""
            lab.exec(client, f"sh -c 'echo {word} | nc -w 1 203.0.113.11 7777'", check=False)
            text = seen.read_text()
            return text if '"OPENED"' in text else Pending(text or "nothing")

        first = lab.wait_for("a flow", lambda: heard("one"), timeout_s=15)
        assert '"names":["icanhazip.com","ipinfo.io"]' in first
        agent = lab.kubectl(
            "-n kube-system get pods -l app.kubernetes.io/name=egresslab-agent -o name"
            f" --field-selector spec.nodeName={GATEWAY}"
        ).stdout.strip()
        lab.kubectl(f"-n kube-system delete {agent} --now")
        seen_before = seen.read_text()

        def back() -> str | Pending:
            heard("two")
            new = seen.read_text()[len(seen_before) :]
            return new if '"OPENED"' in new and "its agent is back" in new else Pending(new or "nothing new")

        lab.wait_for("a flow through the new agent", back, timeout_s=20)
    flows = [json.loads(line) for line in seen.read_text().splitlines() if line.startswith("{")]
    identities = [(flow["event"], flow["pod"]["port"], flow["time"][:23]) for flow in flows]
    assert len(identities) == len(set(identities)), "nothing is said twice"
