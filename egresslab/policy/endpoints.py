"""CiliumEndpoint objects beside pods: Cilium spreads pods over gateways by the UID of these, not of the pods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from egresslab.policy.inventory import Pod, Value
from egresslab.policy.objects import kind_of


def with_endpoint_uids(values: Iterable[Value], objects: Iterable[object]) -> list[Value]:
    """The values, each pod with the UID of the CiliumEndpoint of its name, where there is one."""
    uids: dict[tuple[object, object], str] = {}
    for obj in objects:
        if kind_of(obj) == ("cilium.io/v2", "CiliumEndpoint") and isinstance(obj, Mapping):
            metadata = obj.get("metadata")
            if isinstance(metadata, Mapping) and isinstance(metadata.get("uid"), str):
                uids[str(metadata.get("namespace")), str(metadata.get("name"))] = metadata["uid"]
    if not uids:
        return list(values)
    return [
        replace(value, endpoint_uid=uids.get((value.namespace, value.name), value.endpoint_uid))
        if isinstance(value, Pod)
        else value
        for value in values
    ]
