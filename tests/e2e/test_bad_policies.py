"""What breaks the schema is refused by the API server; what cannot work is kept, drops its traffic and says why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from egresslab.lab import Lab
from tests.e2e.policies import ELSEWHERE, GATEWAY, IFCONFIG, policy


def without_gateway(namespace: str) -> dict[str, Any]:
    body = policy(namespace)
    del body["spec"]["egressGateway"]
    return body


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        (lambda n: policy(n, destinationCIDRs=["10.0.0.0/33"]), "spec.destinationCIDRs[0]"),
        (lambda n: policy(n, destinationCIDRs=["somewhere"]), "spec.destinationCIDRs[0]"),
        (lambda n: policy(n, excludedCIDRs=["10.0.0.1"]), "spec.excludedCIDRs[0]"),
        (lambda n: policy(n, source={"interface": "eth1", "egressIP": "10.0.0.1"}), "spec.egressGateway"),
        (lambda n: policy(n, source={"egressIP": "not-an-address"}), "spec.egressGateway.egressIP"),
        (without_gateway, "spec.egressGateway"),
    ],
    ids=["prefix-too-long", "no-cidr", "address-without-length", "interface-and-egress-ip", "no-address", "no-gateway"],
)
def test_a_policy_that_breaks_the_schema_is_refused_with_the_field_named(lab: Lab, broken: Any, field: str) -> None:
    body = broken(lab.current_namespace)
    answer = lab.kubectl("apply -f -", stdin=json.dumps(body), check=False)
    assert answer.exit_code == 1
    assert "is invalid" in answer.stderr
    assert field in answer.stderr
    gone = lab.kubectl(f"get cegp {body['metadata']['name']}", check=False)
    assert "NotFound" in gone.stderr


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"gateway": "no-such-node"}, "NoGatewayNode"), ({"source": {"egressIP": "192.168.60.222"}}, "EgressIPNotFound")],
    ids=["no-node-matches", "egress-ip-on-no-interface"],
)
@pytest.mark.parametrize("node", [ELSEWHERE, GATEWAY])
def test_a_policy_that_cannot_work_drops_and_says_why(lab: Lab, change: dict[str, Any], reason: str, node: str) -> None:
    lab.run_pod("client", node=node)
    lab.run_pod("control", node="lab-worker3")
    assert lab.reach("client", IFCONFIG, family=4).address is not None
    selectors = [{"podSelector": {"matchLabels": {"app": "client"}}, "namespaceSelector": {"matchLabels": here(lab)}}]
    body = policy(lab.current_namespace, selectors=selectors, **change)
    lab.apply(body)
    name = body["metadata"]["name"]
    lab.wait_for("entries", lambda: any(str(e.source) for e in lab.map_entries(node) if _of(lab, e)), timeout_s=5)
    with lab.capture("tcp dst port 80 and dst net 203.0.113.0/24", interface="any") as capture:
        assert lab.reach("client", IFCONFIG, family=4).address is None
        control = lab.reach("control", IFCONFIG, family=4).address
    assert set(capture.sources) == {control}, "only the pod that shows that the capture works"

    def reasons() -> list[str]:
        listed = lab.kubectl(f"get events -n default --field-selector involvedObject.name={name} -o json").stdout
        return [event["reason"] for event in json.loads(listed)["items"]]

    lab.wait_for(f"an event {reason}", lambda: reason in reasons(), timeout_s=10)


def here(lab: Lab) -> dict[str, str]:
    return {"kubernetes.io/metadata.name": lab.current_namespace}


def _of(lab: Lab, entry: Any) -> bool:
    return entry.source in lab.pod("client").addresses
