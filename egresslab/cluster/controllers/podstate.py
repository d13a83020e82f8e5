"""What the controllers read off a pod's status, in one place so that they all mean the same."""

from __future__ import annotations

from datetime import UTC, datetime

from egresslab.api.resources import Object

FINISHED = ("Succeeded", "Failed")


def moment(text: str | None) -> datetime | None:
    """A `metav1.Time` or `MicroTime`; None for none."""
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def is_finished(pod: Object) -> bool:
    """Whether the pod has come to its end: its containers will not run again."""
    return (pod.get("status") or {}).get("phase") in FINISHED


def is_terminating(pod: Object) -> bool:
    """Whether it has been told to stop."""
    return "deletionTimestamp" in pod["metadata"]


def is_active(pod: Object) -> bool:
    """Whether it counts as a replica."""
    return not is_finished(pod) and not is_terminating(pod)


def condition(obj: Object, name: str) -> Object | None:
    """The condition of that type in an object's status."""
    for item in (obj.get("status") or {}).get("conditions") or ():
        if item.get("type") == name:
            found: Object = item
            return found
    return None


def is_ready(pod: Object) -> bool:
    """Whether its Ready condition is True."""
    ready = condition(pod, "Ready")
    return ready is not None and ready.get("status") == "True"


def available_in_s(pod: Object, min_ready_s: int, at: datetime) -> float | None:
    """Seconds until a ready pod counts as available (0 for now), None for a pod that is not ready."""
    ready = condition(pod, "Ready")
    if ready is None or ready.get("status") != "True":
        return None
    since = moment(ready.get("lastTransitionTime"))
    if min_ready_s == 0 or since is None:
        return 0.0
    return max(0.0, min_ready_s - (at - since).total_seconds())
