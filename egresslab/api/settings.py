"""Settings of the whole cluster: the ConfigMap that agents and operator follow, so that all decide alike.

`data` keys are named as on the command line; a missing ConfigMap or key means the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from egresslab.api.resources import Object
from egresslab.errors import ClusterError

NAMESPACE, NAME = "kube-system", "egresslab-config"
HEALTH_AWARE = "cilium.healthAwareGateways"
"""Whether gateways of CiliumEgressGatewayPolicies that are NotReady, cordoned or found unhealthy are passed over."""
KNOWN = frozenset({HEALTH_AWARE})


def parse_health_aware(configmap: Object | None) -> bool:
    """The setting, off without a ConfigMap; raises `ClusterError` for a value or key that means nothing."""
    data: Any = (configmap or {}).get("data") or {}
    if not isinstance(data, Mapping):
        data = {}
    unknown = sorted(data.keys() - KNOWN)
    if unknown:
        raise _refusal(unknown[0], "no such setting", data[unknown[0]], f"settings are {', '.join(sorted(KNOWN))}")
    text = str(data.get(HEALTH_AWARE, "false")).lower()
    if text not in ("true", "false"):
        raise _refusal(HEALTH_AWARE, "must be true or false", text, 'write "true" or "false"')
    return text == "true"


def _refusal(field: str, message: str, value: object, fix: str) -> ClusterError:
    return ClusterError(message, object=f"ConfigMap {NAMESPACE}/{NAME}", field=f"data[{field}]", value=value, fix=fix)
