"""An egress IP gets onto a gateway's interface and off again: by the tutorial's Deployment, and by the agent."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from egresslab.environments.base import Fault, FaultKind
from egresslab.environments.netns.environment import NetnsEnvironment
from egresslab.environments.netns.paths import LabPaths
from egresslab.lab import Lab
from tests.e2e.policies import EXTERNAL, policy

NODES = ("lab-worker2", "lab-worker3")
EGRESS_IP = "192.168.60.100"
ASSIGN = {"egresslab.dev/assign-egress-ip": "true"}

# As in the tutorial of Cilium's egress gateway; the interface is the lab's, where the tutorial has enp0s8.
TUTORIAL = """
apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata:
  name: egress-sample
spec:
  selectors:
  - podSelector:
      matchLabels:
        org: empire
        class: mediabot
        io.kubernetes.pod.namespace: NAMESPACE
  destinationCIDRs:
  - 192.168.60.13/32
  egressGateway:
    nodeSelector:
      matchLabels:
        egress-node: "true"
    egressIP: "192.168.60.100"
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: "egress-ip-assign"
  labels:
    name: "egress-ip-assign"
spec:
  replicas: 1
  selector:
    matchLabels:
      name: "egress-ip-assign"
  template:
    metadata:
      labels:
        name: "egress-ip-assign"
    spec:
      affinity:
        podAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - labelSelector:
              matchExpressions:
              - key: class
                operator: In
                values:
                - mediabot
              - key: org
                operator: In
                values:
                - empire
            topologyKey: "kubernetes.io/hostname"
      hostNetwork: true
      containers:
      - name: egress-ip
        image: docker.io/library/busybox:1.31.1
        command: ["/bin/sh","-c"]
        securityContext:
          privileged: true
        env:
        - name: EGRESS_IPS
          value: "192.168.60.100/24 192.168.60.101/24"
        args:
        - "for i in $EGRESS_IPS; do ip address add $i dev eth0; done; sleep 10000000"
        lifecycle:
          preStop:
            exec:
              command:
              - "/bin/sh"
              - "-c"
              - "for i in $EGRESS_IPS; do ip address del $i dev eth0; done"
"""


@pytest.fixture
def carriers(environment: NetnsEnvironment) -> Callable[[str], tuple[str, ...]]:
    """Which of the nodes carry an address, read from their kernels."""

    def found(address: str) -> tuple[str, ...]:
        carrying = []
        for node in NODES:
            name = LabPaths(environment.lab).namespace(node)
            command = ["ip", "netns", "exec", name, "ip", "-brief", "address"]
            shown = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
            if f" {address}/" in shown:
                carrying.append(node)
        return tuple(carrying)

    return found


def wait_for_source(lab: Lab, pod: str, address: str) -> None:
    lab.wait_for(
        f"{address} outside", lambda: str(lab.observed_address(pod, EXTERNAL, family=4)) == address, timeout_s=20
    )


def test_the_tutorials_deployment_carries_the_egress_ip(lab: Lab, carriers: Callable[[str], tuple[str, ...]]) -> None:
    lab.run_pod("mediabot", node=NODES[0], labels={"org": "empire", "class": "mediabot"})
    lab.label_node(NODES[0], "egress-node", "true")
    tutorial = TUTORIAL.replace("NAMESPACE", lab.current_namespace)
    lab.apply(tutorial)
    lab.wait_for("both addresses", lambda: carriers(EGRESS_IP) == carriers("192.168.60.101") == NODES[:1], timeout_s=20)
    wait_for_source(lab, "mediabot", EGRESS_IP)
    lab.delete(tutorial)
    lab.wait_for("neither address", lambda: not carriers(EGRESS_IP) + carriers("192.168.60.101"), timeout_s=40)


def test_an_assigned_egress_ip_follows_the_gateway_and_goes_with_the_policy(
    lab: Lab, environment: NetnsEnvironment, carriers: Callable[[str], tuple[str, ...]]
) -> None:
    lab.run_pod("client", node=NODES[1])
    gateways = [policy(lab.current_namespace, gateway=node, source={"egressIP": EGRESS_IP}) for node in NODES]
    for wanted in gateways:
        wanted["metadata"]["annotations"] = ASSIGN
    lab.apply(gateways[0])
    wait_for_source(lab, "client", EGRESS_IP)
    assert carriers(EGRESS_IP) == NODES[:1]
    lab.apply(gateways[1])
    lab.wait_for("the other node", lambda: carriers(EGRESS_IP) == NODES[1:], timeout_s=10)
    wait_for_source(lab, "client", EGRESS_IP)
    # Nothing is left when the policy goes while the node's agent cannot know of it.
    environment.break_(Fault(FaultKind.CUT, NODES[1]))
    try:
        lab.delete(gateways[1])
        assert carriers(EGRESS_IP) == NODES[1:]
    finally:
        environment.heal(NODES[1])
    lab.wait_for("no carrier", lambda: not carriers(EGRESS_IP), timeout_s=20)
