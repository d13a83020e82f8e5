"""The listing that tutorials print: Cilium's four columns, the egress IP on the gateway and nowhere else."""

from __future__ import annotations

import pytest

from egresslab.lab import Lab
from tests.e2e.policies import ELSEWHERE, GATEWAY, policy


@pytest.mark.parametrize("debugger", ["egresslab-dbg", "cilium-dbg"])
def test_listing_through_any_agent_as_the_tutorials_type_it(lab: Lab, debugger: str) -> None:
    pod = lab.run_pod("client", node=ELSEWHERE)
    source = next(str(address) for address in pod.addresses if address.version == 4)
    lab.apply(policy(lab.current_namespace, destinationCIDRs=["192.168.60.13/32"], excludedCIDRs=["10.96.0.0/16"]))

    def rows(node: str) -> list[str]:
        agents = lab.kubectl(
            f"get pods -n kube-system -l app.kubernetes.io/name=egresslab-agent"
            f" --field-selector spec.nodeName={node} -o name"
        ).stdout.split()
        listed = lab.kubectl(f"-n kube-system exec {agents[0]} -- {debugger} bpf egress list").stdout
        heading, *rest = listed.splitlines()
        assert heading.split("   ")[0] == "Source IP"
        return [heading, *(row for row in rest if row.startswith(source))]

    lab.wait_for("entries on the gateway", lambda: len(rows(GATEWAY)) == 3, timeout_s=5)
    width = max(len(source), len("Source IP")) + 3
    on_gateway, elsewhere = rows(GATEWAY)[1:], rows(ELSEWHERE)[1:]
    assert f"{source:<{width}}192.168.60.13/32   172.18.18.12   192.168.60.12" in on_gateway
    assert any(row.split("   ")[-1] == "Excluded CIDR" for row in on_gateway)
    assert [row.split() for row in elsewhere if "192.168.60.13/32" in row] == [
        [source, "192.168.60.13/32", "0.0.0.0", "192.168.60.12"]
    ]


def test_listing_through_the_daemonset_by_name(lab: Lab) -> None:
    lab.run_pod("client", node=ELSEWHERE)
    lab.apply(policy(lab.current_namespace, gateway="no-such-node"))

    def shown() -> str:
        return lab.kubectl(
            "-n kube-system exec ds/egresslab-agent -- egresslab-dbg bpf egress list", check=False
        ).stdout

    lab.wait_for("a row without gateway", lambda: "Not Found" in shown(), timeout_s=5)
