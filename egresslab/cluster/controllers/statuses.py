"""Writing a status only when it says something new, so that an idle cluster writes nothing."""

from __future__ import annotations

from typing import Any

from egresslab.api.connection import Api, ApiError
from egresslab.api.resources import Object, Resource

EMPTY: tuple[object, ...] = (None, 0, [], {}, "")
"""What a Go server leaves out (`omitempty`), so that its absence means the same."""


def differs(known: Object, wanted: Object) -> bool:
    """Whether a field in `wanted` is not what `known` has; absent and empty are the same."""
    return any(not _same(known.get(field), value) for field, value in wanted.items())


async def write_status(api: Api, resource: Resource, obj: Object, status: Object) -> Object | None:
    """Merge `status` into the object's status if it differs; the server's answer, or None when nothing was written.

    An object that is gone needs no status; that it has been replaced by another of its name raises 409 Conflict.
    """
    known = obj.get("status") or {}
    change: dict[str, Any] = {name: value for name, value in status.items() if not _same(known.get(name), value)}
    if not change:
        return None
    metadata = obj["metadata"]
    body: Object = {"metadata": {"uid": metadata["uid"]}, "status": change}
    try:
        return await api.patch(resource, metadata["name"], body, metadata.get("namespace"), subresource="status")
    except ApiError as error:
        if error.status == 404:
            return None
        raise


def _same(known: object, wanted: object) -> bool:
    return known == wanted or (known in EMPTY and wanted in EMPTY)
