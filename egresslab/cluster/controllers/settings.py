"""How patient the controllers are; the defaults are Kubernetes' own, so that a lab shows what a cluster does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Durations are in seconds; `dns_address` is where every node answers DNS.

    `node_grace_s`: a node without a heartbeat for so long is Unknown (kube-controller-manager's
    --node-monitor-grace-period). `orphan_quarantine_s`: a pod on a node that does not exist is left alone for so long,
    since the node may be about to register (podgc's quarantine). How long pods bear a lost node is not ours to say:
    their tolerations do, which the API server adds (300 s).
    """

    node_grace_s: float = 50.0
    orphan_quarantine_s: float = 40.0
    dns_address: str = "10.96.0.10"
