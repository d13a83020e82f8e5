"""EgressGateway to CiliumEgressGatewayPolicy to packets: announcers have the address, and our agents stand in for
Cilium's: they enter the operator's policies as they would anybody's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from egresslab.api import settings as config
from egresslab.environments.definitions import definitions
from egresslab.lab import Lab
from egresslab.lab.drills.records import Protocol

PROMISED = ("no other source address answers", "no packet leaves with another", "the address has one owner at a time")
"""What this backend keeps as well; it does not keep connections, and it takes seconds."""


@pytest.fixture
def cilium(lab: Lab) -> Iterator[None]:
    """The backend is Cilium until the test is over."""
    for obj in yaml.safe_load_all((definitions("netns") / "cilium-backend.yaml").read_text()):
        lab.apply(obj)
    metadata = {"name": config.NAME, "namespace": config.NAMESPACE}
    lab.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {config.BACKEND: "cilium"}})
    lab.kubectl(f"-n {config.NAMESPACE} rollout status daemonset/egresslab-announcer --timeout=60s", timeout_s=90)
    yield


@pytest.mark.usefixtures("cilium")
def test_packets_follow_the_address_to_another_node_when_the_active_one_dies(lab: Lab) -> None:
    result = lab.drill("failover", mode="crash", connections=2, before_s=0.5, after_s=8.0)
    broken = {claim.title for claim in result.claims if not claim.held}
    assert broken.isdisjoint(PROMISED), str(result)
    gap = result.measured.losses[Protocol.UDP].gap
    assert gap is not None and gap.closed, str(result)
