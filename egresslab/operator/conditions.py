"""Conditions of a status, as Kubernetes' API conventions have them: a transition time that changes with the status
alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from egresslab.api.resources import Object


class Truth(StrEnum):
    """A condition's status."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"

    @classmethod
    def of(cls, value: bool) -> Truth:
        """True or False."""
        return cls.TRUE if value else cls.FALSE


@dataclass(frozen=True, slots=True)
class Condition:
    """One statement about an object; `reason` is one CamelCase word, `message` is for people."""

    type: str
    status: Truth
    reason: str
    message: str


def status_of(conditions: object, kind: str) -> str | None:
    """What a condition in a status says: "True", "False", "Unknown", or None where there is none of that type."""
    for item in conditions if isinstance(conditions, list) else ():
        if isinstance(item, Mapping) and item.get("type") == kind:
            return str(item.get("status"))
    return None


def merged(before: object, wanted: Iterable[Condition], generation: int, now: str) -> list[Object]:
    """The list to write: of the wanted types what is wanted, others of `before` as they are.

    `now` (RFC 3339) becomes the transition time where the status differs from before.
    """
    known = [dict(item) for item in before if isinstance(item, Mapping)] if isinstance(before, list) else []
    by_type: dict[Any, Object] = {item.get("type"): item for item in known}
    fresh: list[Object] = []
    for condition in wanted:
        old = by_type.pop(condition.type, {})
        since = old.get("lastTransitionTime") if old.get("status") == condition.status else None
        fresh.append(
            {
                "type": condition.type,
                "status": str(condition.status),
                "reason": condition.reason,
                "message": condition.message,
                "lastTransitionTime": since or now,
                "observedGeneration": generation,
            }
        )
    return fresh + [item for item in known if item.get("type") in by_type]
