"""Statuses written only when they differ, over the status subresource.

The copy that a watch gave us may be older than what we wrote last; then ours counts, or a transition would be told
twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from egresslab.api.connection import Api, ApiError
from egresslab.api.resources import Object, Resource
from egresslab.operator.conditions import Condition, merged


def utc_now() -> str:
    """Now, as Kubernetes writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Statuses:
    """Writes statuses of objects; remembers for each UID what it wrote over which version."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._written: dict[str, tuple[str, Object]] = {}

    def present(self, obj: Object) -> Object:
        """The object's status as far as we know."""
        over, status = self._written.get(obj["metadata"]["uid"], ("", {}))
        return status if over == obj["metadata"]["resourceVersion"] else obj.get("status") or {}

    async def write(
        self, resource: Resource, obj: Object, fields: Mapping[str, Any], conditions: Iterable[Condition]
    ) -> bool:
        """Make `fields` (None: absent) and conditions so; whether that changed anything. An object that is gone is let
        be. Raises `ApiError` and `Unreachable`."""
        before = self.present(obj)
        generation = int(obj["metadata"].get("generation") or 0)
        wanted = {
            "observedGeneration": generation,
            **fields,
            "conditions": merged(before.get("conditions"), conditions, generation, utc_now()),
        }
        changed = {name: value for name, value in wanted.items() if before.get(name) != value}
        if not changed:
            return False
        try:
            answer = await self._api.patch(resource, obj["metadata"]["name"], {"status": changed}, subresource="status")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        if answer["metadata"]["uid"] == obj["metadata"]["uid"]:
            self._written[obj["metadata"]["uid"]] = obj["metadata"]["resourceVersion"], answer.get("status") or {}
        return True

    def keep(self, uids: Iterable[str]) -> None:
        """Forget all objects but these."""
        kept = set(uids)
        self._written = {uid: written for uid, written in self._written.items() if uid in kept}
