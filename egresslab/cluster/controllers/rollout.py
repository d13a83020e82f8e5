"""How a Deployment moves from one pod template to the next: which of its ReplicaSets gets how many replicas. Pure.

The numbers are those of Kubernetes' Deployment controller ("Deployments", "Rolling Update Deployment"): at most
`maxSurge` pods above and at most `maxUnavailable` available pods below what is desired, at any moment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from egresslab.api.resources import Object


@dataclass(frozen=True, slots=True)
class Bounds:
    """The strategy of a Deployment in pods; `recreate` ignores the other two."""

    desired: int
    max_surge: int = 0
    max_unavailable: int = 0
    recreate: bool = False


@dataclass(frozen=True, slots=True)
class SetState:
    """One ReplicaSet: `replicas` as its spec asks, `available` as its status reports.

    `age` orders sets (smaller is older). `known_desired` and `known_limit` are what the Deployment wanted, without and
    with surge, when it last sized this set. `pods_left` counts pods that have not finished, terminating ones too.
    """

    name: str
    age: int
    replicas: int
    available: int
    current: bool = False
    known_desired: int | None = None
    known_limit: int | None = None
    pods_left: int = 0


def bounds_of(deployment: Object) -> Bounds:
    """Read the strategy; percentages of surge round up, of unavailability down, and both zero means one unavailable."""
    spec = deployment["spec"]
    desired = spec.get("replicas", 1)
    strategy = spec.get("strategy") or {}
    if strategy.get("type") == "Recreate":
        return Bounds(desired, 0, desired, recreate=True)
    rolling = strategy.get("rollingUpdate") or {}
    surge = share(rolling.get("maxSurge", "25%"), desired, up=True)
    unavailable = share(rolling.get("maxUnavailable", "25%"), desired, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return Bounds(desired, surge, min(unavailable, desired))


def share(value: int | str, total: int, *, up: bool) -> int:
    """An IntOrString such as 2 or "25%" of `total`; a value that is neither raises `ValueError`."""
    if isinstance(value, int):
        return value
    if not value.endswith("%"):
        raise ValueError(f"neither a number nor a percentage: {value!r}")
    exact = int(value[:-1]) * total
    return math.ceil(exact / 100) if up else exact // 100


def next_sizes(bounds: Bounds, sets: Sequence[SetState], *, paused: bool = False) -> dict[str, int]:
    """The sizes to write now, by name; {} when there is nothing to do.

    A resize of the Deployment comes first and is shared among the sets in use, all of which are written, so that they
    know of it; only then does the rollout go on.
    """
    resized = any(item.replicas > 0 and item.known_desired not in (None, bounds.desired) for item in sets)
    if paused or (resized and not bounds.recreate):
        sizes = _resize(bounds, sets)
        return (
            {**{item.name: item.replicas for item in sets if item.replicas > 0}, **sizes}
            if resized
            else _changes(sets, sizes)
        )
    current = next((item for item in sets if item.current), None)
    if current is None:
        return {}
    if bounds.recreate:
        return _changes(sets, _recreate(bounds, sets, current))
    grown = _grow(bounds, sets, current)
    if grown != current.replicas:
        return {current.name: grown}
    return _changes(sets, _shrink_old(bounds, sets, current))


def _changes(sets: Sequence[SetState], wanted: dict[str, int]) -> dict[str, int]:
    return {item.name: wanted[item.name] for item in sets if wanted.get(item.name, item.replicas) != item.replicas}


def _recreate(bounds: Bounds, sets: Sequence[SetState], current: SetState) -> dict[str, int]:
    old = [item for item in sets if not item.current]
    if any(item.replicas > 0 for item in old):
        return {item.name: 0 for item in old}
    if any(item.pods_left > 0 for item in old):
        return {}
    return {current.name: bounds.desired}


def _grow(bounds: Bounds, sets: Sequence[SetState], current: SetState) -> int:
    if current.replicas >= bounds.desired:
        return bounds.desired
    room = bounds.desired + bounds.max_surge - sum(item.replicas for item in sets)
    return current.replicas + max(0, min(room, bounds.desired - current.replicas))


def _shrink_old(bounds: Bounds, sets: Sequence[SetState], current: SetState) -> dict[str, int]:
    """Broken old pods go first, since nobody misses them; then working ones, oldest set first.

    A status may lag behind the size that was written last, so no more pods of a set count as available than it asks.
    """
    old = sorted((item for item in sets if not item.current), key=lambda item: (item.age, item.name))
    minimum = bounds.desired - bounds.max_unavailable
    pending = max(0, current.replicas - current.available)
    budget = sum(item.replicas for item in sets) - minimum - pending
    left = []
    for item in old:
        broken = max(0, min(budget, item.replicas - item.available))
        budget -= broken
        left.append(replace(item, replicas=item.replicas - broken))
    spare = min(budget, sum(min(item.available, item.replicas) for item in sets) - minimum)
    sizes = {}
    for item in left:
        removed = max(0, min(spare, item.replicas))
        spare -= removed
        sizes[item.name] = item.replicas - removed
    return sizes


def _resize(bounds: Bounds, sets: Sequence[SetState]) -> dict[str, int]:
    used = [item for item in sets if item.replicas > 0]
    if len(used) <= 1:
        alone = used or sorted(sets, key=lambda item: (item.current, item.age))[-1:]
        return {alone[0].name: bounds.desired} if alone else {}
    current = next((item for item in used if item.current), None)
    if current is not None and current.replicas == current.known_desired == current.available == bounds.desired:
        return {item.name: 0 for item in used if not item.current}
    return {} if bounds.recreate else _proportional(bounds, used)


def _proportional(bounds: Bounds, used: Sequence[SetState]) -> dict[str, int]:
    """Share the difference among the sets by their size; what rounding leaves over goes to the largest."""
    allowed = bounds.desired + bounds.max_surge if bounds.desired > 0 else 0
    difference = allowed - sum(item.replicas for item in used)
    order = sorted(used, key=lambda item: (-item.replicas, -item.age if difference > 0 else item.age, item.name))
    sizes, remaining = {}, difference
    for item in order:
        before = item.known_limit or sum(other.replicas for other in used)
        part = _rounded(item.replicas * allowed, before) - item.replicas
        part = max(0, min(part, remaining)) if difference > 0 else min(0, max(part, remaining))
        sizes[item.name] = item.replicas + part
        remaining -= part
    sizes[order[0].name] = max(0, sizes[order[0].name] + remaining)
    return sizes


def _rounded(numerator: int, denominator: int) -> int:
    """Half rounds up, as the Deployment controller does."""
    return (2 * numerator + denominator) // (2 * denominator) if denominator else 0
