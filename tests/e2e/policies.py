"""Policies that the end-to-end tests apply."""

from __future__ import annotations

from typing import Any

IFCONFIG = "http://ifconfig.me/"
EXTERNAL = "http://external.lab/"
GATEWAY = "lab-worker2"
ELSEWHERE = "lab-worker"
PUBLIC = {4: "172.18.18.12", 6: "fd00:18::12"}
"""Addresses of the gateway's eth1."""
CLUSTER = {4: "192.168.60.12", 6: "fd00:60::12"}
"""Addresses of the gateway's eth0."""


def policy(namespace: str, *, name: str | None = None, gateway: str = GATEWAY, **spec: Any) -> dict[str, Any]:
    """A policy for every pod of a namespace; `spec` overrides, `source` is what egressGateway gets besides its node."""
    source = spec.pop("source", {"interface": "eth1"})
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": name or namespace},
        "spec": {
            "selectors": [{"podSelector": {"matchLabels": {"io.kubernetes.pod.namespace": namespace}}}],
            "destinationCIDRs": ["0.0.0.0/0", "::/0"],
            "egressGateway": {
                "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": gateway}},
                **source,
            },
            **spec,
        },
    }
