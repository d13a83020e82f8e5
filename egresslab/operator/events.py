"""Events on cluster-scoped objects, written once: what was said before is counted up, or, where it is news of one
moment, not said again."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from enum import StrEnum

from egresslab.api.connection import Api, ApiError
from egresslab.api.resources import EVENTS, Object

COMPONENT = "egresslab-operator"
NAMESPACE = "default"
"""Where Kubernetes keeps the Events of cluster-scoped objects."""


class Kind(StrEnum):
    """An Event's type."""

    NORMAL = "Normal"
    WARNING = "Warning"


async def write_event(api: Api, obj: Object, kind: Kind, reason: str, message: str, moment: str | None = None) -> None:
    """Say something about an object.

    Without `moment`, the same words again count the Event up. With it, the Event belongs to that moment: a second
    operator that says the same of the same moment changes nothing. Raises `ApiError` and `Unreachable`.
    """
    metadata = obj["metadata"]
    words = moment if moment is not None else message
    digest = hashlib.sha256(f"{metadata['uid']}{reason}{words}".encode()).hexdigest()[:16]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    event: Object = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{digest}", "namespace": NAMESPACE},
        "involvedObject": {
            "apiVersion": obj["apiVersion"],
            "kind": obj["kind"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": str(kind),
        "reason": str(reason),
        "message": message,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        await api.create(EVENTS, event, NAMESPACE)
    except ApiError as error:
        if error.status != 409:
            raise
        if moment is not None:
            return
        name = event["metadata"]["name"]
        known = await api.get(EVENTS, name, NAMESPACE)
        counted = {"count": int(known.get("count") or 1) + 1, "lastTimestamp": now}
        await api.patch(EVENTS, name, counted, NAMESPACE)
