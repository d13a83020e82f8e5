"""Settings of the whole cluster: the ConfigMap that agents and operator follow, so that all decide alike.

`data` keys are named as on the command line; a missing ConfigMap or key means the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from egresslab.api.resources import Object
from egresslab.errors import ClusterError

NAMESPACE, NAME = "kube-system", "egresslab-config"
HEALTH_AWARE = "cilium.healthAwareGateways"
"""Whether gateways of CiliumEgressGatewayPolicies that are NotReady, cordoned or found unhealthy are passed over."""
BACKEND = "backend"
"""Whose datapath carries out EgressGateways (docs/backends.md)."""
KNOWN = frozenset({HEALTH_AWARE, BACKEND})


class Backend(StrEnum):
    """What becomes of EgressGateways and EgressGatewayPolicies."""

    EGRESSLAB = "egresslab"
    """Our agents enter them into our datapath."""
    CILIUM = "cilium"
    """The operator writes CiliumEgressGatewayPolicies from them, for Cilium's agents; announcers hold the addresses."""


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """What the ConfigMap says."""

    health_aware: bool = False
    backend: Backend = Backend.EGRESSLAB


def parse_settings(configmap: Object | None) -> ClusterSettings:
    """The settings, defaults without a ConfigMap; raises `ClusterError` for a value or key that means nothing."""
    data: Any = (configmap or {}).get("data") or {}
    if not isinstance(data, Mapping):
        data = {}
    unknown = sorted(data.keys() - KNOWN)
    if unknown:
        raise _refusal(unknown[0], "no such setting", data[unknown[0]], f"settings are {', '.join(sorted(KNOWN))}")
    text = str(data.get(HEALTH_AWARE, "false")).lower()
    if text not in ("true", "false"):
        raise _refusal(HEALTH_AWARE, "must be true or false", text, 'write "true" or "false"')
    backend = str(data.get(BACKEND, Backend.EGRESSLAB))
    if backend not in set(Backend):
        raise _refusal(BACKEND, "no such backend", backend, f"write {' or '.join(Backend)}")
    return ClusterSettings(text == "true", Backend(backend))


def _refusal(field: str, message: str, value: object, fix: str) -> ClusterError:
    return ClusterError(message, object=f"ConfigMap {NAMESPACE}/{NAME}", field=f"data[{field}]", value=value, fix=fix)
